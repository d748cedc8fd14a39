#include "cpu/fft_conv.h"

#include "capi/status.h"

namespace spectralops {
namespace cpu {

i64 fft_conv_workspace(const spectralops_fft_conv_call&, bool, int) { return 0; }
int fft_conv_forward(const spectralops_fft_conv_call&, int) { return fail(SPECTRALOPS_UNSUPPORTED, "fft_conv: no kernel"); }
int fft_conv_backward(const spectralops_fft_conv_call&, int) { return fail(SPECTRALOPS_UNSUPPORTED, "fft_conv: no kernel"); }

}  // namespace cpu
}  // namespace spectralops

#include "cuda/fft_conv.h"

namespace spectralops::cuda {

i64 fft_conv_workspace(const spectralops_fft_conv_call&, bool, int) { return 0; }
int fft_conv_forward(const spectralops_fft_conv_call&, const Where&) { return fail(SPECTRALOPS_UNSUPPORTED, "fft_conv: no kernel"); }
int fft_conv_backward(const spectralops_fft_conv_call&, const Where&) { return fail(SPECTRALOPS_UNSUPPORTED, "fft_conv: no kernel"); }

}  // namespace spectralops::cuda

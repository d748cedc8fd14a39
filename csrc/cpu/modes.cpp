#include "cpu/modes.h"

#include "capi/status.h"

namespace spectralops {
namespace cpu {

i64 modes_workspace(const spectralops_modes_call&, bool, int) { return 0; }
int mode_dft(const spectralops_modes_call&, int) { return fail(SPECTRALOPS_UNSUPPORTED, "mode_dft: no CPU kernel"); }
int mode_idft(const spectralops_modes_call&, int) { return fail(SPECTRALOPS_UNSUPPORTED, "mode_idft: no CPU kernel"); }
int mode_mix(const spectralops_mix_call&, int) { return fail(SPECTRALOPS_UNSUPPORTED, "mode_mix: no CPU kernel"); }

}  // namespace cpu
}  // namespace spectralops

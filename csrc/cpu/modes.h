// Truncated transforms and the mixing of modes on a CPU; validated by csrc/capi/modes.cpp.
#pragma once

#include "capi/spectralops.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

i64 modes_workspace(const spectralops_modes_call& call, bool inverse, int threads);
int mode_dft(const spectralops_modes_call& call, int threads);
int mode_idft(const spectralops_modes_call& call, int threads);
int mode_mix(const spectralops_mix_call& call, int threads);

}  // namespace cpu
}  // namespace spectralops

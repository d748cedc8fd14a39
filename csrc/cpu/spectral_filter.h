// spectral_filter and its gradient on a CPU; validated by csrc/capi/spectral_filter.cpp.
#pragma once

#include "capi/spectralops.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

i64 filter_workspace(const spectralops_filter_call& call, bool gradient, int threads);
int filter(const spectralops_filter_call& call, int threads);
int filter_gradient(const spectralops_filter_call& call, int threads);

}  // namespace cpu
}  // namespace spectralops

// spectral_filter and its gradient on a GPU: one function an entry of the C interface, which has validated the call.
#pragma once

#include "capi/spectralops.h"
#include "cuda/launch.h"

namespace spectralops::cuda {

i64 filter_workspace(const spectralops_filter_call& call, bool gradient, int device);
int filter(const spectralops_filter_call& call, const Where& where);
int filter_gradient(const spectralops_filter_call& call, const Where& where);

}  // namespace spectralops::cuda

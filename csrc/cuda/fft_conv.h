// Long convolution on a GPU: one function an entry of the C interface, which has validated the call.
#pragma once

#include "capi/spectralops.h"
#include "cuda/launch.h"

namespace spectralops::cuda {

i64 fft_conv_workspace(const spectralops_fft_conv_call& call, bool backward, int device);
int fft_conv_forward(const spectralops_fft_conv_call& call, const Where& where);
int fft_conv_backward(const spectralops_fft_conv_call& call, const Where& where);

}  // namespace spectralops::cuda

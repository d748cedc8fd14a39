// Long convolution on a CPU: fft_conv.cpp plans and runs rows on threads; fft_conv_*isa.cpp hold the transforms.
#pragma once

#include "capi/spectralops.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

// Validated by csrc/capi/fft_conv.cpp.
i64 fft_conv_workspace(const spectralops_fft_conv_call& call, bool backward, int threads);
int fft_conv_forward(const spectralops_fft_conv_call& call, int threads);
int fft_conv_backward(const spectralops_fft_conv_call& call, int threads);

}  // namespace cpu
}  // namespace spectralops

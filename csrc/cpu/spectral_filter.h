// spectral_filter and its gradient on a CPU; validated by csrc/capi/spectral_filter.cpp.
//
// A vector is L channels at one point: every lane runs the transforms of its own channel, and nothing crosses lanes.
// A task takes one or two vectors of channels and some samples, and carries a grid through in the nearest cache:
//
//   rows       two rows a, b of a grid are one complex row z = a + i b, Z[k] + conj Z[-k] = 2 A[k];
//              a last row alone is half as many complex points where n3 is even
//   columns    along n2, then n1; the last of them is multiplied by W (or by the other's spectrum) and sent back at once
//   rows       back: Z = A + i B over all of k, the parts that the ends of the half spectrum must not have left out
//
// Spectra are thus twice the transform; W / (2 N) and c_k / (4 N) take that back. Only rows of the same channel and sample
// meet in a transform.
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

// istft_head on a CPU; validated by csrc/capi/istft.cpp.  istft.cpp plans, istft_isa.cpp holds the loops, once for each
// instruction set.
//
// A vector holds one number of as many frames, so that the real transform of n, a complex one of h = n / 2 with
//   Z_k = (H_k + conj H_(h-k)) + i e^(2 pi i k / n) (H_k - conj H_(h-k)),
//   f_2m + i f_(2m+1) = (1/n) sum_k Z_k e^(2 pi i k m / h),
// needs no shuffle and takes any h = 2^a 3^b 5^c.  A chunk owns the samples of its frames' hops and computes again the frames
// before it that reach into them: chunks follow from the sizes, so that no sum depends on the threads.
#pragma once

#include "capi/spectralops.h"
#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

bool istft_fits(i64 n);  // whether there is a kernel for frames of n samples
i64 istft_workspace(const spectralops_istft_call& call, bool backward, int threads);
int istft_head(const spectralops_istft_call& call, bool backward, int threads);

constexpr i64 kIstftFrames = 16;  // of a block at most: the lanes of the widest vector

// Offsets in numbers of the compute type, within a slot.
struct IstftPlan {
  const spectralops_istft_call* call;
  i64 half, bins, before;      // n / 2; half + 1; earlier frames that reach a sample
  i64 pitch, span;             // of a frame's bins and of its samples, padded
  i64 frames, chunks, region;  // of a chunk; chunks of a row; samples of a chunk's region
  i64 a, b, h, first, second, samples, sum, slot;
  const void* roots;           // (n, 2): cos and sin of 2 pi j / n
  char* scratch;
  int radix[40], levels;
  int threads;
};

// clang-format off
SO_CPU_DECLARE(
  void istft_head_run(const IstftPlan& plan);
  void istft_head_backward_run(const IstftPlan& plan);
)
// clang-format on

}  // namespace cpu
}  // namespace spectralops

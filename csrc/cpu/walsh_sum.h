// walsh_sum on a CPU: y_m = sum_k values_k (-1)^<m, k>; validated by csrc/capi/sparse_wht.cpp.
//
// A block of as many points as a vector has bits is turned on its side: plane p holds bit p of each of them, so that the
// parities with a key are the exclusive or of the planes at the key's ones: one operation for 512 points, and none for a
// zero.  Point b L + l of a block is bit b of lane l (L lanes), and a shift by a constant brings its parity to the sign bit.
//
// Few points and many terms (the adjoint): the terms' keys are turned instead, and the sum runs over lanes.
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

constexpr i64 kWalshFew = 512;    // points of the second form at most
constexpr i64 kWalshSlices = 16;  // of its terms, summed apart

struct WalshSum {
  const i64 *points, *keys;  // (count, words), (terms, words)
  const void* values;        // (terms,)
  void* y;                   // (count,)
  i64 count, terms, words;
  bool few;
  int threads;
};

// clang-format off
SO_CPU_DECLARE(
  void walsh_sum_f32(const WalshSum& call);
  void walsh_sum_f64(const WalshSum& call);
)
// clang-format on

}  // namespace cpu
}  // namespace spectralops

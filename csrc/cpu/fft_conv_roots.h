// The tables of roots of unity, built once for a size and kept.
#pragma once

#include "cpu/fft_conv_plan.h"

namespace spectralops {
namespace cpu {

constexpr i64 kLeastPoints = 32;  // two vectors of the widest instruction set, so that a first level is there

// The smallest 2^a {1, 3, 5} that is at least `least` and a multiple of kLeastPoints.
i64 fast_points(i64 least);

struct Root {
  double c, s;
};
// exp(-2 pi i j / n), to rounding; |j| <= n.
Root root_of(i64 j, i64 n);

// For n = fast_points(n), n / lanes at least 2; nullptr without memory.
const FftRoots* fft_roots(i64 n, int lanes, bool wide);

}  // namespace cpu
}  // namespace spectralops

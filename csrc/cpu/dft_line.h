// Discrete Fourier transforms of any length n, one in every lane of a vector, for grids with channels last:
//
//   out[k] = sum_j in[j] exp(-2 pi i j k / n),       the inverse (without 1 / n) with re and im exchanged on both sides.
//
// Stockham's form, n = r m: a radix r on points m apart, roots of n, then r transforms of m points that leave
// their results in order,
//
//   y[q + s (r p + k)] = exp(-2 pi i p k / (r m)) sum_j x[q + s (p + m j)] exp(-2 pi i j k / r),   q < s, p < m,
//
// s the product of the radices before.
//
// As an element is a whole vector, neither its order nor its stride costs anything. Odd prime radices use the symmetry
// of j and r - j; from kLeastDirect on by tables, kMostDirect at most. With a larger prime in n,
// j k = (j^2 + k^2 - (k - j)^2) / 2 makes of the transform a convolution with a chirp, on a padded length of small
// radices (Bluestein).
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

constexpr int kMostLevels = 32;
constexpr int kLeastDirect = 11;
constexpr int kMostDirect = 256;
constexpr int kDirectBlock = 8;  // frequencies that stand side by side in the tables of a direct radix

// Tables are of the compute type, complex numbers as pairs.
struct LinePlan {
  i64 n;
  int levels;
  int radix[kMostLevels];            // small first: the last level has no roots
  const void* roots[kMostLevels];    // (m, r - 1)
  const void* direct[kMostLevels];   // (h / kDirectBlock, h, 2, kDirectBlock) cosines and sines of 2 pi j k / r, h = (r - 1) / 2
  const void* turn;                  // exp(-pi i k / n), k <= n: two reals of 2 n are one complex of n
  const LinePlan* padded;            // of the convolution, or null
  const void *chirp, *kernel;        // exp(-pi i j^2 / n), and the spectrum of its conjugate over padded->n
  i64 scratch;                       // complex vectors
  bool whole_direct;                 // n is a direct radix: a real line, in or out, costs half
};

// Built once for a length and kept; nullptr without memory.
const LinePlan* line_plan(i64 n, bool wide);

// Element j is at re[j stride], im[j stride], a vector each.
template <typename C> struct Points {
  C *re, *im;
  i64 stride;
};

// out may be in, element for element. Only where plan.whole_direct: a null in.im is zero, and a null out.re is not wanted.
SO_CPU_DECLARE(
  void line_transform(const LinePlan& plan, Points<const float> in, Points<float> out, float* scratch);
  void line_transform(const LinePlan& plan, Points<const double> in, Points<double> out, double* scratch);)

}  // namespace cpu
}  // namespace spectralops

// psi and its derivatives at a vector of z, and blocks of a matrix turned so that a vector holds rows.
#pragma once

#include "cpu/vector_math.h"
#include "cpu/wavelet.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// Codes as in spectralops.h.
constexpr int kMexicanHat = 0, kMorlet = 1;

SO_SIMD i64 least(i64 a, i64 b) { return a < b ? a : b; }

// e^(-q / 2), q >= 0.
template <typename C> SO_SIMD vec<C> bell(vec<C> q) {
  using T = MathTable<C>;
  vec<C> x = q * C(-0.5);
  x = x < T::kExpLow ? splat<C>(T::kExpLow) : x;
  const ExpParts<C> p = exp_reduce<C>(x);
  return scale_by_power(expm1_reduced<C>(p.r) + C(1), p.n, p.bits);
}

// sin and cos of 5 z.  Where |5 z| is large e^(-z^2 / 2) is zero and any finite value will do: a range reduction by the
// slow way is spared.  (a - a is NaN for an infinite a.)
template <typename C> SO_SIMD SinCos<C> oscillation(vec<C> z) {
  const vec<C> a = z * C(5);
  return sin_cos<C>(absolute<C>(a) > C(10000) ? a - a : a);
}

// psi, psi' and psi'' as far as Order goes, without the amplitude of the mexican hat.
template <typename C> struct Jet {
  vec<C> p0, p1, p2;
};
template <int Kind, int Order, typename C> SO_SIMD Jet<C> wavelet_jet(vec<C> z) {
  const vec<C> q = z * z, e = bell<C>(q);
  Jet<C> jet = {};
  if constexpr (Kind == kMorlet) {
    const SinCos<C> a = oscillation<C>(z);
    jet.p0 = a.cos * e;
    if constexpr (Order > 0) jet.p1 = -mul_add(z, a.cos, a.sin * C(5)) * e;
    if constexpr (Order > 1) jet.p2 = mul_add(q - C(26), a.cos, z * C(10) * a.sin) * e;
  } else if constexpr (Kind == kMexicanHat) {
    jet.p0 = (q - C(1)) * e;
    if constexpr (Order > 0) jet.p1 = z * (C(3) - q) * e;
    if constexpr (Order > 1) jet.p2 = mul_add(q, q - C(6), splat<C>(3)) * e;
  } else {
    jet.p0 = -z * e;
    if constexpr (Order > 0) jet.p1 = (q - C(1)) * e;
    if constexpr (Order > 1) jet.p2 = z * (C(3) - q) * e;
  }
  return jet;
}
// The amplitude, on `count` sums.
template <int Kind, typename C> SO_SIMD void amplify(C* sums, i64 count) {
  if (Kind == kMexicanHat)
    for (i64 k = 0; k < count; ++k) sums[k] *= C(kMexicanHatAmplitude);
}

// ---- blocks ----
// Rows [row, row + rows) x columns [col, col + cols) of a matrix, turned: out[c * pitch + n].  Rows up to a whole vector
// follow: copies of the last one, or zeros where `zero`, so that they take part in a sum without a trace.
template <typename S>
static __attribute__((noinline)) void turn_in(const S* p, i64 stride, i64 row, i64 rows, i64 col, i64 cols,
                                              compute_t<S>* out, i64 pitch, bool zero) {
  using C = compute_t<S>;
  for (i64 n = 0; n < rows; ++n) {
    const S* from = p + (row + n) * stride + col;
    for (i64 c = 0; c < cols; ++c) out[c * pitch + n] = widen(from[c]);
  }
  const i64 whole = (rows + lanes<C> - 1) / lanes<C> * lanes<C>;
  for (i64 c = 0; c < cols; ++c)
    for (i64 n = rows; n < whole; ++n) out[c * pitch + n] = zero ? C(0) : out[c * pitch + rows - 1];
}
template <typename S>
static __attribute__((noinline)) void turn_out(const compute_t<S>* in, i64 pitch, S* p, i64 stride, i64 row, i64 rows,
                                               i64 col, i64 cols) {
  for (i64 n = 0; n < rows; ++n) {
    S* to = p + (row + n) * stride + col;
    for (i64 c = 0; c < cols; ++c) to[c] = narrow_to<S>::from(in[c * pitch + n]);
  }
}

// The same by dtype code (spectralops.h), so that the loops are compiled for float and double alone.
struct Block {
  i64 row, rows, col, cols;
};
SO_SIMD void columns_of(int dtype, const void* p, i64 stride, const Block& b, float* out, i64 pitch, bool zero) {
  if (dtype == 0) turn_in(static_cast<const float*>(p), stride, b.row, b.rows, b.col, b.cols, out, pitch, zero);
  else if (dtype == 2) turn_in(static_cast<const half_t*>(p), stride, b.row, b.rows, b.col, b.cols, out, pitch, zero);
  else turn_in(static_cast<const bf16_t*>(p), stride, b.row, b.rows, b.col, b.cols, out, pitch, zero);
}
SO_SIMD void columns_of(int, const void* p, i64 stride, const Block& b, double* out, i64 pitch, bool zero) {
  turn_in(static_cast<const double*>(p), stride, b.row, b.rows, b.col, b.cols, out, pitch, zero);
}
SO_SIMD void columns_to(int dtype, const float* in, i64 pitch, void* p, i64 stride, const Block& b) {
  if (dtype == 0) turn_out(in, pitch, static_cast<float*>(p), stride, b.row, b.rows, b.col, b.cols);
  else if (dtype == 2) turn_out(in, pitch, static_cast<half_t*>(p), stride, b.row, b.rows, b.col, b.cols);
  else turn_out(in, pitch, static_cast<bf16_t*>(p), stride, b.row, b.rows, b.col, b.cols);
}
SO_SIMD void columns_to(int, const double* in, i64 pitch, void* p, i64 stride, const Block& b) {
  turn_out(in, pitch, static_cast<double*>(p), stride, b.row, b.rows, b.col, b.cols);
}

// 1 / s for a block of (outputs, inputs): out[o * pitch + i].  A reciprocal of zero is infinite as the quotient is.
template <typename C>
static __attribute__((noinline)) void reciprocals(const C* s, i64 inputs, i64 out0, i64 outs, i64 in0, i64 ins, C* out,
                                                  i64 pitch) {
  for (i64 o = 0; o < outs; ++o)
    for (i64 i = 0; i < ins; ++i) out[o * pitch + i] = C(1) / s[(out0 + o) * inputs + in0 + i];
}

// Loop<C, Kind>::run by dtype and kind.
template <template <typename, int> class Loop> SO_SIMD void walk_kinds(const WaveletJob& job, i64 task) {
  const bool wide = job.dtype == 1;
  if (job.kind == kMexicanHat) return wide ? Loop<double, 0>::run(job, task) : Loop<float, 0>::run(job, task);
  if (job.kind == kMorlet) return wide ? Loop<double, 1>::run(job, task) : Loop<float, 1>::run(job, task);
  wide ? Loop<double, 2>::run(job, task) : Loop<float, 2>::run(job, task);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

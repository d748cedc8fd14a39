// What ends mode_idft: y = act(z), or y = grad act'(z).
#pragma once

#include "cpu/vector_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// The normal distribution function and, where wanted, its density: with h(u) = (1 + 2 x) e^(x^2) erfc(x) of the table,
//   P(-a) = e^(-a^2 / 2) h(u) / 2 / (1 + 2 x),   u = (x - K) / (x + K),   x = a / sqrt 2,
// in one division, for every a; nothing is subnormal on the way.
template <typename C> struct Normal {
  vec<C> cdf, density;
};
template <typename C> SO_SIMD Normal<C> normal_of(vec<C> z) {
  using T = MathTable<C>;
  const vec<C> last = splat<C>(sizeof(C) == 4 ? C(12.9) : C(37)), size = absolute<C>(z), a = size > last ? last : size;
  const vec<C> x = a * C(0.70710678118654752440), one = mul_add(x, splat<C>(2), splat<C>(1)), sum = x + T::kErfcK;
  const vec<C> both = C(1) / (one * sum), u = (x - T::kErfcK) * one * both;
  const vec<C> power = exp_minus_square<C>(a, C(0.5)), e = size > last ? vec<C>{} : power;
  const vec<C> tail = e * C(0.5) * (horner(u, T::kErfc) * (sum * both));
  return {z > C(0) ? C(1) - tail : tail, e * C(0.39894228040143267794)};
}

template <bool Gelu, bool Grad, typename C> SO_SIMD vec<C> ended(vec<C> z, vec<C> grad) {
  if constexpr (!Gelu) return Grad ? grad : z;
  const Normal<C> normal = normal_of<C>(z);
  return Grad ? mul_add(z, normal.density, normal.cdf) * grad : z * normal.cdf;
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

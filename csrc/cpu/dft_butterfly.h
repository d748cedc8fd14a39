// Transforms of a few points in registers, out[k] = sum_j in[j] exp(-2 pi i j k / R), one in every lane.
#pragma once

#include "cpu/simd.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

template <typename C> struct Complex {
  vec<C> re, im;
};
template <typename C> SO_SIMD Complex<C> operator+(Complex<C> a, Complex<C> b) { return {a.re + b.re, a.im + b.im}; }
template <typename C> SO_SIMD Complex<C> operator-(Complex<C> a, Complex<C> b) { return {a.re - b.re, a.im - b.im}; }
template <typename C> SO_SIMD Complex<C> times(Complex<C> a, vec<C> c, vec<C> s) {  // a (c + i s)
  return {mul_add(a.re, c, -(a.im * s)), mul_add(a.re, s, a.im * c)};
}
template <typename C> SO_SIMD Complex<C> times(Complex<C> a, const C* w) { return times<C>(a, splat<C>(w[0]), splat<C>(w[1])); }
template <typename C> SO_SIMD Complex<C> turned(Complex<C> a) { return {a.im, -a.re}; }  // -i a

template <typename C> SO_SIMD Complex<C> get(const C* re, const C* im, i64 at) { return {load<C>(re + at), load<C>(im + at)}; }
template <typename C> SO_SIMD void put(C* re, C* im, i64 at, Complex<C> v) { store(re + at, v.re), store(im + at, v.im); }
// Vectors of real and imaginary parts in turn.
template <typename C> SO_SIMD Complex<C> get(const C* p) { return get<C>(p, p + lanes<C>, 0); }
template <typename C> SO_SIMD void put(C* p, Complex<C> v) { put<C>(p, p + lanes<C>, 0, v); }

// cos and sin of 2 pi j / R, j = 1 .. (R - 1) / 2.
template <int R> struct Roots;
template <> struct Roots<3> {
  static constexpr double c[] = {-0.5}, s[] = {0.866025403784438646763723};
};
template <> struct Roots<5> {
  static constexpr double c[] = {0.309016994374947424102293, -0.809016994374947424102293};
  static constexpr double s[] = {0.951056516295153572116439, 0.587785252292473129168706};
};
template <> struct Roots<7> {
  static constexpr double c[] = {0.623489801858733530525005, -0.222520933956314404288902, -0.900968867902419126236102};
  static constexpr double s[] = {0.781831482468029808708445, 0.974927912181823607018132, 0.433883739117558120475768};
};
template <int R> constexpr double cosine(int j) { return Roots<R>::c[(2 * j < R ? j : R - j) - 1]; }
template <int R> constexpr double sine(int j) { return 2 * j < R ? Roots<R>::s[j - 1] : -Roots<R>::s[R - j - 1]; }

// Frequency K and R - K from the sums and differences of points j and R - j.
template <int R, int K, typename C> SO_SIMD void odd_pairs(const Complex<C>* sum, const Complex<C>* dif, Complex<C>* a) {
  if constexpr (2 * K < R) {
    Complex<C> even = a[0], odd = {vec<C>{}, vec<C>{}};
#pragma GCC unroll 4
    for (int j = 1; 2 * j < R; ++j) {
      const vec<C> c = splat<C>(C(cosine<R>(j * K % R))), s = splat<C>(C(sine<R>(j * K % R)));
      even = {mul_add(sum[j].re, c, even.re), mul_add(sum[j].im, c, even.im)};
      odd = j == 1 ? Complex<C>{dif[j].im * s, dif[j].re * s}
                   : Complex<C>{mul_add(dif[j].im, s, odd.re), mul_add(dif[j].re, s, odd.im)};
    }
    a[K] = {even.re + odd.re, even.im - odd.im};
    a[R - K] = {even.re - odd.re, even.im + odd.im};
    odd_pairs<R, K + 1, C>(sum, dif, a);
  }
}

template <int R, typename C> SO_SIMD void butterfly(Complex<C>* a) {
  if constexpr (R == 2) {
    const Complex<C> t = a[1];
    a[1] = a[0] - t, a[0] = a[0] + t;
  } else if constexpr (R == 4) {
    const Complex<C> p = a[0] + a[2], q = a[0] - a[2], r = a[1] + a[3], s = turned<C>(a[1] - a[3]);
    a[0] = p + r, a[2] = p - r, a[1] = q + s, a[3] = q - s;
  } else if constexpr (R == 8) {
    const vec<C> h = splat<C>(C(0.707106781186547524400844));
    Complex<C> e[4] = {a[0], a[2], a[4], a[6]}, o[4] = {a[1], a[3], a[5], a[7]};
    butterfly<4, C>(e), butterfly<4, C>(o);
    o[1] = {(o[1].re + o[1].im) * h, (o[1].im - o[1].re) * h};
    o[2] = turned<C>(o[2]);
    o[3] = {(o[3].im - o[3].re) * h, (-o[3].re - o[3].im) * h};
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) a[k] = e[k] + o[k], a[k + 4] = e[k] - o[k];
  } else {
    Complex<C> sum[(R + 1) / 2], dif[(R + 1) / 2], total = a[0];
#pragma GCC unroll 4
    for (int j = 1; 2 * j < R; ++j) {
      sum[j] = a[j] + a[R - j], dif[j] = a[j] - a[R - j];
      total = total + sum[j];
    }
    odd_pairs<R, 1, C>(sum, dif, a);
    a[0] = total;
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

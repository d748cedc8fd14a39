// The mathematics of the learnable activations on vectors, one point per lane.  Each function F has
//   params, derived    how many parameters, and how many numbers made of them once a channel (derive)
//   kX, kY             components of x and y: 2 for a complex number, real part first
//   value(k, x, y)                        y = f
//   gradient(k, x, g, dx, sum)            dx = <g, f_x>, sum(i, <g, f_pi>)
//   second(k, x, g, v, dx, dgrad, sum)    with _d the derivative along v in x and k.d in the parameters:
//                                         dgrad = f_d, dx = <g, f_xd>, sum(i, <g, f_pid>)
// The formulas are those of ops/activations_reference.py.
#pragma once

#include "cpu/activation.h"
#include "cpu/vector_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

#define SO_LAMBDA __attribute__((always_inline))

// f(First), ..., f(Last), each with a constant: only then does an array of vectors become registers.
template <int I> struct Constant {
  SO_HOST_DEVICE constexpr operator int() const { return I; }
};
template <int First, int Last, typename F> SO_SIMD void count_up(F f) {
  if constexpr (First <= Last) {
    f(Constant<First>{});
    count_up<First + 1, Last>(f);
  }
}
template <int N, typename F> SO_SIMD void each(F f) { count_up<0, N - 1>(f); }

// A number of parameters known to the compiler, so that what belongs to them lives in registers, or not.
template <int N> struct FixedCount {
  SO_HOST_DEVICE explicit FixedCount(int) {}
  SO_HOST_DEVICE constexpr int value() const { return N; }
  template <typename F> SO_HOST_DEVICE void each(F f) const { count_up<0, N - 1>(f); }
  template <typename F> SO_HOST_DEVICE void down(F f) const { step<N - 1>(f); }  // N - 1, ..., 0

 private:
  template <int I, typename F> SO_HOST_DEVICE void step(F f) const {
    if constexpr (I >= 0) {
      f(Constant<I>{});
      step<I - 1>(f);
    }
  }
};
struct AnyCount {
  int count;
  SO_HOST_DEVICE explicit AnyCount(int n) : count(n) {}
  SO_HOST_DEVICE int value() const { return count; }
  template <typename F> SO_HOST_DEVICE void each(F f) const {
    for (int i = 0; i < count; ++i) f(i);
  }
  template <typename F> SO_HOST_DEVICE void down(F f) const {
    for (int i = count - 1; i >= 0; --i) f(i);
  }
};

// The derived numbers p of a channel and, where Tangents, the directions d of its parameters; in every lane or lane by
// lane.
template <typename Function, bool Tangents> struct Known {
  using V = vec<typename Function::C>;
  static constexpr int kParams = Function::kParams, kSize = Function::kDerived + (Tangents ? kParams : 0) + 1;
  V p[Function::kDerived + 1], d[Tangents ? kParams + 1 : 1];
  template <typename F> SO_HOST_DEVICE void each(const Function& f, F fn) {
    f.derived.each([&](auto i) SO_LAMBDA { fn(p[i], int(i)); });
    if constexpr (Tangents) f.params.each([&](auto i) SO_LAMBDA { fn(d[i], Function::kDerived + int(i)); });
  }
};

template <typename Scalar, int Params, int Derived, int X = 1, int Y = 1> struct FixedFunction {
  using C = Scalar;
  static constexpr int kParams = Params, kDerived = Derived, kX = X, kY = Y;
  FixedCount<Params> params{Params};
  FixedCount<Derived> derived{Derived};
  SO_HOST_DEVICE explicit FixedFunction(int) {}
  SO_HOST_DEVICE void derive(const C* p, C* out, i64 pitch) const {
    for (int i = 0; i < Params; ++i) out[i * pitch] = p[i];
  }
};

// Below it sin(t) / t and cos(t) are 1 in C.
template <typename C> constexpr C kFlat = sizeof(C) == 4 ? C(0x1p-13) : C(0x1p-28);

// p = a, 1 / a; u = x sin(t) / t = sin(t) / a, t = a x.
template <typename Scalar> struct Snake : FixedFunction<Scalar, 1, 2> {
  using C = Scalar;
  using V = vec<C>;
  using FixedFunction<C, 1, 2>::FixedFunction;

  // Finite, so that its product with sin 0 is 0.
  SO_HOST_DEVICE void derive(const C* p, C* out, i64 pitch) const {
    const C largest = sizeof(C) == 4 ? C(0x1.fffffep127) : C(0x1.fffffffffffffp1023), inverse = C(1) / p[0];
    out[0] = p[0];
    out[pitch] = inverse > largest ? largest : inverse < -largest ? -largest : inverse;
  }
  template <typename K> SO_HOST_DEVICE void value(const K& k, const V* x, V* y) const {
    const V s = sin_cos<C>(k.p[0] * x[0]).sin;
    y[0] = mul_add(s * k.p[1], s, x[0]);
  }
  struct Parts {
    V s, c, u, fx, fa;
    mask<C> flat;
  };
  template <typename K> SO_HOST_DEVICE Parts parts(const K& k, V x) const {
    const V t = k.p[0] * x;
    const auto [s, c] = sin_cos<C>(t);
    const mask<C> flat = absolute<C>(t) < kFlat<C>;
    const V u = flat ? x : s * k.p[1], sum = s + c, xc = x * c;
    return {s, c, u, sum * sum, u * (xc + xc - u), flat};
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void gradient(const K& k, const V* x, const V* g, V* dx, Sum sum) const {
    const Parts f = parts(k, x[0]);
    dx[0] = g[0] * f.fx;
    sum(Constant<0>{}, g[0] * f.fa);
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void second(const K& k, const V* x, const V* g, const V* v, V* dx, V* dgrad, Sum sum) const {
    const Parts f = parts(k, x[0]);
    const V w = k.d[0], twice = C(2) * (f.c - f.s) * (f.c + f.s), bent = mul_add(x[0], f.c, -f.u);
    const V curve = f.flat ? V{} : k.p[1] * bent * bent;  // x^3 (c - S)^2 / t
    const V faa = C(2) * mul_add(-(x[0] * f.s), x[0] * f.u, curve);
    dgrad[0] = mul_add(f.fx, v[0], f.fa * w);
    dx[0] = g[0] * twice * mul_add(k.p[0], v[0], x[0] * w);
    sum(Constant<0>{}, g[0] * mul_add(twice * x[0], v[0], faa * w));
  }
};

template <typename Scalar> struct Sine : FixedFunction<Scalar, 1, 1> {
  using C = Scalar;
  using V = vec<C>;
  using FixedFunction<C, 1, 1>::FixedFunction;

  template <typename K> SO_HOST_DEVICE void value(const K& k, const V* x, V* y) const {
    y[0] = sin_cos<C>(k.p[0] * x[0]).sin;
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void gradient(const K& k, const V* x, const V* g, V* dx, Sum sum) const {
    const V gc = g[0] * sin_cos<C>(k.p[0] * x[0]).cos;
    dx[0] = gc * k.p[0];
    sum(Constant<0>{}, gc * x[0]);
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void second(const K& k, const V* x, const V* g, const V* v, V* dx, V* dgrad, Sum sum) const {
    const auto [s, c] = sin_cos<C>(k.p[0] * x[0]);
    const V w = k.d[0], td = mul_add(k.p[0], v[0], x[0] * w), bent = -s * td;
    dgrad[0] = c * td;
    dx[0] = g[0] * mul_add(bent, k.p[0], c * w);
    sum(Constant<0>{}, g[0] * mul_add(bent, x[0], c * v[0]));
  }
};

template <typename Scalar> struct SquareWave : Sine<Scalar> {
  using C = Scalar;
  using V = vec<C>;
  using Sine<C>::Sine;
  template <typename K> SO_HOST_DEVICE void value(const K& k, const V* x, V* y) const {
    const V s = sin_cos<C>(k.p[0] * x[0]).sin;
    y[0] = s > C(0) ? splat<C>(1) : s < C(0) ? splat<C>(-1) : s;
  }
};

SO_SIMD vec<float> square_root(vec<float> v) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_maskz_sqrt_ps(__mmask16(-1), (__m512)v);
#elif defined(__AVX2__)
  return (vec<float>)_mm256_sqrt_ps((__m256)v);
#else
  for (int l = 0; l < lanes<float>; ++l) v[l] = __builtin_sqrtf(v[l]);
  return v;
#endif
}
SO_SIMD vec<double> square_root(vec<double> v) {
#if defined(__AVX512F__)
  return (vec<double>)_mm512_maskz_sqrt_pd(__mmask8(-1), (__m512d)v);
#elif defined(__AVX2__)
  return (vec<double>)_mm256_sqrt_pd((__m256d)v);
#else
  for (int l = 0; l < lanes<double>; ++l) v[l] = __builtin_sqrt(v[l]);
  return v;
#endif
}

template <typename Scalar> struct Spder : FixedFunction<Scalar, 0, 0> {
  using C = Scalar;
  using V = vec<C>;
  using FixedFunction<C, 0, 0>::FixedFunction;

  template <typename K> SO_HOST_DEVICE void value(const K&, const V* x, V* y) const {
    y[0] = sin_cos<C>(x[0]).sin * square_root(absolute<C>(x[0]));
  }
  struct Parts {
    V s, c, root, ratio;  // ratio = sin(x) / x
  };
  SO_HOST_DEVICE Parts parts(V x) const {
    const auto [s, c] = sin_cos<C>(x);
    return {s, c, square_root(absolute<C>(x)), x == C(0) ? splat<C>(1) : s / x};
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void gradient(const K&, const V* x, const V* g, V* dx, Sum) const {
    const Parts f = parts(x[0]);
    dx[0] = g[0] * f.root * mul_add(f.ratio, splat<C>(C(0.5)), f.c);
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void second(const K&, const V* x, const V* g, const V* v, V* dx, V* dgrad, Sum) const {
    const Parts f = parts(x[0]);
    const V slope = f.root * mul_add(f.ratio, splat<C>(C(0.5)), f.c);
    const V fxx = f.root * (mul_add(f.ratio, splat<C>(C(-0.25)), f.c) / x[0] - f.s);
    dgrad[0] = slope * v[0];
    dx[0] = g[0] * ((x[0] == C(0) ? V{} : fxx) * v[0]);
  }
};

// p = l1, l2, d; q = 1 / (x^2 + d^2).
template <typename Scalar> struct Cauchy : FixedFunction<Scalar, 3, 3> {
  using C = Scalar;
  using V = vec<C>;
  using FixedFunction<C, 3, 3>::FixedFunction;

  template <typename K> SO_HOST_DEVICE V below(const K& k, V x) const { return mul_add(x, x, k.p[2] * k.p[2]); }
  template <typename K> SO_HOST_DEVICE void value(const K& k, const V* x, V* y) const {
    y[0] = mul_add(k.p[0], x[0], k.p[1]) / below(k, x[0]);
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void gradient(const K& k, const V* x, const V* g, V* dx, Sum sum) const {
    const V q = C(1) / below(k, x[0]), f = mul_add(k.p[0], x[0], k.p[1]) * q, gq = g[0] * q;
    dx[0] = gq * mul_add(C(-2) * x[0], f, k.p[0]);
    sum(Constant<0>{}, gq * x[0]);
    sum(Constant<1>{}, gq);
    sum(Constant<2>{}, gq * f * (C(-2) * k.p[2]));
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void second(const K& k, const V* x, const V* g, const V* v, V* dx, V* dgrad, Sum sum) const {
    const V q = C(1) / below(k, x[0]), f = mul_add(k.p[0], x[0], k.p[1]) * q, gq = g[0] * q, d = k.p[2];
    const V down = C(2) * mul_add(x[0], v[0], d * k.d[2]) * q;  // -q_d / q
    const V fd = mul_add(-f, down, (mul_add(k.p[0], v[0], k.d[1]) + k.d[0] * x[0]) * q);
    const V steep = mul_add(C(-2) * x[0], f, k.p[0]);  // f_x / q
    dgrad[0] = fd;
    dx[0] = gq * mul_add(-steep, down, mul_add(C(-2), mul_add(v[0], f, x[0] * fd), k.d[0]));
    sum(Constant<0>{}, gq * mul_add(-x[0], down, v[0]));
    sum(Constant<1>{}, -gq * down);
    sum(Constant<2>{}, C(-2) * gq * mul_add(-d * f, down, mul_add(k.d[2], f, d * fd)));
  }

 private:
  SO_HOST_DEVICE static V mul_add(V a, V b, V c) { return SO_CPU_ISA::mul_add(a, b, c); }
  SO_HOST_DEVICE static V mul_add(C a, V b, V c) { return SO_CPU_ISA::mul_add(splat<C>(a), b, c); }
};

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

// The two activations with more to them: the polynomial in max(x, 0), and the complex wavelet.
#pragma once

#include "cpu/activation_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// sum_i a_i r^i, r = max(x, 0).
template <typename Scalar, typename Count, int Most> struct PolyRelu {
  using C = Scalar;
  using V = vec<C>;
  static constexpr int kParams = Most, kDerived = Most, kX = 1, kY = 1;
  Count params, derived;

  SO_HOST_DEVICE explicit PolyRelu(int count) : params(count), derived(count) {}
  SO_HOST_DEVICE void derive(const C* p, C* out, i64 pitch) const {
    for (int i = 0; i < params.value(); ++i) out[i * pitch] = p[i];
  }
  SO_HOST_DEVICE static V above(V x) { return x <= C(0) ? V{} : x; }
  SO_HOST_DEVICE static V step(V x) { return x <= C(0) ? V{} : splat<C>(1); }

  // Sums start with 0 r + the leading coefficient, which is NaN at infinity, as the reference's do.
  template <typename K> SO_HOST_DEVICE void value(const K& k, const V* x, V* y) const {
    const V r = above(x[0]);
    V v = V{};
    params.down([&](auto i) SO_LAMBDA { v = mul_add(v, r, k.p[i]); });
    y[0] = v;
  }
  // P, P' and P'' / 2; those that no coefficient is left for are 0 at infinity too.
  struct Polynomial {
    V value, first, half;
  };
  SO_HOST_DEVICE Polynomial polynomial(const V* a, V r) const {
    V v = V{}, d = V{}, h = V{};
    params.down([&](auto i) SO_LAMBDA {
      h = mul_add(h, r, d);
      d = mul_add(d, r, v);
      v = mul_add(v, r, a[i]);
    });
    return {v, params.value() > 1 ? d : V{}, params.value() > 2 ? h : V{}};
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void gradient(const K& k, const V* x, const V* g, V* dx, Sum sum) const {
    const V r = above(x[0]);
    dx[0] = g[0] * (step(x[0]) * polynomial(k.p, r).first);
    V e = g[0];
    params.each([&](auto i) SO_LAMBDA {
      if (int(i) > 0) e *= r;
      sum(i, e);
    });
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void second(const K& k, const V* x, const V* g, const V* v, V* dx, V* dgrad, Sum sum) const {
    const V r = above(x[0]), on = step(x[0]), rd = on * v[0];
    const Polynomial f = polynomial(k.p, r), w = polynomial(k.d, r);
    dgrad[0] = mul_add(on * f.first, v[0], w.value);
    dx[0] = g[0] * (on * mul_add(f.half + f.half, rd, w.first));
    V e = g[0] * rd;
    params.each([&](auto i) SO_LAMBDA {
      if (int(i) > 1) e *= r;
      sum(i, int(i) == 0 ? g[0] * C(0) : e * splat<C>(C(int(i))));
    });
  }
};

// f = exp(i w z - k^2 |z|^2), p = w, k; z = a + i b, real (b = 0) for X = 1.  <g, phi f> = Re(phi conj(g) f).
template <typename Scalar, int X> struct Wire : FixedFunction<Scalar, 2, 2, X, 2> {
  using C = Scalar;
  using V = vec<C>;
  using FixedFunction<C, 2, 2, X, 2>::FixedFunction;

  struct Complex {
    V re, im;
  };
  SO_HOST_DEVICE static V imaginary(const V* z) { return X == 2 ? z[X - 1] : V{}; }
  SO_HOST_DEVICE static V size2(V a, V b) { return X == 2 ? mul_add(a, a, b * b) : a * a; }
  SO_HOST_DEVICE static Complex conjugate_times(const V* g, Complex f) {
    return {mul_add(g[0], f.re, g[1] * f.im), mul_add(g[0], f.im, -(g[1] * f.re))};
  }
  SO_HOST_DEVICE static Complex times(Complex f, V re, V im) {
    return {mul_add(f.re, re, -(f.im * im)), mul_add(f.re, im, f.im * re)};
  }
  template <typename K> SO_HOST_DEVICE Complex wave(const K& k, const V* z) const {
    const V a = z[0], b = imaginary(z), w = k.p[0], k2 = k.p[1] * k.p[1];
    const V decay = X == 2 ? mul_add(-w, b, -(k2 * size2(a, b))) : -(k2 * a * a);
    const V size = exp_of<C>(decay);
    const auto [s, c] = sin_cos<C>(w * a);
    return {size * c, size * s};
  }
  template <typename K> SO_HOST_DEVICE void value(const K& k, const V* x, V* y) const {
    const Complex f = wave(k, x);
    y[0] = f.re, y[1] = f.im;
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void gradient(const K& k, const V* x, const V* g, V* dx, Sum sum) const {
    const V a = x[0], b = imaginary(x), w = k.p[0], k2 = k.p[1] * k.p[1];
    const Complex h = conjugate_times(g, wave(k, x));
    dx[0] = mul_add(C(-2) * k2 * a, h.re, -(w * h.im));
    if constexpr (X == 2) dx[1] = h.re * (C(-2) * k2 * b - w);
    sum(Constant<0>{}, -mul_add(b, h.re, a * h.im));
    sum(Constant<1>{}, C(-2) * k.p[1] * size2(a, b) * h.re);
  }
  template <typename K, typename Sum>
  SO_HOST_DEVICE void second(const K& k, const V* x, const V* g, const V* v, V* dx, V* dgrad, Sum sum) const {
    const V a = x[0], b = imaginary(x), w = k.p[0], q = k.p[1], k2 = q * q, z2 = size2(a, b);
    const V va = v[0], vb = imaginary(v), wd = k.d[0], qd = k.d[1];
    // phi in each direction of (a, b, w, k), then its own derivative along (v, d); the imaginary ones of b and k are 0.
    const V pa = C(-2) * k2 * a, pb = C(-2) * k2 * b - w, pk = C(-2) * q * z2;
    const V zd = C(2) * (X == 2 ? mul_add(a, va, b * vb) : a * va);
    const V ma = mul_add(C(-2) * k2, va, C(-4) * q * a * qd), mb = mul_add(C(-2) * k2, vb, C(-4) * q * b * qd) - wd;
    const V mk = mul_add(C(-2) * q, zd, C(-2) * z2 * qd);
    const V dre = mul_add(pa, va, mul_add(pb, vb, mul_add(-b, wd, pk * qd))), dim = mul_add(w, va, a * wd);
    const Complex f = wave(k, x), fd = times(f, dre, dim), h = conjugate_times(g, f), m = conjugate_times(g, fd);
    dgrad[0] = fd.re, dgrad[1] = fd.im;
    dx[0] = mul_add(h.re, ma, -(h.im * wd)) + mul_add(m.re, pa, -(m.im * w));
    if constexpr (X == 2) dx[1] = mul_add(h.re, mb, m.re * pb);
    sum(Constant<0>{}, -(mul_add(h.re, vb, h.im * va) + mul_add(m.re, b, m.im * a)));
    sum(Constant<1>{}, mul_add(h.re, mk, m.re * pk));
  }
};

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

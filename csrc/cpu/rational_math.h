// The mathematics of the rational activation on vectors: one point per lane.  F = P / Q, P = sum a_i x^i, and with
// T(z) = sum_j b_j z^j, where the denominator's own coefficients are first made uniform,
//   A       z = |x|, b_j = |b_j|, b_0 = 1      Q = T
//   B       z = x,                b_0 = 0      Q = 1 + |T|
//   C       z = x,                             Q = 0.1 + |T|
//   smooth  z = x,                b_0 = 0      Q = 1 + T^2
// so that each version has n + 1 of them.  sgn(0) is `zero_sign` wherever |.| is differentiated.  Sums over the
// denominator's coefficients leave out sgn(b_j) for version A: it is constant over a group and applied to the finished
// sum.
#pragma once

#include "cpu/rational.h"
#include "cpu/simd.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

constexpr int kA = 0, kB = 1, kC = 2, kSmooth = 3;

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
template <int First, typename F> SO_SIMD void count_down(F f) {
  if constexpr (First >= 0) {
    f(Constant<First>{});
    count_down<First - 1>(f);
  }
}

// A degree known to the compiler, so that coefficients and sums live in registers, or not.
template <int Degree> struct FixedDegree {
  static constexpr int kSize = Degree + 1;
  SO_HOST_DEVICE explicit FixedDegree(int) {}
  SO_HOST_DEVICE constexpr int value() const { return Degree; }
  template <int First, typename F> SO_HOST_DEVICE void up(F f) const { count_up<First, Degree>(f); }
  template <typename F> SO_HOST_DEVICE void down(F f) const { count_down<Degree - 1>(f); }
};
struct AnyDegree {
  static constexpr int kSize = kMaxDegree + 1;
  int degree;
  SO_HOST_DEVICE explicit AnyDegree(int d) : degree(d) {}
  SO_HOST_DEVICE int value() const { return degree; }
  template <int First, typename F> SO_HOST_DEVICE void up(F f) const {
    for (int i = First; i <= degree; ++i) f(i);
  }
  template <typename F> SO_HOST_DEVICE void down(F f) const {
    for (int i = degree - 1; i >= 0; --i) f(i);
  }
};
template <typename M, typename N> struct Degrees {
  M m;
  N n;
  SO_HOST_DEVICE Degrees(int num_degree, int den_degree) : m(num_degree), n(den_degree) {}
};

template <typename C> SO_SIMD vec<C> sgn(vec<C> v, vec<C> zero_sign) {
  const vec<C> one = splat<C>(1), none = vec<C>{};
  return v > none ? one : (v < none ? -one : zero_sign);
}

template <typename C, typename D> SO_SIMD vec<C> horner(const vec<C>* c, const D& degree, vec<C> z) {
  vec<C> v = c[degree.value()];
  degree.down([&](auto i) SO_LAMBDA { v = mul_add(v, z, c[i]); });
  return v;
}

// The value and its first derivative.  A derivative starts with the leading coefficient, not with 0 z + it, which is
// not a number at infinity.
template <typename C, typename D>
SO_SIMD void horner(const vec<C>* c, const D& degree, vec<C> z, vec<C>& value, vec<C>& first) {
  const int top = degree.value();
  vec<C> v = c[top], d = vec<C>{};
  degree.down([&](auto i) SO_LAMBDA {
    d = i == top - 1 ? v : mul_add(d, z, v);
    v = mul_add(v, z, c[i]);
  });
  value = v;
  first = d;
}

// The value, its first and its second derivative.
template <typename C, typename D>
SO_SIMD void horner(const vec<C>* c, const D& degree, vec<C> z, vec<C>& value, vec<C>& first, vec<C>& second) {
  const int top = degree.value();
  vec<C> v = c[top], d = vec<C>{}, h = vec<C>{};
  degree.down([&](auto i) SO_LAMBDA {
    h = i >= top - 2 ? d : mul_add(h, z, d);
    d = i == top - 1 ? v : mul_add(d, z, v);
    v = mul_add(v, z, c[i]);
  });
  value = v;
  first = d;
  second = h + h;
}

template <int V, typename C> SO_SIMD vec<C> argument(vec<C> x) { return V == kA ? absolute<C>(x) : x; }

template <int V, typename C> SO_SIMD vec<C> denominator(vec<C> t) {
  if (V == kA) return t;
  if (V == kSmooth) return mul_add(t, t, splat<C>(1));
  return absolute<C>(t) + splat<C>(V == kB ? C(1) : C(0.1));
}

// a_i and b_j, in every lane or lane by lane.
template <typename C, typename D> struct Coefficients {
  vec<C> a[decltype(D::m)::kSize], b[decltype(D::n)::kSize];
};

// Sums over points: num[i] of g dF/da_i, den[j] of g dF/db_j.
template <typename C, typename D> struct Sums {
  static constexpr int kSize = decltype(D::m)::kSize + decltype(D::n)::kSize;
  vec<C> num[decltype(D::m)::kSize], den[decltype(D::n)::kSize];
};

template <int V, typename C, typename D>
SO_SIMD vec<C> rational_value(const Coefficients<C, D>& k, const D& degree, vec<C> x) {
  const vec<C> t = horner<C>(k.b, degree.n, argument<V, C>(x));
  return horner<C>(k.a, degree.m, x) / denominator<V, C>(t);
}

// Returns g F' and adds to the sums.
template <int V, typename C, typename D>
SO_SIMD vec<C> rational_gradient(const Coefficients<C, D>& k, const D& degree, vec<C> zero_sign, vec<C> x, vec<C> g,
                                 Sums<C, D>& sums) {
  const vec<C> z = argument<V, C>(x);
  vec<C> p, p1, t, t1;
  horner<C>(k.a, degree.m, x, p, p1);
  horner<C>(k.b, degree.n, z, t, t1);
  // Divisions cost nothing measurable here beside the rest, and round once where a product with 1 / q rounds twice.
  const vec<C> q = denominator<V, C>(t), f = p / q, h = g / q;
  // dQ = slope dT; for A, dT/dx = sgn(x) dT/dz.
  const vec<C> slope = V == kSmooth ? t + t : sgn<C>(V == kA ? x : t, zero_sign);
  const vec<C> dx = h * mul_add(-(f * slope), t1, p1);  // f first: 0 where Q overflows
  vec<C> e = h;
  sums.num[0] += e;
  degree.m.template up<1>([&](auto i) SO_LAMBDA {
    e *= x;
    sums.num[i] += e;
  });
  vec<C> s = -(h * f);
  if (V != kA) s *= slope;
  if (V == kC) sums.den[0] += s;
  degree.n.template up<1>([&](auto j) SO_LAMBDA {
    s *= z;
    sums.den[j] += s;
  });
  return dx;
}

template <typename C> struct SecondOrder {
  vec<C> dgrad, dx;
};

// The gradient of  xd g F' + sum_i ad_i g dF/da_i + sum_j bd_j g dF/db_j  in g, x and the coefficients; d holds ad and
// bd, made uniform as b is (A: times sgn(b_j)).  A trailing d is the derivative along (xd, ad, bd), a 1 or x that in x:
// pd of P, p1d of P', txd of dT/dx.
template <int V, typename C, typename D>
SO_SIMD SecondOrder<C> rational_second(const Coefficients<C, D>& k, const Coefficients<C, D>& d, const D& degree,
                                       vec<C> zero_sign, vec<C> x, vec<C> g, vec<C> xd, Sums<C, D>& sums) {
  const vec<C> z = argument<V, C>(x), sx = V == kA ? sgn<C>(x, zero_sign) : splat<C>(1);
  vec<C> p, p1, p2, pa, pa1, t, t1, t2, tb, tb1;
  horner<C>(k.a, degree.m, x, p, p1, p2);
  horner<C>(d.a, degree.m, x, pa, pa1);
  horner<C>(k.b, degree.n, z, t, t1, t2);
  horner<C>(d.b, degree.n, z, tb, tb1);
  const vec<C> pd = mul_add(p1, xd, pa), p1d = mul_add(p2, xd, pa1);
  const vec<C> tx = sx * t1, td = mul_add(tx, xd, tb), txd = mul_add(sx * sx * t2, xd, sx * tb1);
  const vec<C> sigma = V == kB || V == kC ? sgn<C>(t, zero_sign) : splat<C>(1), t_twice = t + t;
  const vec<C> qx = V == kSmooth ? t_twice * tx : sigma * tx;
  const vec<C> qd = V == kSmooth ? t_twice * td : sigma * td;
  const vec<C> qxd = V == kSmooth ? mul_add(td + td, tx, t_twice * txd) : sigma * txd;
  const vec<C> q = denominator<V, C>(t), f = p / q, h = g / q, r = qd / q;
  const vec<C> fd = mul_add(-f, qd, pd) / q;
  const vec<C> w = mul_add(-f, qx, p1);  // Q F'
  SecondOrder<C> result;
  result.dgrad = fd;
  result.dx = h * (mul_add(-fd, qx, mul_add(-f, qxd, p1d)) - w * r);
  // The derivative of h x^i is i x^{i-1} xd h - x^i h r.
  vec<C> e = h, slope = h * xd;
  sums.num[0] -= e * r;
  degree.m.template up<1>([&](auto i) SO_LAMBDA {
    sums.num[i] += slope * splat<C>(C(int(i)));
    e *= x;
    slope *= x;
    sums.num[i] -= e * r;
  });
  // g dF/db_j = -h F c z^j with c = dQ/dT (for A without sgn(b_j)): alpha multiplies h z^j, beta h j z^{j-1}.
  const vec<C> direct = mul_add(f, r, -fd), along = -(f * xd);
  const vec<C> alpha = V == kSmooth ? mul_add(direct, t_twice, -(f * (td + td))) : direct * sigma;
  const vec<C> beta = V == kSmooth ? along * t_twice : along * sigma * sx;
  vec<C> ea = h * alpha, eb = h * beta;
  if (V == kC) sums.den[0] += ea;
  degree.n.template up<1>([&](auto j) SO_LAMBDA {
    ea *= z;
    sums.den[j] += mul_add(eb, splat<C>(C(int(j))), ea);
    eb *= z;
  });
  return result;
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

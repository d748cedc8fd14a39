// The basis families of python/spectralops/ops/kan_basis.py, and the activations of the base branch, on vectors: lanes are
// rows, so what belongs to an input is the same in every lane.
//
// The arithmetic is that of truncated Taylor series: a Jet<C, M> has the coefficients f, f', f''/2!, ..., f^(M)/M! of a
// function at x. A family is a class of (C, M) made for an input of a job; evaluate(x, put) calls put(k, B_k^(M)(x)).
#pragma once

#include "cpu/kan.h"
#include "cpu/kan_loops.h"
#include "cpu/vector_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {




// ---- truncated Taylor arithmetic ----
template <typename C, int M> struct Jet {
  vec<C> f[M + 1];
  SO_HOST_DEVICE vec<C>& operator[](int n) { return f[n]; }
  SO_HOST_DEVICE const vec<C>& operator[](int n) const { return f[n]; }
};

template <typename C, int M> SO_SIMD Jet<C, M> constant(vec<C> value) {
  Jet<C, M> r{};
  r[0] = value;
  return r;
}
// (x + shift) factor: value and slope.
template <typename C, int M> SO_SIMD Jet<C, M> linear(vec<C> value, vec<C> slope) {
  Jet<C, M> r{};
  r[0] = value;
  if constexpr (M > 0) r[1] = slope;
  return r;
}
template <typename C, int M> SO_SIMD Jet<C, M> add(const Jet<C, M>& a, const Jet<C, M>& b) {
  Jet<C, M> r;
  SO_EACH for (int n = 0; n <= M; ++n) r[n] = a[n] + b[n];
  return r;
}
template <typename C, int M> SO_SIMD Jet<C, M> scaled(const Jet<C, M>& a, vec<C> factor) {
  Jet<C, M> r;
  SO_EACH for (int n = 0; n <= M; ++n) r[n] = a[n] * factor;
  return r;
}
template <typename C, int M> SO_SIMD Jet<C, M> scaled(const Jet<C, M>& a, C factor) { return scaled(a, splat<C>(factor)); }
template <typename C, int M> SO_SIMD Jet<C, M> shifted(Jet<C, M> a, C constant) {
  a[0] = a[0] + constant;
  return a;
}
template <typename C, int M> SO_SIMD Jet<C, M> multiply(const Jet<C, M>& a, const Jet<C, M>& b) {
  Jet<C, M> r;
  SO_EACH for (int n = 0; n <= M; ++n) {
    r[n] = a[0] * b[n];
    SO_EACH for (int i = 1; i <= n; ++i) r[n] = mul_add(a[i], b[n - i], r[n]);
  }
  return r;
}
// y(f) from y's value and dy/df, itself a function of y's coefficients so far.
template <typename C, int M, typename F> SO_SIMD Jet<C, M> integrate(vec<C> value, const Jet<C, M>& f, F slope) {
  Jet<C, M> y = constant<C, M>(value);
  SO_EACH for (int n = 1; n <= M; ++n) {
    const Jet<C, M> s = slope(y);
    vec<C> sum = f[1] * s[n - 1];
    SO_EACH for (int i = 2; i <= n; ++i) sum = mul_add(f[i] * C(i), s[n - i], sum);
    y[n] = sum * (C(1) / C(n));
  }
  return y;
}
template <typename C, int M> SO_SIMD Jet<C, M> exp(const Jet<C, M>& f) {
  return integrate(exp_of<C>(f[0]), f, [](const Jet<C, M>& y) SO_LAMBDA { return y; });
}
template <typename C, int M> SO_SIMD Jet<C, M> tanh(const Jet<C, M>& f) {
  return integrate(tanh_of<C>(f[0]), f,
                   [](const Jet<C, M>& y) SO_LAMBDA { return shifted(scaled(multiply(y, y), C(-1)), C(1)); });
}
template <typename C, int M> SO_SIMD Jet<C, M> sech(const Jet<C, M>& f) {
  const Jet<C, M> t = M > 0 ? tanh(f) : Jet<C, M>{};
  return integrate(sech_of<C>(f[0]), f, [&](const Jet<C, M>& y) SO_LAMBDA { return scaled(multiply(y, t), C(-1)); });
}
template <typename C, int M> SO_SIMD Jet<C, M> cos(const Jet<C, M>& f) {
  const SinCos<C> at = sin_cos<C>(f[0]);
  Jet<C, M> c = constant<C, M>(at.cos), s = constant<C, M>(at.sin);
  SO_EACH for (int n = 1; n <= M; ++n) {
    vec<C> up = f[1] * c[n - 1], down = f[1] * s[n - 1];
    SO_EACH for (int i = 2; i <= n; ++i) {
      up = mul_add(f[i] * C(i), c[n - i], up);
      down = mul_add(f[i] * C(i), s[n - i], down);
    }
    s[n] = up * (C(1) / C(n));
    c[n] = down * (C(-1) / C(n));
  }
  return c;
}
// max(f, 0), its derivative at 0 being 0; NaN stays NaN.
template <typename C, int M> SO_SIMD Jet<C, M> relu(Jet<C, M> f) {
  const mask<C> positive = f[0] > C(0);
  f[0] = f[0] <= C(0) ? vec<C>{} : f[0];
  SO_EACH for (int n = 1; n <= M; ++n) f[n] = positive ? f[n] : vec<C>{};
  return f;
}
template <int M> constexpr int factorial() {
  int r = 1;
  for (int n = 2; n <= M; ++n) r *= n;
  return r;
}
template <typename C, int M> SO_SIMD vec<C> derivative_of(const Jet<C, M>& f) {
  return M > 1 ? f[M] * C(factorial<M>()) : f[M];
}

// ---- the families ----
template <typename C, int M> struct Radial {
  const C *centre, *factor;
  int size;
  enum Shape { kGaussian, kRswaf, kSech, kMexicanHat, kMorlet, kDog, kHaar };

  SO_HOST_DEVICE explicit Radial(const KanJob& job)
      : centre(static_cast<const C*>(job.table)), factor(centre + job.size), size(job.size) {}

  template <int Which> SO_HOST_DEVICE static Jet<C, M> psi(const Jet<C, M>& u) {
    if constexpr (Which == kSech) return sech(u);
    if constexpr (Which == kRswaf) {
      const Jet<C, M> s = sech(u);
      return multiply(s, s);
    }
    if constexpr (Which == kHaar) {
      const vec<C> one = splat<C>(1), none = vec<C>{}, v = u[0];
      const vec<C> step = (v >= C(0) ? one : none) - (v >= C(0.5) ? one + one : none) + (v >= C(1) ? one : none);
      return constant<C, M>(v == v ? step : v);
    }
    const Jet<C, M> square = multiply(u, u);
    if constexpr (Which == kGaussian) return exp(scaled(square, C(-1)));
    const Jet<C, M> bell = exp(scaled(square, C(-0.5)));
    if constexpr (Which == kMexicanHat)
      return scaled(multiply(shifted(square, C(-1)), bell), C(0.86732507058407751832));  // 2 / (sqrt 3 pi^(1/4))
    if constexpr (Which == kMorlet) return multiply(cos(scaled(u, C(5))), bell);
    return scaled(multiply(u, bell), C(-1));
  }
  template <int Which, typename F> SO_HOST_DEVICE void each(vec<C> x, F put) const {
    for (int k = 0; k < size; ++k) {
      const vec<C> w = splat<C>(factor[k]);
      put(k, derivative_of(psi<Which>(linear<C, M>((x - centre[k]) * w, w))));
    }
  }
};

template <typename C, int M> struct Polynomial {
  const C *a, *b, *c;
  int size;

  SO_HOST_DEVICE explicit Polynomial(const KanJob& job)
      : a(static_cast<const C*>(job.table)), b(a + job.size), c(b + job.size), size(job.size) {}
  template <int Squash, typename F> SO_HOST_DEVICE void each(vec<C> x, F put) const {
    Jet<C, M> z = linear<C, M>(x, splat<C>(1)), before = constant<C, M>(vec<C>{}), now = constant<C, M>(splat<C>(1));
    if constexpr (Squash) z = tanh(z);
    put(0, derivative_of(now));
    for (int k = 0; k + 1 < size; ++k) {
      const Jet<C, M> next =
          add(multiply(shifted(scaled(z, splat<C>(a[k])), b[k]), now), scaled(before, splat<C>(-c[k])));
      before = now, now = next;
      put(k + 1, derivative_of(now));
    }
  }
};

// cos and sin of k omega x by rotation, computed afresh every 4 steps: it costs little beside the products, and
// a rotation adds its rounding to those before it.
template <typename C, int M> struct Fourier {
  C omega;
  int half;

  SO_HOST_DEVICE explicit Fourier(const KanJob& job) : omega(C(job.scalars[0])), half(job.size / 2) {}
  template <int, typename F> SO_HOST_DEVICE void each(vec<C> x, F put) const {
    const SinCos<C> step = sin_cos<C>(x * omega);
    SinCos<C> at = step;
    for (int k = 1; k <= half; ++k) {
      if (k % 4 == 1 && k > 1) {
        at = sin_cos<C>(x * (omega * C(k)));
      } else if (k > 1) {
        const vec<C> cos = mul_add(at.cos, step.cos, -(at.sin * step.sin));
        at.sin = mul_add(at.sin, step.cos, at.cos * step.sin);
        at.cos = cos;
      }
      C power = 1;
      for (int n = 0; n < M; ++n) power *= omega * C(k);
      const bool odd = M % 2, cos_down = M % 4 == 1 || M % 4 == 2, sin_down = M % 4 == 2 || M % 4 == 3;
      put(k - 1, (odd ? at.sin : at.cos) * (cos_down ? -power : power));
      put(half + k - 1, (odd ? at.cos : at.sin) * (sin_down ? -power : power));
    }
  }
};

template <typename C, int M> struct ReluPower {
  const C *start, *end, *factor;
  int size, power;
  enum Combination { kPower, kProduct, kSum, kSumProduct };

  SO_HOST_DEVICE explicit ReluPower(const KanJob& job)
      : start(static_cast<const C*>(job.table)), end(start + job.size), factor(end + job.size), size(job.size),
        power(job.b) {}
  template <int Which, typename F> SO_HOST_DEVICE void each(vec<C> x, F put) const {
    for (int k = 0; k < size; ++k) {
      const Jet<C, M> rise = relu(linear<C, M>(x - start[k], splat<C>(1)));
      const Jet<C, M> fall = relu(linear<C, M>(end[k] - x, splat<C>(-1)));
      Jet<C, M> f;
      if constexpr (Which == kSum) f = add(rise, fall);
      else f = multiply(rise, fall);
      if constexpr (Which == kSumProduct) f = add(f, add(rise, fall));
      f = scaled(f, splat<C>(factor[k]));
      Jet<C, M> result = f;
      for (int q = 1; q < power; ++q) result = multiply(result, f);
      put(k, derivative_of(result));
    }
  }
};

// ---- the base branch ----
template <typename C, int M> struct BaseActivation {
  SO_HOST_DEVICE explicit BaseActivation(const KanJob&) {}
  template <int Which> SO_HOST_DEVICE static vec<C> value(vec<C> x) {
    const Jet<C, M> f = linear<C, M>(x, splat<C>(1));
    if constexpr (Which == kRelu) return derivative_of(relu(f));
    if constexpr (Which == kTanh) return derivative_of(tanh(f));
    if constexpr (Which == kSilu)
      return derivative_of(multiply(f, scaled(shifted(tanh(scaled(f, C(0.5))), C(1)), C(0.5))));
    if constexpr (Which == kGelu) {
      const auto density = [&](const Jet<C, M>&) SO_LAMBDA {
        return scaled(exp(scaled(multiply(f, f), C(-0.5))), C(0.39894228040143267794));
      };
      return derivative_of(multiply(f, integrate(normal_cdf<C>(x), f, density)));
    }
    return derivative_of(f);
  }
  template <int Which, typename F> SO_HOST_DEVICE void each(vec<C> x, F put) const { put(0, value<Which>(x)); }
};

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

// B-splines at a vector of points: the interval of each, and the order + 1 functions that are not zero there.
#pragma once

#include "cpu/kan_basis.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

SO_SIMD vec<float> gather(const float* p, mask<float> at) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), __mmask16(-1), (__m512i)at, p, 4);
#elif defined(__AVX2__)
  return (vec<float>)_mm256_i32gather_ps(p, (__m256i)at, 4);
#else
  vec<float> v;
  for (int l = 0; l < lanes<float>; ++l) v[l] = p[at[l]];
  return v;
#endif
}
SO_SIMD vec<double> gather(const double* p, mask<double> at) {
#if defined(__AVX512F__)
  return (vec<double>)_mm512_mask_i64gather_pd(_mm512_setzero_pd(), __mmask8(-1), (__m512i)at, p, 8);
#elif defined(__AVX2__)
  return (vec<double>)_mm256_i64gather_pd(p, (__m256i)at, 8);
#else
  vec<double> v;
  for (int l = 0; l < lanes<double>; ++l) v[l] = p[at[l]];
  return v;
#endif
}

// f(first), ..., f(last), unrolled where the order P is known: only then do the arrays become registers.
template <int P, typename F> SO_SIMD void each_order(int first, int last, F f) {
  if constexpr (P >= 0) {
    SO_EACH for (int i = first; i <= last; ++i) f(i);
  } else {
#pragma GCC unroll 1
    for (int i = first; i <= last; ++i) f(i);
  }
}

// An interval [t_j, t_(j+1)), j also as a number.
template <typename C> struct Interval {
  mask<C> j;
  vec<C> number;
};

// Both kinds of knots: low and high, where outside begins; last, the last interval that is not empty and ends at or before
// high; find(x) for low <= x <= high; distances(interval, x, p, after, before): after[q] = x - t_(j+1-q) and
// before[q] = t_(j+q) - x for q = 1 ... p.

// t_k is rounded as the reference rounds it, so that both see a point in the same interval. What was rounded off is taken
// into account for the distance to it: splines of high order would otherwise not add up to one.
template <typename C> struct UniformKnots {
  C start, step, inverse_step, low, high, inverses[kMaxSplineOrder + 1];
  C start_rest, step_high, step_rest;  // step_high has half of the digits, so that its multiples are exact
  int last;

  SO_HOST_DEVICE explicit UniformKnots(const KanJob& job)
      : start(C(job.scalars[0])), step(C(job.scalars[1])), inverse_step(C(1) / step) {
    u64 bits;
    const double whole = job.scalars[1];
    __builtin_memcpy(&bits, &whole, 8);
    bits &= ~((1ull << (sizeof(C) == 4 ? 41 : 27)) - 1);
    double half;
    __builtin_memcpy(&half, &bits, 8);
    step_high = C(half), step_rest = C(whole - half), start_rest = C(job.scalars[0] - double(start));
    const int first = job.c ? job.a : 0, end = job.c ? job.size : job.size + job.a;
    low = start + step * C(first), high = start + step * C(end);
    last = end - 1;
    for (int q = 1; q <= kMaxSplineOrder; ++q) inverses[q] = C(1) / (step * C(q));
  }
  template <int P>
  SO_HOST_DEVICE void distances(const Interval<C>& in, vec<C> x, int p, vec<C>* after, vec<C>* before) const {
    const vec<C> multiple = in.number * step, t = multiple + start, added = t - start;
    const vec<C> sum_rest = (start - (t - added)) + (multiple - added);
    const vec<C> rest = ((in.number * step_high - multiple) + in.number * step_rest) + (sum_rest + start_rest);
    const vec<C> first = (x - t) - rest;
    each_order<P>(1, p, [&](int q) SO_LAMBDA {
      after[q] = q == 1 ? first : first + step * C(q - 1);
      before[q] = step * C(q) - first;
    });
  }
  SO_HOST_DEVICE Interval<C> find(vec<C> x) const {
    constexpr C kShift = MathTable<C>::kShift;
    vec<C> n = ((x - start) * inverse_step - C(0.5) + kShift) - kShift;  // within one of the floor
    n = x < n * step + start ? n - C(1) : n;
    n = x >= (n + C(1)) * step + start ? n + C(1) : n;
    n = n > C(last) ? splat<C>(C(last)) : n;
    n = n >= C(0) ? n : vec<C>{};  // NaN too
    return {shifted_integer<C>(n + kShift), n};
  }
  SO_HOST_DEVICE vec<C> filled(const Interval<C>&) const { return splat<C>(1); }
  SO_HOST_DEVICE vec<C> inverse(int q, vec<C>) const { return splat<C>(inverses[q]); }
};

template <typename C> struct AnyKnots {
  const C* t;  // readable from -kMaxSplineOrder to count + kMaxSplineOrder
  int count;
  C low, high;
  int last;

  // Elements of `room`.
  SO_HOST_DEVICE static i64 work(i64 count) { return count + 2 * kMaxSplineOrder + 2; }
  SO_HOST_DEVICE AnyKnots(const KanJob& job, i64 input, C* room)
      : t(room + kMaxSplineOrder), count(job.size + job.a + 1) {
    const C* row = static_cast<const C*>(job.table) + (job.table_rows > 1 ? input * count : 0);
    for (int k = -kMaxSplineOrder; k < count + kMaxSplineOrder + 1; ++k)
      room[kMaxSplineOrder + k] = row[k < 0 ? 0 : k < count ? k : count - 1];
    low = row[job.c ? job.a : 0], high = row[job.c ? job.size : count - 1];
    last = 0;
    while (last + 1 < count && row[last] < high) ++last;
    last = last > 0 ? last - 1 : 0;
  }
  SO_HOST_DEVICE vec<C> knot(const Interval<C>& in, int k) const { return gather(t + k, in.j); }
  template <int P>
  SO_HOST_DEVICE void distances(const Interval<C>& in, vec<C> x, int p, vec<C>* after, vec<C>* before) const {
    each_order<P>(1, p, [&](int q) SO_LAMBDA { after[q] = x - knot(in, 1 - q), before[q] = knot(in, q) - x; });
  }
  // The number of knots not above x, less one: by counting, or where there are many by halving.
  SO_HOST_DEVICE Interval<C> find(vec<C> x) const {
    using I = typename lane_int<sizeof(C)>::type;
    mask<C> n = {};
    if (count <= 40) {
      for (int k = 0; k < count; ++k) n -= x >= t[k];
    } else {
      for (int step = 1 << (31 - __builtin_clz(unsigned(count))); step; step /= 2) {
        const mask<C> next = n + I(step), within = next <= I(count) ? next : n;
        n = (next <= I(count)) & (x >= gather(t - 1, within)) ? next : n;
      }
    }
    n = n - I(1);
    n = n > I(last) ? mask<C>{} + I(last) : n;
    n = n < I(0) ? mask<C>{} : n;
    return {n, vec<C>{}};
  }
  SO_HOST_DEVICE vec<C> filled(const Interval<C>& in) const {
    return knot(in, 1) > knot(in, 0) ? splat<C>(1) : vec<C>{};
  }
  // An empty span counts nothing.
  SO_HOST_DEVICE vec<C> inverse(int, vec<C> span) const { return span <= C(0) ? vec<C>{} : C(1) / span; }
};

// B_(j-p), ..., B_j at x of the interval, de Boor's triangle: a term of degree q - 1 gives to two of degree q.
template <typename C, int M, int P, typename Knots>
SO_SIMD void local_basis(const Knots& knots, const Interval<C>& in, vec<C> x, int order, Jet<C, M>* b) {
  const int p = P >= 0 ? P : order;
  vec<C> after[kMaxSplineOrder + 1] = {}, before[kMaxSplineOrder + 1] = {};
  knots.template distances<P>(in, x, p, after, before);
  b[0] = constant<C, M>(knots.filled(in) + (x - x));  // NaN stays NaN where the order is 0
  each_order<P>(1, p, [&](int q) SO_LAMBDA {
    Jet<C, M> carried = constant<C, M>(vec<C>{});
    each_order<P>(0, q - 1, [&](int r) SO_LAMBDA {
      const Jet<C, M> part = scaled(b[r], knots.inverse(q, before[r + 1] + after[q - r]));
      SO_EACH for (int n = 0; n <= M; ++n) {
        vec<C> here = mul_add(before[r + 1], part[n], carried[n]), next = after[q - r] * part[n];
        if (n > 0) here = here - part[n - 1], next = next + part[n - 1];
        b[r][n] = here, carried[n] = next;
      }
    });
    b[q] = carried;
  });
}

// The taps of a vector of points: their first slot, which may be negative or leave no room for all, and which lanes
// are not finite by x or u alone.
template <typename C> struct Taps {
  vec<C> b[kMaxSplineOrder + 1];
  mask<C> first, spoiled;
};

// Tangent: the value m = 0 where linear continuation needs the slope.
template <typename C, int M, bool Tangent, int P, typename Knots>
SO_SIMD Taps<C> spline_taps(const KanJob& job, const Knots& knots, vec<C> x, vec<C> u) {
  constexpr int kOrder = Tangent ? 1 : M;
  const int p = P >= 0 ? P : job.a;
  const vec<C> low = splat<C>(knots.low), high = splat<C>(knots.high);
  mask<C> beyond;
  vec<C> at;
  Taps<C> taps;
  taps.spoiled = ~((x == x) & (u * C(0) == C(0)));
  if (job.b == kZero) {
    beyond = (x < low) | (x >= high);
    at = beyond ? low : x;
  } else {
    beyond = (x < low) | (x > high);
    at = x < low ? low : x > high ? high : x;
    if (job.b == kLinear && M == 0) taps.spoiled |= ~(x - x == C(0));  // no slope is so flat
  }
  const Interval<C> in = knots.find(at);
  Jet<C, kOrder> b[kMaxSplineOrder + 1] = {};
  local_basis<C, kOrder, P>(knots, in, at, job.a, b);
  const bool vanish = job.b == kZero || (job.b == kClamp && M > 0) || M > 1;
  each_order<P>(0, p, [&](int t) SO_LAMBDA {
    vec<C> v;
    if constexpr (Tangent) v = beyond ? mul_add(x - at, b[t][1], b[t][0]) : b[t][0];
    else v = derivative_of(b[t]);
    v = (vanish ? beyond : mask<C>{}) ? vec<C>{} : v;
    taps.b[t] = taps.spoiled ? splat<C>(C(__builtin_nan(""))) : v * u;
  });
  using I = typename lane_int<sizeof(C)>::type;
  taps.first = in.j - I(p);
  return taps;
}

// Move the taps of lanes that begin before slot 0, or end after the last, to where all have a slot.
template <typename C, int P> SO_SIMD void fit_taps(Taps<C>& taps, int order, int size) {
  using I = typename lane_int<sizeof(C)>::type;
  const int p = P >= 0 ? P : order;
  const I top = I(size - 1 - p);
  while (any_lane(taps.first < I(0))) {
    const mask<C> move = taps.first < I(0);
    each_order<P>(0, p - 1, [&](int t) SO_LAMBDA { taps.b[t] = move ? taps.b[t + 1] : taps.b[t]; });
    taps.b[p] = move & ~taps.spoiled ? vec<C>{} : taps.b[p];
    taps.first -= move;
  }
  while (any_lane(taps.first > top)) {
    const mask<C> move = taps.first > top;
    each_order<P>(0, p - 1, [&](int t) SO_LAMBDA { taps.b[p - t] = move ? taps.b[p - t - 1] : taps.b[p - t]; });
    taps.b[0] = move & ~taps.spoiled ? vec<C>{} : taps.b[0];
    taps.first += move;
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

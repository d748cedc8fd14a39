// Rows of channels between memory of any strides and vectors of lanes, and the layer norm on the way.
#pragma once

#include "cpu/dft_butterfly.h"
#include "cpu/lanes.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// Of each pair of lanes of a and b: the first, or the second.
#if defined(__clang__)
#define SO_TWO(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SO_TWO(...) __builtin_shuffle(a, b, mask<C>{__VA_ARGS__})
#endif
template <typename C, int... K> SO_SIMD Complex<C> parted(vec<C> a, vec<C> b, LaneList<K...>) {
  return {SO_TWO((2 * K)...), SO_TWO((2 * K + 1)...)};
}
template <typename C, int... K> SO_SIMD Complex<C> joined(vec<C> a, vec<C> b, LaneList<K...>) {
  return {SO_TWO((K / 2 + (K & 1 ? lanes<C> : 0))...), SO_TWO(((K + lanes<C>) / 2 + (K & 1 ? lanes<C> : 0))...)};
}
#undef SO_TWO
// Interleaved pairs and vectors of real and imaginary parts.
template <typename C> SO_SIMD Complex<C> load_pairs(const C* p) {
  return parted<C>(load<C>(p), load<C>(p + lanes<C>), typename MakeLanes<lanes<C>>::type{});
}
template <typename C> SO_SIMD void store_pairs(C* p, Complex<C> v) {
  const Complex<C> t = joined<C>(v.re, v.im, typename MakeLanes<lanes<C>>::type{});
  store(p, t.re), store(p + lanes<C>, t.im);
}

template <typename C, typename F> SO_SIMD vec<C> each_lane(int count, F f) {
  C v[lanes<C>] = {};
  for (int l = 0; l < count; ++l) v[l] = f(l);
  return load<C>(v);
}

// out[i][l] = in[i point + l channel], i < n, l < count; zero in the other lanes.
template <typename C, typename T> static void stage(const T* in, i64 point, i64 channel, i64 n, int count, C* out) {
  constexpr int L = lanes<C>;
  if (channel == 1 && count == L)
    for (i64 i = 0; i < n; ++i) store(out + i * L, load<C>(in + i * point));
  else if (channel == 1)
    for (i64 i = 0; i < n; ++i) store(out + i * L, load_partial<C>(in + i * point, count));
  else if (point == 1)
    transpose<C, T>(in, channel, count, n, out, L);
  else
    for (i64 i = 0; i < n; ++i)
      store(out + i * L, each_lane<C>(count, [&](int l) { return C(widen(in[i * point + l * channel])); }));
}

// out[i point + l channel] = in[i][l], rounded once.
template <typename C, typename T> static void unstage(const C* in, i64 n, int count, T* out, i64 point, i64 channel) {
  constexpr int L = lanes<C>;
  if (channel == 1 && count == L) {
    for (i64 i = 0; i < n; ++i) store(out + i * point, load<C>(in + i * L));
  } else if (channel == 1) {
    for (i64 i = 0; i < n; ++i) store_partial(out + i * point, load<C>(in + i * L), count);
  } else if (point == 1) {
    for (i64 i = 0; i < n; i += L) {
      vec<C> v[L];
#pragma GCC unroll 16
      for (int j = 0; j < L; ++j) v[j] = load<C>(in + least(i + j, n - 1) * L);
      transpose_lanes<C>(v);
      for (int l = 0; l < count; ++l) store_count<C>(out + l * channel + i, v[l], n - i);
    }
  } else {
    for (i64 i = 0; i < n; ++i)
      for (int l = 0; l < count; ++l) out[i * point + l * channel] = narrow_to<T>::from(in[i * L + l]);
  }
}

// A sum in chains of 16.
template <typename C> struct Chains {
  vec<C> total{}, part{};
  int terms = 0;
  inline __attribute__((always_inline)) void add(vec<C> v) {
    part += v;
    if (++terms == 16) total += part, part = vec<C>{}, terms = 0;
  }
  inline __attribute__((always_inline)) vec<C> sum() const { return total + part; }
};

template <typename C> SO_SIMD C over_lanes(vec<C> v) {
  C a[lanes<C>];
  store(a, v);
  for (int s = lanes<C> / 2; s > 0; s /= 2)
    for (int l = 0; l < s; ++l) a[l] += a[l + s];
  return a[0];
}

// Mean and 1 / sqrt(variance + eps) of n points over their channels, a point a vector after another.
template <typename C, typename T>
static void statistics_near(const T* x, i64 point, i64 n, i64 channels, C eps, C* mean, C* rstd) {
  constexpr int L = lanes<C>;
  const i64 whole = channels / L * L;
  const int rest = int(channels - whole);
  for (i64 i = 0; i < n; ++i, x += point) {
    Chains<C> sum, square;
    for (i64 c = 0; c < whole; c += L) sum.add(load<C>(x + c));
    if (rest) sum.add(load_partial<C>(x + whole, rest));
    mean[i] = over_lanes<C>(sum.sum()) / C(channels);
    const vec<C> m = splat<C>(mean[i]);
    for (i64 c = 0; c < whole; c += L) {
      const vec<C> d = load<C>(x + c) - m;
      square.add(d * d);
    }
    if (rest) {
      const vec<C> d = load_partial<C>(x + whole, rest) - each_lane<C>(rest, [&](int) { return mean[i]; });
      square.add(d * d);
    }
    rstd[i] = C(1) / C(__builtin_sqrt(over_lanes<C>(square.sum()) / C(channels) + eps));
  }
}

// The same with points in the lanes.
template <typename C, typename T>
static void statistics_far(const T* x, i64 point, i64 channel, i64 n, i64 channels, C eps, C* mean, C* rstd) {
  constexpr int L = lanes<C>;
  for (i64 i = 0; i < n; i += L, x += L * point) {
    const int count = int(least(L, n - i));
    const auto at = [&](i64 c) {
      if (point == 1) return load_count<C>(x + c * channel, count);
      return each_lane<C>(count, [&](int l) { return C(widen(x[c * channel + l * point])); });
    };
    Chains<C> sum, square;
    for (i64 c = 0; c < channels; ++c) sum.add(at(c));
    const vec<C> m = sum.sum() / splat<C>(C(channels));
    for (i64 c = 0; c < channels; ++c) {
      const vec<C> d = at(c) - m;
      square.add(d * d);
    }
    store_count<C>(mean + i, m, count);
    const vec<C> variance = square.sum() / splat<C>(C(channels)) + splat<C>(eps);
    C v[L];
    store(v, variance);
    for (int l = 0; l < count; ++l) rstd[i + l] = C(1) / C(__builtin_sqrt(v[l]));
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

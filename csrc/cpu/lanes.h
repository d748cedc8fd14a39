// Lanes that change places: squares transposed in registers, matrices transposed in memory, sums over lanes.
#pragma once

#include "cpu/simd.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

SO_SIMD i64 least(i64 a, i64 b) { return a < b ? a : b; }
SO_SIMD i64 round_up(i64 a, i64 b) { return (a + b - 1) / b * b; }

template <int... L> struct LaneList {};
template <int N, int... L> struct MakeLanes : MakeLanes<N - 1, N - 1, L...> {};
template <int... L> struct MakeLanes<0, L...> { using type = LaneList<L...>; };

// Of each 2 S lanes of a and b: the lower S of both, or the upper.
#if defined(__clang__)
#define SO_TWO(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SO_TWO(...) __builtin_shuffle(a, b, mask<C>{__VA_ARGS__})
#endif
template <typename C, int S, int... L> SO_SIMD vec<C> lower_parts(vec<C> a, vec<C> b, LaneList<L...>) {
  return SO_TWO(((L & S) ? lanes<C> + L - S : L)...);
}
template <typename C, int S, int... L> SO_SIMD vec<C> upper_parts(vec<C> a, vec<C> b, LaneList<L...>) {
  return SO_TWO(((L & S) ? lanes<C> + L : L + S)...);
}
#undef SO_TWO

// v[i][l] becomes v[l][i].
template <typename C, int S = 1> SO_SIMD void transpose_lanes(vec<C>* v) {
  constexpr typename MakeLanes<lanes<C>>::type all{};
  if constexpr (S < lanes<C>) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes<C>; ++i)
      if (!(i & S)) {
        const vec<C> a = v[i], b = v[i + S];
        v[i] = lower_parts<C, S>(a, b, all);
        v[i + S] = upper_parts<C, S>(a, b, all);
      }
    transpose_lanes<C, 2 * S>(v);
  }
}

// Lane l of the result is the sum of the lanes of v[l].
template <typename C, int S = 1> SO_SIMD vec<C> add_lanes(vec<C>* v) {
  constexpr typename MakeLanes<lanes<C>>::type all{};
  if constexpr (S < lanes<C>) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes<C> / 2 / S; ++i) {
      const vec<C> a = v[2 * i], b = v[2 * i + 1];
      v[i] = lower_parts<C, S>(a, b, all) + upper_parts<C, S>(a, b, all);
    }
    return add_lanes<C, 2 * S>(v);
  }
  return v[0];
}

template <typename C, typename S> SO_SIMD vec<C> load_count(const S* p, i64 count) {
  return count >= lanes<C> ? load<C>(p) : load_partial<C>(p, int(count));
}
template <typename C, typename S> SO_SIMD void store_count(S* p, vec<C> v, i64 count) {
  if (count >= lanes<C>) store(p, v);
  else store_partial(p, v, int(count));
}

// out[c * out_stride + r] = in[r * in_stride + c] of rows x columns; out gets whole vectors of rows, zeros where there is
// no row, and in may be of a 16-bit type.
template <typename C, typename S>
static void transpose(const S* in, i64 in_stride, i64 rows, i64 columns, C* out, i64 out_stride) {
  constexpr int L = lanes<C>;
  for (i64 r = 0; r < rows; r += L)
    for (i64 c = 0; c < columns; c += L) {
      const int wide = int(least(L, columns - c)), high = int(least(L, rows - r));
      vec<C> v[L];
      if (wide == L && high == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) v[i] = load<C>(in + (r + i) * in_stride + c);
        transpose_lanes<C>(v);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(out + (c + i) * out_stride + r, v[i]);
        continue;
      }
      for (int i = 0; i < L; ++i)
        v[i] = i < high ? load_partial<C>(in + (r + i) * in_stride + c, wide) : vec<C>{};
      transpose_lanes<C>(v);
      for (int i = 0; i < wide; ++i) store(out + (c + i) * out_stride + r, v[i]);
    }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

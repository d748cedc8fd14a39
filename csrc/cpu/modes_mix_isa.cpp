// The three products of mode_mix for one instruction set.  Each is
//   out(r, c) = sum_k value(r, k) factor(c, k)    or, conj, with the factor's conjugate,
// mode by mode.  A vector holds complex pairs; a loaded factor serves every row of a tile.
#include "cpu/lanes.h"
#include "cpu/modes.h"
#include "cpu/parallel.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

constexpr int kRows = 4, kCols = sizeof(vec<float>) == 64 ? 2 : 1;  // of a tile: two sums each fill the registers
constexpr i64 kTerms = 8;        // in one chain, and as many streams of factors
constexpr i64 kRun = 1024;       // numbers of a mode range: one page of each stream
constexpr i64 kConverted = 256;  // and where factors are converted first

// Strides in numbers.
template <typename C> struct Mix {
  const C* value;
  const void* factor;
  C* out;
  i64 value_row, value_term, factor_column, factor_term, out_row, out_column;
  i64 rows, columns, terms, width;  // width: 2 modes
  i64 factor_dtype;
  bool conj, weights;               // weights: factors stream from memory, results stay; else the other way round
};

template <typename C, int... I> SO_SIMD vec<C> pick(vec<C> v, mask<C> places, LaneList<I...>) {
#if defined(__clang__)
  return vec<C>{v[places[I]]...};
#else
  return __builtin_shuffle(v, places);
#endif
}
// (re, re), (im, im), (im, re) of each pair.
template <typename C, int... I> SO_SIMD vec<C> reals(vec<C> v, LaneList<I...> all) {
  return pick<C>(v, mask<C>{(I & ~1)...}, all);
}
template <typename C, int... I> SO_SIMD vec<C> imaginaries(vec<C> v, LaneList<I...> all) {
  return pick<C>(v, mask<C>{(I | 1)...}, all);
}
template <typename C, int... I> SO_SIMD vec<C> swapped(vec<C> v, LaneList<I...> all) {
  return pick<C>(v, mask<C>{(I ^ 1)...}, all);
}
template <typename C, int... I> SO_SIMD vec<C> signs(bool conj, LaneList<I...>) {
  const vec<C> v = {((I & 1) ? C(1) : C(-1))...};
  return conj ? -v : v;
}

// `count` numbers (of whole pairs) of R rows times N columns over `terms` terms.
template <int R, int N, typename C>
static void tile(const Mix<C>& m, const C* value, const C* const (*factor)[kTerms], i64 terms, i64 count, C* out, bool first) {
  constexpr int L = lanes<C>;
  constexpr typename MakeLanes<L>::type all{};
  const vec<C> sign = signs<C>(m.conj, all);
  for (i64 p = 0; p < count; p += L) {
    const i64 left = count - p;
    vec<C> by_re[R][N] = {}, by_im[R][N] = {};
    for (i64 k = 0; k < terms; ++k) {
      vec<C> re[N], im[N];
#pragma GCC unroll 2
      for (int c = 0; c < N; ++c) {
        const vec<C> w = load_count<C>(factor[c][k] + p, left);
        re[c] = reals<C>(w, all), im[c] = imaginaries<C>(w, all);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const vec<C> x = load_count<C>(value + r * m.value_row + k * m.value_term + p, left);
#pragma GCC unroll 2
        for (int c = 0; c < N; ++c) by_re[r][c] = mul_add(x, re[c], by_re[r][c]), by_im[r][c] = mul_add(x, im[c], by_im[r][c]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int c = 0; c < N; ++c) {
        C* const to = out + r * m.out_row + c * m.out_column + p;
        const vec<C> sum = mul_add(swapped<C>(by_im[r][c], all), sign, by_re[r][c]);
        store_count<C>(to, first ? sum : load_count<C>(to, left) + sum, left);
      }
  }
}

template <int N, typename C>
static void rows_of(const Mix<C>& m, i64 column, i64 row, i64 rows, i64 term, i64 terms, i64 place, i64 count,
                    const C* const (*factor)[kTerms]) {
  for (i64 r = row; r < row + rows;) {
    const C* const value = m.value + r * m.value_row + term * m.value_term + place;
    C* const out = m.out + r * m.out_row + column * m.out_column + place;
    if (row + rows - r >= kRows) tile<kRows, N, C>(m, value, factor, terms, count, out, term == 0), r += kRows;
    else tile<1, N, C>(m, value, factor, terms, count, out, term == 0), ++r;
  }
}

template <typename C, typename S> static void convert(const void* from, i64 at, i64 count, C* to) {
  for (i64 j = 0; j < count; ++j) to[j] = C(widen(static_cast<const S*>(from)[at + j]));
}
template <typename C> static void convert_any(i64 dtype, const void* from, i64 at, i64 count, C* to) {
  switch (dtype) {
    case SPECTRALOPS_F32: return convert<C, float>(from, at, count, to);
    case SPECTRALOPS_F64: return convert<C, double>(from, at, count, to);
    case SPECTRALOPS_F16: return convert<C, half_t>(from, at, count, to);
    default: return convert<C, bf16_t>(from, at, count, to);
  }
}

// Columns [column, column + columns), numbers [place, place + count) of every pair.
template <typename C> struct Task {
  const Mix<C>& m;
  i64 place, count;
  bool plain;  // factors are of the compute type already
  alignas(64) C converted[kCols * kTerms * kConverted];
  Task(const Mix<C>& mix, i64 from, i64 numbers, bool direct) : m(mix), place(from), count(numbers), plain(direct) {}

  template <int N> void block(i64 column, i64 row, i64 rows, i64 term) {
    const i64 terms = least(kTerms, m.terms - term);
    const C* factor[N][kTerms];
    for (int c = 0; c < N; ++c)
      for (i64 k = 0; k < terms; ++k) {
        const i64 at = (column + c) * m.factor_column + (term + k) * m.factor_term + place;
        factor[c][k] = plain ? static_cast<const C*>(m.factor) + at : converted + (c * kTerms + k) * kConverted;
        if (!plain) convert_any<C>(m.factor_dtype, m.factor, at, count, converted + (c * kTerms + k) * kConverted);
      }
    rows_of<N, C>(m, column, row, rows, term, terms, place, count, factor);
  }
  void columns(i64 column, i64 end, i64 row, i64 rows, i64 term) {
    for (; column + kCols <= end; column += kCols) block<kCols>(column, row, rows, term);
    for (; column < end; ++column) block<1>(column, row, rows, term);
  }
  void run(i64 column, i64 end) {
    if (m.weights) {
      for (i64 term = 0; term < m.terms; term += kTerms) columns(column, end, 0, m.rows, term);
    } else {
      for (; column < end; column += kCols)
        for (i64 row = 0; row < m.rows; row += kRows)
          for (i64 term = 0; term < m.terms; term += kTerms)
            columns(column, least(end, column + kCols), row, least(kRows, m.rows - row), term);
    }
  }
};

template <typename C> void mix(const spectralops_mix_call& c, int threads) {
  const i64 one = 2 * c.modes, in = c.inputs * one, out = c.outputs * one;
  const bool plain = c.kind == 2 || c.weight_dtype == c.dtype;
  const C* const a = static_cast<const C*>(c.a);
  C* const to = static_cast<C*>(c.out);
  const C* const grad = static_cast<const C*>(c.grad);
  const i64 b = c.rows, i = c.inputs, o = c.outputs;
  const Mix<C> m =
      c.kind == 0   ? Mix<C>{a, c.weight, to, in, one, one, out, out, one, b, o, i, one, c.weight_dtype, false, true}
      : c.kind == 1 ? Mix<C>{a, c.weight, to, out, one, out, one, in, one, b, i, o, one, c.weight_dtype, true, true}
                    : Mix<C>{grad, c.a, to, one, out, one, in, one, out, o, i, b, one, c.dtype, true, false};
  const i64 run = plain ? kRun : kConverted, runs = (one + run - 1) / run;
  const i64 ranges = threads == 1 ? 1 : least((m.columns + kCols - 1) / kCols, 4 * i64(threads));
  parallel_for(threads, runs * ranges, [&](i64 task) {
    const i64 place = task / ranges * run, range = task % ranges;
    Task<C> t(m, place, least(run, one - place), plain);
    t.run(m.columns * range / ranges, m.columns * (range + 1) / ranges);
  });
}

}  // namespace

void mode_mix_run(const spectralops_mix_call& call, int threads) {
  if (call.dtype == SPECTRALOPS_F64) mix<double>(call, threads);
  else mix<float>(call, threads);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

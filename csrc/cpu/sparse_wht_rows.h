// Rows of a bin's samples, a line at a time, and strings of bits: signs of lanes, vectors of F_2^n.  For *_isa.cpp files.
//
// sum(span, f) adds f(line, part), part of a line's kParts vectors, lane by lane of a line, then the lanes pairwise: the same
// additions for every instruction set.  Lanes beyond the span's count are left out.
#pragma once

#include "cpu/hadamard_passes.h"
#include "cpu/lanes.h"

#if !defined(__AVX2__) && defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

constexpr int kParts = 64 / kVectorBytes;
template <typename C> constexpr int line_lanes = 64 / int(sizeof(C));

template <typename C> struct Span {
  i64 lines;
  mask<C> last[kParts];  // all ones in the lanes of the last line that are there

  explicit Span(i64 count) : lines((count + line_lanes<C> - 1) / line_lanes<C>) {
    for (int part = 0; part < kParts; ++part)
      for (int lane = 0; lane < lanes<C>; ++lane)
        last[part][lane] = (lines - 1) * line_lanes<C> + part * lanes<C> + lane < count ? -1 : 0;
  }
  SO_SIMD_MEMBER vec<C> keep(i64 line, int part, vec<C> v) const {
    return line == lines - 1 ? (vec<C>)((mask<C>)v & last[part]) : v;
  }
};

template <typename C, typename F> SO_SIMD C sum(const Span<C>& span, F&& f) {
  constexpr i64 kRun = 64;  // lines of a chain of additions, four at a time
  vec<C> total[kParts] = {};
  const i64 whole = span.lines - 1;
  for (i64 start = 0; start < whole; start += kRun) {
    const i64 end = start + kRun < whole ? start + kRun : whole;
    vec<C> run[4][kParts] = {};
    i64 i = start;
    for (; i + 4 <= end; i += 4)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k)
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) run[k][part] = run[k][part] + f(i + k, part);
    for (; i < end; ++i)
      for (int part = 0; part < kParts; ++part) run[0][part] = run[0][part] + f(i, part);
    for (int part = 0; part < kParts; ++part)
      total[part] = total[part] + ((run[0][part] + run[1][part]) + (run[2][part] + run[3][part]));
  }
  alignas(64) C lane[line_lanes<C>];
  for (int part = 0; part < kParts; ++part)
    store(lane + part * lanes<C>, total[part] + span.keep(whole, part, f(whole, part)));
  for (int width = line_lanes<C> / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

// ---- signs ----
// The bits of a vector's lanes, of a string that starts with those of the row.
template <typename C> SO_SIMD u32 bits_of(const u64* string, i64 line, int part) {
  const i64 at = line * line_lanes<C> + part * lanes<C>;
  return u32(string[at >> 6] >> (at & 63)) & ((1u << lanes<C>) - 1);
}

template <typename C, int... L> SO_SIMD mask<C> lane_bits(LaneList<L...>) { return mask<C>{(1 << L)...}; }

// Minus v in the lanes whose bits are set.
template <typename C> SO_SIMD vec<C> flip(vec<C> v, u32 bits) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4)
    return (vec<C>)_mm512_mask_xor_ps((__m512)v, __mmask16(bits), (__m512)v, _mm512_set1_ps(-0.0f));
  else return (vec<C>)_mm512_mask_xor_pd((__m512d)v, __mmask8(bits), (__m512d)v, _mm512_set1_pd(-0.0));
#else
  using I = typename lane_int<sizeof(C)>::type;
  constexpr I sign = I(1ull << (8 * sizeof(C) - 1));
  const mask<C> set = ((mask<C>{} + I(bits)) & lane_bits<C>(typename MakeLanes<lanes<C>>::type{})) != 0;
  return (vec<C>)((mask<C>)v ^ (set & sign));
#endif
}

// Bit l: whether lane l is negative.
template <typename C> SO_SIMD u32 negatives(vec<C> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_LT_OQ);
  else return _mm512_cmp_pd_mask((__m512d)v, _mm512_setzero_pd(), _CMP_LT_OQ);
#elif defined(__AVX2__)
  const mask<C> below = v < vec<C>{};
  if constexpr (sizeof(C) == 4) return u32(_mm256_movemask_ps((__m256)below));
  else return u32(_mm256_movemask_pd((__m256d)below));
#elif defined(__SSE2__)
  const mask<C> below = v < vec<C>{};
  if constexpr (sizeof(C) == 4) return u32(_mm_movemask_ps((__m128)below));
  else return u32(_mm_movemask_pd((__m128d)below));
#else
  u32 bits = 0;
  for (int lane = 0; lane < lanes<C>; ++lane) bits |= u32(v[lane] < 0) << lane;
  return bits;
#endif
}

// ---- strings of bits ----
// 64 bits from bit `at` on, zeros outside the string.
SO_SIMD u64 word_at(const u64* string, i64 words, i64 at) {
  const i64 w = at >> 6;
  const int shift = int(at & 63);
  const u64 low = w >= 0 && w < words ? string[w] : 0, high = w + 1 >= 0 && w + 1 < words ? string[w + 1] : 0;
  return shift ? low >> shift | high << (64 - shift) : low;
}

// `to`, zero from bit `at` on, gets the first `count` bits of `from` there, or their opposites.
SO_SIMD void append_bits(u64* to, i64 at, const u64* from, i64 count, bool opposite) {
  for (i64 done = 0; done < count; done += 64, at += 64) {
    u64 word = from[done >> 6] ^ (opposite ? ~0ull : 0);
    if (count - done < 64) word &= (1ull << (count - done)) - 1;
    to[at >> 6] |= word << (at & 63);
    if (at & 63) to[(at >> 6) + 1] |= word >> (64 - (at & 63));
  }
}

SO_SIMD int parity(const u64* a, const u64* b, i64 words) {
  u64 x = 0;
  for (i64 w = 0; w < words; ++w) x ^= a[w] & b[w];
  return __builtin_parityll(x);
}

template <typename F> SO_SIMD void each_bit(const u64* string, i64 words, F&& f) {
  for (i64 w = 0; w < words; ++w)
    for (u64 left = string[w]; left; left &= left - 1) f(w * 64 + __builtin_ctzll(left));
}

// sum (width words) += columns[p + first] over the bits p of a string.
static void add_columns(u64* sum, i64 width, const u64* columns, const u64* string, i64 words, i64 first) {
  using V = vec<double>;
  using M = mask<double>;
  i64 w = 0;
  for (; w + 8 <= width; w += 8) {
    M line[kParts];
    for (int part = 0; part < kParts; ++part) line[part] = (M)load_bytes<V>(sum + w + part * lanes<double>);
    each_bit(string, words, [&](i64 p) {
      const u64* const column = columns + (p + first) * width + w;
      for (int part = 0; part < kParts; ++part) line[part] ^= (M)load_bytes<V>(column + part * lanes<double>);
    });
    for (int part = 0; part < kParts; ++part) __builtin_memcpy(sum + w + part * lanes<double>, &line[part], sizeof(M));
  }
  for (; w + 2 <= width; w += 2) {
    u64 low = sum[w], high = sum[w + 1];
    each_bit(string, words, [&](i64 p) {
      const u64* const column = columns + (p + first) * width + w;
      low ^= column[0], high ^= column[1];
    });
    sum[w] = low, sum[w + 1] = high;
  }
  if (w < width) {
    u64 one = sum[w];
    each_bit(string, words, [&](i64 p) { one ^= columns[(p + first) * width + w]; });
    sum[w] = one;
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

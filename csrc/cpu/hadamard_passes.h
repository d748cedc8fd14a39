// The passes of a Hadamard transform over one cache-resident piece.  For *_isa.cpp files.
//
// A pass reads rows of contiguous elements from one view and writes them to another, which may be the same memory:
// every butterfly reads all its operands before it writes.
#pragma once

#include "cpu/hadamard_vector.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// H_m as combinations: its columns go four by four, the 16 signed sums of four inputs are formed once, and an output
// costs m / 4 additions instead of m.  index[j * groups + g] says which of the 16 output j takes: bit i is set where
// the sign of input 4 g + i is minus.
struct Base {
  int m = 1;
  int groups = 0;
  const u8* index = nullptr;
};

// What a chain of passes keeps in a first-level cache, next to its input and output.
constexpr i64 kNearBytes = 16 * 1024;

// ---- into and out of scratch, where a pass cannot do it itself: signs, rows of broken vectors, 16 bits ----
template <typename S, typename C>
__attribute__((noinline)) void stage_in(const Source<S, C>& in, const Scratch<C>& out, i64 rows, i64 columns) {
  for (i64 r = 0; r < rows; ++r) {
    for (i64 c = 0; c < columns; c += lanes<C>) {
      const int count = int(columns - c < lanes<C> ? columns - c : lanes<C>);
      const S* p = in.data + r * in.stride + c;
      vec<C> v = count == lanes<C> ? load<C>(p) : load_partial<C>(p, count);
      if (in.signs.at) v = v * in.signs.get(r, c, count);
      out.put(r * out.stride + c, v);
    }
  }
}

template <typename S, typename C>
__attribute__((noinline)) void stage_out(const Scratch<C>& in, const Sink<S, C>& out, i64 rows, i64 columns) {
  for (i64 r = 0; r < rows; ++r) {
    for (i64 c = 0; c < columns; c += lanes<C>) {
      const int count = int(columns - c < lanes<C> ? columns - c : lanes<C>);
      vec<C> v = in.get(r * in.stride + c) * splat<C>(out.scale);
      if (out.signs.at) v = v * out.signs.get(r, c, count);
      S* p = out.data + r * out.stride + c;
      if (count < lanes<C>) store_partial(p, v, count);
      else if (out.streams) stream<S, C>(p, v);
      else store(p, v);
    }
  }
}

// ---- bits of the row index ----
// log2(R) bits, from the one of weight `low`; columns in whole vectors.
template <int R, typename C, typename Out>
__attribute__((noinline)) void radix_pass(const Scratch<C>& in, const Out& out, i64 rows, i64 low, i64 columns) {
  const i64 in_step = low * in.stride, out_step = low * out.stride;
  for (i64 high = 0; high < rows; high += R * low) {
    for (i64 row = high; row < high + low; ++row) {
      for (i64 c = 0; c < columns; c += lanes<C>) {
        vec<C> r[R];
        i64 offset = row * in.stride + c;
#pragma GCC unroll 16
        for (int j = 0; j < R; ++j, offset += in_step) r[j] = in.get(offset);
        butterflies<R>(r);
        offset = row * out.stride + c;
#pragma GCC unroll 16
        for (int j = 0; j < R; ++j, offset += out_step) out.put(offset, r[j]);
      }
    }
  }
}

template <typename C, typename Out>
void radix_pass(int bits, const Scratch<C>& in, const Out& out, i64 rows, i64 low, i64 columns) {
  switch (bits) {
    case 0: return radix_pass<1, C>(in, out, rows, low, columns);
    case 1: return radix_pass<2, C>(in, out, rows, low, columns);
    case 2: return radix_pass<4, C>(in, out, rows, low, columns);
    case 3: return radix_pass<8, C>(in, out, rows, low, columns);
    default:
      if constexpr (kRadixBits > 3) radix_pass<16, C>(in, out, rows, low, columns);
  }
}

// ---- H_m over the rows ----
// The signed sums of a group of four inputs.
template <typename V>
SO_SIMD void signed_sums(const V (&v)[4], V* sums) {
  const V ab[4] = {v[0] + v[1], v[1] - v[0], v[0] - v[1], -(v[0] + v[1])};
  const V cd[4] = {v[2] + v[3], v[3] - v[2], v[2] - v[3], -(v[2] + v[3])};
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sums[i] = ab[i & 3] + cd[i >> 2];
}

// Rows row, row + low, ..., one vector of columns.
template <typename C, typename Out>
SO_SIMD void base_rows(const Scratch<C>& in, const Out& out, const Base& base, i64 row, i64 low, i64 column) {
  constexpr int kChunk = 8;  // groups at a time: their sums stay in the first-level cache
  vec<C> sums[kChunk * 16];
  vec<C> partial[256];
  for (int first = 0; first < base.groups; first += kChunk) {
    const int here = base.groups - first < kChunk ? base.groups - first : kChunk;
    for (int g = 0; g < here; ++g) {
      vec<C> v[4] = {};
      for (int i = 0; i < 4 && 4 * (first + g) + i < base.m; ++i)
        v[i] = in.get((row + (4 * (first + g) + i) * low) * in.stride + column);
      signed_sums(v, sums + 16 * g);
    }
    const bool last = first + here == base.groups;
    for (int j = 0; j < base.m; ++j) {
      const u8* index = base.index + j * base.groups + first;
      vec<C> v = sums[index[0]];
      if (first) v = partial[j] + v;
      for (int g = 1; g < here; ++g) v = v + sums[16 * g + index[g]];
      if (last) out.put((row + j * low) * out.stride + column, v);
      else partial[j] = v;
    }
  }
}

template <typename C, typename Out>
__attribute__((noinline)) void base_pass(const Scratch<C>& in, const Out& out, const Base& base, i64 low,
                                         i64 columns) {
  for (i64 row = 0; row < low; ++row)
    for (i64 c = 0; c < columns; c += lanes<C>) base_rows<C>(in, out, base, row, low, c);
}

// H_m (x) H_{2^bits} along the rows, in as many passes as the registers ask for, through scratch (which may be `in`,
// or `out`).
template <typename C, typename Out>
void all_passes(const Scratch<C>& in, const Out& out, const Scratch<C>& scratch, const Base& base, int bits,
                i64 columns) {
  const i64 rows = i64(base.m) << bits;
  const bool based = base.m > 1;
  Scratch<C> from = in;
  int done = 0;
  if (bits > 2 * kRadixBits) {  // two passes over pieces that stay in the first-level cache
    done = 2 * kRadixBits;
    const i64 piece = i64(1) << done, low = i64(1) << kRadixBits;
    for (i64 r = 0; r < rows; r += piece) {
      const Scratch<C> own = scratch.columns(r * scratch.stride);
      radix_pass<C>(kRadixBits, in.columns(r * in.stride), own, piece, 1, columns);
      radix_pass<C>(kRadixBits, own, own, piece, low, columns);
    }
    from = scratch;
  }
  const int left = bits - done, passes = left || based ? (left + kRadixBits - 1) / kRadixBits : 1;
  for (int p = 0; p < passes; ++p) {
    const int now = left / passes + (p < left % passes);
    const i64 low = i64(1) << done;
    if (p == passes - 1 && !based)
      return to_output<kLeaps<Out>>(out, [&](const auto& to) { radix_pass<C>(now, from, to, rows, low, columns); });
    radix_pass<C>(now, from, scratch, rows, low, columns);
    from = scratch;
    done += now;
  }
  to_output<kLeaps<Out>>(out, [&](const auto& to) { base_pass<C>(from, to, base, i64(1) << bits, columns); });
}

// An odd number of lines, so that rows a power of two apart do not share a set of the cache.
template <typename C>
SO_SIMD i64 scratch_stride(i64 columns) {
  constexpr i64 line = 64 / sizeof(C);
  return ((columns + line - 1) / line | 1) * line;
}

// The same between the caller's memory, a strip of columns at a time, so that later passes find their rows in a
// cache.  scratch: rows of a strip.
template <typename S, typename U, typename C>
void strips(const Source<S, C>& in, const Sink<U, C>& out, C* scratch, const Base& base, int bits, i64 columns,
            i64 strip) {
  const i64 rows = i64(base.m) << bits;
  const Scratch<C> own{scratch, scratch_stride<C>(strip)};
  for (i64 c = 0; c < columns; c += strip) {
    const i64 width = columns - c < strip ? columns - c : strip;
    const bool whole = width % lanes<C> == 0;
    const i64 padded = (width + lanes<C> - 1) / lanes<C> * lanes<C>;
    Scratch<C> from = own;
    bool fused = false;
    if constexpr (same_type<S, C>::value) {
      fused = whole && !in.signs.at;
      if (fused) from = {const_cast<C*>(in.data) + c, in.stride};
    }
    if (!fused) stage_in(in.columns(c), own, rows, width);
    if (whole && out.direct()) {
      all_passes<C>(from, out.columns(c), own, base, bits, padded);
    } else {
      all_passes<C>(from, own, own, base, bits, padded);
      stage_out(own, out.columns(c), rows, width);
    }
  }
}

// A width of strip for `rows` rows: near `bytes` in all, but not so narrow that a row's share of it is a line or two,
// which costs more (pages, memory rows, no fetching ahead) than leaving the near cache.
template <typename C>
i64 strip_width(i64 rows, i64 columns, i64 bytes) {
  constexpr i64 least = 256 / sizeof(C);
  const i64 fit = bytes / (rows * i64(sizeof(C))) / least * least, all = (columns + least - 1) / least * least;
  return fit < least ? least : fit < all ? fit : all;
}

// ---- contiguous bits ----
// Q vectors in registers: the lowest kLaneBits + log2(Q) bits of `count` runs that follow each other.
template <int Q, typename C, typename In, typename Out>
__attribute__((noinline)) void block_pass(const In& in, const Out& out, i64 count) {
  for (i64 first = 0; first < count * Q * lanes<C>; first += Q * lanes<C>) {
    vec<C> r[Q];
#pragma GCC unroll 16
    for (int i = 0; i < Q; ++i) r[i] = lane_butterflies<C, kLaneBits<C>>(in.get(first + i * lanes<C>));
    butterflies<Q>(r);
#pragma GCC unroll 16
    for (int i = 0; i < Q; ++i) out.put(first + i * lanes<C>, r[i]);
  }
}

template <typename C, typename In, typename Out>
void block_pass(int bits, const In& in, const Out& out, i64 count) {
  switch (bits - kLaneBits<C>) {
    case 0: return block_pass<1, C>(in, out, count);
    case 1: return block_pass<2, C>(in, out, count);
    case 2: return block_pass<4, C>(in, out, count);
    case 3: return block_pass<8, C>(in, out, count);
    default:
      if constexpr (kRadixBits > 3) block_pass<16, C>(in, out, count);
  }
}

// 2^bits contiguous elements, 2^bits >= lanes, that fit the first-level cache.  scratch: as many elements.
template <typename S, typename U, typename C>
void leaf(const Source<S, C>& in, const Sink<U, C>& out, C* scratch, int bits) {
  constexpr int most = kLaneBits<C> + kRadixBits;
  if (bits <= most) return to_output<true>(out, [&](const auto& to) { block_pass<C>(bits, in, to, 1); });
  const i64 width = i64(1) << most, rows = i64(1) << (bits - most);
  const Scratch<C> own{scratch, width};
  block_pass<C>(most, in, own, rows);
  const Sink<U, C> folded = out.folded(width);
  if (out.direct()) return all_passes<C>(own, folded, own, Base{}, bits - most, width);
  all_passes<C>(own, own, own, Base{}, bits - most, width);
  stage_out(own, folded, rows, width);
}

template <typename S, typename C>
void leaf(const Source<S, C>& in, const Scratch<C>& out, C* scratch, int bits) {
  constexpr int most = kLaneBits<C> + kRadixBits;
  if (bits <= most) return block_pass<C>(bits, in, out, 1);
  const i64 width = i64(1) << most;
  const Scratch<C> own{scratch, width};
  block_pass<C>(most, in, own, i64(1) << (bits - most));
  all_passes<C>(own, Scratch<C>{out.data, width}, own, Base{}, bits - most, width);
}

// Runs of 2^bits < lanes elements, several to a vector.
template <int Bits, typename C, typename In, typename Out>
__attribute__((noinline)) void short_runs(const In& in, const Out& out, i64 elements) {
  i64 i = 0;
  for (; i + lanes<C> <= elements; i += lanes<C>) out.put(i, lane_butterflies<C, Bits>(in.get(i)));
  if (i == elements) return;
  const int count = int(elements - i);
  out.put_first(i, lane_butterflies<C, Bits>(load_partial<C>(in.data + i, count)), count);
}

template <typename C, typename In, typename Out>
void short_runs(int bits, const In& in, const Out& out, i64 elements) {
  switch (bits) {
    case 0: return short_runs<0, C>(in, out, elements);
    case 1: return short_runs<1, C>(in, out, elements);
    case 2: return short_runs<2, C>(in, out, elements);
    default: return short_runs<3, C>(in, out, elements);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

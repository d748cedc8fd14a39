// Butterflies inside a vector, and the three kinds of memory a Hadamard pass reads or writes.  For *_isa.cpp files.
//
// The butterfly of a bit takes (a, b), whose indices differ in that bit alone, to (a + b, a - b).  Bits are taken from
// the lowest to the highest and H_m last, in every path and for every vector width, so all of them give the same bits.
#pragma once

#include "cpu/simd.h"

#define SO_SIMD_MEMBER inline __attribute__((always_inline))

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

constexpr int log2_floor(i64 v) { return v <= 1 ? 0 : 1 + log2_floor(v / 2); }
template <typename C>
constexpr int kLaneBits = log2_floor(lanes<C>);

// As many rows in registers as leave room to work: 16 of 32 vector registers, or 8 of 16.
constexpr int kRadixBits = kVectorBytes == 64 ? 4 : 3;

#define SO_LANES_2(f) f(0), f(1)
#define SO_LANES_4(f) SO_LANES_2(f), f(2), f(3)
#define SO_LANES_8(f) SO_LANES_4(f), f(4), f(5), f(6), f(7)
#define SO_LANES_16(f) SO_LANES_8(f), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#define SO_PARTNER(i) (i ^ (1 << Bit))
#define SO_UPPER(i) ((i >> Bit) & 1 ? -1 : 0)
#define SO_PLUS_MINUS(i) ((i >> Bit) & 1 ? C(-1) : C(1))

// The lane whose number differs in one bit.
template <typename C, int Bit>
SO_SIMD vec<C> partner(vec<C> v) {
#if defined(__clang__)
#define SO_PERMUTE(list) return __builtin_shufflevector(v, v, list)
#else
#define SO_PERMUTE(list) return __builtin_shuffle(v, mask<C>{list})
#endif
  if constexpr (lanes<C> == 16) {
    SO_PERMUTE(SO_LANES_16(SO_PARTNER));
  } else if constexpr (lanes<C> == 8) {
    SO_PERMUTE(SO_LANES_8(SO_PARTNER));
  } else if constexpr (lanes<C> == 4) {
    SO_PERMUTE(SO_LANES_4(SO_PARTNER));
  } else {
    SO_PERMUTE(SO_LANES_2(SO_PARTNER));
  }
#undef SO_PERMUTE
}

// All ones in the lanes whose bit is set.
template <typename C, int Bit>
SO_SIMD mask<C> upper_lanes() {
  if constexpr (lanes<C> == 16) return mask<C>{SO_LANES_16(SO_UPPER)};
  else if constexpr (lanes<C> == 8) return mask<C>{SO_LANES_8(SO_UPPER)};
  else if constexpr (lanes<C> == 4) return mask<C>{SO_LANES_4(SO_UPPER)};
  else return mask<C>{SO_LANES_2(SO_UPPER)};
}

template <typename C, int Bit>
SO_SIMD vec<C> plus_minus() {
  if constexpr (lanes<C> == 16) return vec<C>{SO_LANES_16(SO_PLUS_MINUS)};
  else if constexpr (lanes<C> == 8) return vec<C>{SO_LANES_8(SO_PLUS_MINUS)};
  else if constexpr (lanes<C> == 4) return vec<C>{SO_LANES_4(SO_PLUS_MINUS)};
  else return vec<C>{SO_LANES_2(SO_PLUS_MINUS)};
}

// partner + (upper lane ? -v : v).  A product with +-1 is exact, so one FMA rounds exactly as the addition does.
template <typename C, int Bit>
SO_SIMD vec<C> lane_butterfly(vec<C> v) {
  const vec<C> other = partner<C, Bit>(v);
  if constexpr (same_type<C, float>::value || same_type<C, double>::value) {
    if constexpr (kVectorBytes > 16) {
      return mul_add(v, plus_minus<C, Bit>(), other);
    } else {
      using M = mask<C>;
      constexpr auto sign = typename lane_int<sizeof(C)>::type(1ull << (8 * sizeof(C) - 1));
      return other + (vec<C>)((M)v ^ (upper_lanes<C, Bit>() & sign));
    }
  } else {
    const vec<C> negate = (vec<C>)upper_lanes<C, Bit>();
    return other + ((v ^ negate) - negate);
  }
}

// The lowest Bits of the index, all inside one vector.
template <typename C, int Bits>
SO_SIMD vec<C> lane_butterflies(vec<C> v) {
  if constexpr (Bits > 0) v = lane_butterfly<C, 0>(v);
  if constexpr (Bits > 1) v = lane_butterfly<C, 1>(v);
  if constexpr (Bits > 2) v = lane_butterfly<C, 2>(v);
  if constexpr (Bits > 3) v = lane_butterfly<C, 3>(v);
  return v;
}

// log2(R) bits across R registers.
template <int R, typename V>
SO_SIMD void butterflies(V* r) {
  if constexpr (R > 1) {
    butterflies<R / 2>(r);
    butterflies<R / 2>(r + R / 2);
#pragma GCC unroll 8
    for (int i = 0; i < R / 2; ++i) {
      const V a = r[i], b = r[i + R / 2];
      r[i] = a + b;
      r[i + R / 2] = a - b;
    }
  }
}

// The factors of elements (row, column): one a column (`along`), one a row, or, where a row holds several positions of
// the transformed axis, one a column by table.
template <typename C>
struct Factors {
  const C* at = nullptr;
  i64 row = 0;
  bool along = false;  // at is set, and its offsets are those of the elements
  const int* table = nullptr;

  SO_SIMD_MEMBER vec<C> get(i64 r, i64 column, int count) const {
    const C* p = at + r * row;
    if (table) {
      alignas(kVectorBytes) C one[lanes<C>] = {};
      for (int i = 0; i < count; ++i) one[i] = p[table[column + i]];
      return load<C>(one);
    }
    if (!along) return splat<C>(*p);
    return count == lanes<C> ? load<C>(p + column) : load_partial<C>(p + column, count);
  }
  SO_SIMD_MEMBER Factors moved(i64 positions) const {
    Factors f = *this;
    if (f.at) f.at += positions;
    return f;
  }
  SO_SIMD_MEMBER Factors columns(i64 column) const { return moved(along ? column : 0); }
};

// Rows of private memory, padded to whole vectors; or of the caller's, where only whole vectors are read.
template <typename C>
struct Scratch {
  C* data;
  i64 stride;

  SO_SIMD_MEMBER vec<C> get(i64 offset) const { return load<C>(data + offset); }
  SO_SIMD_MEMBER void put(i64 offset, vec<C> v) const { store(data + offset, v); }
  SO_SIMD_MEMBER Scratch columns(i64 column) const { return {data + column, stride}; }
};

constexpr i64 kAheadBytes = 8 * 1024;

// The caller's input, times signs: get takes those that run along with the elements, and leaves others to stage_in.
template <typename S, typename C>
struct Source {
  const S* data;
  i64 stride;
  Factors<C> signs;

  // The next pages are asked for early: a butterfly's burst of loads is too short for the hardware to run ahead.
  SO_SIMD_MEMBER vec<C> get(i64 offset) const {
    __builtin_prefetch(data + offset + kAheadBytes / i64(sizeof(S)));
    const vec<C> v = load<C>(data + offset);
    return signs.along ? v * load<C>(signs.at + offset) : v;
  }
  SO_SIMD_MEMBER Source moved(i64 elements, i64 positions) const {
    return {data + elements, stride, signs.moved(positions)};
  }
  SO_SIMD_MEMBER Source columns(i64 column) const { return {data + column, stride, signs.columns(column)}; }
};

// A store that goes to memory past the caches, whole lines at a time; `p` is aligned to the vector.
template <typename S, typename C>
SO_SIMD void stream(S* p, vec<C> v) {
#if defined(__AVX2__)
  if constexpr (same_type<S, C>::value) {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
#else
    _mm256_stream_si256((__m256i*)p, (__m256i)v);
#endif
  } else {
    const vec_u16 bits = narrow_bits(v, S{});
#if defined(__AVX512F__)
    _mm256_stream_si256((__m256i*)p, (__m256i)bits);
#else
    _mm_stream_si128((__m128i*)p, (__m128i)bits);
#endif
  }
#else
  store(p, v);
#endif
}

// Streamed lines are weakly ordered: this comes before anyone else is told that they are there.
SO_SIMD void end_of_stream() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// The caller's output: times scale, times signs, rounded once.  put takes the signs that run along with the elements,
// and leaves others to stage_out.
template <typename S, typename C>
struct Sink {
  S* data;
  i64 stride;
  C scale;
  Factors<C> signs;
  bool streams = false;  // lines and rows are aligned to 64 bytes, and the caches cannot hold the whole output anyway

  static constexpr bool kLine = lanes<C> * sizeof(S) == 64;  // one vector is one line

  // Can a pass that leaps from row to row write here?
  SO_SIMD_MEMBER bool direct() const { return (!signs.at || signs.along) && (kLine || !streams); }
  SO_SIMD_MEMBER vec<C> finished(i64 offset, vec<C> v) const {
    v = v * splat<C>(scale);
    return signs.along ? v * load<C>(signs.at + offset) : v;
  }
  SO_SIMD_MEMBER void put(i64 offset, vec<C> v) const { store(data + offset, finished(offset, v)); }
  SO_SIMD_MEMBER void put_first(i64 offset, vec<C> v, int count) const {
    store_partial(data + offset, v * splat<C>(scale), count);
  }
  SO_SIMD_MEMBER Sink moved(i64 elements, i64 positions) const {
    return {data + elements, stride, scale, signs.moved(positions), streams};
  }
  SO_SIMD_MEMBER Sink columns(i64 column) const {
    return {data + column, stride, scale, signs.columns(column), streams};
  }
  // A contiguous row as rows of `width`.
  SO_SIMD_MEMBER Sink folded(i64 width) const {
    Sink s = *this;
    s.stride = s.signs.row = width;
    return s;
  }
};

template <typename S, typename C>
struct Streamed : Sink<S, C> {
  SO_SIMD_MEMBER void put(i64 offset, vec<C> v) const { stream<S, C>(this->data + offset, this->finished(offset, v)); }
};

// pass(out), through the caches or past them.
template <bool Possible, typename S, typename C, typename Pass>
SO_SIMD void to_output(const Sink<S, C>& out, const Pass& pass) {
  if constexpr (Possible && kVectorBytes > 16) {
    if (out.streams) return pass(Streamed<S, C>{out});
  }
  pass(out);
}
template <bool Possible, typename C, typename Pass>
SO_SIMD void to_output(const Scratch<C>& out, const Pass& pass) {
  pass(out);
}
template <typename Out>
constexpr bool kLeaps = false;
template <typename S, typename C>
constexpr bool kLeaps<Sink<S, C>> = Sink<S, C>::kLine;

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

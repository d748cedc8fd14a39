// Vectors of the width of the instruction set this file is compiled for, so that one source serves all three.
//
// vec<C> is a compiler vector type: + - * / & | ^ << >> and comparisons work on it, a comparison gives a vector of -1
// and 0, and mask ? a : b selects.  C is float, double, int or i64; a scalar operand broadcasts only where its type is
// C (or use splat<C>). load<C>(p) widens 16-bit storage, store(p, v) rounds once, to nearest with ties to even, as
// types.h does bit for bit (a NaN stays a NaN; its payload may differ).  *_partial touch `count` < lanes elements only,
// and fill the rest of a loaded vector with zeros. mul_add(a, b, c) = a b + c in one rounding where the instruction set
// has it and in two where not; nothing else contracts (-ffp-contract=off).
#pragma once

#include "spectralops/platform.h"
#include "spectralops/types.h"

#if !defined(SO_CPU_ISA)
#error "simd.h is for the *_isa.cpp files, which are compiled with -DSO_CPU_ISA=..."
#endif

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define SO_SIMD static inline __attribute__((always_inline))

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename C, int Lanes>
struct sized_vector {
  typedef C type __attribute__((vector_size(Lanes * sizeof(C))));
};
template <typename C> constexpr int lanes = kVectorBytes / int(sizeof(C));
template <typename C> using vec = typename sized_vector<C, lanes<C>>::type;

// The integer of a lane, signed: what a comparison of two vec<C> gives.
template <int Bytes> struct lane_int;
template <> struct lane_int<4> { using type = int; };
template <> struct lane_int<8> { using type = long; };
template <typename C> using mask = typename sized_vector<typename lane_int<sizeof(C)>::type, lanes<C>>::type;

// Minus zero keeps every value as it is, -0 and NaN too.
template <typename C> SO_SIMD vec<C> splat(C value) { return value - vec<C>{}; }

SO_SIMD vec<float> mul_add(vec<float> a, vec<float> b, vec<float> c) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
SO_SIMD vec<double> mul_add(vec<double> a, vec<double> b, vec<double> c) {
#if defined(__AVX512F__)
  return (vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
  return (vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// Same bits, other lane type.
template <typename To, typename From> SO_SIMD To bit_cast(From v) {
  static_assert(sizeof(To) == sizeof(From), "");
  return (To)v;
}

template <typename C> SO_SIMD vec<C> absolute(vec<C> v) {
  using M = mask<C>;
  using I = typename lane_int<sizeof(C)>::type;
  constexpr I low = I(sizeof(C) == 4 ? 0x7fffffffll : 0x7fffffffffffffffll);
  return (vec<C>)((M)v & (M{} + low));
}

// ---- 16-bit storage ----
using vec_u32 = sized_vector<u32, lanes<float>>::type;
using vec_u16 = sized_vector<u16, lanes<float>>::type;  // as many 16-bit lanes as there are floats

SO_SIMD vec<float> widen_bits(vec_u16 bits, bf16_t) {
  return (vec<float>)(__builtin_convertvector(bits, vec_u32) << 16);
}

SO_SIMD vec_u16 narrow_bits(vec<float> v, bf16_t) {
  const vec_u32 bits = (vec_u32)v;
  const vec_u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const vec_u32 nan = (bits >> 16) | 0x40u;
  return __builtin_convertvector(v == v ? rounded : nan, vec_u16);
}

SO_SIMD vec<float> widen_bits(vec_u16 bits, half_t) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_maskz_cvtph_ps(__mmask16(-1), (__m256i)bits);
#elif defined(__AVX2__)
  return (vec<float>)_mm256_cvtph_ps((__m128i)bits);
#else
  const vec_u32 wide = __builtin_convertvector(bits, vec_u32);
  const vec_u32 magnitude = (wide & 0x7fffu) << 13;
  const vec_u32 finite = (vec_u32)((vec<float>)magnitude * 0x1p112f);
  const vec_u32 r = (wide & 0x7c00u) == 0x7c00u ? magnitude | 0x7f800000u : finite;
  return (vec<float>)(r | ((wide & 0x8000u) << 16));
#endif
}

SO_SIMD vec_u16 narrow_bits(vec<float> v, half_t) {
#if defined(__AVX512F__)
  return (vec_u16)_mm512_maskz_cvtps_ph(__mmask16(-1), (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (vec_u16)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const vec_u32 bits = (vec_u32)v, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const vec_u32 subnormal = (vec_u32)((vec<float>)magnitude + 0.5f) - 0x3f000000u;
  const vec_u32 normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  vec_u32 r = magnitude < 0x38800000u ? subnormal : normal;
  r = magnitude >= 0x477ff000u ? (r & 0u) | 0x7c00u : r;
  r = magnitude > 0x7f800000u ? (r & 0u) | 0x7e00u : r;
  return __builtin_convertvector(r | sign, vec_u16);
#endif
}

// ---- memory ----
template <typename V> SO_SIMD V load_bytes(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
// `bytes` < sizeof(V); the rest is zero.
template <typename V> SO_SIMD V load_bytes_partial(const void* p, i64 bytes) {
  V v = {};
  __builtin_memcpy(&v, p, u64(bytes));
  return v;
}

template <typename C> SO_SIMD vec<C> load(const C* p) { return load_bytes<vec<C>>(p); }
template <typename C> SO_SIMD vec<float> load(const half_t* p) { return widen_bits(load_bytes<vec_u16>(p), half_t{}); }
template <typename C> SO_SIMD vec<float> load(const bf16_t* p) { return widen_bits(load_bytes<vec_u16>(p), bf16_t{}); }

template <typename C> SO_SIMD void store(C* p, vec<C> v) { __builtin_memcpy(p, &v, sizeof v); }
SO_SIMD void store(half_t* p, vec<float> v) {
  const vec_u16 bits = narrow_bits(v, half_t{});
  __builtin_memcpy(p, &bits, sizeof bits);
}
SO_SIMD void store(bf16_t* p, vec<float> v) {
  const vec_u16 bits = narrow_bits(v, bf16_t{});
  __builtin_memcpy(p, &bits, sizeof bits);
}

#if defined(__AVX512F__)
// Masked: no byte beyond `count` is touched, and no store has to be forwarded to a wider load.
SO_SIMD vec<float> load_first(const float* p, int count) {
  return (vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
}
SO_SIMD vec<double> load_first(const double* p, int count) {
  return (vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p);
}
SO_SIMD vec_u16 load_first(const u16* p, int count) {
  return (vec_u16)_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
}
SO_SIMD void store_first(float* p, vec<float> v, int count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
}
SO_SIMD void store_first(double* p, vec<double> v, int count) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), (__m512d)v);
}
SO_SIMD void store_first(u16* p, vec_u16 v, int count) {
  _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), (__m256i)v);
}
#endif
template <typename C> SO_SIMD vec<C> load_first(const C* p, int count) {
  return load_bytes_partial<vec<C>>(p, i64(count) * i64(sizeof(C)));
}
template <typename C> SO_SIMD void store_first(C* p, vec<C> v, int count) {
  __builtin_memcpy(p, &v, u64(count) * sizeof(C));
}
#if !defined(__AVX512F__)
SO_SIMD vec_u16 load_first(const u16* p, int count) { return load_bytes_partial<vec_u16>(p, 2 * i64(count)); }
SO_SIMD void store_first(u16* p, vec_u16 v, int count) { __builtin_memcpy(p, &v, 2 * u64(count)); }
#endif

template <typename C> SO_SIMD vec<C> load_partial(const C* p, int count) { return load_first(p, count); }
template <typename C> SO_SIMD vec<float> load_partial(const half_t* p, int count) {
  return widen_bits(load_first(&p->bits, count), half_t{});
}
template <typename C> SO_SIMD vec<float> load_partial(const bf16_t* p, int count) {
  return widen_bits(load_first(&p->bits, count), bf16_t{});
}
template <typename C> SO_SIMD void store_partial(C* p, vec<C> v, int count) { store_first(p, v, count); }
SO_SIMD void store_partial(half_t* p, vec<float> v, int count) {
  store_first(&p->bits, narrow_bits(v, half_t{}), count);
}
SO_SIMD void store_partial(bf16_t* p, vec<float> v, int count) {
  store_first(&p->bits, narrow_bits(v, bf16_t{}), count);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

// Elementary functions on vec<float> and vec<double>: exp, tanh, sech, sin and cos, erf, erfc and the normal
// distribution.
//
// One to two units in the last place (erf and its kin four), relative, over the whole range and also for small
// arguments; results that are subnormal may be off by one unit of theirs. NaN gives NaN, infinity the limit (NaN for sin
// and cos). The bits depend on whether the instruction set has mul_add in one rounding, on nothing else: no lane sees
// its neighbours.
#pragma once

#include "cpu/simd.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// Coefficients from the constant term up; near-minimax on the intervals given.
template <typename C> struct MathTable;
template <> struct MathTable<float> {
  static constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, which is then in the low bits
  static constexpr float kLog2E = 0x1.715476p+0f, kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kExpLow = -104, kExpHigh = 89, kTanhFlat = 9.1f;
  // (e^r - 1 - r) / r^2, |r| <= ln 2 / 2
  static constexpr float kExp[] = {0x1p-1f, 0x1.5554d8p-3f, 0x1.555516p-5f, 0x1.12106cp-7f, 0x1.6d1606p-10f};
  static constexpr float kTwoOverPi = 0x1.45f306p-1f, kSinLimit = 12800;
  static constexpr float kHalfPi[] = {0x1.92p+0f, 0x1.fb4p-12f, 0x1.444p-24f, 0x1.68c234p-39f};
  // (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 in r^2, |r| <= pi / 4
  static constexpr float kSin[] = {-0x1.555552p-3f, 0x1.110bf6p-7f, -0x1.9aae86p-13f};
  static constexpr float kCos[] = {0x1.555554p-5f, -0x1.6c12aap-10f, 0x1.9bc2d4p-16f};
  // erf(x) / x in x^2, |x| <= 1
  static constexpr float kErf[] = {0x1.20dd74p+0f, -0x1.81273ep-2f, 0x1.ce2d1p-4f, -0x1.b7fabap-6f, 0x1.54127p-8f, -0x1.a45088p-11f, 0x1.4a569p-14f};
  // (1 + 2 x) e^(x^2) erfc(x) in (x - K) / (x + K), x >= 0
  static constexpr float kErfcK = 2, kErfcMax = 12;
  static constexpr float kErfc[] = {
      0x1.46e80ep+0f, -0x1.7bf5eap-4f, -0x1.54081cp-3f, 0x1.4ff9b6p-3f, -0x1.bc1accp-5f, -0x1.06f464p-7f,
      0x1.1cbabcp-7f, 0x1.4291acp-10f, -0x1.6de6e4p-10f, -0x1.84f256p-12f, 0x1.514e8p-13f, 0x1.1d8722p-14f};
};
template <> struct MathTable<double> {
  static constexpr double kShift = 0x1.8p52;
  static constexpr double kLog2E = 0x1.71547652b82fep+0, kLn2High = 0x1.62e42fefa2p-1, kLn2Low = 0x1.9ef35793c7673p-41;
  static constexpr double kExpLow = -746, kExpHigh = 710, kTanhFlat = 20;
  static constexpr double kExp[] = {
      0x1.0000000000001p-1, 0x1.5555555555556p-3, 0x1.5555555553b6cp-5, 0x1.1111111110918p-7, 0x1.6c16c1794e1dcp-10,
      0x1.a01a01a83ba17p-13, 0x1.a019b621f9d08p-16, 0x1.71de0be2b5e96p-19, 0x1.2894f52583578p-22, 0x1.af3ce42b12b24p-26};
  static constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1, kSinLimit = 1e6;
  static constexpr double kHalfPi[] = {0x1.921fb544p+0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69, 0x1.b839a252049c1p-104};
  static constexpr double kSin[] = {-0x1.5555555555555p-3, 0x1.1111111110b23p-7, -0x1.a01a019e620eep-13,
                                    0x1.71de376b644ccp-19, -0x1.ae5fde7f12068p-26, 0x1.5dfb39c3139b6p-33};
  static constexpr double kCos[] = {0x1.5555555555555p-5, -0x1.6c16c16c1691fp-10, 0x1.a01a019f3dde1p-16,
                                    -0x1.27e4fa0241f7cp-22, 0x1.1eeb52a201da3p-29, -0x1.906dbf4fda044p-37};
  static constexpr double kErf[] = {
      0x1.20dd750429b6dp+0, -0x1.812746b0379c1p-2, 0x1.ce2f21a040f66p-4, -0x1.b82ce31203772p-6, 0x1.565bccfa44156p-8,
      -0x1.c02db0665e53dp-11, 0x1.f9a2be4f731a1p-14, -0x1.f4ca838adb73bp-17, 0x1.b981d78881a5dp-20,
      -0x1.5c131500d3f88p-23, 0x1.d76af6ca49787p-27, -0x1.ac9585a44fe29p-31};
  static constexpr double kErfcK = 4, kErfcMax = 28;
  static constexpr double kErfc[] = {
      0x1.3ba5916e9fd7fp+0, -0x1.1df1ad154a28ep-3, 0x1.f7f5df66fc17fp-7, 0x1.16ecefcfa5214p-4, -0x1.9ddb23c3e0c24p-4,
      0x1.7fee004e16d41p-4, -0x1.0fb06dfee4790p-4, 0x1.3079edf5d9d05p-5, -0x1.0962386da3254p-6, 0x1.49c672b9685cep-8,
      -0x1.8d4aaa8fbedbcp-11, -0x1.a1df4a1e543bcp-13, 0x1.3be12bafabe1fp-13, -0x1.99551e5f87e20p-16,
      -0x1.78a738afaf644p-17, 0x1.7f01a118598afp-18, 0x1.400a0021a32e2p-22, -0x1.b9339da7bf714p-21,
      0x1.31744dd9b5702p-24, 0x1.cad9b27d6d698p-24, -0x1.1904891a06a0fp-26, -0x1.af097381d263cp-27,
      0x1.afe473b5527a3p-30, 0x1.0967e527912d8p-30};
};

// ---- small things ----
template <int I = 0, typename V, typename C, int N> SO_SIMD V horner(V x, const C (&c)[N]) {
  if constexpr (I == N - 1) return splat<C>(c[I]);
  else return mul_add(horner<I + 1>(x, c), x, splat<C>(c[I]));
}

template <typename C> SO_SIMD mask<C> sign_bit() {
  using I = typename lane_int<sizeof(C)>::type;
  return mask<C>{} + I(1ull << (8 * sizeof(C) - 1));
}
template <typename C> SO_SIMD vec<C> with_sign(vec<C> magnitude, vec<C> sign) {
  return (vec<C>)((mask<C>)magnitude | ((mask<C>)sign & sign_bit<C>()));
}

// Whether some lane of a comparison is true.
template <typename M> SO_SIMD bool any_lane(M m) {
  static_assert(sizeof(M) == kVectorBytes, "");
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)m) != 0;
#else
  i64 halves[2];
  __builtin_memcpy(halves, &m, sizeof halves);
  return (halves[0] | halves[1]) != 0;
#endif
}

// The integer that adding kShift rounded a number to.
template <typename C> SO_SIMD mask<C> shifted_integer(vec<C> shifted) {
  return (mask<C>)shifted - (mask<C>)splat<C>(MathTable<C>::kShift);
}

// v 2^n, rounded once; n an integer, as a number and as it came out of shifted_integer.
SO_SIMD vec<float> scale_by_power(vec<float> v, [[maybe_unused]] vec<float> n, [[maybe_unused]] mask<float> bits) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_maskz_scalef_ps(__mmask16(-1), (__m512)v, (__m512)n);
#else
  const mask<float> half = bits >> 1, rest = bits - half;
  return v * (vec<float>)((half + 127) << 23) * (vec<float>)((rest + 127) << 23);
#endif
}
SO_SIMD vec<double> scale_by_power(vec<double> v, [[maybe_unused]] vec<double> n, [[maybe_unused]] mask<double> bits) {
#if defined(__AVX512F__)
  return (vec<double>)_mm512_maskz_scalef_pd(__mmask8(-1), (__m512d)v, (__m512d)n);
#else
  const mask<double> half = bits >> 1, rest = bits - half;
  return v * (vec<double>)((half + 1023l) << 52) * (vec<double>)((rest + 1023l) << 52);
#endif
}

// ---- exp and what is made of it ----
template <typename C> struct ExpParts {
  vec<C> n, r;  // x = n ln 2 + r
  mask<C> bits;
};
template <typename C> SO_SIMD ExpParts<C> exp_reduce(vec<C> x) {
  using T = MathTable<C>;
  const vec<C> shifted = mul_add(x, splat<C>(T::kLog2E), splat<C>(T::kShift)), n = shifted - T::kShift;
  const vec<C> r = mul_add(n, splat<C>(-T::kLn2Low), mul_add(n, splat<C>(-T::kLn2High), x));
  return {n, r, shifted_integer<C>(shifted)};
}
template <typename C> SO_SIMD vec<C> expm1_reduced(vec<C> r) { return mul_add(r * r, horner(r, MathTable<C>::kExp), r); }

// e^(x + low), low small against x (a rounding error of it).
template <typename C> SO_SIMD vec<C> exp_sum(vec<C> x, vec<C> low) {
  using T = MathTable<C>;
  x = x < T::kExpLow ? splat<C>(T::kExpLow) : x;
  x = x > T::kExpHigh ? splat<C>(T::kExpHigh) : x;
  const ExpParts<C> p = exp_reduce<C>(x);
  return scale_by_power(expm1_reduced<C>(p.r + low) + C(1), p.n, p.bits);
}
template <typename C> SO_SIMD vec<C> exp_of(vec<C> x) { return exp_sum<C>(x, vec<C>{}); }

// e^x - 1 for 0 <= x <= 64 or so.
template <typename C> SO_SIMD vec<C> expm1_positive(vec<C> x) {
  const ExpParts<C> p = exp_reduce<C>(x);
  const vec<C> power = (vec<C>)((mask<C>)splat<C>(1) + (p.bits << (sizeof(C) == 4 ? 23 : 52)));
  return mul_add(power, expm1_reduced<C>(p.r), power - C(1));
}

template <typename C> SO_SIMD vec<C> tanh_of(vec<C> x) {
  const vec<C> flat = splat<C>(MathTable<C>::kTanhFlat), size = absolute<C>(x), a = size > flat ? flat : size;
  const vec<C> e = expm1_positive<C>(a + a);
  return with_sign<C>(e / (e + C(2)), x);
}

// 1 / (1 + e^-x)
template <typename C> SO_SIMD vec<C> logistic_of(vec<C> x) {
  const vec<C> e = exp_of<C>(-absolute<C>(x)), below = e / (e + C(1));
  return x < C(0) ? below : C(1) / (e + C(1));
}

// 1 / cosh x
template <typename C> SO_SIMD vec<C> sech_of(vec<C> x) {
  const vec<C> e = exp_of<C>(-absolute<C>(x));
  return (e + e) / mul_add(e, e, splat<C>(1));
}

// ---- sin and cos ----
// 2 / pi after the point.
constexpr u64 kTwoOverPiBits[] = {
    0xa2f9836e4e441529ull, 0xfc2757d1f534ddc0ull, 0xdb6295993c439041ull, 0xfe5163abdebbc561ull, 0xb7246e3a424dd2e0ull,
    0x6492eea09d1921cull,  0xfe1deb1cb129a73eull, 0xe88235f52ebb4484ull, 0xe99c7026b45f7e41ull, 0x3991d639835339f4ull,
    0x9c845f8bbdf9283bull, 0x1ff897ffde05980full, 0xef2f118b5a0a6d1full, 0x6d367ecf27cb09b7ull, 0x4f463f669e5fea2dull,
    0x7527bac7ebe5f17bull, 0x3d0739f78a5292eaull, 0x6bfb5fb11f8d5d08ull, 0x56033046fc7b6babull, 0xf0cfbc209af4361dull};

// |x| >= 2^12: x = j pi/2 + r, j modulo 4, after Payne and Hanek: x 2/pi modulo 4 in 192 bits.
static __attribute__((noinline)) double reduce_large(double x, int& j) {
  __extension__ typedef unsigned __int128 u128;
  u64 bits;
  __builtin_memcpy(&bits, &x, 8);
  const int exponent = int(bits >> 52 & 0x7ff) - 1075;
  if (exponent == 2047 - 1075) {
    j = 0;
    return x - x;
  }
  const u64 m = (bits & 0xfffffffffffffull) | 1ull << 52;
  const int skip = exponent > 2 ? exponent - 2 : 0, word = skip / 64, shift = skip % 64, back = exponent > 2 ? 0 : 2 - exponent;
  u64 w[4];  // the window, from its highest word
  for (int i = 0; i < 3; ++i)
    w[i] = kTwoOverPiBits[word + i] << shift | (shift ? kTwoOverPiBits[word + i + 1] >> (64 - shift) : 0);
  if (back) {  // less than 64
    w[2] = w[2] >> back | w[1] << (64 - back);
    w[1] = w[1] >> back | w[0] << (64 - back);
    w[0] = w[0] >> back;
  }
  const u128 low = u128(m) * w[2], middle = u128(m) * w[1] + u64(low >> 64);
  u64 p0 = m * w[0] + u64(middle >> 64), p1 = u64(middle), p2 = u64(low);
  int quarter = int(p0 >> 62);
  p0 = p0 << 2 | p1 >> 62, p1 = p1 << 2 | p2 >> 62;
  const bool over = p0 >> 63;
  if (over) p0 = ~p0, p1 = ~p1, ++quarter;
  double r = (double(p0) * 0x1p-64 + double(p1) * 0x1p-128) * 0x1.921fb54442d18p+0;
  if (over) r = -r;
  if (bits >> 63) r = -r, quarter = -quarter;
  j = quarter & 3;
  return r;
}

template <typename C> static __attribute__((noinline)) void reduce_large_lanes(const C* x, C* r, mask<C>& j) {
  for (int l = 0; l < lanes<C>; ++l)
    if (!(x[l] <= MathTable<C>::kSinLimit && x[l] >= -MathTable<C>::kSinLimit)) {
      int quarter;
      r[l] = C(reduce_large(double(x[l]), quarter));
      j[l] = quarter;
    }
}

template <typename C> struct SinCos {
  vec<C> sin, cos;
};
template <typename C> SO_SIMD SinCos<C> sin_cos(vec<C> x) {
  using T = MathTable<C>;
  const vec<C> shifted = mul_add(x, splat<C>(T::kTwoOverPi), splat<C>(T::kShift)), n = shifted - T::kShift;
  vec<C> r = x;
  for (int i = 0; i < 4; ++i) r = mul_add(n, splat<C>(-T::kHalfPi[i]), r);
  mask<C> j = shifted_integer<C>(shifted);
  if (const mask<C> large = ~(absolute<C>(x) <= T::kSinLimit); __builtin_expect(any_lane(large), 0)) {
    C in[lanes<C>], out[lanes<C>];
    store(in, x), store(out, r);
    reduce_large_lanes<C>(in, out, j);
    r = load(out);
  }
  const vec<C> z = r * r;
  const vec<C> s = mul_add(r * z, horner(z, T::kSin), r);
  const vec<C> c = mul_add(z * z, horner(z, T::kCos), mul_add(z, splat<C>(C(-0.5)), splat<C>(1)));
  const mask<C> swap = (j & 1) != 0;
  const mask<C> sin_sign = (j << (8 * sizeof(C) - 2)) & sign_bit<C>();
  const mask<C> cos_sign = ((j + 1) << (8 * sizeof(C) - 2)) & sign_bit<C>();
  return {(vec<C>)((mask<C>)(swap ? c : s) ^ sin_sign), (vec<C>)((mask<C>)(swap ? s : c) ^ cos_sign)};
}

// ---- erf, erfc and the normal distribution ----
// e^(x^2) erfc(x), x >= 0.
template <typename C> SO_SIMD vec<C> erfcx_positive(vec<C> x) {
  using T = MathTable<C>;
  const vec<C> t = (x - T::kErfcK) / (x + T::kErfcK);
  return horner(t, T::kErfc) / mul_add(x, splat<C>(2), splat<C>(1));
}

// x^2 less its rounded value, exactly but for the last bits.
template <typename C> SO_SIMD vec<C> square_error(vec<C> x, vec<C> square) {
#if defined(__AVX2__)
  return mul_add(x, x, -square);
#else
  constexpr C kSplit = sizeof(C) == 4 ? C(4097) : C(134217729);
  const vec<C> scaled = x * kSplit, high = scaled - (scaled - x), low = x - high;
  return ((high * high - square) + C(2) * high * low) + low * low;
#endif
}

// e^(-factor x^2), 0 <= x small enough that its square is finite; factor a power of two.
template <typename C> SO_SIMD vec<C> exp_minus_square(vec<C> x, C factor) {
  const vec<C> square = x * x;
  return exp_sum<C>(square * -factor, square_error<C>(x, square) * -factor);
}

template <typename C> SO_SIMD vec<C> erfc_positive(vec<C> x) {
  const vec<C> top = splat<C>(MathTable<C>::kErfcMax), a = x > top ? top : x;
  return exp_minus_square<C>(a, C(1)) * erfcx_positive<C>(a);
}
template <typename C> SO_SIMD vec<C> erf_of(vec<C> x) {
  const vec<C> a = absolute<C>(x), tail = C(1) - erfc_positive<C>(a);
  return a < C(1) ? x * horner(x * x, MathTable<C>::kErf) : with_sign<C>(tail, x);
}
template <typename C> SO_SIMD vec<C> erfc_of(vec<C> x) {
  const vec<C> a = absolute<C>(x), tail = erfc_positive<C>(a);
  const vec<C> near = C(1) - x * horner(x * x, MathTable<C>::kErf);
  return a < C(0.5) ? near : x < C(0) ? C(2) - tail : tail;
}
// The normal distribution function, accurate in its tail too: erfc(-x / sqrt 2) / 2.
template <typename C> SO_SIMD vec<C> normal_cdf(vec<C> x) {
  const vec<C> size = absolute<C>(x), top = splat<C>(C(1.42) * MathTable<C>::kErfcMax), a = size > top ? top : size;
  const vec<C> tail = exp_minus_square<C>(a, C(0.5)) * erfcx_positive<C>(a * C(0.70710678118654752440)) * C(0.5);
  const vec<C> z = a * C(0.70710678118654752440), half_erf = z * C(0.5) * horner(z * z, MathTable<C>::kErf);
  const vec<C> near = C(0.5) + with_sign<C>(half_erf, x);
  return a < C(1) ? near : x > C(0) ? C(1) - tail : tail;
}
// Its density.
template <typename C> SO_SIMD vec<C> normal_density(vec<C> x) {
  const vec<C> size = absolute<C>(x), top = splat<C>(C(1.42) * MathTable<C>::kErfcMax), a = size > top ? top : size;
  return exp_minus_square<C>(a, C(0.5)) * C(0.39894228040143267794);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

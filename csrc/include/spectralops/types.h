// 16-bit storage types and the one rule for them: widen at load, round once (to nearest, ties to even) at store.
#pragma once

#include "spectralops/platform.h"

namespace spectralops {

struct half_t { u16 bits; };  // IEEE binary16
struct bf16_t { u16 bits; };  // the upper half of a float

// The type arithmetic is done in.
template <typename T> struct compute_of { using type = T; };
template <> struct compute_of<half_t> { using type = float; };
template <> struct compute_of<bf16_t> { using type = float; };
template <typename T> using compute_t = typename compute_of<T>::type;

SO_HOST_DEVICE float widen(bf16_t v) { return bits_float(u32(v.bits) << 16); }

SO_HOST_DEVICE float widen(half_t v) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
  return r;
#else
  // Shift the 5-bit exponent into place by multiplying with 2^112: exact, and right for subnormals too.
  const u32 magnitude = u32(v.bits & 0x7fffu) << 13;
  float r = bits_float(magnitude) * 0x1p112f;
  if ((v.bits & 0x7c00u) == 0x7c00u) r = bits_float(magnitude | 0x7f800000u);
  return bits_float(float_bits(r) | (u32(v.bits & 0x8000u) << 16));
#endif
}
template <typename T> SO_HOST_DEVICE T widen(T v) { return v; }

template <typename T> struct narrow_to {
  template <typename C> SO_HOST_DEVICE static T from(C v) { return T(v); }
};
template <> struct narrow_to<bf16_t> {
  SO_HOST_DEVICE static bf16_t from(float v) {
    const u32 bits = float_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16_t{u16((bits >> 16) | 0x40u)};  // NaN stays NaN
    return bf16_t{u16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
};
template <> struct narrow_to<half_t> {
  SO_HOST_DEVICE static half_t from(float v) {
#if defined(__CUDA_ARCH__)
    half_t r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
#else
    const u32 bits = float_bits(v), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return half_t{u16(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return half_t{u16(sign | 0x7c00u)};  // rounds to 65536 or more
    if (magnitude < 0x38800000u) {                                     // subnormal: the adder rounds at 2^-24
      const float r = bits_float(magnitude) + 0.5f;
      return half_t{u16(sign | (float_bits(r) - 0x3f000000u))};
    }
    return half_t{u16(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13))};
#endif
  }
};
template <typename T, typename C> SO_HOST_DEVICE T narrow(C v) { return narrow_to<T>::from(v); }

}  // namespace spectralops

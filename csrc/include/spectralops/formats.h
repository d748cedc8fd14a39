// Narrow number formats and the quantisation rule of spectralops.h. Host and device give the same bits: every
// conversion rounds once, to nearest with ties to even, saturates instead of overflowing, and division is IEEE
// division.
#pragma once

#include "spectralops/platform.h"

namespace spectralops {

SO_HOST_DEVICE float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);  // stays IEEE under any compiler flag
#else
  return a / b;
#endif
}

// e4m3fn: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity, 0x7f is NaN, largest 448, step of the subnormals
// 2^-9.
SO_HOST_DEVICE u8 to_e4m3fn(float v) {
  const u32 bits = float_bits(v), sign = (bits >> 24) & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return u8(0x7fu);
  u32 code;
  if (magnitude < 0x3c800000u) {  // below 2^-6: at 2^14 a float's step is 2^-9, so the adder does the rounding
    code = float_bits(bits_float(magnitude) + 0x1p14f) - 0x46800000u;
  } else {
    code = (magnitude - 0x3c000000u + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20;
  }
  return u8(sign | (code < 0x7eu ? code : 0x7eu));
}
SO_HOST_DEVICE float from_e4m3fn(u8 code) {
  if ((code & 0x7fu) == 0x7fu) return bits_float(0x7fc00000u | (u32(code & 0x80u) << 24));
  // The 7 low bits, read as a float, are the value times 2^(7 - 127).
  const float magnitude = bits_float(u32(code & 0x7fu) << 20) * 0x1p120f;
  return (code & 0x80u) ? -magnitude : magnitude;
}

// e8m0: a power of two, 2^(code - 127); 255 is NaN.
SO_HOST_DEVICE float from_e8m0(u8 code) {
  if (code == 255) return bits_float(0x7fc00000u);
  return bits_float(code ? u32(code) << 23 : 0x00400000u);
}

// e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, in the low 4 bits.
SO_HOST_DEVICE u8 to_e2m1(float v) {
  const u32 bits = float_bits(v), sign = (bits >> 28) & 8u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x40c00000u) return u8(sign | 7u);  // above 6 (NaN too)
  u32 code;
  if (magnitude < 0x3f800000u) {  // below 1: at 2^22 a float's step is 0.5
    code = float_bits(bits_float(magnitude) + 0x1p22f) - 0x4a800000u;
  } else {
    code = (magnitude - 0x3f000000u + 0x1fffffu + ((magnitude >> 22) & 1u)) >> 22;
  }
  return u8(sign | code);
}
SO_HOST_DEVICE float from_e2m1(u8 code) {
  const float magnitude = bits_float(u32(code & 7u) << 22) * 0x1p126f;
  return (code & 8u) ? -magnitude : magnitude;
}

// One group of a format (0 int8, 1 fp8_e4m3, 2 mxfp4, 3 nvfp4; the codes of spectralops_format). amax is carried as
// the bits of |r|: as unsigned integers they order like the magnitudes, with infinities and NaNs on top, so a maximum
// in any order is exact.
template <int Format> struct Quantiser {
  static constexpr bool packed = Format >= 2;      // two codes a byte, low nibble first
  static constexpr bool byte_scale = Format >= 2;  // scale stored as one byte, else as a float
  static constexpr bool power_of_two = Format == 2;

  float scale;    // the divisor of the group; for mxfp4 its reciprocal, which is exact
  u8 scale_code;  // the stored byte when byte_scale
  bool dead;      // amax is 0, or the group holds a NaN or an infinity: every code is 0

  SO_HOST_DEVICE static u32 magnitude(float r) { return float_bits(r) & 0x7fffffffu; }

  SO_HOST_DEVICE static Quantiser of(u32 amax_bits) {
    Quantiser g;
    const float amax = bits_float(amax_bits);
    const bool bad = amax_bits >= 0x7f800000u;
    g.dead = bad || amax_bits == 0;
    g.scale_code = 0;
    if (Format == 0 || Format == 1) {
      // A quotient that underflows to 0 means every |r| is below 2^-140: scale 1 quantises them to 0.
      const float quotient = divide(amax, Format == 0 ? 127.0f : 448.0f);
      g.scale = bad ? bits_float(0x7fc00000u) : quotient == 0.0f ? 1.0f : quotient;
    } else if (Format == 2) {
      const u32 exponent = amax_bits >> 23;  // floor(log2 amax) + 127; subnormals end at the clamp
      g.scale_code = bad ? u8(255) : u8(exponent > 2u ? exponent - 2u : 0u);
      g.scale = bits_float(bad ? 0x7fc00000u : (254u - g.scale_code) << 23);
    } else {
      const float quotient = divide(amax, 6.0f);
      const float clamped = quotient < 0x1p-9f ? 0x1p-9f : quotient > 448.0f ? 448.0f : quotient;
      g.scale_code = bad ? u8(0x7f) : to_e4m3fn(clamped);
      g.scale = from_e4m3fn(g.scale_code);
    }
    return g;
  }

  // The code of one value: int8 as its byte, e4m3fn as its byte, e2m1 in the low 4 bits.
  SO_HOST_DEVICE u8 code(float r) const {
    if (dead) return u8(0);
    const float v = power_of_two ? r * scale : divide(r, scale);
    if (Format == 0) {
      const float clamped = v < -127.0f ? -127.0f : v > 127.0f ? 127.0f : v;
      return u8(float_bits(clamped + 0x1.8p23f) - 0x4b400000u);  // at 1.5 * 2^23 a float's step is 1
    }
    if (Format == 1) return to_e4m3fn(v);
    return to_e2m1(v);
  }

  SO_HOST_DEVICE void store_scale(void* scales, i64 index) const {
    if (byte_scale)
      static_cast<u8*>(scales)[index] = scale_code;
    else
      static_cast<float*>(scales)[index] = scale;
  }
};

}  // namespace spectralops

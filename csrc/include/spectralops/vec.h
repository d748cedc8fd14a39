// Sixteen bytes at a time: what one thread moves in one instruction, whatever the element type.
#pragma once

#include "spectralops/types.h"

namespace spectralops {

template <typename T>
struct Vec {
  static constexpr int size = 16 / int(sizeof(T));
  u32 words[4];
};

// Element i as float.  i is a constant after unrolling, so that no shift is left for it.
SO_DEVICE float vec_get(const Vec<float>& v, int i) { return bits_float(v.words[i]); }
SO_DEVICE float vec_get(const Vec<bf16_t>& v, int i) {
  const u32 word = v.words[i / 2];
  return bits_float(i % 2 ? word & 0xffff0000u : word << 16);
}
SO_DEVICE float vec_get(const Vec<half_t>& v, int i) { return widen(half_t{u16(v.words[i / 2] >> (i % 2 * 16))}); }

// Elements i and i + 1 (i even), rounded once.
SO_DEVICE void vec_set_pair(Vec<float>& v, int i, float low, float high) {
  v.words[i] = float_bits(low);
  v.words[i + 1] = float_bits(high);
}
SO_DEVICE void vec_set_pair(Vec<bf16_t>& v, int i, float low, float high) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v.words[i / 2]) : "f"(high), "f"(low));
#else
  v.words[i / 2] = u32(narrow<bf16_t>(low).bits) | u32(narrow<bf16_t>(high).bits) << 16;
#endif
}
SO_DEVICE void vec_set_pair(Vec<half_t>& v, int i, float low, float high) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v.words[i / 2]) : "f"(high), "f"(low));
#else
  v.words[i / 2] = u32(narrow<half_t>(low).bits) | u32(narrow<half_t>(high).bits) << 16;
#endif
}

// `aligned` is uniform over the launch: a pointer or a row stride that is no multiple of 16 bytes costs one instruction
// an element, and nothing else, so that the order of any sum stays what the sizes say.
template <typename T>
SO_DEVICE Vec<T> vec_load(const T* p, bool aligned) {
  Vec<T> v;
  if (aligned) {
    const uint4 words = *reinterpret_cast<const uint4*>(p);
    v.words[0] = words.x, v.words[1] = words.y, v.words[2] = words.z, v.words[3] = words.w;
  } else if constexpr (sizeof(T) == 4) {
    SO_UNROLL
    for (int i = 0; i < 4; ++i) v.words[i] = float_bits(p[i]);
  } else {
    SO_UNROLL
    for (int i = 0; i < 4; ++i) v.words[i] = u32(p[2 * i].bits) | u32(p[2 * i + 1].bits) << 16;
  }
  return v;
}

template <typename T>
SO_DEVICE void vec_store(T* p, const Vec<T>& v, bool aligned) {
  if (aligned) {
    *reinterpret_cast<uint4*>(p) = make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]);
  } else if constexpr (sizeof(T) == 4) {
    SO_UNROLL
    for (int i = 0; i < 4; ++i) p[i] = bits_float(v.words[i]);
  } else {
    SO_UNROLL
    for (int i = 0; i < 8; ++i) p[i].bits = u16(v.words[i / 2] >> (i % 2 * 16));
  }
}

}  // namespace spectralops

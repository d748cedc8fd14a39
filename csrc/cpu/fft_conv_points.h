// What fft_conv does point by point: staging rows of any strides as contiguous ones in the compute type C,
// the product with the gate, the epilogue and its gradient. S is the type tensors are read and written in:
// their own where they are contiguous in time, else C, staged. Counts need not be whole vectors; C buffers
// have room for a whole last one.
#pragma once

#include "capi/spectralops.h"
#include "cpu/lanes.h"
#include "cpu/vector_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// ---- staging ---------------------------------------------------------------------------------------------------------

// in[c * channel + i * time] -> out[c * pitch + i], and back.
template <typename C, typename T>
static __attribute__((noinline)) void gather(const T* in, i64 channel, i64 time, i64 channels, i64 count, C* out, i64 pitch) {
  constexpr int W = lanes<C>;
  if (channel == 1 && channels > 1 && time != 1) return transpose<C>(in, time, count, channels, out, pitch);
  for (i64 c = 0; c < channels; ++c, in += channel, out += pitch) {
    if (time == 1)
      for (i64 i = 0; i < count; i += W) store(out + i, load_count<C>(in + i, count - i));
    else
      for (i64 i = 0; i < count; ++i) out[i] = widen(in[i * time]);
  }
}

template <typename C, typename T>
static void scatter_square(const C* in, i64 pitch, T* out, i64 time, i64 channels, i64 count) {
  constexpr int W = lanes<C>;
  vec<C> v[W];
#pragma GCC unroll 16
  for (int c = 0; c < W; ++c) v[c] = c < channels ? load(in + c * pitch) : vec<C>{};
  transpose_lanes<C>(v);
  for (int i = 0; i < W && i < count; ++i) store_count<C>(out + i * time, v[i], channels);
}
template <typename C, typename T>
static __attribute__((noinline)) void scatter(const C* in, i64 pitch, T* out, i64 channel, i64 time, i64 channels, i64 count) {
  constexpr int W = lanes<C>;
  if (channel == 1 && channels > 1 && time != 1) {
    for (i64 i = 0; i < count; i += W)
      for (i64 c = 0; c < channels; c += W)
        scatter_square<C>(in + c * pitch + i, pitch, out + i * time + c, time, channels - c, count - i);
    return;
  }
  for (i64 c = 0; c < channels; ++c, in += pitch, out += channel) {
    if (time == 1)
      for (i64 i = 0; i < count; i += W) store_count<C>(out + i, load(in + i), count - i);
    else
      for (i64 i = 0; i < count; ++i) out[i * time] = narrow<T>(in[i]);
  }
}

template <typename C> SO_SIMD void fill(C* p, i64 count, C value) {
  for (i64 i = 0; i < count; ++i) p[i] = value;
}

// A row with NaN or infinity becomes NaN throughout, whatever the transform would make of it.
template <typename C> static __attribute__((noinline)) bool all_finite(const C* p, i64 count) {
  constexpr int W = lanes<C>;
  vec<C> odd = {};
  for (i64 i = 0; i < count; i += W) {
    const vec<C> v = load_count<C>(p + i, count - i);
    odd = odd + (v - v);
  }
  return !any_lane(odd != odd);
}

// ---- forward ---------------------------------------------------------------------------------------------------------

// v = u gate
template <typename C, typename S>
static __attribute__((noinline)) void product(const S* u, const S* gate, i64 count, C* v) {
  constexpr int W = lanes<C>;
  for (i64 i = 0; i < count; i += W) {
    const vec<C> x = load_count<C>(u + i, count - i);
    store(v + i, gate ? x * load_count<C>(gate + i, count - i) : x);
  }
}

template <int Activation, typename C> SO_SIMD vec<C> activation(vec<C> z) {
  if constexpr (Activation == SPECTRALOPS_SILU) return z * logistic_of<C>(z);
  else if constexpr (Activation == SPECTRALOPS_GELU) return z * normal_cdf<C>(z);
  else return z;
}
template <int Activation, typename C> SO_SIMD vec<C> activation_slope(vec<C> z) {
  if constexpr (Activation == SPECTRALOPS_SILU) {
    const vec<C> s = logistic_of<C>(z);
    return s * mul_add(z, splat<C>(1) - s, splat<C>(1));
  } else if constexpr (Activation == SPECTRALOPS_GELU) {
    return mul_add(z, normal_density<C>(z), normal_cdf<C>(z));
  } else {
    return splat<C>(1);
  }
}

// y = act(gate (c + skip v)) mask
template <int Activation, typename C, typename S>
static __attribute__((noinline)) void epilogue(const C* c, const C* v, C skip, const S* gate, C mask, i64 count, S* y) {
  constexpr int W = lanes<C>;
  for (i64 i = 0; i < count; i += W) {
    vec<C> z = mul_add(splat(skip), load_count<C>(v + i, count - i), load_count<C>(c + i, count - i));
    if (gate) z = z * load_count<C>(gate + i, count - i);
    store_count<C>(y + i, activation<Activation, C>(z) * mask, count - i);
  }
}

// ---- backward --------------------------------------------------------------------------------------------------------

// With c the convolution, z = gate (c + skip v) and e = grad mask: dz = e act'(z), dgate = dz (c + skip v), d
// = dz gate.
template <typename C, typename S> struct Slope {
  const C *c, *v;  // c only where Again, v only there or for the sums
  C skip, mask;
  const S *grad, *gate;
  S* dgate;
  C* d;
  i64 count;
  double dskip, dmask;  // gain the sums of d v and grad act(z)
};

template <typename C> SO_SIMD double sum_of_lanes(vec<C> v) {
  double sums[lanes<C>];
#pragma GCC unroll 16
  for (int l = 0; l < lanes<C>; ++l) sums[l] = double(v[l]);
  for (int half = lanes<C> / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
  return sums[0];
}

template <int Activation, bool Again, bool Sums, typename C, typename S>
static __attribute__((noinline)) void slope(Slope<C, S>& job) {
  constexpr int W = lanes<C>;
  constexpr i64 kBlock = 16 * W;  // from here on sums are in double
  using V = vec<C>;
  double skips = 0, masks = 0;
  for (i64 from = 0; from < job.count; from += kBlock) {
    V near_skips = {}, near_masks = {};
    const i64 to = least(job.count, from + kBlock);
    for (i64 i = from; i < to; i += W) {
      const V g = load_count<C>(job.grad + i, to - i), v = Again || Sums ? load_count<C>(job.v + i, to - i) : V{};
      const V gate = job.gate ? load_count<C>(job.gate + i, to - i) : splat<C>(1);
      V dz = g * job.mask;
      if constexpr (Again) {
        const V c = mul_add(splat(job.skip), v, load_count<C>(job.c + i, to - i)), z = gate * c;
        if constexpr (Sums) near_masks = mul_add(g, activation<Activation, C>(z), near_masks);
        if constexpr (Activation != SPECTRALOPS_IDENTITY) dz = dz * activation_slope<Activation, C>(z);
        if (job.dgate) store_count<C>(job.dgate + i, dz * c, to - i);
      }
      const V d = dz * gate;
      if constexpr (Sums) near_skips = mul_add(d, v, near_skips);
      store_count<C>(job.d + i, d, to - i);
    }
    if constexpr (Sums) skips += sum_of_lanes<C>(near_skips), masks += sum_of_lanes<C>(near_masks);
  }
  job.dskip += skips, job.dmask += masks;
}

// x = dv + skip d: du = x gate, dgate = x u.  The outputs may be the inputs.
template <typename C, typename S>
static __attribute__((noinline)) void finish(const C* dv, const C* d, C skip, const S* u, const S* gate, S* du, S* dgate,
                                             i64 count) {
  constexpr int W = lanes<C>;
  for (i64 i = 0; i < count; i += W) {
    vec<C> x = load_count<C>(dv + i, count - i);
    if (d) x = mul_add(splat(skip), load_count<C>(d + i, count - i), x);
    const vec<C> a = gate ? x * load_count<C>(gate + i, count - i) : x;
    const vec<C> b = dgate ? x * load_count<C>(u + i, count - i) : x;
    if (du) store_count<C>(du + i, a, count - i);
    if (dgate) store_count<C>(dgate + i, b, count - i);
  }
}

// sum += skip d
template <typename C> static __attribute__((noinline)) void add_scaled(const C* d, C skip, i64 count, C* sum) {
  constexpr int W = lanes<C>;
  for (i64 i = 0; i < count; i += W)
    store_count<C>(sum + i, mul_add(splat(skip), load_count<C>(d + i, count - i), load_count<C>(sum + i, count - i)), count - i);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

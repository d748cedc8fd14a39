// Between kernels in time, or spectra in natural order, and spectra as the lanes hold them: once a call.
#pragma once

#include "spectralops/fft_conv.h"

namespace spectralops {
namespace fft {

// The lag -p stands at 2 N - p with its sign turned. Tap of position `at`, or -1; sign: its factor.
template <typename C> SO_DEVICE i64 tap_at(const ConvParams& p, int at, int points, C* sign) {
  *sign = C(1);
  if (at < p.size - p.lag0) return at + p.lag0;
  *sign = C(-1);
  return at >= 2 * points - p.lag0 ? i64(at) - (2 * points - p.lag0) : -1;
}

template <typename E>
SO_KERNEL(E::FORWARD_THREADS, 1)
fft_conv_spectrum(const ConvParams p) {
  using C = typename E::C;
  E e(p.layout, dynamic_shared<C>(), p.tables);
  const i64 kernel = i64(blockIdx.x) * p.layout.slots + e.slot;
  const bool live = kernel < p.kernels;
  const C* data = static_cast<const C*>(p.kernel) + (live ? kernel : 0) * p.size * (p.grid ? 2 : 1);
  if (p.grid) {
    SO_UNROLL
    for (int n = 0; n < E::POINTS; ++n) e.re(n) = data[2 * e.bin(n)], e.im(n) = data[2 * e.bin(n) + 1];
  } else {
    SO_UNROLL
    for (int n = 0; n < E::POINTS; ++n) {
      C low, high;
      const int at = n * e.lanes + e.lane;
      const i64 a = tap_at(p, at, e.size(), &low), b = tap_at(p, at + e.size(), e.size(), &high);
      e.re(n) = a < 0 ? C(0) : low * data[a], e.im(n) = b < 0 ? C(0) : -high * data[b];
    }
    e.forward();
  }
  if (!live) return;
  const C scale = C(1) / C(e.size());
  const int lanes = hidden(e.lanes);
  Pair<C>* to = static_cast<Pair<C>*>(p.spectrum) + kernel * e.size() + e.lane;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) to[n * lanes] = Pair<C>{scale * e.re(n), scale * e.im(n)};
}

// dkernel from the sums of products: spectrum -> taps, or natural order.
template <typename E>
SO_KERNEL(E::BACKWARD_THREADS, 1)
fft_conv_kernel_gradient(const ConvParams p) {
  using C = typename E::C;
  E e(p.layout, dynamic_shared<C>(), p.tables);
  const i64 kernel = i64(blockIdx.x) * p.layout.slots + e.slot;
  const bool live = kernel < p.kernels;
  const Pair<C>* from = static_cast<const Pair<C>*>(p.products) + (live ? kernel : 0) * e.size() + e.lane;
  const C scale = C(1) / C(e.size());
  const int lanes = hidden(e.lanes);
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) e.re(n) = scale * from[n * lanes].x, e.im(n) = scale * from[n * lanes].y;
  C* data = static_cast<C*>(p.dkernel) + (live ? kernel : 0) * p.size * (p.grid ? 2 : 1);
  if (p.grid == 0) e.inverse();
  if (!live) return;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    if (p.grid) {
      data[2 * e.bin(n)] = e.re(n), data[2 * e.bin(n) + 1] = e.im(n);
      continue;
    }
    C low, high;
    const int at = n * e.lanes + e.lane;
    const i64 a = tap_at(p, at, e.size(), &low), b = tap_at(p, at + e.size(), e.size(), &high);
    if (a >= 0) data[a] = low * e.re(n);
    if (b >= 0) data[b] = -high * e.im(n);
  }
}

// out (outer, middle, inner, size) = sums over `count` pieces of sums over `chunks` ones, in that order; a
// thread sums one number.
struct SumParams {
  const void* in;
  void* out;
  i64 total, size, inner, middle;  // of out, in numbers
  i64 inner_step, middle_step, outer_step, count, count_step, chunks, chunk_step;  // of in
};
template <typename C>
SO_KERNEL(128, 1)
fft_conv_sum(const SumParams p) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.total) return;
  const i64 row = i / p.size, outer = row / p.inner;
  const C* in = static_cast<const C*>(p.in) + i % p.size + row % p.inner * p.inner_step +
                outer % p.middle * p.middle_step + outer / p.middle * p.outer_step;
  C sum = C(0);
  for (i64 a = 0; a < p.count; ++a) {
    C part = C(0);
    for (i64 b = 0; b < p.chunks; ++b) part += in[a * p.count_step + b * p.chunk_step];
    sum += part;
  }
  static_cast<C*>(p.out)[i] = sum;
}

}  // namespace fft
}  // namespace spectralops

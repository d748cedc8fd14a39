// What the kernels of fft_conv share: their arguments, the row a group of lanes works on, and its numbers in
// time.
//
// z_j = x_j - i x_{j+N}: half 0, the real parts, is positions 0 .. N - 1 of a window, half 1, the imaginary
// ones with their sign turned, positions N .. 2 N - 1.  Loops over a lane's numbers in time go through memory
// of its own, so that they need not be unrolled: cells of the exchanges in the forward pass, a set of its own
// in the backward one.
#pragma once

#include "spectralops/fft.h"

namespace spectralops {
namespace fft {

struct Array {  // (rows, filters, channels, time); strides in elements
  const void* data;
  i64 batch, filter, channel, time;
};

enum Activation { kIdentity = 0, kSilu = 1, kGelu = 2 };

struct ConvParams {
  Array u, gate_in, gate_out, grad, y, du, dgate_in, dgate_out;
  const void *kernel, *skip, *mask;
  const i64* starts;  // cu_seqlens
  void *dkernel, *dskip, *dmask;
  const void* tables;
  void *spectrum;  // (samples, filters, groups, N) / N, as lanes hold it
  void *products;  // (items, filters, N): conj(V) DC, summed over the rows of an item
  void *skips;     // (items, filters): sums of dc v
  void *park;      // what lanes set aside, `parks` sets of N; NULL: in shared memory after the cells
  i64 size, kernels;  // kernels: samples x filters x groups
  int rows, channels, groups, group_channels;
  int items;       // forward: rows x channels x segments; backward: channels x chunks
  int filters, length, lag0, grid, activation, dtype;
  Layout layout;
  int parks, blocks;
  int segment, back;  // a window: `segment` results from position `back` on
  int segments;
  int chunk, chunks;  // rows of an item of the backward pass
  bool channels_first, again, by_sample;
};

// One row of one channel, through a window that begins at time `origin`.
struct Row {
  i64 start;
  int row, channel, length, origin, from, to;  // results are at times [from, to)
  SO_DEVICE i64 at(const Array& a, i64 filter) const {
    return start * a.time + i64(row) * a.batch + i64(channel) * a.channel + filter * a.filter;
  }
};

SO_DEVICE Row row_of(const ConvParams& p, int row, int channel, int segment, bool live) {
  Row r{0, row, channel, live ? p.length : 0, segment * p.segment - p.back, 0, 0};
  if (live && p.starts) {
    const i64 size = p.starts[row + 1] - p.starts[row];
    r.start = p.starts[row], r.length = size < p.length ? int(size) : p.length;
    r.row = 0;
  }
  r.from = segment * p.segment;
  r.to = r.length - r.from > p.segment ? r.from + p.segment : r.length;
  return r;
}

SO_DEVICE i64 kernel_of(const ConvParams& p, int row, int filter, int channel) {
  return (i64(p.by_sample ? row : 0) * p.filters + filter) * p.groups + channel / p.group_channels;
}

template <typename C, typename F> SO_DEVICE void with_storage(int dtype, const F& f) {
  if constexpr (sizeof(C) == 8) {
    f(double{});
  } else {
    if (dtype == 0)
      f(float{});
    else if (dtype == 2)
      f(half_t{});
    else
      f(bf16_t{});
  }
}

// Element at `index` of an array, or `absent` without it.
template <typename T> SO_DEVICE compute_t<T> element(const void* data, i64 index, compute_t<T> absent) {
  return data ? compute_t<T>(widen(static_cast<const T*>(data)[index])) : absent;
}

SO_DEVICE float exponential(float v) { return expf(v); }
SO_DEVICE double exponential(double v) { return exp(v); }
SO_DEVICE float error_function(float v) { return erff(v); }
SO_DEVICE double error_function(double v) { return erf(v); }

template <typename C> SO_DEVICE C activate(C z, int activation) {
  if (activation == kSilu) return z / (C(1) + exponential(-z));
  if (activation == kGelu) return C(0.5) * z * (C(1) + error_function(z * C(0.70710678118654752440)));
  return z;
}
template <typename C> SO_DEVICE C activate_slope(C z, int activation) {
  if (activation == kSilu) {
    const C s = C(1) / (C(1) + exponential(-z));
    return s * (C(1) + z * (C(1) - s));
  }
  if (activation == kGelu)
    return C(0.5) * (C(1) + error_function(z * C(0.70710678118654752440))) +
           z * exponential(C(-0.5) * z * z) * C(0.39894228040143267794);
  return C(1);
}

// Loops over a lane's numbers in time stay loops, of so many steps at a time: a lane of many points has no
// registers for more.
template <typename E> struct Steps {
  static constexpr int value = E::POINTS * int(sizeof(typename E::C)) > 64 ? 1 : 4;
};

template <typename E> SO_DEVICE void take_half(E& e, int half) {
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    const typename E::C v = e.cells[e.own(n)];
    if (half == 0) e.re(n) = v;
    else e.im(n) = v;
  }
}
template <typename E> SO_DEVICE void give_half(E& e, int half) {
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) e.cells[e.own(n)] = half == 0 ? e.re(n) : e.im(n);
}
template <typename E> SO_DEVICE void clear_half(E& e, int half) {
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    if (half == 0) e.re(n) = typename E::C(0);
    else e.im(n) = typename E::C(0);
  }
}
// Whether positions of a half can hold times before `to`.
template <typename E> SO_DEVICE bool half_reaches(const E& e, int half, int origin, int to) {
  return origin + half * e.size() < to;
}

// A half of z as it is before the transform: v = gate_in u, or in half 1 -v; zero outside the row. Number n
// goes to n * stride.
template <typename T, typename E>
SO_DEVICE void fill_half(const E& e, const ConvParams& p, const Row& row, int half, typename E::C* to, int stride) {
  using C = typename E::C;
  const i64 u = row.at(p.u, 0), gate = row.at(p.gate_in, 0);
  SO_UNROLL_BY(Steps<E>::value)
  for (int n = 0; n < E::POINTS; ++n) {
    const int time = row.origin + (half * E::POINTS + n) * e.lanes + e.lane;
    C v = C(0);
    if (time >= 0 && time < row.length)
      v = element<T>(p.u.data, u + time * p.u.time, C(0)) *
          element<T>(p.gate_in.data, gate + time * p.gate_in.time, C(1));
    to[n * stride] = half ? -v : v;
  }
}

// z *= spectrum, or its conjugate, of one kernel.
template <bool CONJUGATE, typename E> SO_DEVICE void multiply_spectrum(E& e, const ConvParams& p, i64 kernel) {
  const Pair<typename E::C>* k =
      static_cast<const Pair<typename E::C>*>(p.spectrum) + kernel * e.size() + e.lane;
  const int lanes = hidden(e.lanes);
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    Pair<typename E::C> w = k[n * lanes];
    if (CONJUGATE) w.y = -w.y;
    multiply(e.re(n), e.im(n), w);
  }
}

// A lane's own complex numbers, `which` of several sets, in shared or device memory: number n stands at n *
// 32.
template <typename E> SO_DEVICE Pair<typename E::C>* parked(const E& e, const ConvParams& p, int which, int block) {
  using C = typename E::C;
  const int own = hidden(which * E::POINTS * int(blockDim.x) + e.own(0));
  if (p.park == nullptr) return reinterpret_cast<Pair<C>*>(e.cells + E::POINTS * blockDim.x) + own;
  return static_cast<Pair<C>*>(p.park) + block * (i64(p.parks * E::POINTS) * blockDim.x) + own;
}
// The last set as two numbers for each of the lane's positions: sum over filters of skip dc; that of place n
// at n * 32.
template <typename E> SO_DEVICE typename E::C* skipped_of(const E& e, const ConvParams& p, int block) {
  return &(parked(e, p, p.parks - 1, block) - e.own(0))->x + 2 * e.own(0) - int(threadIdx.x & 31u);
}
template <typename E> SO_DEVICE void set_aside(E& e, Pair<typename E::C>* park) {
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) park[n * 32] = Pair<typename E::C>{e.re(n), e.im(n)};
}
template <typename E> SO_DEVICE void take_back(E& e, const Pair<typename E::C>* park) {
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) e.re(n) = park[n * 32].x, e.im(n) = park[n * 32].y;
}
template <typename E> SO_DEVICE void add_parked(E& e, const Pair<typename E::C>* park) {
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) e.re(n) += park[n * 32].x, e.im(n) += park[n * 32].y;
}

}  // namespace fft
}  // namespace spectralops

// What the kernels of spectral_filter share: their arguments, the grid a lane works on, and points on their
// way in and out.
//
// A lane owns one channel and works on whole grids of it, one sample after the other; neighbouring lanes own
// neighbouring channels, so that a warp reads and writes consecutive addresses and shared memory,
// [cell][lane], without bank conflicts. Lanes are counted through channels and then chunks of samples, so
// none is idle where 32 does not divide the channels.
//
// A row along n3 is real: rows a and b of one grid go through one complex transform, Z = A + i B, of which
//   2 A[k] = Z[k] + conj Z[-k],   2 i B[k] = Z[k] - conj Z[-k].
// The factor 2 is kept, and is part of the scale 1 / (2 N) that the weight, or the gradient, is multiplied
// by.
#pragma once

#include "spectralops/fft_conv.h"
#include "spectralops/reduce.h"

namespace spectralops {
namespace fft {

struct GridArray {  // strides in elements; within a grid all offsets fit 32 bits
  const void* data;
  i64 row, channel;
  int n1, n2, n3;
};

constexpr int kMaxRadices = 24;
struct Axis {  // of n points, in passes of `count` radices
  int n, count;
  unsigned char radix[kMaxRadices];
};

struct FilterParams {
  GridArray x, grad, residual, y;
  const void *weight, *norm_weight, *norm_bias;
  const void* moments;  // (rows, points): mean and 1 / deviation; NULL: no layer norm
  void* sums;           // of the gradient: (chunks, n1 n2, bins, channels) pairs
  const void* roots;    // of the general kernels: tables, see spectral_filter_any.h
  const int* order;
  u32 items;  // chunks x channels
  int rows, channels, groups, group_channels;
  int chunk;         // samples a lane takes
  bool each_sample;  // the weight has one
  bool conj;
  int dtype, lanes_log;
  Axis axis[3];
};

// Grid number `step` of a lane, which is number `item`; `live` is false where it has none. Made anew for
// every step: a division costs less than two registers through all the transforms.
struct GridOf {
  int row, channel;
  bool live;
  SO_DEVICE GridOf(const FilterParams& p, u32 item, int step) : row(0), channel(0), live(false) {
    if (item >= p.items) return;
    const int first = int(item / u32(p.channels)) * p.chunk + step;
    channel = int(item % u32(p.channels)), live = first < p.rows;
    row = live ? first : 0;
  }
  SO_DEVICE i64 at(const GridArray& a) const { return i64(row) * a.row + i64(channel) * a.channel; }
};

// Points of the grid in the compute type, after the layer norm. Point number `index` stands at `offset`.
template <typename C> struct Normalise {
  const Pair<C>* moments;
  C scale, shift;
  SO_DEVICE Normalise(const FilterParams& p, const GridOf& grid, int points)
      : moments(static_cast<const Pair<C>*>(p.moments)), scale(C(1)), shift(C(0)) {
    if (moments == nullptr) return;
    moments += i64(grid.row) * points;
    if (p.norm_weight) scale = static_cast<const C*>(p.norm_weight)[grid.channel];
    if (p.norm_bias) shift = static_cast<const C*>(p.norm_bias)[grid.channel];
  }
  SO_DEVICE C operator()(C v, int index) const {
    const Pair<C> m = moments[index];
    return fused((v - m.x) * m.y, scale, shift);
  }
};

// W times the scale, of cell (k1 n2 + k2) bins + k3.
template <typename C> struct Weight {
  const Pair<C>* data;
  int groups;
  C x, y;
  SO_DEVICE Weight(const FilterParams& p, const GridOf& grid, int points, int cells)
      : data(static_cast<const Pair<C>*>(p.weight)), groups(p.groups) {
    data += i64(p.each_sample ? grid.row : 0) * cells * groups + grid.channel / p.group_channels;
    x = C(0.5) / C(points), y = p.conj ? -x : x;
  }
  SO_DEVICE Pair<C> operator()(int cell) const {
    const Pair<C> w = data[i64(cell) * groups];
    return Pair<C>{w.x * x, w.y * y};
  }
};

// conj(a) b.
template <typename C> SO_DEVICE Pair<C> conj_product(const Pair<C>& a, const Pair<C>& b) {
  return Pair<C>{fused(a.x, b.x, a.y * b.y), fused(a.x, b.y, -(a.y * b.x))};
}

// ---- the layer norm's moments: a warp for each point, two passes, sums in chains of 32 --------------------------------

struct MomentParams {
  GridArray x;
  void* moments;
  i64 points;  // rows x the grid's
  double eps;
  int n1, n2, n3, channels, dtype;
};

template <typename C, typename F> SO_DEVICE C warp_mean(int count, const F& term) {
  C total = C(0);
  for (int begin = int(threadIdx.x & 31u); begin < count; begin += 1024) {
    C part = C(0);
    const int end = begin + 1024 < count ? begin + 1024 : count;
    for (int i = begin; i < end; i += 32) part += term(i);
    total += part;
  }
  return lanes_sum<32>(total) / C(count);
}

template <typename C>
SO_KERNEL(128, 1)
filter_moments(const MomentParams p) {
  const i64 point = i64(blockIdx.x) * 4 + threadIdx.x / 32;
  if (point >= p.points) return;
  const int size = p.n1 * p.n2 * p.n3, within = int(point % size);
  const int i3 = within % p.n3, i2 = within / p.n3 % p.n2, i1 = within / p.n3 / p.n2;
  const i64 at = point / size * p.x.row + (i1 * p.x.n1 + i2 * p.x.n2 + i3 * p.x.n3);
  C mean = C(0), variance = C(0);
  with_storage<C>(p.dtype, [&](auto type) {
    using T = decltype(type);
    const T* x = static_cast<const T*>(p.x.data) + at;
    mean = warp_mean<C>(p.channels, [&](int c) { return C(widen(x[c * p.x.channel])); });
    variance = warp_mean<C>(p.channels, [&](int c) {
      const C d = C(widen(x[c * p.x.channel])) - mean;
      return d * d;
    });
  });
  if (threadIdx.x % 32 == 0) static_cast<Pair<C>*>(p.moments)[point] = Pair<C>{mean, C(1) / C(sqrt(variance + C(p.eps)))};
}

// ---- the gradient's last step ------------------------------------------------------------------------------------------

// dweight = c_k / (4 N) sums over the chunks and the channels of a group, in blocks of 32 of blocks of 32.
struct FilterSumParams {
  const void* sums;
  void* dweight;
  i64 total;  // numbers of dweight: samples x cells x groups x 2
  i64 cells;  // n1 n2 bins
  int n, bins, chunks, channels, groups, group_channels;
  bool each_sample;
  double scale;
};

template <typename C>
SO_KERNEL(128, 1)
filter_sum(const FilterSumParams p) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.total) return;
  const int part = int(i & 1), group = int(i / 2 % p.groups);
  const i64 cell = i / 2 / p.groups % p.cells, sample = i / 2 / p.groups / p.cells;
  const int k = int(cell % p.bins), chunks = p.each_sample ? 1 : p.chunks;
  const i64 step = p.cells * p.channels;
  const C* sums = static_cast<const C*>(p.sums) + 2 * (sample * step + cell * p.channels + group * p.group_channels) + part;
  C total = C(0), middle = C(0), low = C(0);
  int count = 0;
  for (int chunk = 0; chunk < chunks; ++chunk)
    for (int c = 0; c < p.group_channels; ++c) {
      low += sums[2 * (chunk * step + c)];
      if (++count % 32 == 0) middle += low, low = C(0);
      if (count % 1024 == 0) total += middle, middle = C(0);
    }
  const C scale = C(k == 0 || 2 * k == p.n ? p.scale : 2 * p.scale);
  static_cast<C*>(p.dweight)[i] = scale * (total + (middle + low));
}

}  // namespace fft
}  // namespace spectralops

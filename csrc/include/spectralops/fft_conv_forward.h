// y = act(gate_out (conv(v) + skip v)) mask, v = gate_in u: a row of a channel for a group of lanes.
#pragma once

#include "spectralops/fft_conv.h"

namespace spectralops {
namespace fft {

template <typename T, typename E>
SO_DEVICE void store_results(E& e, const ConvParams& p, const Row& row, int sample, int filter, int half) {
  using C = typename E::C;
  const i64 u = row.at(p.u, 0), in = row.at(p.gate_in, 0), out = row.at(p.gate_out, filter), y = row.at(p.y, filter);
  const C skip = element<C>(p.skip, i64(filter) * p.channels + row.channel, C(0));
  const C mask = element<C>(p.mask, i64(sample) * p.channels + row.channel, C(1));
  SO_UNROLL_BY(Steps<E>::value)
  for (int n = 0; n < E::POINTS; ++n) {
    const int time = row.origin + (half * E::POINTS + n) * e.lanes + e.lane;
    if (time < row.from || time >= row.to) continue;
    C c = half ? -e.cells[e.own(n)] : e.cells[e.own(n)];
    if (p.skip) {
      const C v = element<T>(p.u.data, u + time * p.u.time, C(0)) *
                  element<T>(p.gate_in.data, in + time * p.gate_in.time, C(1));
      c += skip * v;
    }
    const C z = c * element<T>(p.gate_out.data, out + time * p.gate_out.time, C(1));
    static_cast<T*>(const_cast<void*>(p.y.data))[y + time * p.y.time] = narrow<T>(activate(z, p.activation) * mask);
  }
}

// v into the registers.
template <typename E> SO_DEVICE void load_row(E& e, const ConvParams& p, const Row& row) {
  SO_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!half_reaches(e, half, row.origin, row.length)) {
      clear_half(e, half);
      continue;
    }
    with_storage<typename E::C>(p.dtype, [&](auto type) {
      fill_half<decltype(type)>(e, p, row, half, e.cells + e.own(0), 32);
    });
    take_half(e, half);
  }
}

// Where an item of the forward pass lies. Made again wherever it is needed: registers are for the points.
struct Place {
  int sample, channel, segment;
  bool live;
  SO_DEVICE Place(const ConvParams& p, int number) {
    const int item = hidden(number);
    live = item < p.items;
    const int rest = item / p.segments, first = rest / (p.channels_first ? p.channels : p.rows),
              second = rest - first * (p.channels_first ? p.channels : p.rows);
    segment = live ? item - rest * p.segments : 0;
    sample = live ? p.channels_first ? first : second : 0;
    channel = live ? p.channels_first ? second : first : 0;
  }
  SO_DEVICE Row row(const ConvParams& p) const { return row_of(p, sample, channel, segment, live); }
};

template <typename E> SO_DEVICE void store_filter(E& e, const ConvParams& p, int item, int filter) {
  const Place at(p, item);
  const Row row = at.row(p);
  SO_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!half_reaches(e, half, row.origin, row.to)) continue;
    give_half(e, half);
    with_storage<typename E::C>(
        p.dtype, [&](auto type) { store_results<decltype(type)>(e, p, row, at.sample, filter, half); });
  }
}

template <typename E>
SO_KERNEL(E::FORWARD_THREADS, 1)
fft_conv_forward(const ConvParams p) {
  E e(p.layout, dynamic_shared<typename E::C>(), p.tables);
  for (int block = int(blockIdx.x); block < p.blocks; block += int(gridDim.x)) {
    const int item = block * p.layout.slots + e.slot;
    load_row(e, p, Place(p, item).row(p));
    e.forward();
    if (p.filters > 1) set_aside(e, parked(e, p, 0, int(blockIdx.x)));
    for (int filter = 0; filter < p.filters; ++filter) {
      if (filter > 0) take_back(e, parked(e, p, 0, int(blockIdx.x)));
      const Place at(p, item);
      multiply_spectrum<false>(e, p, kernel_of(p, at.sample, filter, at.channel));
      e.inverse();
      store_filter(e, p, item, filter);
    }
  }
}

}  // namespace fft
}  // namespace spectralops

// All gradients of a call in one pass over the rows, by recomputation:
//
//   c = conv(v) + skip v,  z = gate_out c,  dz = mask grad act'(z),  dc = gate_out dz,
//   dmask = sum grad act(z),  dgate_out = dz c,  dskip = sum dc v,  dv = corr(dc, k) + skip dc,  du = gate_in dv,  dgate_in = u dv,
//   and the row's part of the kernel's gradient, conj(V) DC, summed over an item's rows one after the other.
#pragma once

#include "spectralops/fft_conv.h"

namespace spectralops {
namespace fft {

template <typename C> struct RowSums {
  C mask, skip;
};

// cells: c, where it is wanted -> dc, zero outside the row.
template <typename T, typename E>
SO_DEVICE void form_gradient(E& e, const ConvParams& p, const Row& row, int sample, int filter, int half,
                             typename E::C* skipped, RowSums<typename E::C>* sums) {
  using C = typename E::C;
  const i64 u = row.at(p.u, 0), in = row.at(p.gate_in, 0), out = row.at(p.gate_out, filter),
            grad = row.at(p.grad, filter), dout = row.at(p.dgate_out, filter);
  const C skip = element<C>(p.skip, i64(filter) * p.channels + row.channel, C(0));
  const C mask = element<C>(p.mask, i64(sample) * p.channels + row.channel, C(1));
  const bool with_v = (p.again && p.skip) || p.dskip;
  SO_UNROLL_BY(2)
  for (int n = 0; n < E::POINTS; ++n) {
    const int place = half * E::POINTS + n, time = row.origin + place * e.lanes + e.lane;
    if (time < 0 || time >= row.length) {
      e.cells[e.own(n)] = C(0);
      continue;
    }
    const C g = element<T>(p.grad.data, grad + time * p.grad.time, C(0));
    const C gate = element<T>(p.gate_out.data, out + time * p.gate_out.time, C(1));
    C v = C(0), dz = g * mask;
    if (with_v)
      v = element<T>(p.u.data, u + time * p.u.time, C(0)) *
          element<T>(p.gate_in.data, in + time * p.gate_in.time, C(1));
    if (p.again) {
      const C c = e.cells[e.own(n)] + skip * v, z = c * gate;
      if (p.dmask) sums->mask += g * activate(z, p.activation);
      dz *= activate_slope(z, p.activation);
      if (p.dgate_out.data)
        static_cast<T*>(const_cast<void*>(p.dgate_out.data))[dout + time * p.dgate_out.time] = narrow<T>(dz * c);
    }
    const C dc = dz * gate;
    if (p.dskip) sums->skip += dc * v;
    if (skipped) {
      C& s = skipped[place * i64(blockDim.x)];
      s = filter == 0 ? skip * dc : s + skip * dc;
    }
    e.cells[e.own(n)] = dc;
  }
}

// The sum over the lanes of a transform, in lane 0.
template <typename E> SO_DEVICE typename E::C lanes_total(const E& e, typename E::C value) {
  const int width = e.lanes < 32 ? e.lanes : 32;
  for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (e.lanes <= 32) return value;
  if (e.lane % 32 == 0) e.cells[e.own(0)] = value;
  e.barrier();
  typename E::C total = value;
  if (e.lane == 0)
    for (int lane = 32; lane < e.lanes; lane += 32) total += e.cells[(int(threadIdx.x) + lane) * E::POINTS];
  e.barrier();
  return total;
}

// products (+)= conj(V) DC.
template <typename E>
SO_DEVICE void add_products(E& e, const ConvParams& p, int item, int filter, bool first,
                            const Pair<typename E::C>* spectrum) {
  using C = typename E::C;
  Pair<C>* to = static_cast<Pair<C>*>(p.products) + (i64(filter) * p.items + item) * e.size() + e.lane;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    const Pair<C> v = spectrum[n * blockDim.x], old = first ? Pair<C>{C(0), C(0)} : to[n * e.lanes];
    to[n * e.lanes] =
        Pair<C>{old.x + (v.x * e.re(n) + v.y * e.im(n)), old.y + (v.x * e.im(n) - v.y * e.re(n))};
  }
}

// From DC, times the conjugate spectrum, summed over the filters: du and dgate_in.
template <typename T, typename E>
SO_DEVICE void store_row_gradients(E& e, const ConvParams& p, const Row& row, int half,
                                   const typename E::C* skipped) {
  using C = typename E::C;
  const i64 u = row.at(p.u, 0), in = row.at(p.gate_in, 0), du = row.at(p.du, 0), din = row.at(p.dgate_in, 0);
  SO_UNROLL_BY(4)
  for (int n = 0; n < E::POINTS; ++n) {
    const int place = half * E::POINTS + n, time = row.origin + place * e.lanes + e.lane;
    if (time < 0 || time >= row.length) continue;
    C dv = e.cells[e.own(n)];
    if (skipped) dv += skipped[place * i64(blockDim.x)];
    if (p.du.data)
      static_cast<T*>(const_cast<void*>(p.du.data))[du + time * p.du.time] =
          narrow<T>(dv * element<T>(p.gate_in.data, in + time * p.gate_in.time, C(1)));
    if (p.dgate_in.data)
      static_cast<T*>(const_cast<void*>(p.dgate_in.data))[din + time * p.dgate_in.time] =
          narrow<T>(dv * element<T>(p.u.data, u + time * p.u.time, C(0)));
  }
}

// One filter of one row, up to DC in the registers.
template <typename E>
SO_DEVICE void transform_gradient(E& e, const ConvParams& p, const Row& row, int sample, int filter, i64 kernel,
                                  const Pair<typename E::C>* spectrum, typename E::C* skipped,
                                  RowSums<typename E::C>* sums) {
  using C = typename E::C;
  if (p.again) {
    if (filter > 0) take_back(e, spectrum);
    multiply_spectrum<false>(e, p, kernel);
    e.inverse();
  }
  SO_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!half_reaches(e, half, row.origin, row.length)) {
      clear_half(e, half);
      continue;
    }
    if (p.again) give_half(e, half);
    with_storage<C>(p.dtype, [&](auto type) {
      form_gradient<decltype(type)>(e, p, row, sample, filter, half, skipped, sums);
    });
    take_half(e, half);
  }
  e.forward();
}

template <typename E>
SO_KERNEL(E::THREADS, 1)
fft_conv_backward(const ConvParams p) {
  using C = typename E::C;
  E e(p.layout, dynamic_shared<C>(), p.tables);
  const bool rows = p.du.data || p.dgate_in.data;
  Pair<C>* const spectrum = parked(e, p, 0, int(blockIdx.x));
  Pair<C>* const total = parked(e, p, 1, int(blockIdx.x));
  C* const skipped = p.skip && rows ? skipped_of(e, p, int(blockIdx.x)) : nullptr;
  for (i64 block = i64(blockIdx.x) * p.layout.slots; block < p.items; block += i64(gridDim.x) * p.layout.slots) {
    const bool inside = block + e.slot < p.items;
    const int item = inside ? int(block) + e.slot : 0;
    for (int step = 0; step < p.chunk; ++step) {
      const int at = item % p.chunks * p.chunk + step, channel = item / p.chunks;
      const bool live = inside && at < p.rows;
      const int sample = live ? at : 0;
      const Row row = row_of(p, sample, channel, 0, live);
      C mask = C(0);
      if (p.again || p.dkernel) {
        load_row(e, p, row);
        e.forward();
        if (p.dkernel || p.filters > 1) set_aside(e, spectrum);
      }
      for (int filter = 0; filter < p.filters; ++filter) {
        const i64 kernel = kernel_of(p, sample, filter, channel);
        RowSums<C> sums{C(0), C(0)};
        transform_gradient(e, p, row, sample, filter, kernel, spectrum, skipped, &sums);
        mask += sums.mask;
        if (p.dskip) {
          const C sum = lanes_total(e, sums.skip);
          C* to = static_cast<C*>(p.skips) + i64(filter) * p.items + item;
          if (inside && e.lane == 0) *to = step == 0 ? sum : *to + sum;
        }
        if (p.dkernel && inside) add_products(e, p, item, filter, step == 0, spectrum);
        if (!rows) continue;
        multiply_spectrum<true>(e, p, kernel);
        if (filter > 0) add_parked(e, total);
        if (filter + 1 < p.filters) set_aside(e, total);
      }
      if (p.dmask) {
        const C sum = lanes_total(e, mask);
        if (live && e.lane == 0) static_cast<C*>(p.dmask)[i64(sample) * p.channels + channel] = sum;
      }
      if (!rows) continue;
      e.inverse();
      SO_UNROLL
      for (int half = 0; half < 2; ++half) {
        if (!half_reaches(e, half, row.origin, row.length)) continue;
        give_half(e, half);
        with_storage<C>(p.dtype, [&](auto type) { store_row_gradients<decltype(type)>(e, p, row, half, skipped); });
      }
    }
  }
}

}  // namespace fft
}  // namespace spectralops

// All gradients of a call in one pass over the rows, by recomputation:
//
//   c = conv(v) + skip v,  z = gate_out c,  dz = mask grad act'(z),  dc = gate_out dz,
//   dmask = sum grad act(z),  dgate_out = dz c,  dskip = sum dc v,  dv = corr(dc, k) + skip dc,  du = gate_in dv,  dgate_in = u dv,
//   and the row's part of the kernel's gradient, conj(V) DC, summed over an item's rows one after the other.
#pragma once

#include "spectralops/fft_conv.h"

namespace spectralops {
namespace fft {

// A sum and what its last addition lost, to be given to the next: short of one rounding however long it is.
template <typename C> struct Sum {
  C value, lost;
  SO_DEVICE void add(C more) {
    const C next = more - lost, total = value + next;
    lost = (total - value) - next;
    value = total;
  }
};
template <typename C> struct RowSums {
  Sum<C> mask, skip;
};

// The sets a lane may set aside; `times` always.
template <typename E> struct Sets {
  using C = typename E::C;
  Pair<C>*times, *spectrum, *total;
  C* skipped;
  SO_DEVICE Sets(const E& e, const ConvParams& p) {
    const int block = int(blockIdx.x);
    times = parked(e, p, 0, block), spectrum = parked(e, p, 1, block), total = parked(e, p, 2, block);
    skipped = p.skip && (p.du.data || p.dgate_in.data) ? skipped_of(e, p, block) : nullptr;
  }
};

// A half of the lane's times: c where it is wanted -> dc, zero outside the row, as z and DC's z hold them.
template <typename T, typename E>
SO_DEVICE void form_gradient(const E& e, const ConvParams& p, const Row& row, int sample, int filter, int half,
                             typename E::C* times, typename E::C* skipped, RowSums<typename E::C>* sums) {
  using C = typename E::C;
  const i64 u = row.at(p.u, 0), in = row.at(p.gate_in, 0), out = row.at(p.gate_out, filter),
            grad = row.at(p.grad, filter), dout = row.at(p.dgate_out, filter);
  const C skip = element<C>(p.skip, i64(filter) * p.channels + row.channel, C(0));
  const C mask = element<C>(p.mask, i64(sample) * p.channels + row.channel, C(1));
  const bool with_v = (p.again && p.skip) || p.dskip;
  SO_UNROLL_BY(Steps<E>::value)
  for (int n = 0; n < E::POINTS; ++n) {
    const int place = half * E::POINTS + n, time = row.origin + place * e.lanes + e.lane;
    C& at = times[n * 64];
    if (time < 0 || time >= row.length) {
      at = C(0);
      continue;
    }
    const C g = element<T>(p.grad.data, grad + time * p.grad.time, C(0));
    const C gate = element<T>(p.gate_out.data, out + time * p.gate_out.time, C(1));
    C v = C(0), dz = g * mask;
    if (with_v)
      v = element<T>(p.u.data, u + time * p.u.time, C(0)) *
          element<T>(p.gate_in.data, in + time * p.gate_in.time, C(1));
    if (p.again) {
      const C c = (half ? -at : at) + skip * v, z = c * gate;
      if (p.dmask) sums->mask.add(g * activate(z, p.activation));
      dz *= activate_slope(z, p.activation);
      if (p.dgate_out.data)
        static_cast<T*>(const_cast<void*>(p.dgate_out.data))[dout + time * p.dgate_out.time] = narrow<T>(dz * c);
    }
    const C dc = dz * gate;
    if (p.dskip) sums->skip.add(dc * v);
    if (skipped) skipped[place * 32] = filter == 0 ? skip * dc : skipped[place * 32] + skip * dc;
    at = half ? -dc : dc;
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
  const int lanes = hidden(e.lanes);
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    const Pair<C> v = spectrum[n * 32], old = first ? Pair<C>{C(0), C(0)} : to[n * lanes];
    const Pair<C> more = product(Pair<C>{v.x, -v.y}, Pair<C>{e.re(n), e.im(n)});
    to[n * lanes] = Pair<C>{old.x + more.x, old.y + more.y};
  }
}

// From DC, times the conjugate spectrum, summed over the filters: du and dgate_in.
template <typename T, typename E>
SO_DEVICE void store_row_gradients(const E& e, const ConvParams& p, const Row& row, int half,
                                   const typename E::C* times, const typename E::C* skipped) {
  using C = typename E::C;
  const i64 u = row.at(p.u, 0), in = row.at(p.gate_in, 0), du = row.at(p.du, 0), din = row.at(p.dgate_in, 0);
  SO_UNROLL_BY(Steps<E>::value)
  for (int n = 0; n < E::POINTS; ++n) {
    const int place = half * E::POINTS + n, time = row.origin + place * e.lanes + e.lane;
    if (time < 0 || time >= row.length) continue;
    C dv = half ? -times[n * 64] : times[n * 64];
    if (skipped) dv += skipped[place * 32];
    if (p.du.data)
      static_cast<T*>(const_cast<void*>(p.du.data))[du + time * p.du.time] =
          narrow<T>(dv * element<T>(p.gate_in.data, in + time * p.gate_in.time, C(1)));
    if (p.dgate_in.data)
      static_cast<T*>(const_cast<void*>(p.dgate_in.data))[din + time * p.dgate_in.time] =
          narrow<T>(dv * element<T>(p.u.data, u + time * p.u.time, C(0)));
  }
}

template <typename E> SO_DEVICE void store_rows(E& e, const ConvParams& p, const Row& row, const Sets<E>& sets) {
  set_aside(e, sets.times);
  const int halves = half_reaches(e, 1, row.origin, row.length) ? 2 : 1;
  SO_UNROLL_BY(1)
  for (int half = 0; half < halves; ++half)
    with_storage<typename E::C>(p.dtype, [&](auto type) {
      store_row_gradients<decltype(type)>(e, p, row, half, &sets.times->x + half, sets.skipped);
    });
}

// What f leaves in the halves of `times`, into the registers.
template <typename E, typename F>
SO_DEVICE void from_times(E& e, const ConvParams& p, const Row& row, Pair<typename E::C>* times, const F& f) {
  const int halves = half_reaches(e, 1, row.origin, row.length) ? 2 : 1;
  SO_UNROLL_BY(1)
  for (int half = 0; half < halves; ++half)
    with_storage<typename E::C>(p.dtype, [&](auto type) { f(type, half, &times->x + half); });
  take_back(e, times);
  if (halves == 1) clear_half(e, 1);
}

// One filter of one row, up to DC in the registers.
template <typename E>
SO_DEVICE void transform_gradient(E& e, const ConvParams& p, const Row& row, int sample, int filter, i64 kernel,
                                  const Sets<E>& sets, RowSums<typename E::C>* sums) {
  if (p.again) {
    if (filter > 0) take_back(e, sets.spectrum);
    multiply_spectrum<false>(e, p, kernel);
    e.inverse();
    set_aside(e, sets.times);
  }
  from_times(e, p, row, sets.times, [&](auto type, int half, auto* times) {
    form_gradient<decltype(type)>(e, p, row, sample, filter, half, times, sets.skipped, sums);
  });
  e.forward();
}

template <typename E>
SO_KERNEL(E::BACKWARD_THREADS, 1)
fft_conv_backward(const ConvParams p) {
  using C = typename E::C;
  E e(p.layout, dynamic_shared<C>(), p.tables);
  const bool rows = p.du.data || p.dgate_in.data;
  const Sets<E> sets(e, p);
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
        from_times(e, p, row, sets.times, [&](auto type, int half, C* times) {
          fill_half<decltype(type)>(e, p, row, half, times, 64);
        });
        e.forward();
        if (p.dkernel || p.filters > 1) set_aside(e, sets.spectrum);
      }
      for (int filter = 0; filter < p.filters; ++filter) {
        const i64 kernel = kernel_of(p, sample, filter, channel);
        RowSums<C> sums{};
        transform_gradient(e, p, row, sample, filter, kernel, sets, &sums);
        mask += sums.mask.value;
        if (p.dskip) {
          const C sum = lanes_total(e, sums.skip.value);
          C* to = static_cast<C*>(p.skips) + i64(filter) * p.items + item;
          if (inside && e.lane == 0) *to = step == 0 ? sum : *to + sum;
        }
        if (p.dkernel && inside) add_products(e, p, item, filter, step == 0, sets.spectrum);
        if (!rows) continue;
        multiply_spectrum<true>(e, p, kernel);
        if (filter > 0) add_parked(e, sets.total);
        if (filter + 1 < p.filters) set_aside(e, sets.total);
      }
      if (p.dmask) {
        const C sum = lanes_total(e, mask);
        if (live && e.lane == 0) static_cast<C*>(p.dmask)[i64(sample) * p.channels + channel] = sum;
      }
      if (!rows) continue;
      e.inverse();
      store_rows(e, p, row, sets);
    }
  }
}

}  // namespace fft
}  // namespace spectralops

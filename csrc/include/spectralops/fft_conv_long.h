// Transforms of N = P M points that no block holds, through memory: columns of P points that lie M apart, in
// one thread each, then lines of M in a block.
//
//   columns  z_i+qM -> exp(-2 pi i (i (4 s + 1 - P)) / 4 N) sum_q z_i+qM exp(-2 pi i q (s + 1/4) / P),  s at line reversed(s)
//   lines    the transform of Engine, whose own quarter shift over M the columns' factor has taken back
//
// and transposed from a spectrum to time. A column is all that the pointwise steps need of a row, so they are
// the same functions.
#pragma once

#include "spectralops/fft_conv_backward.h"
#include "spectralops/fft_conv_forward.h"
#include "spectralops/fft_conv_kernel.h"
#include "spectralops/reduce.h"

namespace spectralops {
namespace fft {

enum ColumnStep { kColumnRow, kColumnResult, kColumnGradient, kColumnRowGradient, kColumnTaps, kColumnTapGradient };

struct ColumnParams {
  ConvParams conv;
  const void *from, *tables;  // from, to: (items, P, M) complex; NULL where the step has none
  void *to, *skipped;         // skipped: (items, 2 N)
  void *mask_parts, *skip_parts;  // (channels, rows, blocks)
  int step, filter, first_channel, points, blocks;  // points: M; blocks: of one item
};

template <typename C_, int LOG_> struct Column {
  using C = C_;
  static constexpr int LOG = LOG_, POINTS = 1 << LOG;
  C x[POINTS], y[POINTS];
  int lanes, lane;
  const Pair<C>* tables;

  SO_DEVICE C& re(int n) { return x[n]; }
  SO_DEVICE C& im(int n) { return y[n]; }
  SO_DEVICE int size() const { return POINTS * lanes; }
  SO_DEVICE int own(int n) const { return int(threadIdx.x & ~31u) * POINTS + n * 32 + int(threadIdx.x & 31u); }
  SO_DEVICE int apart() const { return lanes; }

  SO_DEVICE void forward() {
    SO_UNROLL
    for (int q = 1; q < POINTS; ++q) rotate<4 * POINTS>(x[q], y[q], q);
    decimate<LOG>(x, y, LOG);
    twiddle(x, y);
  }
  SO_DEVICE void inverse() {
    twiddle(y, x);
    collect<LOG>(y, x, LOG);
    SO_UNROLL
    for (int q = 1; q < POINTS; ++q) rotate<4 * POINTS>(y[q], x[q], q);
  }
  // Tables: exp(-2 pi i lane 2^b / N), b < LOG, then exp(-2 pi i lane (1 - P) / 4 N).
  SO_DEVICE void twiddle(C (&a)[POINTS], C (&b)[POINTS]) const {
    constexpr Orders<LOG> order;
    Pair<C> root[LOG], power[POINTS];
    SO_UNROLL
    for (int i = 0; i < LOG; ++i) root[i] = tables[i64(i) * lanes + lane];
    power[0] = tables[i64(LOG) * lanes + lane];
    multiply(a[0], b[0], power[0]);
    SO_UNROLL
    for (int q = 1; q < POINTS; ++q) {
      power[q] = product(power[q & (q - 1)], root[order.lowest[q]]);
      multiply(a[order.reversed_of[q]], b[order.reversed_of[q]], power[q]);
    }
  }
};

template <typename C>
SO_KERNEL(128, 1)
fft_column_tables(const TableParams p) {  // odd: P, bits: M, as numbers
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x), lane = i % p.bits, which = i / p.bits;
  if (which > p.log) return;
  const i64 n = i64(p.odd) * p.bits;
  const i64 a = which < p.log ? i64(lane) << (which + 2) : i64(lane) * (1 - p.odd);
  const i64 turn = (a % (4 * n) + 4 * n) % (4 * n);
  static_cast<Pair<C>*>(p.tables)[i] = Pair<C>{C(cosine(turn, 4 * n)), C(-sine(turn, 4 * n))};
}

template <typename E> SO_DEVICE void column_taps(E& e, const ConvParams& p, i64 kernel) {
  using C = typename E::C;
  const C* data = static_cast<const C*>(p.kernel) + kernel * p.size;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    C low, high;
    const int at = n * e.lanes + e.lane;
    const i64 a = tap_at(p, at, e.size(), &low), b = tap_at(p, at + e.size(), e.size(), &high);
    e.re(n) = a < 0 ? C(0) : low * data[a], e.im(n) = b < 0 ? C(0) : -high * data[b];
  }
}
template <typename E> SO_DEVICE void column_tap_gradient(E& e, const ConvParams& p, i64 kernel) {
  using C = typename E::C;
  C* data = static_cast<C*>(p.dkernel) + kernel * p.size;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    C low, high;
    const int at = n * e.lanes + e.lane;
    const i64 a = tap_at(p, at, e.size(), &low), b = tap_at(p, at + e.size(), e.size(), &high);
    if (a >= 0) data[a] = low * e.re(n);
    if (b >= 0) data[b] = -high * e.im(n);
  }
}

// The pointwise step of a column's times.
template <typename E>
SO_DEVICE void column_times(const E& e, const ColumnParams& q, i64 item, const Row& row, int sample,
                            Pair<typename E::C>* times, RowSums<typename E::C>* sums) {
  using C = typename E::C;
  const ConvParams& p = q.conv;
  C* const skipped = q.skipped ? static_cast<C*>(q.skipped) + item * (2 * i64(e.size())) + e.lane : nullptr;
  const int halves = half_reaches(e, 1, row.origin, row.length) ? 2 : 1;
  SO_UNROLL_BY(1)
  for (int half = 0; half < halves; ++half)
    with_storage<C>(p.dtype, [&](auto type) {
      using T = decltype(type);
      C* const to = &times->x + half;
      if (q.step == kColumnRow) fill_half<T>(e, p, row, half, to, 64);
      if (q.step == kColumnResult) store_results<T>(e, p, row, sample, q.filter, half, to, 64);
      if (q.step == kColumnGradient) form_gradient<T>(e, p, row, sample, q.filter, half, to, skipped, sums);
      if (q.step == kColumnRowGradient) store_row_gradients<T>(e, p, row, half, to, skipped);
    });
}

template <typename C> SO_DEVICE void column_sums(const ColumnParams& q, i64 part, const RowSums<C>& sums, C* buffer) {
  const C mask = block_sum(sums.mask.value, buffer);
  if (q.mask_parts && threadIdx.x == 0) static_cast<C*>(q.mask_parts)[part] = mask;
  __syncthreads();
  const C skip = block_sum(sums.skip.value, buffer);
  if (q.skip_parts && threadIdx.x == 0) static_cast<C*>(q.skip_parts)[part] = skip;
}

template <typename C, int LOG>
SO_KERNEL(kColumnThreads, 1)
fft_conv_columns(const ColumnParams q) {
  Column<C, LOG> e;
  const ConvParams& p = q.conv;
  const i64 item = blockIdx.x / q.blocks;
  const int block = int(blockIdx.x % q.blocks);
  e.lanes = q.points, e.lane = block * kColumnThreads + int(threadIdx.x), e.tables = static_cast<const Pair<C>*>(q.tables);
  Pair<C>* const times = dynamic_shared<Pair<C>>() + e.own(0);
  const i64 at = item * e.size() + e.lane;
  if (q.from) {
    const Pair<C>* from = static_cast<const Pair<C>*>(q.from) + at;
    SO_UNROLL
    for (int n = 0; n < e.POINTS; ++n) e.re(n) = from[i64(n) * q.points].x, e.im(n) = from[i64(n) * q.points].y;
    e.inverse();
  }
  if (q.step == kColumnTapGradient) column_tap_gradient(e, p, item);
  if (q.step == kColumnTaps) column_taps(e, p, item);
  if (q.step < kColumnTaps) {
    const int channel = q.first_channel + int(item / p.rows), sample = int(item % p.rows);
    const Row row = row_of(p, sample, channel, 0, true);
    RowSums<C> sums{};
    if (q.from) set_aside(e, times);
    column_times(e, q, item, row, sample, times, &sums);
    take_back(e, times);
    if (!half_reaches(e, 1, row.origin, row.length)) clear_half(e, 1);
    if (q.mask_parts || q.skip_parts) {
      __syncthreads();
      column_sums(q, (i64(channel) * p.rows + sample) * q.blocks + block, sums, dynamic_shared<C>());
    }
  }
  if (!q.to) return;
  e.forward();
  Pair<C>* to = static_cast<Pair<C>*>(q.to) + at;
  SO_UNROLL
  for (int n = 0; n < e.POINTS; ++n) to[i64(n) * q.points] = Pair<C>{e.re(n), e.im(n)};
}

struct LineParams {
  ConvParams conv;          // rows: items of a channel; chunk: of those one after the other in a block
  const void *from, *v, *natural;  // (items, P, M) complex; natural: spectra in natural order instead of `from`
  void *to, *to_natural, *products;
  i64 lines;                // channels x chunks x P
  int parts_log, filter, first_channel, multiply;  // multiply: 0 nothing, 1 the spectrum, 2 its conjugate
  double scale;
  bool forward, inverse, add;
};

template <typename E> SO_DEVICE void line_read(E& e, const LineParams& q, i64 item, int part) {
  using C = typename E::C;
  const int lanes = hidden(e.lanes);
  const i64 row = (item << q.parts_log) + part;
  if (q.natural) {
    const Pair<C>* from = static_cast<const Pair<C>*>(q.natural) + (item << q.parts_log) * e.size();
    const int s = reversed(part, q.parts_log);
    SO_UNROLL
    for (int n = 0; n < E::POINTS; ++n) {
      const i64 bin = (i64(e.bin(n)) << q.parts_log) + s;
      e.re(n) = from[bin].x, e.im(n) = from[bin].y;
    }
    return;
  }
  const Pair<C>* from = static_cast<const Pair<C>*>(q.from) + row * e.size() + e.lane;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) e.re(n) = from[n * lanes].x, e.im(n) = from[n * lanes].y;
}

template <typename E> SO_DEVICE void line_write(E& e, const LineParams& q, i64 item, int part) {
  using C = typename E::C;
  const int lanes = hidden(e.lanes);
  const C scale = C(q.scale);
  if (q.to_natural) {
    Pair<C>* to = static_cast<Pair<C>*>(q.to_natural) + (item << q.parts_log) * e.size();
    const int s = reversed(part, q.parts_log);
    SO_UNROLL
    for (int n = 0; n < E::POINTS; ++n)
      to[(i64(e.bin(n)) << q.parts_log) + s] = Pair<C>{scale * e.re(n), scale * e.im(n)};
    return;
  }
  Pair<C>* to = static_cast<Pair<C>*>(q.to) + ((item << q.parts_log) + part) * e.size() + e.lane;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    const Pair<C> old = q.add ? to[n * lanes] : Pair<C>{C(0), C(0)};
    to[n * lanes] = Pair<C>{fused(scale, e.re(n), old.x), fused(scale, e.im(n), old.y)};
  }
}

template <typename E>
SO_DEVICE void line_products(E& e, const LineParams& q, i64 item, i64 to_line, int part, bool first) {
  using C = typename E::C;
  const int lanes = hidden(e.lanes);
  const Pair<C>* v = static_cast<const Pair<C>*>(q.v) + ((item << q.parts_log) + part) * e.size() + e.lane;
  Pair<C>* to = static_cast<Pair<C>*>(q.products) + to_line * e.size() + e.lane;
  SO_UNROLL
  for (int n = 0; n < E::POINTS; ++n) {
    const Pair<C> a = v[n * lanes], old = first ? Pair<C>{C(0), C(0)} : to[n * lanes];
    const Pair<C> more = product(Pair<C>{a.x, -a.y}, Pair<C>{e.re(n), e.im(n)});
    to[n * lanes] = Pair<C>{old.x + more.x, old.y + more.y};
  }
}

template <typename E>
SO_KERNEL(E::BACKWARD_THREADS, 1)
fft_conv_lines(const LineParams q) {
  using C = typename E::C;
  const ConvParams& p = q.conv;
  E e(p.layout, dynamic_shared<C>(), p.tables);
  const i64 line = i64(blockIdx.x) * p.layout.slots + e.slot;
  const bool inside = line < q.lines;
  const int part = int(line & ((1 << q.parts_log) - 1));
  const i64 run = inside ? line >> q.parts_log : 0;  // of `chunk` rows of a channel
  const int channel = int(run / p.chunks), first = int(run % p.chunks) * p.chunk;
  for (int step = 0; step < p.chunk; ++step) {
    const bool live = inside && first + step < p.rows;
    const int sample = live ? first + step : 0;
    const i64 item = i64(channel) * p.rows + sample;
    line_read(e, q, item, part);
    if (q.forward) e.forward();
    if (q.products && live)
      line_products(e, q, item, ((i64(q.first_channel) * p.chunks + run) << q.parts_log) + part, part, step == 0);
    if (q.multiply) {
      const i64 kernel = (kernel_of(p, sample, q.filter, q.first_channel + channel) << q.parts_log) + part;
      if (q.multiply == 1)
        multiply_spectrum<false>(e, p, kernel);
      else
        multiply_spectrum<true>(e, p, kernel);
    }
    if (q.inverse) e.inverse();
    if (live && (q.to || q.to_natural)) line_write(e, q, item, part);
  }
}

}  // namespace fft
}  // namespace spectralops

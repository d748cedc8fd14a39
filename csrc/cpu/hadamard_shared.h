// Many rows, or long ones, over several threads.  For *_isa.cpp files.
//
// A row that exceeds a cache, or that would leave threads idle, goes through memory twice (or more): contiguous
// segments first, then strips of columns of the matrix whose row index is the next bits (and H_m) and whose columns
// are all below.
#pragma once

#include "cpu/hadamard_rows.h"
#include "cpu/parallel.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// Private memory of each slot.
struct Slots {
  u8* base;
  i64 bytes;

  template <typename C>
  SO_SIMD_MEMBER C* of(int slot) const {
    return reinterpret_cast<C*>(base + slot * bytes);
  }
};

// One level: bits [done, done + bits) and, if base.m > 1, H_m.
struct Level {
  Base base;
  int bits;
  int done;
};

template <typename S, typename U, typename C>
void shared_level(const Source<S, C>& in, const Sink<U, C>& out, const Level& level, i64 n, i64 inner,
                  const Slots& slots, int threads) {
  const i64 rows = i64(level.base.m) << level.bits, columns = inner << level.done, blocks = (n >> level.done) / rows;
  i64 width = strip_width<C>(rows, columns, kTileBytes);
  // Tiles enough for all threads.
  width = smaller(width, strip_width<C>(1, columns, columns * blocks / (4 * threads) * i64(sizeof(C))));
  width = smaller(width, kTileColumns);
  const i64 tiles = (columns + width - 1) / width;
  parallel_for(threads, blocks * tiles, [&](i64 task, int slot) {
    int* const table = slots.of<int>(slot);
    C* const work = slots.of<C>(slot) + kTileColumns * 4 / i64(sizeof(C));
    const i64 block = task / tiles, column = task % tiles * width, here = smaller(width, columns - column);
    Source<S, C> from = in.moved(block * rows * columns, block * (rows << level.done)).columns(column);
    Sink<U, C> to = out.moved(block * rows * columns, block * (rows << level.done)).columns(column);
    if (inner > 1 && level.done) {  // a matrix row holds several positions of the axis
      for (i64 c = 0; c < here; ++c) table[c] = int((column + c) / inner);
      from.signs.table = to.signs.table = table;
    }
    strips(from, to, work, level.base, level.bits, here, width);
    if (to.streams) end_of_stream();
  });
}

// From natural order, a tile of 32 by 32 positions at a time where the order reverses the bits, so that both sides
// touch whole lines.
template <typename T, typename U>
void shared_order(const compute_t<T>* natural, const Rows<T, U>& rows, const HadamardAxis& axis, i64 r, int threads) {
  using C = compute_t<T>;
  const Order order{axis.bits, axis.order_in, axis.order_out};
  if (axis.inner > 1 || !order.reverses() || axis.bits < 12) {
    const i64 piece = smaller(4096, axis.n);
    return parallel_for(threads, axis.n / piece,
                        [&](i64 task) { put_row(natural, rows, axis, r, task * piece, piece); });
  }
  const int middle_bits = axis.bits - 10;
  u32 low[32];
  for (u32 i = 0; i < 32; ++i) low[i] = order.row(i);
  const Sink<U, C> out = rows.sink(axis.n, 1, r);
  // The top middle bit runs fastest: the gray code ties it to the same lines.
  parallel_for(threads, i64(1) << middle_bits, [&](i64 task) {
    const i64 middle = (task & 1) << (middle_bits - 1) | task >> 1;
    for (i64 h = 0; h < 32; ++h) {
      const i64 first = h << (axis.bits - 5) | middle << 5;
      const u32 high = order.row(u32(first));
      put_fetched(out, first, 32, [&](i64 i) { return natural[high ^ low[i]]; });
    }
  });
}

// Row r by all threads.  whole: n inner elements, needed unless y can hold the intermediate.
template <typename T, typename U>
void shared_row(const Rows<T, U>& rows, const HadamardAxis& axis, i64 r, compute_t<T>* whole, const Slots& slots,
                int threads) {
  using C = compute_t<T>;
  const i64 n = axis.n, inner = axis.inner;
  const bool natural = Order{axis.bits, axis.order_in, axis.order_out}.natural();
  if constexpr (same_type<U, C>::value)
    if (natural) whole = rows.y + r * n * inner;

  int done = segment_bits(axis.m, axis.bits, inner, sizeof(C));
  const bool streams = rows.streams && inner == 1;  // whole lines, whatever the level
  if (done) {
    const HadamardAxis segment{i64(1) << done, inner, 1, done, nullptr, 0, 0};
    const i64 size = inner << done;
    const Factors<C> signs = rows.factors(rows.signs_in, n, inner, r);
    parallel_for(threads, n >> done, [&](i64 task, int slot) {
      const Rows<T, C> part{rows.x + r * rows.x_stride + task * size,
                            0,
                            1,
                            whole + task * size,
                            signs.at ? signs.at + (task << done) : nullptr,
                            nullptr,
                            1,
                            0,
                            C(1),
                            streams};
      transform_rows(part, segment, slots.of<C>(slot));
      if (streams) end_of_stream();
    });
  }
  for (bool first = done == 0, last = false; !last; first = false) {
    const int left = axis.bits - done, bits = left < kTileBits ? left : kTileBits;
    const bool with_base = bits == left && (bits == 0 || i64(axis.m) << bits <= i64(1) << kTileBits);
    last = with_base || (bits == left && axis.m == 1);
    const Level level{with_base ? base_of(axis) : Base{}, bits, done};
    const i64 columns = inner << done;
    const Source<C, C> from{whole, columns, {}};
    const Sink<C, C> to{whole, columns, C(1), {}, streams};
    Source<T, C> x = rows.source(n, inner, r);  // first only where done is 0: one position a row
    Sink<U, C> y = rows.sink(n, inner, r);
    y.stride = columns;
    y.signs.row = i64(1) << done;
    // Not where its lines have just been read.
    if (done && static_cast<void*>(whole) == rows.y + r * n * inner) y.streams = false;
    if (first && last && natural) shared_level(x, y, level, n, inner, slots, threads);
    else if (first) shared_level(x, to, level, n, inner, slots, threads);
    else if (last && natural) shared_level(from, y, level, n, inner, slots, threads);
    else shared_level(from, to, level, n, inner, slots, threads);
    done += bits;
  }
  if (!natural) shared_order(whole, rows, axis, r, threads);
}

// All rows.  memory: the intermediate of a shared row if it needs one, then the slots; where each thread has rows of
// its own, the intermediate is part of the slot.
template <typename T, typename U>
void transform(Rows<T, U> rows, const HadamardAxis& axis, void* memory, int threads) {
  using C = compute_t<T>;
  const i64 n = axis.n, inner = axis.inner, row_bytes = n * inner * i64(sizeof(U));
  const bool in_place = same_type<U, C>::value && Order{axis.bits, axis.order_in, axis.order_out}.natural();
  rows.streams = rows.count * row_bytes >= kStreamBytes && row_bytes % 64 == 0 &&
                 (inner == 1 || inner * i64(sizeof(U)) % 64 == 0) && (reinterpret_cast<u64>(rows.y) & 63u) == 0;
  const Rowwise how = rowwise(rows.count, n, inner, sizeof(C), threads);
  const i64 slot = slot_bytes(how, n, inner, axis.m, sizeof(C)),
            whole = intermediate_bytes(how, in_place, n, inner, sizeof(C));
  u8* const aligned = static_cast<u8*>(memory) + (-reinterpret_cast<u64>(memory) & 63u);
  if (how == Rowwise::shared) {
    const Slots slots{aligned + whole, slot};
    for (i64 r = 0; r < rows.count; ++r) shared_row(rows, axis, r, reinterpret_cast<C*>(aligned), slots, threads);
    return;
  }
  if (how == Rowwise::own) {
    return parallel_for(threads, rows.count, [&](i64 r, int s) {
      u8* const own = aligned + s * (whole + slot);
      shared_row(rows, axis, r, reinterpret_cast<C*>(own), Slots{own + whole, slot}, 1);
    });
  }
  const i64 piece = larger(1, kTaskBytes / (n * inner * i64(sizeof(C)))), tasks = (rows.count + piece - 1) / piece;
  const auto run = [&](i64 task, u8* work) {
    Rows<T, U> part = rows;
    part.x += task * piece * rows.x_stride;
    part.y += task * piece * n * inner;
    part.sign_first += task * piece;
    part.count = smaller(piece, rows.count - task * piece);
    transform_rows(part, axis, reinterpret_cast<C*>(work));
    if (rows.streams) end_of_stream();
  };
  if (slot <= kStackBytes)
    return parallel_for(threads, tasks, [&](i64 task) {
      alignas(64) u8 local[kStackBytes];
      run(task, local);
    });
  parallel_for(threads, tasks, [&](i64 task, int s) { run(task, aligned + s * slot); });
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

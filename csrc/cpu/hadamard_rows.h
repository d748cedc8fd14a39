// Rows that one thread transforms whole.  For *_isa.cpp files.
#pragma once

#include "cpu/hadamard_passes.h"
#include "cpu/hadamard_plan.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

SO_SIMD Base base_of(const HadamardAxis& axis) {
  return axis.m > 1 ? Base{axis.m, (axis.m + 3) / 4, axis.index} : Base{};
}

// ---- orders ----
// Dyadic position i holds natural row rev(i), sequency position i row rev(gray(i)).  Both matrices are symmetric over
// GF(2), so H P_in^T = (rows P_in of H): an ordered input, too, is a matter of which row of the natural transform an
// output takes.
struct Order {
  int bits;
  int in, out;

  SO_SIMD_MEMBER bool natural() const { return in == out && in != 2; }
  SO_SIMD_MEMBER bool reverses() const { return (in == 0) != (out == 0); }
  SO_SIMD_MEMBER u32 step(u32 i, int order) const {
    if (order == 0) return i;
    if (order == 2) i ^= i >> 1;
    i = (i & 0x55555555u) << 1 | (i >> 1 & 0x55555555u);
    i = (i & 0x33333333u) << 2 | (i >> 2 & 0x33333333u);
    i = (i & 0x0f0f0f0fu) << 4 | (i >> 4 & 0x0f0f0f0fu);
    return bits ? __builtin_bswap32(i) >> (32 - bits) : 0;
  }
  SO_SIMD_MEMBER u32 row(u32 i) const { return step(step(i, out), in); }  // linear: row(i ^ j) = row(i) ^ row(j)
};

// Elements [first, first + count) of a flat output, each fetched from somewhere.
template <typename C, typename U, typename Fetch>
SO_SIMD void put_fetched(const Sink<U, C>& out, i64 first, i64 count, Fetch fetch) {
  constexpr int kBuffer = 64;
  alignas(64) C buffer[kBuffer] = {};
  for (i64 done = 0; done < count; done += kBuffer) {
    const int now = int(count - done < kBuffer ? count - done : kBuffer);
    for (int i = 0; i < now; ++i) buffer[i] = fetch(done + i);
    stage_out(Scratch<C>{buffer, kBuffer}, out.columns(first + done), 1, now);
  }
}

// Positions [first, first + count) of a row (n, inner) that lies in natural order, count a power of two that divides
// first. out: a flat view; its factors, if any, are per position.
template <typename U, typename C>
void put_ordered(const C* natural, const Sink<U, C>& out, const Order& order, i64 inner, i64 first, i64 count) {
  constexpr int kTable = 256;
  u32 table[kTable];
  const int run = int(count < kTable ? count : kTable);
  for (int i = 0; i < run; ++i) table[i] = order.row(u32(i));
  for (i64 base = first; base < first + count; base += run) {
    const u32 high = order.row(u32(base));
    if (inner == 1) {
      put_fetched(out, base, run, [&](i64 i) { return natural[high ^ table[i]]; });
      continue;
    }
    for (int i = 0; i < run; ++i) {
      const C* from = natural + i64(high ^ table[i]) * inner;
      put_fetched(out, (base + i) * inner, inner, [&](i64 r) { return from[r]; });
    }
  }
}

// ---- views of rows ----
template <typename T, typename U>
struct Rows {
  using C = compute_t<T>;
  const T* x;  // `count` rows of (n, inner), x_stride apart
  i64 x_stride;
  i64 count;
  U* y;  // contiguous
  const C* signs_in;
  const C* signs_out;
  i64 sign_blocks;
  i64 sign_first;  // the row of signs of the first row
  C scale;
  bool streams;  // see Sink

  SO_SIMD_MEMBER Factors<C> factors(const C* signs, i64 n, i64 inner, i64 row) const {
    if (!signs) return {};
    return {signs + (sign_first + row) % sign_blocks * n, inner == 1 ? n : 1, inner == 1, nullptr};
  }
  SO_SIMD_MEMBER Source<T, C> source(i64 n, i64 inner, i64 row) const {
    return {x + row * x_stride, inner, factors(signs_in, n, inner, row)};
  }
  SO_SIMD_MEMBER Sink<U, C> sink(i64 n, i64 inner, i64 row) const {
    return {y + row * n * inner, inner, scale, factors(signs_out, n, inner, row), streams};
  }
};

// One row, 2^bits >= lanes if inner = 1.
template <typename S, typename U, typename C>
void whole_row(const Source<S, C>& in, const Sink<U, C>& out, const HadamardAxis& axis, C* work) {
  const Base base = base_of(axis);
  if (axis.inner > 1)
    return strips(in, out, work, base, axis.bits, axis.inner, strip_width<C>(axis.n, axis.inner, kNearBytes));
  constexpr int most = log2_floor(kLeafBytes / sizeof(C));
  const int bits = axis.bits < most ? axis.bits : most;
  const i64 width = i64(1) << bits, rows = axis.n >> bits;
  if (rows == 1) return leaf(in, out, work, bits);
  const Sink<U, C> folded = out.folded(width);
  if constexpr (same_type<U, C>::value) {
    // Few rows (a power of two apart, they share a set of the cache) are finished where they belong.
    if (axis.m == 1 && rows <= 8 && out.direct() && !out.streams) {
      const Scratch<C> own{out.data, width};
      for (i64 r = 0; r < rows; ++r) leaf(in.columns(r * width), own.columns(r * width), work, bits);
      return all_passes<C>(own, folded, own, base, axis.bits - bits, width);
    }
  }
  // A line of padding after long rows, so that a column does not fall into one set of the cache.
  const i64 stride = width + (width * i64(sizeof(C)) >= 1024 ? 64 / i64(sizeof(C)) : 0);
  for (i64 r = 0; r < rows; ++r)
    leaf(in.columns(r * width), Scratch<C>{work + r * stride, width}, work + r * stride, bits);
  const i64 strip = strip_width<C>(rows, width, kNearBytes);
  for (i64 c = 0; c < width; c += strip) {
    const Scratch<C> own{work + c, stride};
    const i64 here = smaller(strip, width - c);
    if (out.direct()) {
      all_passes<C>(own, folded.columns(c), own, base, axis.bits - bits, here);
    } else {
      all_passes<C>(own, own, own, base, axis.bits - bits, here);
      stage_out(own, folded.columns(c), rows, here);
    }
  }
}

// A small inner axis beside a long one: taken apart into `inner` contiguous rows and put together again.
template <typename T, typename U>
void apart(const Rows<T, U>& rows, const HadamardAxis& axis, i64 row, compute_t<T>* work) {
  using C = compute_t<T>;
  const i64 n = axis.n;
  const int inner = int(axis.inner);
  C* const lane = work;
  work += (n * inner + 15) / 16 * 16;
  alignas(64) C buffer[8 * 16];
  const T* x = rows.x + row * rows.x_stride;
  for (i64 i = 0; i < n; i += lanes<C>) {  // n is a multiple of lanes
    for (int v = 0; v < inner; ++v) store(buffer + v * lanes<C>, load<C>(x + i * inner + v * lanes<C>));
    for (int r = 0; r < inner; ++r)
      for (int l = 0; l < lanes<C>; ++l) lane[r * n + i + l] = buffer[l * inner + r];
  }
  HadamardAxis one = axis;
  one.inner = 1;
  for (int r = 0; r < inner; ++r) {
    const Source<C, C> in{lane + r * n, n, rows.factors(rows.signs_in, n, 1, row)};
    const Sink<C, C> out{lane + r * n, n, rows.scale, rows.factors(rows.signs_out, n, 1, row)};
    whole_row(in, out, one, work);
  }
  U* y = rows.y + row * n * inner;
  for (i64 i = 0; i < n; i += lanes<C>) {
    for (int r = 0; r < inner; ++r)
      for (int l = 0; l < lanes<C>; ++l) buffer[l * inner + r] = lane[r * n + i + l];
    for (int v = 0; v < inner; ++v) store(y + i * inner + v * lanes<C>, load<C>(buffer + v * lanes<C>));
  }
}

// Rows whose contiguous runs are shorter than a vector: some of them side by side, (n, rows, inner).
template <typename T, typename U>
void side_by_side(const Rows<T, U>& rows, const HadamardAxis& axis, compute_t<T>* work) {
  using C = compute_t<T>;
  const i64 inner = axis.inner, n = axis.n, length = n * inner;
  i64 together = kNearBytes / (length * i64(sizeof(C)));
  if (together * inner < lanes<C>) together = (lanes<C> + inner - 1) / inner;
  const i64 stride = (together * inner + lanes<C> - 1) / lanes<C> * lanes<C>;
  const Scratch<C> all{work, stride};
  const Order order{axis.bits, axis.order_in, axis.order_out};
  alignas(64) C buffer[64];
  for (i64 first = 0; first < rows.count; first += together) {
    const i64 count = smaller(together, rows.count - first);
    for (i64 p = 0; p < count; ++p) {
      const Source<T, C> in = rows.source(n, inner, first + p);
      const Factors<C> f = in.signs;
      C* column = work + p * inner;
      i64 r = 0, i = 0;  // position (i, r) of (n, inner)
      for (i64 e = 0; e < length; e += lanes<C>) {
        const int now = int(smaller(length - e, lanes<C>));
        store(buffer, now == lanes<C> ? load<C>(in.data + e) : load_partial<C>(in.data + e, now));
        for (int l = 0; l < now; ++l) {
          column[r] = f.at ? buffer[l] * f.at[i] : buffer[l];
          if (++r == inner) r = 0, ++i, column += stride;
        }
      }
    }
    all_passes<C>(all, all, all, base_of(axis), axis.bits, stride);
    for (i64 p = 0; p < count; ++p) {
      const Factors<C> f = rows.factors(rows.signs_out, n, inner, first + p);
      const Sink<U, C> out{rows.y + (first + p) * length, length, C(1), {}};
      const C* column = work + p * inner;
      i64 r = 0, i = 0;
      const bool ordered = !order.natural();
      put_fetched(out, 0, length, [&](i64) {
        C v = (ordered ? column[i64(order.row(u32(i))) * stride + r] : column[i * stride + r]) * rows.scale;
        if (f.at) v = v * f.at[i];
        if (++r == inner) r = 0, ++i;
        return v;
      });
    }
  }
}

// Positions [first, first + count) of row r, from the row in natural order.
template <typename T, typename U>
void put_row(const compute_t<T>* natural, const Rows<T, U>& rows, const HadamardAxis& axis, i64 r, i64 first,
             i64 count) {
  using C = compute_t<T>;
  const Order order{axis.bits, axis.order_in, axis.order_out};
  const Sink<U, C> out = rows.sink(axis.n, axis.inner, r);
  if (axis.inner == 1 || !rows.signs_out) return put_ordered(natural, out, order, axis.inner, first, count);
  for (i64 i = first; i < first + count; ++i) {
    const C* from = natural + i64(order.row(u32(i))) * axis.inner;
    put_fetched(out.moved(i * axis.inner, i), 0, axis.inner, [&](i64 e) { return from[e]; });
  }
}

// `count` rows by one thread.  work: row_scratch_bytes.
template <typename T, typename U>
void transform_rows(const Rows<T, U>& rows, const HadamardAxis& axis, compute_t<T>* work) {
  using C = compute_t<T>;
  const i64 n = axis.n, inner = axis.inner;
  const Order order{axis.bits, axis.order_in, axis.order_out};
  const bool adjoin = rows.x_stride == n || rows.count == 1;
  const bool plain = !rows.signs_in && !rows.signs_out && order.natural();
  const bool narrow = inner == 1 || (inner < 8 && 2 * inner < lanes<C>);
  if (inner == 1 && axis.m == 1 && adjoin && plain && axis.bits <= kLaneBits<C> + kRadixBits) {
    const Source<T, C> in = rows.source(n, 1, 0);
    const Sink<U, C> out = rows.sink(n, 1, 0);
    if (axis.bits < kLaneBits<C>) return short_runs<C>(axis.bits, in, out, rows.count * n);
    return to_output<true>(out, [&](const auto& to) { block_pass<C>(axis.bits, in, to, rows.count); });
  }
  if (narrow && axis.bits < kLaneBits<C>) return side_by_side(rows, axis, work);
  C* const result = work;
  if (!order.natural()) work += row_result_bytes(n, inner, sizeof(C)) / i64(sizeof(C));
  for (i64 r = 0; r < rows.count; ++r) {
    if (order.natural()) {
      if (inner > 1 && narrow) apart(rows, axis, r, work);
      else whole_row(rows.source(n, inner, r), rows.sink(n, inner, r), axis, work);
      continue;
    }
    // Natural order first; scale and signs_out with the second reading.
    Rows<T, C> first{rows.x + r * rows.x_stride, 0,    1,    result, rows.signs_in, nullptr, rows.sign_blocks,
                     rows.sign_first + r,        C(1), false};
    if (inner > 1 && narrow) apart(first, axis, 0, work);
    else whole_row(first.source(n, inner, 0), first.sink(n, inner, 0), axis, work);
    put_row(result, rows, axis, r, 0, n);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

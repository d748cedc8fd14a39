// One factor of the transform along a strided axis: L = 2^b (b <= 10) or the base factor, over (outer, before, L, after) with `after` contiguous.
//
// Neighbouring lanes take neighbouring columns, so every access is coalesced and the exchange in shared memory, one row of 32 columns a bank
// sweep, needs no padding.  Used along any axis but the last, and for the high bits of transforms that do not fit on a chip.
#pragma once

#include "spectralops/hadamard_rows.h"

namespace spectralops {
namespace hadamard {

constexpr int kColumns = 32;            // columns of a block that exchanges (one warp wide)
constexpr int kColumnThreads = 256;     // threads where every thread owns a column
constexpr int kStridedBits = 10;        // 32 warps x 32 values x 32 columns

struct Strided {
  const void* x;
  void* y;
  const void* signs_in;
  const void* signs_out;
  const void* base;
  i64 columns;           // outer * before * after
  i64 before, after;
  i64 inner;             // the axis' own stride: after / inner places of the axis lie below this factor
  i64 x_stride, sign_blocks;
  double scale;
  int bits, length;      // L = 2^bits, or the base size
  int order_in, order_out, order_bits;  // the first factor only (after == inner)
  int order_at_store;    // this is the only factor: the output is reordered where it is stored
};

struct Column { i64 x, y, sign, index; bool valid; };
SO_DEVICE Column column_of(const Strided& p, i64 q) {
  Column c;
  c.valid = q < p.columns;
  if (!c.valid) q = 0;
  const i64 slice = quotient(q, p.after), after = q - slice * p.after;
  const i64 outer = quotient(slice, p.before), before = slice - outer * p.before;
  const i64 below = p.after == p.inner ? 1 : p.after / p.inner;  // places of the axis between two steps of this factor
  c.x = outer * p.x_stride + before * p.length * p.after + after;
  c.y = slice * p.length * p.after + after;
  c.index = before * p.length;
  c.sign = (p.sign_blocks == 1 ? 0 : modulo(outer, p.sign_blocks)) * p.before * p.length * below + c.index * below +
           (p.after == p.inner ? 0 : quotient(after, p.inner));
  return c;
}

template <typename In>
SO_DEVICE compute_t<In> load_step(const Strided& p, const Column& c, i64 step) {
  using C = compute_t<In>;
  if (!c.valid) return C(0);
  if (p.order_bits) {
    const u32 index = u32(c.index + step);
    step = i64(position_of(p.order_at_store ? index : adjoint_of(index, p.order_out, p.order_bits), p.order_in, p.order_bits)) - c.index;
  }
  const C value = C(widen(static_cast<const In*>(p.x)[c.x + step * p.after]));
  if (p.signs_in == nullptr) return value;
  return times(value, static_cast<const C*>(p.signs_in)[c.sign + step * (p.after == p.inner ? 1 : p.after / p.inner)]);
}

template <typename Out, typename C>
SO_DEVICE void store_step(const Strided& p, const Column& c, i64 step, C value) {
  if (!c.valid) return;
  if (p.order_at_store) step = position_of(u32(step), p.order_out, p.order_bits);
  value = times(value, scale_as<C>(p.scale));
  if (p.signs_out)
    value = times(value, static_cast<const C*>(p.signs_out)[c.sign + step * (p.after == p.inner ? 1 : p.after / p.inner)]);
  static_cast<Out*>(p.y)[c.y + step * p.after] = narrow<Out>(value);
}

}  // namespace hadamard

// L = 2^bits <= 32: a thread owns a column.
template <typename In, typename Out>
SO_KERNEL(hadamard::kColumnThreads, 1) hadamard_columns(const hadamard::Strided p) {
  using C = compute_t<In>;
  const i64 step = i64(gridDim.x) * blockDim.x;
  for (i64 q = i64(blockIdx.x) * blockDim.x + threadIdx.x; q < p.columns; q += step) {
    const hadamard::Column column = hadamard::column_of(p, q);
    C v[hadamard::kValues];
    SO_UNROLL
    for (int r = 0; r < hadamard::kValues; ++r) v[r] = r < p.length ? hadamard::load_step<In>(p, column, r) : C(0);
    SO_UNROLL
    for (int bit = 0; bit < hadamard::kValueBits; ++bit)
      if (bit < p.bits) hadamard::butterfly(v, bit);
    SO_UNROLL
    for (int r = 0; r < hadamard::kValues; ++r)
      if (r < p.length) hadamard::store_step<Out>(p, column, r, v[r]);
  }
}

// 32 < L <= 1024: bits 0 .. 4 in registers, an exchange, then the others.  Warps: L / 32.
template <typename In, typename Out>
SO_KERNEL(sizeof(compute_t<In>) == 8 ? 512 : 1024, 1) hadamard_strided(const hadamard::Strided p) {
  using C = compute_t<In>;
  C* shared = dynamic_shared<C>();
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, high = p.bits - hadamard::kValueBits;
  const i64 step = i64(gridDim.x) * hadamard::kColumns;
  for (i64 q = i64(blockIdx.x) * hadamard::kColumns; q < p.columns; q += step) {
    const hadamard::Column column = hadamard::column_of(p, q + lane);
    C v[hadamard::kValues];
    SO_UNROLL
    for (int r = 0; r < hadamard::kValues; ++r) v[r] = hadamard::load_step<In>(p, column, (warp << 5) | r);
    SO_UNROLL
    for (int bit = 0; bit < hadamard::kValueBits; ++bit) hadamard::butterfly(v, bit);
    SO_UNROLL
    for (int r = 0; r < hadamard::kValues; ++r) shared[(((warp << 5) | r) << 5) | lane] = v[r];
    __syncthreads();
    // Registers: the `high` high bits of L, then what is left of its 5 low bits above the warp's share.
    const int mask = (1 << high) - 1;
    SO_UNROLL
    for (int r = 0; r < hadamard::kValues; ++r)
      v[r] = shared[((((r & mask) << 5) | ((r >> high) << high) | warp) << 5) | lane];
    SO_UNROLL
    for (int bit = 0; bit < hadamard::kValueBits; ++bit)
      if (bit < high) hadamard::butterfly(v, bit);
    SO_UNROLL
    for (int r = 0; r < hadamard::kValues; ++r)
      hadamard::store_step<Out>(p, column, ((r & mask) << 5) | ((r >> high) << high) | warp, v[r]);
    __syncthreads();
  }
}

// The base factor: L = m <= 256.
template <typename In, typename Out>
SO_KERNEL(hadamard::kColumnThreads, 1) hadamard_strided_base(const hadamard::Strided p) {
  using C = compute_t<In>;
  C* shared = dynamic_shared<C>();
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, warps = int(blockDim.x) >> 5;
  const i64 step = i64(gridDim.x) * hadamard::kColumns;
  for (i64 q = i64(blockIdx.x) * hadamard::kColumns; q < p.columns; q += step) {
    const hadamard::Column column = hadamard::column_of(p, q + lane);
    for (int i = warp; i < p.length; i += warps) shared[(i << 5) | lane] = hadamard::load_step<In>(p, column, i);
    __syncthreads();
    for (int j = warp * hadamard::kBaseOutputs; j < p.length; j += warps * hadamard::kBaseOutputs) {
      C sum[hadamard::kBaseOutputs][1];
      hadamard::base_sums<C, 1>(static_cast<const u32*>(p.base), p.length, j,
                                [&](int i, C (&x)[1]) { x[0] = shared[(i << 5) | lane]; }, sum);
      SO_UNROLL
      for (int o = 0; o < hadamard::kBaseOutputs; ++o)
        if (j + o < p.length) hadamard::store_step<Out>(p, column, j + o, sum[o][0]);
    }
    __syncthreads();
  }
}

}  // namespace spectralops

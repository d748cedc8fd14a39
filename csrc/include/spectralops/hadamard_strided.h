// One factor of the transform along a strided axis: L = 2^b (b <= 10) or the base factor, over (outer, before, L,
// after) with `after` contiguous.
//
// Neighbouring lanes take neighbouring columns, so every access is coalesced and the exchange in shared memory, one
// row of 32 columns a bank sweep, needs no padding. Used along any axis but the last, and for the high bits of
// transforms that do not fit on a chip.
#pragma once

#include "spectralops/hadamard_rows.h"

namespace spectralops {
namespace hadamard {

constexpr int kColumns = 32;         // columns of a block that exchanges (one warp wide)
constexpr int kColumnThreads = 128;  // threads where every thread owns a column
constexpr int kBaseThreads = 256;    // threads of the base factor: 8 warps share the outputs of 32 columns
// Threads of a block that exchanges: few enough for 128 registers each, 255 for 8-byte values.
template <typename T> constexpr SO_HOST_DEVICE int strided_threads() { return sizeof(compute_t<T>) == 8 ? 256 : 512; }

struct Strided {
  const void* x;
  void* y;
  const void* signs_in;
  const void* signs_out;
  const void* base;
  i64 columns;  // outer * before * after
  i64 before, after;
  i64 inner;  // the axis' own stride: after / inner places of the axis lie below this factor
  i64 x_stride, sign_blocks;
  double scale;
  int bits, length;                     // L = 2^bits, or the base size
  int order_in, order_out, order_bits;  // the first factor only (after == inner)
  int order_at_store;                   // this is the only factor: the output is reordered where it is stored
};

struct Column {
  i64 x, y;       // offsets of step 0
  i64 sign;       // of the signs' row
  i64 below, at;  // steps of this factor are `below` places of the axis apart, from place `at`
  i64 index;      // steps of the axis that lie before this part (the first factor only)
  bool valid;
};
SO_DEVICE Column column_of(const Strided& p, i64 q) {
  Column c;
  c.valid = q < p.columns;
  if (!c.valid) q = 0;
  const i64 slice = quotient(q, p.after), after = q - slice * p.after;
  const i64 outer = quotient(slice, p.before), before = slice - outer * p.before;
  c.index = before * p.length;
  c.x = outer * p.x_stride + c.index * p.after + after;
  c.y = slice * p.length * p.after + after;
  c.below = p.after == p.inner ? 1 : p.after / p.inner;
  c.at = c.index * c.below + (p.after == p.inner ? 0 : quotient(after, p.inner));
  c.sign = (p.sign_blocks == 1 ? 0 : modulo(outer, p.sign_blocks)) * p.before * p.length * c.below;
  return c;
}

// Where the 32 steps of a thread lie. Every order is linear over bits, so a step's place is the exclusive or of the
// places of its bits.
struct Steps {
  u32 origin, bit[kValueBits];
  SO_DEVICE u32 operator[](int r) const {
    return origin ^ (r & 1 ? bit[0] : 0u) ^ (r & 2 ? bit[1] : 0u) ^ (r & 4 ? bit[2] : 0u) ^ (r & 8 ? bit[3] : 0u) ^
           (r & 16 ? bit[4] : 0u);
  }
};
// Register bit j stands for bit j of the step below `split` and is moved up by `lift` bits there: the layouts before
// and after the exchange.
template <typename Place> SO_DEVICE Steps steps_of(u32 origin, int split, int lift, const Place& place) {
  Steps s;
  s.origin = place(origin);
  SO_UNROLL
  for (int j = 0; j < kValueBits; ++j) s.bit[j] = place(1u << (j < split ? j + lift : j));
  return s;
}

template <typename In>
SO_DEVICE void load_steps(const Strided& p, const Column& c, u32 origin, compute_t<In> (&v)[kValues]) {
  using C = compute_t<In>;
  const u32 first = p.order_bits ? u32(c.index) : 0u;
  const Steps steps = steps_of(origin | first, 0, 0, [&](u32 i) {
    return p.order_bits
               ? position_of(p.order_at_store ? i : adjoint_of(i, p.order_out, p.order_bits), p.order_in, p.order_bits)
               : i;
  });
  const In* x = static_cast<const In*>(p.x) + c.x - i64(first) * p.after;
  SO_UNROLL
  for (int r = 0; r < kValues; ++r) v[r] = c.valid && r < p.length ? C(widen(x[i64(steps[r]) * p.after])) : C(0);
  if (p.signs_in == nullptr || !c.valid) return;
  const C* signs = static_cast<const C*>(p.signs_in) + c.sign + c.at - i64(first) * c.below;
  SO_UNROLL
  for (int r = 0; r < kValues; ++r)
    if (r < p.length) v[r] = times(v[r], signs[i64(steps[r]) * c.below]);
}

// The register bits below `split` are the step's bits from kValueBits on.
template <typename Out, typename C>
SO_DEVICE void store_steps(const Strided& p, const Column& c, u32 origin, int split, C (&v)[kValues]) {
  if (!c.valid) return;
  const Steps steps = steps_of(origin, split, kValueBits,
                               [&](u32 i) { return p.order_at_store ? position_of(i, p.order_out, p.order_bits) : i; });
  Out* y = static_cast<Out*>(p.y) + c.y;
  const C* signs = p.signs_out ? static_cast<const C*>(p.signs_out) + c.sign + c.at : nullptr;
  SO_UNROLL
  for (int r = 0; r < kValues; ++r) {
    if (r >= p.length) continue;
    C value = times(v[r], scale_as<C>(p.scale));
    if (signs) value = times(value, signs[i64(steps[r]) * c.below]);
    y[i64(steps[r]) * p.after] = narrow<Out>(value);
  }
}

}  // namespace hadamard

// L = 2^bits <= 32: a thread owns a column.
template <typename In, typename Out>
SO_KERNEL(hadamard::kColumnThreads, sizeof(compute_t<In>) == 8 ? 2 : 3)
hadamard_columns(const hadamard::Strided p) {
  using C = compute_t<In>;
  const i64 step = i64(gridDim.x) * blockDim.x;
  for (i64 q = i64(blockIdx.x) * blockDim.x + threadIdx.x; q < p.columns; q += step) {
    const hadamard::Column column = hadamard::column_of(p, q);
    C v[hadamard::kValues];
    hadamard::load_steps<In>(p, column, 0, v);
    SO_UNROLL
    for (int bit = 0; bit < hadamard::kValueBits; ++bit)
      if (bit < p.bits) hadamard::butterfly(v, bit);
    hadamard::store_steps<Out>(p, column, 0, 0, v);
  }
}

// 32 < L <= 1024: bits 0 .. 4 in registers, an exchange, then the others. Warps share the L / 32 parts.
template <typename In, typename Out>
SO_KERNEL(hadamard::strided_threads<In>(), 1)
hadamard_strided(const hadamard::Strided p) {
  using C = compute_t<In>;
  C* shared = dynamic_shared<C>();
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, warps = int(blockDim.x) >> 5;
  const int high = p.bits - hadamard::kValueBits, parts = 1 << high;
  const i64 step = i64(gridDim.x) * hadamard::kColumns;
  for (i64 q = i64(blockIdx.x) * hadamard::kColumns; q < p.columns; q += step) {
    const hadamard::Column column = hadamard::column_of(p, q + lane);
    C v[hadamard::kValues];
    SO_UNROLL_BY(1)
    for (int part = warp; part < parts; part += warps) {
      hadamard::load_steps<In>(p, column, u32(part) << 5, v);
      SO_UNROLL
      for (int bit = 0; bit < hadamard::kValueBits; ++bit) hadamard::butterfly(v, bit);
      SO_UNROLL
      for (int r = 0; r < hadamard::kValues; ++r) shared[(((part << 5) | r) << 5) | lane] = v[r];
    }
    __syncthreads();
    const hadamard::Column out = hadamard::column_of(p, q + hadamard::opaque(lane));  // anew, not kept meanwhile
    SO_UNROLL_BY(1)
    for (int part = warp; part < parts; part += warps) {
      // Registers: the `high` high bits of L, then what is left of its 5 low bits above the part's share.
      SO_UNROLL
      for (int r = 0; r < hadamard::kValues; ++r)
        v[r] = shared[((((r & (parts - 1)) << 5) | ((r >> high) << high) | part) << 5) | lane];
      SO_UNROLL
      for (int bit = 0; bit < hadamard::kValueBits; ++bit)
        if (bit < high) hadamard::butterfly(v, bit);
      hadamard::store_steps<Out>(p, out, u32(part), high, v);
    }
    __syncthreads();
  }
}

// The base factor: L = m <= 256.
template <typename In, typename Out>
SO_KERNEL(hadamard::kBaseThreads, 1)
hadamard_strided_base(const hadamard::Strided p) {
  using C = compute_t<In>;
  C* shared = dynamic_shared<C>();
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, warps = int(blockDim.x) >> 5;
  const i64 step = i64(gridDim.x) * hadamard::kColumns;
  for (i64 q = i64(blockIdx.x) * hadamard::kColumns; q < p.columns; q += step) {
    const hadamard::Column column = hadamard::column_of(p, q + lane);
    for (int i = warp; i < p.length; i += warps) {
      C value = column.valid ? C(widen(static_cast<const In*>(p.x)[column.x + i * p.after])) : C(0);
      if (p.signs_in)
        value = hadamard::times(value, static_cast<const C*>(p.signs_in)[column.sign + column.at + i * column.below]);
      shared[(i << 5) | lane] = value;
    }
    __syncthreads();
    for (int j = warp * hadamard::kBaseOutputs; j < p.length; j += warps * hadamard::kBaseOutputs) {
      C sum[hadamard::kBaseOutputs][1];
      hadamard::base_sums<C, 1>(
          static_cast<const u32*>(p.base), p.length, j, [&](int i, C(&x)[1]) { x[0] = shared[(i << 5) | lane]; }, sum);
      SO_UNROLL
      for (int o = 0; o < hadamard::kBaseOutputs; ++o) {
        if (!column.valid || j + o >= p.length) continue;
        C value = hadamard::times(sum[o][0], hadamard::scale_as<C>(p.scale));
        if (p.signs_out)
          value = hadamard::times(value,
                                  static_cast<const C*>(p.signs_out)[column.sign + column.at + (j + o) * column.below]);
        static_cast<Out*>(p.y)[column.y + (j + o) * p.after] = narrow<Out>(value);
      }
    }
    __syncthreads();
  }
}

}  // namespace spectralops

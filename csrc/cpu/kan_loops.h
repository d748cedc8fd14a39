// What the loops of kan_linear share: reading the data as the compute type, and where things lie in a task's scratch.
#pragma once

#include "cpu/kan.h"
#include "cpu/lanes.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

#define SO_EACH _Pragma("GCC unroll 8")
#define SO_LAMBDA __attribute__((always_inline))

// The same pointer, unknown to the compiler: it then keeps one register and constant offsets from it, instead of one for
// every sum of a stride and an offset.
template <typename T> SO_SIMD T* opaque(T* p) {
  __asm__("" : "+r"(p));
  return p;
}

// f(pointer of the storage type) for a dtype code of spectralops.h whose compute type is C.

template <typename F> SO_SIMD void storage_of(double, int, const void* p, F f) { f(static_cast<const double*>(p)); }
template <typename F> SO_SIMD void storage_of(float, int dtype, const void* p, F f) {
  if (dtype == 0) f(static_cast<const float*>(p));
  else if (dtype == 2) f(static_cast<const half_t*>(p));
  else f(static_cast<const bf16_t*>(p));
}
template <typename F> SO_SIMD void storage_of(double, int, void* p, F f) { f(static_cast<double*>(p)); }
template <typename F> SO_SIMD void storage_of(float, int dtype, void* p, F f) {
  if (dtype == 0) f(static_cast<float*>(p));
  else if (dtype == 2) f(static_cast<half_t*>(p));
  else f(static_cast<bf16_t*>(p));
}

// (rows, inputs) of a block as (inputs, stride).
template <typename C>
static __attribute__((noinline)) void load_transposed(int dtype, const void* p, i64 row_stride, const KanBlock& block,
                                                      i64 stride, C* out) {
  storage_of(C(), dtype, p, [&](auto* in) {
    transpose<C>(in + block.row * row_stride + block.input, row_stride, block.count, block.inputs, out, stride);
  });
}

// Rows of grad in the compute type, whole vectors: where they are that already, else a copy in `buffer`.
template <typename C> struct Rows {
  const C* at;
  i64 stride;
};
template <typename C>
static __attribute__((noinline)) Rows<C> grad_rows(const KanJob& job, i64 row, i64 count, C* buffer) {
  constexpr int L = lanes<C>;
  if (job.outputs == job.padded && job.dtype <= 1)
    return {static_cast<const C*>(job.grad) + row * job.grad_stride, job.grad_stride};
  storage_of(C(), job.dtype, job.grad, [&](auto* grad) {
    for (i64 r = 0; r < count; ++r)
      for (i64 o = 0; o < job.outputs; o += L)
        store(buffer + r * job.padded + o,
              load_count<C>(grad + (row + r) * job.grad_stride + o, least(L, job.outputs - o)));
  });
  return {buffer, job.padded};
}

// ---- a task's scratch ----
struct KanScratch {
  char* at;
  template <typename C> SO_HOST_DEVICE C* take(i64 count) {
    C* p = reinterpret_cast<C*>(at);
    at += round_up(count * i64(sizeof(C)), 64);
    return p;
  }
};

// Room for the features of a block: the block, its memory assigned.
template <typename C> SO_SIMD KanBlock take_block(const KanJob& job, KanScratch& scratch) {
  KanBlock block = {};
  const i64 live = job.taps + (job.base != 0);
  block.features = scratch.take<C>(job.input_block * live * job.row_block);
  block.index = scratch.take<int>(job.sparse ? job.input_block * job.row_block : 0);
  block.spoiled = scratch.take<unsigned char>(job.input_block);
  block.work = scratch.take<C>(2 * job.input_block * job.row_block + (job.family == kSpline ? job.size + 64 : 0));
  return block;
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

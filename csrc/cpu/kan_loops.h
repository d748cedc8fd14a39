// What the loops of kan_linear share: transposing small blocks in registers, reading the data as the compute type, and
// where things lie in a task's scratch.
#pragma once

#include "cpu/kan.h"
#include "cpu/simd.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

#define SO_EACH _Pragma("GCC unroll 8")
#define SO_LAMBDA __attribute__((always_inline))

SO_SIMD i64 least(i64 a, i64 b) { return a < b ? a : b; }
SO_SIMD i64 round_up(i64 a, i64 b) { return (a + b - 1) / b * b; }

// The same pointer, unknown to the compiler: it then keeps one register and constant offsets from it, instead of one for
// every sum of a stride and an offset.
template <typename T> SO_SIMD T* opaque(T* p) {
  __asm__("" : "+r"(p));
  return p;
}

// ---- lanes that change places ----
template <int... L> struct LaneList {};
template <int N, int... L> struct MakeLanes : MakeLanes<N - 1, N - 1, L...> {};
template <int... L> struct MakeLanes<0, L...> { using type = LaneList<L...>; };

// Of each 2 S lanes of a and b: the lower S of both, or the upper.
#if defined(__clang__)
#define SO_TWO(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SO_TWO(...) __builtin_shuffle(a, b, mask<C>{__VA_ARGS__})
#endif
template <typename C, int S, int... L> SO_SIMD vec<C> lower_parts(vec<C> a, vec<C> b, LaneList<L...>) {
  return SO_TWO(((L & S) ? lanes<C> + L - S : L)...);
}
template <typename C, int S, int... L> SO_SIMD vec<C> upper_parts(vec<C> a, vec<C> b, LaneList<L...>) {
  return SO_TWO(((L & S) ? lanes<C> + L : L + S)...);
}
#undef SO_TWO

// v[i][l] becomes v[l][i].
template <typename C, int S = 1> SO_SIMD void transpose_lanes(vec<C>* v) {
  constexpr typename MakeLanes<lanes<C>>::type all{};
  if constexpr (S < lanes<C>) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes<C>; ++i)
      if (!(i & S)) {
        const vec<C> a = v[i], b = v[i + S];
        v[i] = lower_parts<C, S>(a, b, all);
        v[i + S] = upper_parts<C, S>(a, b, all);
      }
    transpose_lanes<C, 2 * S>(v);
  }
}

// Lane l of the result is the sum of the lanes of v[l].
template <typename C, int S = 1> SO_SIMD vec<C> add_lanes(vec<C>* v) {
  constexpr typename MakeLanes<lanes<C>>::type all{};
  if constexpr (S < lanes<C>) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes<C> / 2 / S; ++i) {
      const vec<C> a = v[2 * i], b = v[2 * i + 1];
      v[i] = lower_parts<C, S>(a, b, all) + upper_parts<C, S>(a, b, all);
    }
    return add_lanes<C, 2 * S>(v);
  }
  return v[0];
}

template <typename C, typename S> SO_SIMD vec<C> load_count(const S* p, i64 count) {
  return count >= lanes<C> ? load<C>(p) : load_partial<C>(p, int(count));
}
template <typename C, typename S> SO_SIMD void store_count(S* p, vec<C> v, i64 count) {
  if (count >= lanes<C>) store(p, v);
  else store_partial(p, v, int(count));
}

// out[c * out_stride + r] = in[r * in_stride + c] of rows x columns; out gets whole vectors of rows, zeros where there is
// no row, and in may be of a 16-bit type.
template <typename C, typename S>
static void transpose(const S* in, i64 in_stride, i64 rows, i64 columns, C* out, i64 out_stride) {
  constexpr int L = lanes<C>;
  for (i64 r = 0; r < rows; r += L)
    for (i64 c = 0; c < columns; c += L) {
      const int wide = int(least(L, columns - c)), high = int(least(L, rows - r));
      vec<C> v[L];
      if (wide == L && high == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) v[i] = load<C>(in + (r + i) * in_stride + c);
        transpose_lanes<C>(v);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(out + (c + i) * out_stride + r, v[i]);
        continue;
      }
      for (int i = 0; i < L; ++i)
        v[i] = i < high ? load_partial<C>(in + (r + i) * in_stride + c, wide) : vec<C>{};
      transpose_lanes<C>(v);
      for (int i = 0; i < wide; ++i) store(out + (c + i) * out_stride + r, v[i]);
    }
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

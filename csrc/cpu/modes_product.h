// c = a b, the product that every pass of a truncated transform is: a is read number by number, b and c in whole vectors.
// And what the passes share about folded rows.
#pragma once

#include "cpu/lanes.h"
#include "cpu/modes.h"
#include "cpu/parallel.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// R rows times V vectors of columns, over `depth` terms in one chain; added to c but the first time.
template <int R, int V, typename C>
static void tile(const C* a, i64 a_pitch, const C* b, i64 b_pitch, i64 depth, C* c, i64 c_pitch, bool first) {
  constexpr int L = lanes<C>;
  vec<C> sum[R][V] = {};
  for (i64 k = 0; k < depth; ++k) {
    vec<C> wide[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) wide[v] = load<C>(b + k * b_pitch + v * L);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec<C> one = splat<C>(a[r * a_pitch + k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = mul_add(one, wide[v], sum[r][v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      C* const to = c + r * c_pitch + v * L;
      store(to, first ? sum[r][v] : load<C>(to) + sum[r][v]);
    }
}

template <int V, typename C>
static void columns(const C* a, i64 a_pitch, i64 rows, const C* b, i64 b_pitch, i64 depth, C* c, i64 c_pitch, bool first) {
  i64 r = 0;
  const auto step = [&](auto tile_of, int high) {
    for (; r + high <= rows; r += high) tile_of(a + r * a_pitch, a_pitch, b, b_pitch, depth, c + r * c_pitch, c_pitch, first);
  };
  if constexpr (V == 1) step(tile<12, V, C>, 12);
  step(tile<6, V, C>, 6);
  step(tile<4, V, C>, 4);
  step(tile<2, V, C>, 2);
  step(tile<1, V, C>, 1);
}

// a (rows, depth), b (depth, whole vectors of `width`), c likewise.  Terms are summed in blocks of about 32, the blocks in one
// chain; of very long sums the blocks grow with the number of blocks.
template <typename C>
static void product(const C* a, i64 a_pitch, i64 rows, const C* b, i64 b_pitch, i64 width, i64 depth, C* c, i64 c_pitch) {
  constexpr int L = lanes<C>, kMost = sizeof(vec<C>) == 64 ? 4 : 2;
  const i64 about = depth < 4096 ? 32 : depth < 65536 ? 128 : 512, blocks = depth < about ? 1 : (depth + about / 2) / about;
  for (i64 i = 0; i < blocks; ++i) {
    const i64 from = depth * i / blocks, count = depth * (i + 1) / blocks - from;
    const C *left = a + from, *right = b + from * b_pitch;
    i64 v = 0;
    const auto step = [&](auto columns_of, int wide) {
      for (; v + (wide - 1) * L < width; v += wide * L)
        columns_of(left, a_pitch, rows, right + v, b_pitch, count, c + v, c_pitch, i == 0);
    };
    step(columns<kMost, C>, kMost);
    if constexpr (kMost > 2) step(columns<2, C>, 2);
    step(columns<1, C>, 1);
  }
}

template <typename C, int... I> SO_SIMD vec<C> reverse_lanes(vec<C> v, LaneList<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (lanes<C> - 1 - I)...);
#else
  return __builtin_shuffle(v, mask<C>{(lanes<C> - 1 - I)...});
#endif
}
template <typename C> SO_SIMD vec<C> reverse(vec<C> v) { return reverse_lanes<C>(v, typename MakeLanes<lanes<C>>::type{}); }

// `count` numbers that lie `stride` apart, side by side.
template <typename S> static const S* beside(const S* from, i64 stride, i64 count, S* buffer) {
  if (stride == 1) return from;
  for (i64 j = 0; j < count; ++j) buffer[j] = from[j * stride];
  return buffer;
}

// The lines of a unit's planes one after the other.
struct ModesWalk {
  const spectralops_modes_call& c;
  i64 row, channel, i = 0, j = 0;
  ModesWalk(const spectralops_modes_call& call, i64 plane) : c(call), row(plane / c.channels), channel(plane % c.channels) {}
  void next() {
    if (++j < c.n[1]) return;
    j = 0;
    if (++i < c.n[0]) return;
    i = 0;
    if (++channel == c.channels) channel = 0, ++row;
  }
  template <typename S> const S* line(const void* base, const int64_t (&stride)[5]) const {
    return static_cast<const S*>(base) + row * stride[0] + channel * stride[1] + i * stride[2] + j * stride[3];
  }
};

// A call and a slot's scratch.
template <typename C> struct ModesSlot {
  const ModesPlan& p;
  const spectralops_modes_call& c;
  C* const own;
  ModesSlot(const ModesPlan& plan, int index)
      : p(plan), c(*plan.call), own(reinterpret_cast<C*>(plan.scratch) + index * plan.slot) {}

  C* spectrum(i64 plane) const { return static_cast<C*>(c.spectrum) + plane * c.m[0] * p.box * 2; }
  template <typename F> static void each_unit(const ModesPlan& plan, F&& f) {
    const i64 total = plan.call->rows * plan.call->channels;
    parallel_for(plan.threads, plan.units, [&](i64 unit, int index) {
      const i64 from = unit * plan.planes;
      f(ModesSlot(plan, index), from, least(plan.planes, total - from));
    });
  }
};

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

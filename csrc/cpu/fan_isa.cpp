#include "cpu/activation_loops.h"
#include "cpu/fan.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

// f(column, where it is in h or e, where its cosine or its GELU is in y, lanes) for every vector of a tile.  The sine
// is p further than the cosine.
template <typename C, typename F> SO_SIMD void vectors(const FanJob& job, const FanTile& tile, F f) {
  const i64 width = tile.periodic ? job.p : job.q, skip = tile.periodic ? 0 : 2 * job.p;
  for (i64 row = tile.row; row < tile.row_end; ++row)
    for (i64 col = tile.col; col < tile.col_end; col += lanes<C>)
      f(row * width + col, row * (2 * job.p + job.q) + skip + col, int(least(lanes<C>, tile.col_end - col)));
}

template <typename S> SO_SIMD vec<compute_t<S>> read(const void* p, i64 at, int count) {
  return load_count(static_cast<const S*>(p) + at, count);
}
template <typename S> SO_SIMD void write(void* p, i64 at, vec<compute_t<S>> v, int count) {
  store_count(static_cast<S*>(p) + at, v, count);
}

template <typename C> SO_SIMD vec<C> gelu_slope(vec<C> e) {
  return mul_add(e, normal_density<C>(e), normal_cdf<C>(e));
}

template <typename S> static void forward(const FanJob& job, const FanTile& tile) {
  using C = compute_t<S>;
  if (tile.periodic)
    vectors<C>(job, tile, [&](i64 i, i64 at, int count) SO_LAMBDA {
      const auto [s, c] = sin_cos<C>(read<S>(job.h, i, count));
      write<S>(job.y, at, c, count);
      write<S>(job.y, at + job.p, s, count);
    });
  else
    vectors<C>(job, tile, [&](i64 i, i64 at, int count) SO_LAMBDA {
      const vec<C> e = read<S>(job.e, i, count);
      write<S>(job.y, at, e * normal_cdf<C>(e), count);
    });
}

template <typename S> static void backward(const FanJob& job, const FanTile& tile) {
  using C = compute_t<S>;
  if (tile.periodic)
    vectors<C>(job, tile, [&](i64 i, i64 at, int count) SO_LAMBDA {
      const auto [s, c] = sin_cos<C>(read<S>(job.h, i, count));
      const vec<C> g1 = read<S>(job.grad, at, count), g2 = read<S>(job.grad, at + job.p, count);
      write<S>(job.dh, i, mul_add(g2, c, -(g1 * s)), count);
    });
  else
    vectors<C>(job, tile, [&](i64 i, i64 at, int count) SO_LAMBDA {
      const vec<C> slope = gelu_slope<C>(read<S>(job.e, i, count));
      write<S>(job.de, i, read<S>(job.grad, at, count) * slope, count);
    });
}

template <typename S> static void double_backward(const FanJob& job, const FanTile& tile) {
  using C = compute_t<S>;
  if (tile.periodic)
    vectors<C>(job, tile, [&](i64 i, i64 at, int count) SO_LAMBDA {
      const auto [s, c] = sin_cos<C>(read<S>(job.h, i, count));
      const vec<C> v = read<S>(job.ggh, i, count);
      const vec<C> g1 = read<S>(job.grad, at, count), g2 = read<S>(job.grad, at + job.p, count);
      write<S>(job.dgrad, at, -v * s, count);
      write<S>(job.dgrad, at + job.p, v * c, count);
      write<S>(job.dh, i, -v * mul_add(g1, c, g2 * s), count);
    });
  else
    vectors<C>(job, tile, [&](i64 i, i64 at, int count) SO_LAMBDA {
      const vec<C> e = read<S>(job.e, i, count), u = read<S>(job.gge, i, count), g = read<S>(job.grad, at, count);
      write<S>(job.dgrad, at, u * gelu_slope<C>(e), count);
      write<S>(job.de, i, u * g * mul_add(-e, e, splat<C>(2)) * normal_density<C>(e), count);
    });
}

}  // namespace

#define SO_FAN(name)                                              \
  void fan_##name(const FanJob& job, const FanTile& tile) {       \
    if (job.dtype == 0) return name<float>(job, tile);            \
    if (job.dtype == 1) return name<double>(job, tile);           \
    if (job.dtype == 2) return name<half_t>(job, tile);           \
    name<bf16_t>(job, tile);                                      \
  }
SO_FAN(forward)
SO_FAN(backward)
SO_FAN(double_backward)
#undef SO_FAN

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

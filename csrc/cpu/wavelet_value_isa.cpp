// y_no = sum_i w psi(z), and its derivative in a direction, dgrad_no = sum_i (hw psi + w psi' v): a vector holds rows, so
// that parameters are broadcast and any number of inputs and outputs fills it.
#include "cpu/wavelet_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

constexpr int kPitch = kValueRows + 16;  // no power of two: columns lie in different cache sets

template <typename C, int Kind, bool Directional>
struct Value {
  // What a task keeps: inputs and directions turned, the reciprocals of s, the sums.
  struct Tile {
    alignas(64) C x[kValueIn * kPitch], h[Directional ? kValueIn * kPitch : 1], r[kValueOut * kValueIn];
    alignas(64) C sum[kValueOut * kPitch];
  };

  // The parameters of one output from the first input of a block on; r = 1 / s.
  struct Edges {
    const C *w, *t, *hw, *hs, *ht, *r;
  };
  SO_SIMD const C* at(const void* parameter, i64 first) {
    return parameter ? static_cast<const C*>(parameter) + first : nullptr;
  }

  // V vectors of rows, from row n, of one output over a block of inputs, which are summed among themselves first: short
  // chains of additions round less.
  template <int V> SO_SIMD void edges(const Tile& tile, const Edges& p, i64 ins, i64 n, C* sum) {
    constexpr int L = lanes<C>;
    vec<C> acc[V] = {};
    for (i64 i = 0; i < ins; ++i) {
      const vec<C> w = splat<C>(p.w[i]), t = splat<C>(p.t[i]), r = splat<C>(p.r[i]);
      for (int u = 0; u < V; ++u) {
        const i64 place = i * kPitch + n + u * L;
        const vec<C> z = (load<C>(tile.x + place) - t) * r;
        const Jet<C> jet = wavelet_jet<Kind, Directional ? 1 : 0, C>(z);
        if constexpr (Directional) {
          const vec<C> hw = splat<C>(p.hw[i]), hs = splat<C>(p.hs[i]), ht = splat<C>(p.ht[i]);
          const vec<C> v = mul_add(-z, hs, load<C>(tile.h + place) - ht) * r;
          acc[u] = mul_add(hw, jet.p0, mul_add(w * v, jet.p1, acc[u]));
        } else {
          acc[u] = mul_add(w, jet.p0, acc[u]);
        }
      }
    }
    for (int u = 0; u < V; ++u) store(sum + u * L, load<C>(sum + u * L) + acc[u]);
  }

  static void run(const WaveletJob& job, i64 task) {
    constexpr int L = lanes<C>;
    const i64 out_blocks = (job.outputs + kValueOut - 1) / kValueOut;
    const i64 row = task / out_blocks * kValueRows, rows = least(kValueRows, job.rows - row);
    const i64 out = task % out_blocks * kValueOut, outs = least(kValueOut, job.outputs - out);
    const i64 whole = (rows + L - 1) / L * L;
    Tile tile;
    for (i64 k = 0; k < kValueOut * kPitch; ++k) tile.sum[k] = 0;
    for (i64 in = 0; in < job.inputs; in += kValueIn) {
      const i64 ins = least(kValueIn, job.inputs - in);
      columns_of(job.dtype, job.x, job.x_stride, {row, rows, in, ins}, tile.x, kPitch, false);
      if (Directional) columns_of(job.dtype, job.ggx, job.ggx_stride, {row, rows, in, ins}, tile.h, kPitch, false);
      reciprocals(static_cast<const C*>(job.scale), job.inputs, out, outs, in, ins, tile.r, kValueIn);
      for (i64 o = 0; o < outs; ++o) {
        const i64 first = (out + o) * job.inputs + in;
        const Edges p = {at(job.weight, first),    at(job.translation, first), at(job.ggweight, first),
                         at(job.ggscale, first),   at(job.ggtranslation, first), tile.r + o * kValueIn};
        C* sum = tile.sum + o * kPitch;
        i64 n = 0;
        for (; n + 2 * L <= whole; n += 2 * L) edges<2>(tile, p, ins, n, sum + n);
        for (; n < whole; n += L) edges<1>(tile, p, ins, n, sum + n);
      }
    }
    amplify<Kind>(tile.sum, kValueOut * kPitch);
    columns_to(job.dtype, tile.sum, kPitch, job.y, job.outputs, {row, rows, out, outs});
  }
};

template <typename C, int Kind> struct Forward : Value<C, Kind, false> {};
template <typename C, int Kind> struct Dgrad : Value<C, Kind, true> {};

}  // namespace

void wavelet_forward(const WaveletJob& job, i64 task) { walk_kinds<Forward>(job, task); }
void wavelet_dgrad(const WaveletJob& job, i64 task) { walk_kinds<Dgrad>(job, task); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

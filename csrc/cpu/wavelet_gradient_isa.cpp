// Gradients in x and in the parameters, first and second: psi is recomputed once for both.  A vector holds rows.  With
//   first   A = psi       B = w psi'                                v = 1
//   second  A = psi' v    B = (hw - w hs / s) psi' + w psi'' v      v = (hx - ht - z hs) / s
// dx_ni = sum_o g B / s, and the sums over the rows of a chunk are S0 = sum g A, S1 = sum g B z, S2 = sum g B (for the
// first, of psi' in place of B); wavelet.cpp makes dw, ds and dt of them.
#include "cpu/wavelet_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

constexpr int kPitch = kGradRows + 16;  // no power of two: columns lie in different cache sets

// The lanes of a sum, in a tree.
template <typename C> SO_SIMD C across(vec<C> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) return _mm512_reduce_add_ps((__m512)v);
  else return _mm512_reduce_add_pd((__m512d)v);
#else
  C lane[lanes<C>];
  store(lane, v);
  for (int half = lanes<C> / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
#endif
}

template <typename C, int Kind, bool Second>
struct Gradient {
  struct Tile {
    alignas(64) C x[kGradIn * kPitch], h[Second ? kGradIn * kPitch : 1], g[kGradOut * kPitch], dx[kGradIn * kPitch];
    C r[kGradOut * kGradIn];
  };
  // Parameters of an edge.
  struct Edge {
    C w, r, t, hw, hs, ht;
  };

  // One edge over `whole` rows (a multiple of the lanes): adds to dx, gives the three sums.
  SO_SIMD void edge(const Edge& e, const C* x, const C* h, const C* g, i64 whole, C* dx, C (&sums)[3]) {
    constexpr int L = lanes<C>;
    const vec<C> t = splat<C>(e.t), r = splat<C>(e.r), w = splat<C>(e.w);
    const vec<C> hs = splat<C>(e.hs), ht = splat<C>(e.ht), k = splat<C>(e.hw - e.w * e.hs * e.r);
    const vec<C> factor = splat<C>(Second ? e.r : e.w * e.r);
    vec<C> s0 = {}, s1 = {}, s2 = {};
    for (i64 n = 0; n < whole; n += L) {
      const vec<C> z = (load<C>(x + n) - t) * r, gv = load<C>(g + n);
      const Jet<C> jet = wavelet_jet<Kind, Second ? 2 : 1, C>(z);
      vec<C> a = jet.p0, b = jet.p1;
      if constexpr (Second) {
        const vec<C> v = mul_add(-z, hs, load<C>(h + n) - ht) * r;
        a = jet.p1 * v;
        b = mul_add(k, jet.p1, w * v * jet.p2);
      }
      const vec<C> gb = gv * b;
      s0 = mul_add(gv, a, s0);
      s1 = mul_add(gb, z, s1);
      s2 += gb;
      store(dx + n, mul_add(gb, factor, load<C>(dx + n)));
    }
    sums[0] = across<C>(s0), sums[1] = across<C>(s1), sums[2] = across<C>(s2);
  }

  SO_SIMD C value(const void* parameter, i64 at) { return static_cast<const C*>(parameter)[at]; }
  SO_SIMD Edge edge_at(const WaveletJob& job, i64 at, C r) {
    Edge e = {value(job.weight, at), r, value(job.translation, at), 0, 0, 0};
    if (Second) e.hw = value(job.ggweight, at), e.hs = value(job.ggscale, at), e.ht = value(job.ggtranslation, at);
    return e;
  }

  static void run(const WaveletJob& job, i64 task) {
    constexpr int L = lanes<C>;
    const i64 chunk = task / job.in_blocks, in = task % job.in_blocks * kGradIn, ins = least(kGradIn, job.inputs - in);
    const i64 row_end = least(job.rows, (chunk + 1) * job.row_chunk), each = job.outputs * job.inputs;
    double* partial = job.partial + chunk * 3 * each;
    Tile tile;
    for (i64 row = chunk * job.row_chunk; row < row_end; row += kGradRows) {
      const i64 rows = least(kGradRows, row_end - row), whole = (rows + L - 1) / L * L;
      columns_of(job.dtype, job.x, job.x_stride, {row, rows, in, ins}, tile.x, kPitch, false);
      if (Second) columns_of(job.dtype, job.ggx, job.ggx_stride, {row, rows, in, ins}, tile.h, kPitch, false);
      for (i64 k = 0; k < kGradIn * kPitch; ++k) tile.dx[k] = 0;
      for (i64 out = 0; out < job.outputs; out += kGradOut) {
        const i64 outs = least(kGradOut, job.outputs - out);
        columns_of(job.dtype, job.grad, job.grad_stride, {row, rows, out, outs}, tile.g, kPitch, true);
        reciprocals(static_cast<const C*>(job.scale), job.inputs, out, outs, in, ins, tile.r, kGradIn);
        for (i64 i = 0; i < ins; ++i)
          for (i64 o = 0; o < outs; ++o) {
            const i64 at = (out + o) * job.inputs + in + i, column = i * kPitch;
            C sums[3];
            edge(edge_at(job, at, tile.r[o * kGradIn + i]), tile.x + column, tile.h + (Second ? column : 0),
                 tile.g + o * kPitch, whole, tile.dx + column, sums);
            for (int j = 0; j < 3; ++j) partial[j * each + at] += double(sums[j]);
          }
      }
      amplify<Kind>(tile.dx, kGradIn * kPitch);
      columns_to(job.dtype, tile.dx, kPitch, job.dx, job.inputs, {row, rows, in, ins});
    }
  }
};

template <typename C, int Kind> struct First : Gradient<C, Kind, false> {};
template <typename C, int Kind> struct Second : Gradient<C, Kind, true> {};

}  // namespace

void wavelet_backward(const WaveletJob& job, i64 task) { walk_kinds<First>(job, task); }
void wavelet_double_backward(const WaveletJob& job, i64 task) { walk_kinds<Second>(job, task); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

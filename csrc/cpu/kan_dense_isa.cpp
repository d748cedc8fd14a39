// Products with every function of the basis: register-blocked, over a block of features in the first two caches.
#include "cpu/kan_dense.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

// sums (R rows x V vectors) += features (depth x rows) ^T times a panel (depth x V vectors) of coefficients.
template <typename C, int R, int V>
SO_SIMD void rows_times_panel(const C* features, i64 stride, i64 depth, const C* panel, C* sums, i64 sums_stride) {
  constexpr int L = lanes<C>;
  vec<C> s[R][V];
  SO_EACH for (int r = 0; r < R; ++r)
    SO_EACH for (int v = 0; v < V; ++v) s[r][v] = vec<C>{};  // a short chain of its own rounds less than one over all
  for (i64 d = 0; d < depth; ++d) {
    vec<C> p[V];
    SO_EACH for (int v = 0; v < V; ++v) p[v] = load(panel + v * L);
    SO_EACH for (int r = 0; r < R; ++r) {
      const vec<C> f = splat<C>(features[r]);
      SO_EACH for (int v = 0; v < V; ++v) s[r][v] = mul_add(f, p[v], s[r][v]);
    }
    features += stride, panel += V * L;
  }
  SO_EACH for (int r = 0; r < R; ++r)
    SO_EACH for (int v = 0; v < V; ++v) {
      C* to = sums + r * sums_stride + v * L;
      store(to, load(to) + s[r][v]);
    }
}

template <typename C, int V>
__attribute__((noinline)) void forward_panel(const C* features, i64 stride, i64 rows, i64 depth, const C* panel, C* sums,
                                             i64 sums_stride) {
  constexpr int R = kRegisterRows<C>;
  for (i64 r = 0; r < rows; r += R)
    rows_times_panel<C, R, V>(features + r, stride, depth, panel, sums + r * sums_stride, sums_stride);
}

template <typename C> void forward(const KanJob& job, const KanBlock& block, i64 first, i64 last, C* sums) {
  constexpr int L = lanes<C>;
  const i64 depth = block.inputs * job.slots, vectors = job.padded / L, rows = round_up(block.count, L);
  const C* features = static_cast<const C*>(block.features);
  for (i64 b = first; b < last; ++b) {
    const i64 width = least(job.width, vectors - b * job.width);
    const C* panel = packed_row<C>(job, b, width, block.input, 0);
    C* out = sums + b * job.width * L;
    if (width == 3) forward_panel<C, 3>(features, job.row_block, rows, depth, panel, out, job.padded);
    else if (width == 2) forward_panel<C, 2>(features, job.row_block, rows, depth, panel, out, job.padded);
    else forward_panel<C, 1>(features, job.row_block, rows, depth, panel, out, job.padded);
  }
}

// The product of V vectors of rows of grad (transposed) with P slots of coefficients, times the slots' features, added to
// the sums of their inputs.
template <typename C, int P, int V>
__attribute__((noinline)) void dx_tile(const KanJob& job, const C* grad, const C* panel, i64 slot, i64 slots, const C* features,
                                       C* sums) {
  constexpr int L = lanes<C>;
  vec<C> s[P][V];
  SO_EACH for (int p = 0; p < P; ++p)
    SO_EACH for (int v = 0; v < V; ++v) s[p][v] = vec<C>{};
  for (i64 o = 0; o < job.outputs; ++o) {
    vec<C> g[V];
    SO_EACH for (int v = 0; v < V; ++v) g[v] = load(grad + v * L);
    SO_EACH for (int p = 0; p < P; ++p) {
      const vec<C> c = splat<C>(panel[p]);
      SO_EACH for (int v = 0; v < V; ++v) s[p][v] = mul_add(c, g[v], s[p][v]);
    }
    grad += job.row_block, panel += P;
  }
  i64 input = slot / job.slots, k = slot % job.slots;
  SO_EACH for (int p = 0; p < P; ++p) {
    if (slot + p >= slots) break;
    SO_EACH for (int v = 0; v < V; ++v) {
      C* to = sums + input * job.row_block + v * L;
      store(to, mul_add(s[p][v], load(features + (slot + p) * job.row_block + v * L), load(to)));
    }
    if (++k == job.slots) k = 0, ++input;
  }
}

template <typename C> void dx(const KanJob& job, const KanBlock& block, const C* grad, C* sums) {
  constexpr int L = lanes<C>, P = kPanelSlots<C>, V = kPanelVectors;
  const i64 slots = block.inputs * job.slots, vectors = (block.count + L - 1) / L;
  const C* features = static_cast<const C*>(block.features);
  const C* panel = dx_panel<C>(job, block.input);
  for (i64 slot = 0; slot < slots; slot += P, panel += P * job.outputs) {
    i64 v = 0;
    for (; v + V <= vectors; v += V)
      dx_tile<C, P, V>(job, grad + v * L, panel, slot, slots, features + v * L, sums + v * L);
    for (; v < vectors; ++v) dx_tile<C, P, 1>(job, grad + v * L, panel, slot, slots, features + v * L, sums + v * L);
  }
}

// partial (P slots x V vectors) += features (slots x rows) times rows of grad.
template <typename C, int P, int V>
__attribute__((noinline)) void dcoeff_tile(const C* features, i64 stride, i64 rows, const C* grad, i64 grad_stride, C* partial,
                                           i64 partial_stride, i64 slots) {
  constexpr int L = lanes<C>;
  vec<C> s[P][V];
  SO_EACH for (int p = 0; p < P; ++p)
    SO_EACH for (int v = 0; v < V; ++v) s[p][v] = vec<C>{};
  const C* from[P];
  SO_EACH for (int p = 0; p < P; ++p) from[p] = features + least(p, slots - 1) * stride;
  for (i64 r = 0; r < rows; ++r) {
    vec<C> g[V];
    SO_EACH for (int v = 0; v < V; ++v) g[v] = load(grad + v * L);
    SO_EACH for (int p = 0; p < P; ++p) {
      const vec<C> f = splat<C>(from[p][r]);
      SO_EACH for (int v = 0; v < V; ++v) s[p][v] = mul_add(f, g[v], s[p][v]);
    }
    grad += grad_stride;
  }
  SO_EACH for (int p = 0; p < P; ++p) {
    if (p >= slots) break;
    SO_EACH for (int v = 0; v < V; ++v) {
      C* to = partial + p * partial_stride + v * L;
      store(to, load(to) + s[p][v]);
    }
  }
}

template <typename C> void dcoeff(const KanJob& job, const KanBlock& block, const C* grad, i64 stride, C* partial) {
  constexpr int L = lanes<C>, P = kPanelSlots<C>, V = kPanelVectors;
  const i64 slots = block.inputs * job.slots, vectors = job.padded / L;
  const C* features = static_cast<const C*>(block.features);
  for (i64 v = 0; v < vectors;) {
    const bool whole = v + V <= vectors;
    for (i64 slot = 0; slot < slots; slot += P) {
      const C* from = features + slot * job.row_block;
      C* to = partial + slot * job.padded + v * L;
      if (whole)
        dcoeff_tile<C, P, V>(from, job.row_block, block.count, grad + v * L, stride, to, job.padded, slots - slot);
      else
        dcoeff_tile<C, P, 1>(from, job.row_block, block.count, grad + v * L, stride, to, job.padded, slots - slot);
    }
    v += whole ? V : 1;
  }
}

}  // namespace

void kan_dense_forward(const KanJob& job, const KanBlock& block, i64 first, i64 last, void* sums) {
  if (job.element == 8) forward(job, block, first, last, static_cast<double*>(sums));
  else forward(job, block, first, last, static_cast<float*>(sums));
}
void kan_dense_dx(const KanJob& job, const KanBlock& block, const void* grad, void* sums) {
  if (job.element == 8) dx(job, block, static_cast<const double*>(grad), static_cast<double*>(sums));
  else dx(job, block, static_cast<const float*>(grad), static_cast<float*>(sums));
}
void kan_dense_dcoeff(const KanJob& job, const KanBlock& block, const void* grad, i64 stride, void* partial) {
  if (job.element == 8) dcoeff(job, block, static_cast<const double*>(grad), stride, static_cast<double*>(partial));
  else dcoeff(job, block, static_cast<const float*>(grad), stride, static_cast<float*>(partial));
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

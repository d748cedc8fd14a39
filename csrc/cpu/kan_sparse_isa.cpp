// Products with the B-splines that are not zero at a point: `taps` rows of coefficients from slot index on, and the row
// of the base branch.
#include "cpu/kan_dense.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

#define SO_VECTORS _Pragma("GCC unroll 16")

// ---- forward: the sums of a row over some inputs stay in V registers while taps come from a slab of coefficients ----
// T: taps known to the compiler, or 0.
template <typename C, int T, int V>
__attribute__((noinline)) void forward_slab(const KanJob& job, i64 rows, i64 inputs, const C* features, const int* index,
                                            const C* slab, i64 row_size, C* sums) {
  constexpr int L = lanes<C>;
  const int taps = T ? T : job.taps;
  const bool base = job.base != 0;
  const i64 live = taps + base, stride = job.row_block, input_size = job.slots * row_size, base_row = job.size * row_size;
  for (i64 r = 0; r < rows; ++r, sums += job.padded) {
    vec<C> s[V];
    SO_VECTORS for (int v = 0; v < V; ++v) s[v] = vec<C>{};  // a short chain of its own rounds less than one over all inputs
    const C *f = features + r, *input = slab;
    const int* at = index + r;
    for (i64 i = 0; i < inputs; ++i, f += live * stride, input += input_size, at += stride) {
      const C* c = opaque(input + *at * row_size);
      SO_EACH for (int t = 0; t < taps; ++t, c = opaque(c + row_size)) {
        const vec<C> b = splat<C>(f[t * stride]);
        SO_VECTORS for (int v = 0; v < V; ++v) s[v] = mul_add(b, load(c + v * L), s[v]);
      }
      if (base) {
        const vec<C> b = splat<C>(f[taps * stride]);
        c = opaque(input + base_row);
        SO_VECTORS for (int v = 0; v < V; ++v) s[v] = mul_add(b, load(c + v * L), s[v]);
      }
    }
    SO_VECTORS for (int v = 0; v < V; ++v) store(sums + v * L, load(sums + v * L) + s[v]);
  }
}

template <typename C, int V, typename... A> SO_SIMD void forward_taps(const KanJob& job, A... arguments) {
  if (job.taps == 4) forward_slab<C, 4, V>(job, arguments...);
  else forward_slab<C, 0, V>(job, arguments...);
}

template <typename C> void forward(const KanJob& job, const KanBlock& block, i64 first, i64 last, C* sums) {
  constexpr int L = lanes<C>;
  const i64 vectors = job.padded / L, live = job.taps + (job.base != 0);
  for (i64 b = first; b < last; ++b) {
    const i64 width = least(job.width, vectors - b * job.width), row_size = width * L;
    const i64 fitting = 32768 / (job.slots * row_size * i64(sizeof(C))), at_once = fitting > 1 ? fitting : 1;
    for (i64 i = 0; i < block.inputs; i += at_once) {
      const i64 inputs = least(at_once, block.inputs - i);
      const C* features = static_cast<const C*>(block.features) + i * live * job.row_block;
      const int* index = block.index + i * job.row_block;
      const C* slab = packed_row<C>(job, b, width, block.input + i, 0);
      C* out = sums + b * job.width * L;
      i64 v = 0;
      if constexpr (kVectorBytes == 64)
        for (; v + 16 <= width; v += 16)
          forward_taps<C, 16>(job, block.count, inputs, features, index, slab + v * L, row_size, out + v * L);
      for (; v + 8 <= width; v += 8)
        forward_taps<C, 8>(job, block.count, inputs, features, index, slab + v * L, row_size, out + v * L);
      if (v + 4 <= width) {
        forward_taps<C, 4>(job, block.count, inputs, features, index, slab + v * L, row_size, out + v * L);
        v += 4;
      }
      if (v + 2 <= width) {
        forward_taps<C, 2>(job, block.count, inputs, features, index, slab + v * L, row_size, out + v * L);
        v += 2;
      }
      if (v < width)
        forward_taps<C, 1>(job, block.count, inputs, features, index, slab + v * L, row_size, out + v * L);
    }
  }
}

// ---- dx: a row of grad against the taps of two inputs at once; lanes are added up last, a vector of rows together ----
// N inputs from their slabs (block `b` of outputs); work: (N, rows, lanes).
template <typename C, int T, int N>
__attribute__((noinline)) void dx_slab(const KanJob& job, i64 rows, const C* features, const int* index, const C* slab,
                                       i64 width, const C* grad, i64 grad_stride, bool more, C* work) {
  constexpr int L = lanes<C>, kTaps = T ? T : kMaxSplineOrder + 1;
  const int taps = T ? T : job.taps;
  const i64 live = taps + (job.base != 0), stride = job.row_block, row_size = width * L;
  for (i64 r = 0; r < rows; ++r) {
    const C* c[N];
    SO_EACH for (int n = 0; n < N; ++n) c[n] = slab + (n * job.slots + index[n * stride + r]) * row_size;
    const C* g = grad + r * grad_stride;
    vec<C> s[N][kTaps] = {}, base[N] = {};
    if (job.base) {
      const C* w = slab + job.size * row_size;
      for (i64 v = 0; v < row_size; v += L) {
        const vec<C> gv = load(g + v);
        SO_EACH for (int n = 0; n < N; ++n) {
          SO_EACH for (int t = 0; t < taps; ++t) s[n][t] = mul_add(gv, load(c[n] + t * row_size + v), s[n][t]);
          base[n] = mul_add(gv, load(w + n * job.slots * row_size + v), base[n]);
        }
      }
    } else {
      for (i64 v = 0; v < row_size; v += L) {
        const vec<C> gv = load(g + v);
        SO_EACH for (int n = 0; n < N; ++n)
          SO_EACH for (int t = 0; t < taps; ++t) s[n][t] = mul_add(gv, load(c[n] + t * row_size + v), s[n][t]);
      }
    }
    SO_EACH for (int n = 0; n < N; ++n) {
      const C* f = features + n * live * stride + r;
      vec<C> sum = splat<C>(f[0]) * s[n][0];
      SO_EACH for (int t = 1; t < taps; ++t) sum = mul_add(splat<C>(f[t * stride]), s[n][t], sum);
      if (job.base) sum = mul_add(splat<C>(f[taps * stride]), base[n], sum);
      C* to = work + (n * stride + r) * L;
      store(to, more ? load(to) + sum : sum);
    }
  }
}

template <typename C, int N>
void dx_inputs(const KanJob& job, const KanBlock& block, i64 i, const C* grad, i64 grad_stride, C* sums, C* work) {
  constexpr int L = lanes<C>;
  const i64 vectors = job.padded / L, live = job.taps + (job.base != 0), stride = job.row_block;
  const C* features = static_cast<const C*>(block.features) + i * live * stride;
  const int* index = block.index + i * stride;
  for (i64 b = 0; b * job.width < vectors; ++b) {
    const i64 width = least(job.width, vectors - b * job.width);
    const C* slab = packed_row<C>(job, b, width, block.input + i, 0);
    const C* g = grad + b * job.width * L;
    if (job.taps == 4)
      dx_slab<C, 4, N>(job, block.count, features, index, slab, width, g, grad_stride, b > 0, work);
    else
      dx_slab<C, 0, N>(job, block.count, features, index, slab, width, g, grad_stride, b > 0, work);
  }
  for (int n = 0; n < N; ++n)
    for (i64 r = 0; r < block.count; r += L) {
      vec<C> v[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) v[l] = load(work + (n * stride + least(r + l, block.count - 1)) * L);
      store(sums + (i + n) * stride + r, add_lanes<C>(v));
    }
}

template <typename C>
void dx(const KanJob& job, const KanBlock& block, const C* grad, i64 grad_stride, C* sums, C* work) {
  i64 i = 0;
  for (; i + 2 <= block.inputs; i += 2) dx_inputs<C, 2>(job, block, i, grad, grad_stride, sums, work);
  if (i < block.inputs) dx_inputs<C, 1>(job, block, i, grad, grad_stride, sums, work);
}

// ---- dcoeff: rows sorted by their interval, and a bucket's sums of taps x V vectors of outputs in registers ----
// One input's rows in the order of their buckets.
template <typename C> struct Sorted {
  i64* row;      // times the stride of grad
  C* features;   // (rows, live)
  i64* end;      // of each bucket
  i64 buckets;
};

template <typename C>
__attribute__((noinline)) void sort_rows(const KanJob& job, i64 rows, const C* features, const int* index, i64 grad_stride,
                                         const Sorted<C>& sorted) {
  const i64 live = job.taps + (job.base != 0), stride = job.row_block;
  for (i64 j = 0; j < sorted.buckets; ++j) sorted.end[j] = 0;
  for (i64 r = 0; r < rows; ++r) ++sorted.end[index[r]];
  for (i64 j = 0, before = 0; j < sorted.buckets; ++j) {
    const i64 count = sorted.end[j];
    sorted.end[j] = before, before += count;
  }
  for (i64 r = 0; r < rows; ++r) {
    const i64 to = sorted.end[index[r]]++;
    sorted.row[to] = r * grad_stride;
    for (i64 t = 0; t < live; ++t) sorted.features[to * live + t] = features[t * stride + r];
  }
}

// Taps [tap, tap + T), and the base branch, of one input.
template <typename C, int T, bool Base, int V>
__attribute__((noinline)) void dcoeff_buckets(const KanJob& job, const Sorted<C>& sorted, i64 tap, const C* grad, C* partial) {
  constexpr int L = lanes<C>;
  const i64 live = job.taps + (job.base != 0);
  const C* f = sorted.features;
  for (i64 j = 0, at = 0; j < sorted.buckets; ++j) {
    const i64 end = sorted.end[j];
    if (at == end) continue;
    vec<C> s[T + 1][V];
    SO_EACH for (int t = 0; t < T + Base; ++t)
      SO_EACH for (int v = 0; v < V; ++v) s[t][v] = vec<C>{};
    for (; at < end; ++at, f += live) {
      const C* g = grad + sorted.row[at];
      vec<C> gv[V];
      SO_EACH for (int v = 0; v < V; ++v) gv[v] = load(g + v * L);
      SO_EACH for (int t = 0; t < T + Base; ++t) {
        const vec<C> b = splat<C>(f[t < T ? tap + t : job.taps]);
        SO_EACH for (int v = 0; v < V; ++v) s[t][v] = mul_add(b, gv[v], s[t][v]);
      }
    }
    SO_EACH for (int t = 0; t < T + Base; ++t) {
      C* to = partial + (t < T ? j + tap + t : job.size) * job.padded;
      SO_EACH for (int v = 0; v < V; ++v) store(to + v * L, load(to + v * L) + s[t][v]);
    }
  }
}

template <typename C, int V>
void dcoeff_input(const KanJob& job, const Sorted<C>& sorted, const C* grad, C* partial) {
  const bool base = job.base != 0;
  if (job.taps == 4 && base) return dcoeff_buckets<C, 4, true, V>(job, sorted, 0, grad, partial);
  for (i64 tap = 0; tap < job.taps; tap += 4) {
    const i64 some = least(4, job.taps - tap);
    if (some == 4) dcoeff_buckets<C, 4, false, V>(job, sorted, tap, grad, partial);
    else if (some == 3) dcoeff_buckets<C, 3, false, V>(job, sorted, tap, grad, partial);
    else if (some == 2) dcoeff_buckets<C, 2, false, V>(job, sorted, tap, grad, partial);
    else dcoeff_buckets<C, 1, false, V>(job, sorted, tap, grad, partial);
  }
  if (base) dcoeff_buckets<C, 0, true, V>(job, sorted, 0, grad, partial);
}

template <typename C>
void dcoeff(const KanJob& job, const KanBlock& block, const C* grad, i64 grad_stride, C* partial, char* work) {
  constexpr int L = lanes<C>, V = kVectorBytes == 64 ? 4 : 2;
  const i64 vectors = job.padded / L, live = job.taps + (job.base != 0), stride = job.row_block;
  KanScratch scratch{work};
  Sorted<C> sorted;
  sorted.row = scratch.take<i64>(stride);
  sorted.features = scratch.take<C>(stride * live);
  sorted.end = scratch.take<i64>(job.size + 1);
  sorted.buckets = job.size - job.taps + 1;
  for (i64 i = 0; i < block.inputs; ++i, partial += job.slots * job.padded) {
    const C* features = static_cast<const C*>(block.features) + i * live * stride;
    sort_rows(job, block.count, features, block.index + i * stride, grad_stride, sorted);
    i64 v = 0;
    for (; v + V <= vectors; v += V) dcoeff_input<C, V>(job, sorted, grad + v * L, partial + v * L);
    for (; v < vectors; ++v) dcoeff_input<C, 1>(job, sorted, grad + v * L, partial + v * L);
  }
}

}  // namespace

void kan_sparse_forward(const KanJob& job, const KanBlock& block, i64 first, i64 last, void* sums) {
  if (job.element == 8) forward(job, block, first, last, static_cast<double*>(sums));
  else forward(job, block, first, last, static_cast<float*>(sums));
}
void kan_sparse_dx(const KanJob& job, const KanBlock& block, const void* grad, i64 stride, void* sums, void* work) {
  if (job.element == 8)
    dx(job, block, static_cast<const double*>(grad), stride, static_cast<double*>(sums), static_cast<double*>(work));
  else dx(job, block, static_cast<const float*>(grad), stride, static_cast<float*>(sums), static_cast<float*>(work));
}
void kan_sparse_dcoeff(const KanJob& job, const KanBlock& block, const void* grad, i64 stride, void* partial, void* work) {
  if (job.element == 8)
    dcoeff(job, block, static_cast<const double*>(grad), stride, static_cast<double*>(partial), static_cast<char*>(work));
  else dcoeff(job, block, static_cast<const float*>(grad), stride, static_cast<float*>(partial), static_cast<char*>(work));
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

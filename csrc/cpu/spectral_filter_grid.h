// One grid for a unit of channels: its half spectrum and back (spectral_filter.h).
#pragma once

#include "cpu/parallel.h"
#include "cpu/spectral_filter_plan.h"
#include "cpu/spectral_filter_rows.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// Spectra A, B (half), each doubled, of rows a, b from Z (n) = dft(a + i b).
template <typename C> static void split(const C* z, i64 n, C* a, C* b) {
  constexpr int W = 2 * lanes<C>;
  for (i64 k = 0; 2 * k <= n; ++k) {
    const Complex<C> u = get<C>(z + k * W), v = get<C>(z + (k ? n - k : 0) * W);
    put<C>(a + k * W, {u.re + v.re, u.im - v.im});
    put<C>(b + k * W, {u.im + v.im, v.re - u.re});
  }
}

// And back: the whole of A + i B.
template <typename C> static void merge(const C* a, const C* b, i64 n, C* z) {
  constexpr int W = 2 * lanes<C>;
  for (i64 k = 0; 2 * k <= n; ++k) {
    const Complex<C> u = get<C>(a + k * W), v = get<C>(b + k * W);
    const bool end = k == 0 || 2 * k == n;
    if (end) put<C>(z + k * W, {u.re, v.re});
    else put<C>(z + k * W, {u.re - v.im, u.im + v.re}), put<C>(z + (n - k) * W, {u.re + v.im, v.re - u.im});
  }
}

// A row alone: A doubled from Z (n) = dft(a), and back.
template <typename C> static void split(const C* z, i64 n, C* a) {
  constexpr int W = 2 * lanes<C>;
  for (i64 k = 0; 2 * k <= n; ++k) {
    const Complex<C> u = get<C>(z + k * W);
    put<C>(a + k * W, u + u);
  }
}
template <typename C> static void merge(const C* a, i64 n, C* z) {
  constexpr int W = 2 * lanes<C>;
  for (i64 k = 0; 2 * k <= n; ++k) {
    const Complex<C> u = get<C>(a + k * W);
    if (k == 0) put<C>(z, {u.re, vec<C>{}});
    else put<C>(z + k * W, u), put<C>(z + (n - k) * W, {u.re, -u.im});
  }
}

// A row alone of 2 n points as n complex ones, z[m] = a[2 m] + i a[2 m + 1]; turn[k] = exp(-pi i k / n).
//   2 A[k] = (Z[k] + conj Z[n-k]) - i turn[k] (Z[k] - conj Z[n-k])
template <typename C> static void split_packed(const C* z, i64 n, const C* turn, C* a) {
  constexpr int W = 2 * lanes<C>;
  for (i64 k = 0; k <= n; ++k) {
    const Complex<C> u = get<C>(z + (k < n ? k : 0) * W), v = get<C>(z + (k ? n - k : 0) * W);
    const Complex<C> even = {u.re + v.re, u.im - v.im}, odd = {u.im + v.im, v.re - u.re};
    put<C>(a + k * W, even + times<C>(odd, turn + 2 * k));
  }
}
//   Z[k] = (A[k] + conj A[n-k]) + i conj(turn[k]) (A[k] - conj A[n-k]), the ends of A real
template <typename C> static void merge_packed(const C* a, i64 n, const C* turn, C* z) {
  constexpr int W = 2 * lanes<C>;
  for (i64 k = 0; k < n; ++k) {
    Complex<C> u = get<C>(a + k * W), v = get<C>(a + (n - k) * W);
    if (k == 0) u.im = v.im = vec<C>{};
    const Complex<C> even = {u.re + v.re, u.im - v.im};
    const Complex<C> odd = times<C>(Complex<C>{u.re - v.re, u.im + v.im}, splat<C>(turn[2 * k]), splat<C>(-turn[2 * k + 1]));
    put<C>(z + k * W, {even.re - odd.im, even.im + odd.re});
  }
}

template <typename T> struct Grid {
  using C = compute_t<T>;
  static constexpr int L = lanes<C>, W = 2 * L;

  const spectralops_filter_call& c;
  const FilterPlan& p;
  C *const workspace, *const slot;
  i64 first[kMostUnit];
  int count[kMostUnit], vectors;
  i64 first_unit, unit, end_unit, begin, end;  // of the task; samples begin <= b < end

  Grid(const FilterJob& job, int index)
      : c(*job.call), p(*job.plan), workspace(reinterpret_cast<C*>(job.workspace)), slot(workspace + index * p.slot) {}

  C* at(i64 offset) const { return slot + offset; }
  C* row(int v, int which) const { return at(p.row) + (v * 2 + which) * c.n3 * L; }
  C* slab(int v) const { return at(p.slab) + v * p.slab_size; }

  void open_task(i64 task) {
    const i64 part = task % p.parts;
    first_unit = task / p.parts * p.pack, end_unit = least(p.units, first_unit + p.pack);
    begin = c.rows * part / p.parts, end = c.rows * (part + 1) / p.parts;
  }
  // Vector j: channels of one weight where `blocks` share it, else as many as fit.
  void open(i64 which) {
    unit = which;
    vectors = int(least(p.unit, p.vectors - unit * p.unit));
    for (int v = 0; v < vectors; ++v) {
      const i64 j = unit * p.unit + v;
      const i64 end = p.blocks > 1 ? (j / p.blocks + 1) * p.channels_each : c.channels;
      first[v] = p.blocks > 1 ? j / p.blocks * p.channels_each + j % p.blocks * L : j * p.span;
      count[v] = int(least(p.span, end - first[v]));
    }
  }

  i64 place(const int64_t* stride, i64 b, i64 r) const { return b * stride[0] + r / c.n2 * stride[1] + r % c.n2 * stride[2]; }

  // Asks for rows r and r + 1, or the next unit's first, before they are needed: lines a whole point apart are nothing that a
  // cache foresees.
  template <int kWrite> void prefetch_rows(const void* x, const int64_t* stride, i64 b, i64 r) const {
    const bool next = r >= p.rows;
    if (stride[4] != 1 || (next && unit + 1 == end_unit)) return;
    if (next) r = 0;
    for (const i64 last = least(r + 2, p.rows); r < last; ++r) {
      const T* from = static_cast<const T*>(x) + place(stride, b, r) + first[0] + (next ? p.unit * p.span : 0);
      for (i64 i = 0; i < c.n3; ++i, from += stride[3])
        for (int l = 0; l < vectors * L; l += 64 / int(sizeof(T))) __builtin_prefetch(from + l, kWrite);
    }
  }

  void load_row(const T* x, const int64_t* stride, bool norm, i64 b, i64 r, int which) const {
    const T* const from = x + place(stride, b, r);
    for (int v = 0; v < vectors; ++v) {
      stage<C, T>(from + first[v] * stride[4], stride[3], stride[4], c.n3, count[v], row(v, which));
      if (norm) normalise(v, b, r, row(v, which));
    }
  }
  void normalise(int v, i64 b, i64 r, C* a) const {
    const C *const gain = static_cast<const C*>(c.norm_weight), *const bias = static_cast<const C*>(c.norm_bias);
    const vec<C> g = gain ? channel_vector(gain + first[v], v) : splat<C>(C(1));
    const vec<C> o = bias ? channel_vector(bias + first[v], v) : vec<C>{};
    const C *const mean = workspace + p.statistics + (b * p.rows + r) * c.n3, *const rstd = mean + c.rows * p.rows * c.n3;
    for (i64 i = 0; i < c.n3; ++i) store(a + i * L, mul_add((load<C>(a + i * L) - splat<C>(mean[i])) * splat<C>(rstd[i]), g, o));
  }
  vec<C> channel_vector(const C* from, int v) const { return load_count<C>(from, count[v]); }

  // Rows r and, where `pair`, r + 1 of the unit's vectors, in row(v, 0 and 1), to their spectra in `out`, and back.
  void rows_to_spectra(int v, i64 r, bool pair, C* out) const {
    C *const z = at(p.line), *const a = out + r * p.half * W, *const s = at(p.scratch);
    C *const x = row(v, 0), *const y = row(v, 1);
    if (!pair && p.packed) {
      line_transform(*p.packed, {x, x + L, W}, {z, z + L, W}, s);
      return split_packed<C>(z, p.packed->n, static_cast<const C*>(p.packed->turn), a);
    }
    if (!pair && !p.last->whole_direct)
      for (i64 i = 0; i < c.n3; ++i) store(y + i * L, vec<C>{});
    line_transform(*p.last, {x, !pair && p.last->whole_direct ? nullptr : y, L}, {z, z + L, W}, s);
    if (pair) split<C>(z, c.n3, a, a + p.half * W);
    else split<C>(z, c.n3, a);
  }
  void spectra_to_rows(int v, i64 r, bool pair) const {
    C *const z = at(p.line), *const a = slab(v) + r * p.half * W, *const s = at(p.scratch);
    C *const x = row(v, 0), *const y = row(v, 1);
    if (!pair && p.packed) {
      merge_packed<C>(a, p.packed->n, static_cast<const C*>(p.packed->turn), z);
      return line_transform(*p.packed, {z + L, z, W}, {x + L, x, W}, s);
    }
    if (pair) merge<C>(a, a + p.half * W, c.n3, z);
    else merge<C>(a, c.n3, z);
    line_transform(*p.last, {z + L, z, W}, {!pair && p.last->whole_direct ? nullptr : y, x, L}, s);
  }

  // The unit's grids of sample b into `out` (a slab a vector), all but the last dimension.
  void to_spectra(const void* x, const int64_t* stride, bool norm, i64 b, C* out) const {
    for (i64 r = 0; r < p.rows; r += 2) {
      const bool pair = r + 1 < p.rows;
      load_row(static_cast<const T*>(x), stride, norm, b, r, 0);
      if (pair) load_row(static_cast<const T*>(x), stride, norm, b, r + 1, 1);
      prefetch_rows<0>(x, stride, b, r + 2);
      for (int v = 0; v < vectors; ++v) rows_to_spectra(v, r, pair, out + v * p.slab_size);
    }
    if (p.middle)
      for (int v = 0; v < vectors; ++v) middle(out + v * p.slab_size, 0);
  }
  // Along n2, in place; back where im is 0 and re 1.
  void middle(C* spectrum, int re) const {
    for (i64 i = 0; i < c.n1; ++i)
      for (i64 k = 0; k < p.half; ++k) {
        C* const a = spectrum + (i * c.n2 * p.half + k) * W;
        C *const x = a + re * L, *const y = a + (1 - re) * L;
        line_transform(*p.middle, {x, y, p.half * W}, {x, y, p.half * W}, at(p.scratch));
      }
  }
  // The last dimension: column i of a spectrum in order, in `out` unless it is a single point.
  C* column_to(C* spectrum, i64 i, C* out) const {
    C* const a = spectrum + i * W;
    if (p.outer == 1) return a;
    line_transform(*p.outermost, {a, a + L, p.inner * W}, {out, out + L, W}, at(p.scratch));
    return out;
  }
  void column_from(const C* in, i64 i, C* spectrum) const {
    C* const a = spectrum + i * W;
    if (p.outer > 1) line_transform(*p.outermost, {in + L, in, W}, {a + L, a, p.inner * W}, at(p.scratch));
  }
};

// Mean and rstd of every point.
template <typename T> static void statistics(const FilterJob& job) {
  using C = compute_t<T>;
  const spectralops_filter_call& c = *job.call;
  const FilterPlan& p = *job.plan;
  if (c.eps < 0) return;
  parallel_for(p.threads, c.rows * p.rows, [&](i64 task) {
    const Grid<T> grid(job, 0);
    const T* const x = static_cast<const T*>(c.x) + grid.place(c.x_stride, task / p.rows, task % p.rows);
    C *const mean = grid.workspace + p.statistics + task * c.n3, *const rstd = mean + c.rows * p.rows * c.n3;
    if (c.x_stride[4] == 1) statistics_near<C, T>(x, c.x_stride[3], c.n3, c.channels, C(c.eps), mean, rstd);
    else statistics_far<C, T>(x, c.x_stride[3], c.x_stride[4], c.n3, c.channels, C(c.eps), mean, rstd);
  });
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

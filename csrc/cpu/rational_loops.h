// How a task walks its rectangle.  An operation Op<S, V, D> (storage, version, degrees) has the mathematics of a vector
// of points;
//   wide groups    a vector lies in one group: coefficients are broadcast, and the lanes' sums are added up when they
//                  have taken kTerms terms each;
//   narrow groups  a vector spans several groups: each lane has its own coefficients, and lane sums are kept until the
//                  end of the task.
// Lanes sum in the compute type over at most kTerms elements, everything above that in double, all in an order given by
// the sizes.
#pragma once

#include "cpu/rational_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

constexpr int kTerms = 32;

SO_SIMD i64 least(i64 a, i64 b) { return a < b ? a : b; }

// Elements [col, col + count) of a long row that is made of short ones of fold_dim elements, `stride` apart.
template <typename S>
static __attribute__((noinline)) const S* gather(const S* row, i64 stride, i64 fold_dim, i64 col, i64 count,
                                                 S* buffer) {
  i64 part = col / fold_dim, offset = col % fold_dim;
  for (i64 done = 0; done < count; ++part, offset = 0)
    for (const S* p = row + part * stride; offset < fold_dim && done < count; ++offset) buffer[done++] = p[offset];
  return buffer;
}

// An input as the loops see it.  A folded row is contiguous unless the short ones have gaps, and then it is gathered.
template <typename S> struct Rows {
  const S* base;
  i64 stride, row_stride, fold_dim;
  bool gaps;

  SO_HOST_DEVICE Rows(const void* p, i64 s, const RationalJob& job)
      : base(static_cast<const S*>(p)), stride(s), row_stride(s * job.fold), fold_dim(job.fold_dim),
        gaps(job.fold > 1 && s != job.fold_dim) {}
  // Elements [col, col + count) of a row; `buffer` holds them where they are not in one piece.
  SO_HOST_DEVICE const S* segment(i64 row, i64 col, i64 count, S* buffer) const {
    const S* p = base + row * row_stride;
    return __builtin_expect(gaps, 0) ? gather(p, stride, fold_dim, col, count, buffer) : p + col;
  }
};

// Left to itself the processor fetches too few lines ahead of so much arithmetic: 768 bytes measured best, a quarter to
// a third off the time of a tensor beyond the caches.
template <typename S> SO_SIMD vec<compute_t<S>> load_count(const S* p, int count) {
  using C = compute_t<S>;
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 768);
  return count == lanes<C> ? load<C>(p) : load_partial<C>(p, count);
}
template <typename S> SO_SIMD void store_count(S* p, vec<compute_t<S>> v, int count) {
  using C = compute_t<S>;
  if (count == lanes<C>) store(p, v);
  else store_partial(p, v, count);
}

template <typename C> SO_SIMD const C* numerator(const RationalJob& job, i64 group) {
  return static_cast<const C*>(job.num) + group * job.num_stride;
}
template <typename C> SO_SIMD const C* denominator_row(const RationalJob& job, i64 group) {
  return static_cast<const C*>(job.den) + group * job.den_stride;
}

template <int V, typename C> SO_SIMD C uniform(C b) { return V == kA && b < 0 ? -b : b; }

// The constant coefficient that the versions without b_0 have by definition.
template <int V, typename C> SO_SIMD C constant_term() { return V == kA ? C(1) : C(0); }

// Coefficients of one group in every lane.
template <int V, typename C, typename D>
SO_SIMD void broadcast(Coefficients<C, D>& k, const D& degree, const C* a, const C* b) {
  degree.m.template up<0>([&](auto i) SO_LAMBDA { k.a[i] = splat<C>(a[i]); });
  k.b[0] = splat<C>(V == kC ? b[0] : constant_term<V, C>());
  degree.n.template up<1>([&](auto j) SO_LAMBDA { k.b[j] = splat<C>(uniform<V, C>(b[V == kC ? j : j - 1])); });
}

// Lane l of a table (the lanes of a coefficient side by side, a then b) from one group's coefficients, and back.
template <int V, typename C, typename D>
SO_SIMD void scatter(C* table, int lane, const D& degree, const C* a, const C* b) {
  constexpr int L = lanes<C>;
  const int m = degree.m.value(), n = degree.n.value();
  for (int i = 0; i <= m; ++i) table[i * L + lane] = a[i];
  C* t = table + (m + 1) * L + lane;
  t[0] = V == kC ? b[0] : constant_term<V, C>();
  for (int j = 1; j <= n; ++j) t[j * L] = uniform<V, C>(b[V == kC ? j : j - 1]);
}
template <typename C, typename D> SO_SIMD void take(Coefficients<C, D>& k, const D& degree, const C* table) {
  constexpr int L = lanes<C>;
  const C* t = table + (degree.m.value() + 1) * L;
  degree.m.template up<0>([&](auto i) SO_LAMBDA { k.a[i] = load<C>(table + i * L); });
  degree.n.template up<0>([&](auto j) SO_LAMBDA { k.b[j] = load<C>(t + j * L); });
}

template <typename C, typename D> SO_SIMD void clear(Sums<C, D>& sums, const D& degree) {
  degree.m.template up<0>([&](auto i) SO_LAMBDA { sums.num[i] = vec<C>{}; });
  degree.n.template up<0>([&](auto j) SO_LAMBDA { sums.den[j] = vec<C>{}; });
}
// The lanes of each coefficient's sum, side by side in the order of the output; version C alone has b_0.
template <int V, typename C, typename D> SO_SIMD void spill(const Sums<C, D>& sums, const D& degree, C* out) {
  constexpr int L = lanes<C>;
  C* den = out + (degree.m.value() + (V == kC ? 1 : 0)) * L;
  degree.m.template up<0>([&](auto i) SO_LAMBDA { store(out + i * L, sums.num[i]); });
  degree.n.template up<V == kC ? 0 : 1>([&](auto j) SO_LAMBDA { store(den + j * L, sums.den[j]); });
}

// A wide group adds up its lanes in order, a narrow one keeps them.
template <typename C> static __attribute__((noinline)) void add_lanes(const C* spilled, i64 count, double* out) {
  constexpr int L = lanes<C>;
  for (i64 c = 0; c < count; ++c, spilled += L) {
    double s[2] = {0, 0};
    for (int l = 0; l < L; ++l) s[l & 1] += double(spilled[l]);
    out[c] += s[0] + s[1];
  }
}
template <typename C> static __attribute__((noinline)) void keep_lanes(const C* spilled, i64 count, double* out) {
  for (i64 i = 0; i < count * lanes<C>; ++i) out[i] += double(spilled[i]);
}

// Room for an input's folded row, where it has to be gathered.
template <typename S> struct Buffers {
  S x[kTerms * lanes<compute_t<S>>], grad[kTerms * lanes<compute_t<S>>], ggx[kTerms * lanes<compute_t<S>>];
};

template <typename Op> static void walk_wide(const RationalJob& job, const RationalTile& tile) {
  using C = typename Op::C;
  constexpr int L = lanes<C>;
  const Op op(job);
  typename Op::Known k;
  typename Op::Sum sums;
  Buffers<typename Op::S> buffers;
  alignas(64) C spilled[Op::Sum::kSize * L];
  const i64 per_unit = least(job.width, tile.col_end - tile.col), count = job.coefficients();
  const i64 step = per_unit >= kTerms * L ? 1 : kTerms * L / ((per_unit + L - 1) / L * L);
  double* partial = job.partial + tile.chunk * job.pieces() * count;
  for (i64 row = tile.row; row < tile.row_end; row += step) {
    const i64 row_end = least(row + step, tile.row_end);
    for (i64 col = tile.col; col < tile.col_end;) {
      const i64 unit = col / job.width, group = unit % job.groups;
      const i64 unit_end = least((unit + 1) * job.width, tile.col_end);
      double* out = partial + (group * job.blocks_per_group + (col - unit * job.width) / job.col_block) * count;
      op.load_group(k, job, group);
      for (; col < unit_end; col += kTerms * L) {
        const i64 segment_end = least(unit_end, col + kTerms * L);
        clear(sums, op.degree);
        for (i64 r = row; r < row_end; ++r) {
          const i64 size = least(segment_end, r == job.rows - 1 ? job.tail : job.dim) - col;
          if (size <= 0) continue;
          const auto at = op.at(r, col, size, buffers);
          for (i64 i = 0; i < size; i += L) op.point(k, at, i, int(least(L, size - i)), sums);
        }
        if constexpr (Op::kSums) {
          spill<Op::kVersion, C>(sums, op.degree, spilled);
          add_lanes(spilled, count, out);
        }
      }
      col = unit_end;
    }
  }
}

// One vector of columns in narrow groups over a block of rows, into lane sums in double.
template <typename Op>
SO_SIMD void walk_panel(const Op& op, const RationalJob& job, i64 row, i64 row_end, i64 col, i64 col_end,
                        const typename Op::C* table, double* lane_sums) {
  using C = typename Op::C;
  constexpr int L = lanes<C>;
  typename Op::Known k;
  typename Op::Sum sums;
  Buffers<typename Op::S> buffers;
  op.load_table(k, table);
  clear(sums, op.degree);
  for (i64 r = row; r < row_end; ++r) {
    const i64 size = least(L, least(col_end, r == job.rows - 1 ? job.tail : job.dim) - col);
    if (size > 0) op.point(k, op.at(r, col, size, buffers), 0, int(size), sums);
  }
  if constexpr (Op::kSums) {
    alignas(64) C spilled[Op::Sum::kSize * L];
    spill<Op::kVersion, C>(sums, op.degree, spilled);
    keep_lanes(spilled, job.coefficients(), lane_sums);
  }
}

template <typename Op> static void walk_narrow(const RationalJob& job, const RationalTile& tile) {
  using C = typename Op::C;
  constexpr int L = lanes<C>;
  // Coefficients of up to 64 KiB of panels (a vector's lanes of columns) at a time, and their sums in double.
  constexpr i64 kTable = 65536 / sizeof(C);
  alignas(64) C table[kTable];
  alignas(64) double lane_sums[Op::kSums ? kTable : 1];
  const Op op(job);
  const i64 table_size = op.table_vectors() * L, count = job.coefficients(), sums_size = count * L;
  const i64 columns_at_once = kTable / table_size * L;
  double* partial = job.partial + tile.chunk * job.pieces() * count;
  for (i64 first = tile.col; first < tile.col_end; first += columns_at_once) {
    const i64 last = least(first + columns_at_once, tile.col_end), panels = (last - first + L - 1) / L;
    for (i64 c = 0; c < panels * L; ++c) {
      const i64 column = least(first + c, last - 1);  // lanes beyond the last column repeat it
      op.scatter_group(job, column / job.width % job.groups, table + c / L * table_size, int(c % L));
    }
    if (Op::kSums)
      for (i64 i = 0; i < panels * sums_size; ++i) lane_sums[i] = 0;
    for (i64 row = tile.row; row < tile.row_end; row += kTerms)
      for (i64 p = 0; p < panels; ++p)
        walk_panel(op, job, row, least(row + kTerms, tile.row_end), first + p * L, last, table + p * table_size,
                   lane_sums + (Op::kSums ? p * sums_size : 0));
    if (Op::kSums)
      for (i64 c = 0; c < last - first; ++c)
        for (i64 i = 0; i < count; ++i)
          partial[(first + c) / job.width % job.groups * count + i] += lane_sums[c / L * sums_size + i * L + c % L];
  }
}

template <typename Op> static void walk(const RationalJob& job, const RationalTile& tile) {
  if (job.width < lanes<typename Op::C>) walk_narrow<Op>(job, tile);
  else walk_wide<Op>(job, tile);
}

// Degrees m/n with registers for coefficients and sums: 5/4, and with `common` 3/2 and 7/6; all others on the general
// path.
template <template <typename, int, typename> class Op, bool common, typename S, int V>
static void walk_degrees(const RationalJob& job, const RationalTile& tile) {
  if (job.m == 5 && job.n == 4) return walk<Op<S, V, Degrees<FixedDegree<5>, FixedDegree<4>>>>(job, tile);
  if constexpr (common) {
    if (job.m == 3 && job.n == 2) return walk<Op<S, V, Degrees<FixedDegree<3>, FixedDegree<2>>>>(job, tile);
    if (job.m == 7 && job.n == 6) return walk<Op<S, V, Degrees<FixedDegree<7>, FixedDegree<6>>>>(job, tile);
  }
  walk<Op<S, V, Degrees<AnyDegree, AnyDegree>>>(job, tile);
}

template <template <typename, int, typename> class Op, bool common, typename S>
static void walk_versions(const RationalJob& job, const RationalTile& tile) {
  if (job.version == kA) return walk_degrees<Op, common, S, kA>(job, tile);
  if (job.version == kB) return walk_degrees<Op, common, S, kB>(job, tile);
  if (job.version == kC) return walk_degrees<Op, common, S, kC>(job, tile);
  walk_degrees<Op, common, S, kSmooth>(job, tile);
}

// dtype codes as in spectralops.h.
template <template <typename, int, typename> class Op, bool common>
static void walk_types(const RationalJob& job, const RationalTile& tile) {
  if (job.dtype == 0) return walk_versions<Op, common, float>(job, tile);
  if (job.dtype == 1) return walk_versions<Op, common, double>(job, tile);
  if (job.dtype == 2) return walk_versions<Op, common, half_t>(job, tile);
  walk_versions<Op, common, bf16_t>(job, tile);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

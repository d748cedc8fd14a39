// spectral_filter on grids of one to three dimensions whose sides are products of 2, 3, 5 and 7, where a
// grid's half spectra fit shared memory: passes of radix 2 to 8 in place, decimated in frequency on the way
// there and in time on the way back, so that nothing is ever reordered. What stands where is in tables that
// one small kernel makes for a call.
//
// Rows 2 q and 2 q + 1 of a grid are pair q, in 2 bins cells: first z = a + i b in time, n3 of them; after
// the passes along n3 frequency k at place(k); then A[k] there and B[k] in the cell of Z[-k], or after the n3
// others where there is none.
//
// Bytes of device memory as in spectral_filter_grid.h; between two passes all the grid goes through shared
// memory.
#pragma once

#include "spectralops/spectral_filter.h"
#include "spectralops/spectral_lines.h"

namespace spectralops {
namespace fft {

// ---- tables: roots exp(-2 pi i j / n) of the three axes; frequencies of places along n1 and n2; cells of A[k], then B[k] ------

SO_DEVICE int frequency_at(const Axis& axis, int place) {
  int frequency = 0, unit = 1, length = axis.n;
  for (int i = 0; i < axis.count; ++i) {
    length /= axis.radix[i];
    frequency += place / length * unit;
    place %= length, unit *= axis.radix[i];
  }
  return frequency;
}
SO_DEVICE int place_of(const Axis& axis, int frequency) {
  int place = 0, length = axis.n;
  for (int i = 0; i < axis.count; ++i) {
    length /= axis.radix[i];
    place += frequency % axis.radix[i] * length;
    frequency /= axis.radix[i];
  }
  return place;
}

struct FilterTableParams {
  void* roots;
  int* order;
  Axis axis[3];
};
template <typename C>
SO_KERNEL(128, 1)
filter_tables(const FilterTableParams p) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  int root = i, at = i;
  for (int d = 0; d < 3; ++d) {
    const int n = p.axis[d].n;
    if (root >= 0 && root < n) static_cast<Pair<C>*>(p.roots)[i] = Pair<C>{C(cosine(root, n)), C(-sine(root, n))};
    if (d < 2 && at >= 0 && at < n) p.order[i] = frequency_at(p.axis[d], at);
    root -= n;
    if (d < 2) at -= n;
  }
  const Axis& rows = p.axis[2];
  const int n = rows.n, bins = n / 2 + 1, k = at % bins;
  if (at < 0 || at >= 2 * bins) return;
  const bool other = at >= bins;
  p.order[i] = !other ? place_of(rows, k) : k == 0 ? n : 2 * k == n ? n + 1 : place_of(rows, n - k);
}

// ---- a grid in shared memory ---------------------------------------------------------------------------------------

template <typename C> struct Cells {
  Pair<C>* data;  // of this lane
  const Pair<C>* roots;
  const int* order;
  int log, job, jobs;  // jobs: of the block at a time
  int n1, n2, n3, bins, rows;
  SO_DEVICE Cells(const FilterParams& p, Pair<C>* shared)
      : data(shared + (threadIdx.x & ((1u << p.lanes_log) - 1))), roots(static_cast<const Pair<C>*>(p.roots)), order(p.order),
        log(p.lanes_log), job(int(threadIdx.x >> p.lanes_log)), jobs(int(blockDim.x >> p.lanes_log)), n1(p.axis[0].n),
        n2(p.axis[1].n), n3(p.axis[2].n), bins(n3 / 2 + 1), rows(n1 * n2) {}
  SO_DEVICE int pairs() const { return (rows + 1) / 2; }
  SO_DEVICE int points() const { return rows * n3; }
  SO_DEVICE int cells() const { return rows * bins; }
  SO_DEVICE Pair<C>& cell(int at) const { return data[at << log]; }
  SO_DEVICE const int* row_order() const { return order + n1 + n2; }
  // Frequency number k of a row after separate().
  SO_DEVICE Pair<C>& bin(int row, int k) const { return cell((row >> 1) * 2 * bins + row_order()[k + (row & 1) * bins]); }
  // The cell of the spectrum that stands in a row at k: (k1 n2 + k2) bins + k3.
  SO_DEVICE int frequency(int row, int k) const {
    return (order[row / n2] * n2 + order[n1 + row % n2]) * bins + k;
  }
};

// One line of a pass: cells first + place of a row pair, or rows first + place * step at one frequency.
struct Line {
  int first, step, width, even, odd;
  SO_DEVICE int at(int place) const {
    if (step == 0) return first + place;
    const int row = first + place * step;
    return (row >> 1) * width + (row & 1 ? odd : even);
  }
};
template <typename C> SO_DEVICE Line line_of(const Cells<C>& g, int axis, int number) {
  if (axis == 2) return Line{number * 2 * g.bins, 0, 0, 0, 0};
  const int k = number % g.bins, other = number / g.bins;
  return Line{axis == 1 ? other * g.n2 : other, axis == 1 ? 1 : g.n2, 2 * g.bins, g.row_order()[k], g.row_order()[k + g.bins]};
}

// One pass over blocks of `length` places; with real and imaginary parts exchanged the inverse of it.
template <int R, typename C>
SO_DEVICE void pass(const Cells<C>& g, int axis, int n, int length, const Pair<C>* roots, bool inverse) {
  const int part = length / R, each = n / R, turn = n / length;
  const int total = each * (axis == 2 ? g.pairs() : axis == 1 ? g.n1 * g.bins : g.n2 * g.bins);
  for (int job = g.job; job < total; job += g.jobs) {
    const Line line_at = line_of(g, axis, job / each);
    const int within = job % each, j = within % part, first = within / part * length + j;
    C x[R], y[R];
    SO_UNROLL
    for (int i = 0; i < R; ++i) {
      const Pair<C> v = g.cell(line_at.at(first + i * part));
      x[i] = inverse ? v.y : v.x, y[i] = inverse ? v.x : v.y;
    }
    if (inverse) {
      SO_UNROLL
      for (int q = 1; q < R; ++q) multiply(x[q], y[q], roots[j * q * turn]);
    }
    line<R>(x, y);
    if (!inverse) {
      SO_UNROLL
      for (int q = 1; q < R; ++q) multiply(x[q], y[q], roots[j * q * turn]);
    }
    SO_UNROLL
    for (int i = 0; i < R; ++i) g.cell(line_at.at(first + i * part)) = inverse ? Pair<C>{y[i], x[i]} : Pair<C>{x[i], y[i]};
  }
}

template <typename C>
SO_DEVICE void all_passes(const Cells<C>& g, const FilterParams& p, int d, bool inverse) {
  const Axis& axis = p.axis[d];
  const Pair<C>* roots = g.roots + (d > 0 ? g.n1 : 0) + (d > 1 ? g.n2 : 0);
  int length = inverse ? 1 : axis.n;
  for (int i = 0; i < axis.count; ++i) {
    const int radix = axis.radix[inverse ? axis.count - 1 - i : i];
    if (inverse) length *= radix;
    switch (radix) {
      case 2: pass<2>(g, d, axis.n, length, roots, inverse); break;
      case 3: pass<3>(g, d, axis.n, length, roots, inverse); break;
      case 4: pass<4>(g, d, axis.n, length, roots, inverse); break;
      case 5: pass<5>(g, d, axis.n, length, roots, inverse); break;
      case 7: pass<7>(g, d, axis.n, length, roots, inverse); break;
      default: pass<8>(g, d, axis.n, length, roots, inverse); break;
    }
    if (!inverse) length /= radix;
    __syncthreads();
  }
}

// The points of pair number `pair` at `place`: a row that is missing, or of no grid, is 0.
template <typename C>
SO_DEVICE void load_cells(const Cells<C>& g, const FilterParams& p, const GridArray& from, const GridOf& grid, bool normal) {
  const Normalise<C> norm(p, grid, g.points());
  with_storage<C>(p.dtype, [&](auto type) {
    using T = decltype(type);
    const T* data = static_cast<const T*>(from.data) + grid.at(from);
    SO_UNROLL_BY(4)
    for (int job = g.job; job < g.pairs() * g.n3; job += g.jobs) {
      const int pair = job / g.n3, i = job % g.n3, row = 2 * pair;
      Pair<C> v{C(0), C(0)};
      if (grid.live) v.x = C(widen(data[row / g.n2 * from.n1 + row % g.n2 * from.n2 + i * from.n3]));
      if (grid.live && row + 1 < g.rows)
        v.y = C(widen(data[(row + 1) / g.n2 * from.n1 + (row + 1) % g.n2 * from.n2 + i * from.n3]));
      if (normal && p.moments && grid.live) {
        v.x = norm(v.x, row * g.n3 + i);
        if (row + 1 < g.rows) v.y = norm(v.y, (row + 1) * g.n3 + i);
      }
      g.cell(pair * 2 * g.bins + i) = v;
    }
  });
  __syncthreads();
}

template <typename C> SO_DEVICE void store_cells(const Cells<C>& g, const FilterParams& p, const GridOf& grid) {
  if (!grid.live) return;
  with_storage<C>(p.dtype, [&](auto type) {
    using T = decltype(type);
    T* data = static_cast<T*>(const_cast<void*>(p.y.data)) + grid.at(p.y);
    const T* more = static_cast<const T*>(p.residual.data) + (p.residual.data ? grid.at(p.residual) : 0);
    for (int job = g.job; job < g.pairs() * g.n3; job += g.jobs) {  // the cells that this thread loads next
      const int pair = job / g.n3, i = job % g.n3;
      const Pair<C> v = g.cell(pair * 2 * g.bins + i);
      SO_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = 2 * pair + half, i1 = row / g.n2, i2 = row % g.n2;
        if (row >= g.rows) break;
        C value = half ? v.y : v.x;
        if (p.residual.data) value += C(widen(more[i1 * p.residual.n1 + i2 * p.residual.n2 + i * p.residual.n3]));
        data[i1 * p.y.n1 + i2 * p.y.n2 + i * p.y.n3] = narrow<T>(value);
      }
    }
  });
}

// Z -> 2 A and 2 B, and back from A and B: at k = 0 and n3 / 2 from their real parts alone.
template <typename C> SO_DEVICE void separate(const Cells<C>& g) {
  for (int job = g.job; job < g.pairs() * g.bins; job += g.jobs) {
    const int row = job / g.bins * 2, k = job % g.bins;
    Pair<C>&a = g.bin(row, k), &b = g.bin(row + 1, k);
    const bool end = k == 0 || 2 * k == g.n3;
    const Pair<C> z = a, w = end ? z : b;
    a = Pair<C>{z.x + w.x, z.y - w.y}, b = Pair<C>{z.y + w.y, w.x - z.x};
  }
  __syncthreads();
}
template <typename C> SO_DEVICE void join(const Cells<C>& g) {
  for (int job = g.job; job < g.pairs() * g.bins; job += g.jobs) {
    const int row = job / g.bins * 2, k = job % g.bins;
    Pair<C>&to = g.bin(row, k), &other = g.bin(row + 1, k);
    const Pair<C> a = to, b = other;
    if (k == 0 || 2 * k == g.n3) {
      to = Pair<C>{a.x, b.x};
    } else {
      to = Pair<C>{a.x - b.y, a.y + b.x}, other = Pair<C>{a.x + b.y, b.x - a.y};
    }
  }
  __syncthreads();
}

template <typename C> SO_DEVICE void forward_cells(const Cells<C>& g, const FilterParams& p) {
  all_passes(g, p, 2, false);
  separate(g);
  all_passes(g, p, 1, false);
  all_passes(g, p, 0, false);
}

constexpr int kAnyThreads = 512;

template <typename C>
SO_KERNEL(kAnyThreads, 1)
filter_any(const FilterParams p) {
  const Cells<C> g(p, dynamic_shared<Pair<C>>());
  const u32 item = (blockIdx.x << g.log) + (threadIdx.x & ((1u << g.log) - 1));
  for (int step = 0; step < p.chunk; ++step) {
    const GridOf grid(p, item, step);
    load_cells(g, p, p.x, grid, true);
    forward_cells(g, p);
    const Weight<C> weight(p, grid, g.points(), g.cells());
    for (int job = g.job; job < g.cells(); job += g.jobs) {
      const int row = job / g.bins, k = job % g.bins;
      Pair<C>& at = g.bin(row, k);
      at = product(at, weight(g.frequency(row, k)));
    }
    __syncthreads();
    all_passes(g, p, 0, true);
    all_passes(g, p, 1, true);
    join(g);
    all_passes(g, p, 2, true);
    store_cells(g, p, grid);
  }
}

template <typename C>
SO_KERNEL(kAnyThreads, 1)
filter_any_gradient(const FilterParams p) {
  Pair<C>* shared = dynamic_shared<Pair<C>>();
  const Cells<C> g(p, shared);
  Cells<C> h = g;
  h.data += (g.pairs() * 2 * g.bins) << g.log;
  const u32 item = (blockIdx.x << g.log) + (threadIdx.x & ((1u << g.log) - 1)), channels = u32(p.channels);
  Pair<C>* sums = static_cast<Pair<C>*>(p.sums) + item / channels * (i64(g.cells()) * channels) + item % channels;
  for (int step = 0; step < p.chunk; ++step) {
    const GridOf grid(p, item, step);
    load_cells(g, p, p.x, grid, true);
    forward_cells(g, p);
    load_cells(h, p, p.grad, grid, false);
    forward_cells(h, p);
    for (int job = g.job; grid.live && job < g.cells(); job += g.jobs) {
      const int row = job / g.bins, k = job % g.bins;
      Pair<C>& to = sums[i64(g.frequency(row, k)) * p.channels];
      const Pair<C> v = conj_product(g.bin(row, k), h.bin(row, k)), old = step == 0 ? Pair<C>{C(0), C(0)} : to;
      to = Pair<C>{old.x + v.x, old.y + v.y};
    }
    __syncthreads();
  }
}

}  // namespace fft
}  // namespace spectralops

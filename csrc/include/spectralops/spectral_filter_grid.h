// spectral_filter on grids of a few fixed sides: a row pair, then a column, in the registers of a thread, and
// shared memory between them once. Two barriers a grid.
//
// Bytes of device memory, s that of an element, B samples: 2 N1 N2 B C s and the weight once, which are the
// fewest; the weight of a block's channels, N1 bins 8 bytes each, comes from L1 or L2 for every sample. The
// gradient reads 2 N1 N2 B C s and writes its sums, one of `chunks` for each chunk of samples, and reads them
// again: 8 N1 bins C bytes each, 2 / chunk of the fewest in float32. A layer norm reads x once more, where L2
// has not kept it.
#pragma once

#include "spectralops/spectral_filter.h"
#include "spectralops/spectral_lines.h"

namespace spectralops {
namespace fft {

// LANES channels of a block; BLOCKS on a multiprocessor, which bounds the registers.
template <typename C_, int N1_, int N2_, int LANES_, int BLOCKS_> struct FixedGrid {
  using C = C_;
  static constexpr int N1 = N1_, N2 = N2_, LANES = LANES_, BLOCKS = BLOCKS_;  // rows and their length
  static constexpr int PAIRS = (N1 + 1) / 2, BINS = N2 / 2 + 1, POINTS = N1 * N2, CELLS = N1 * BINS;
  static constexpr int JOBS = PAIRS > BINS ? PAIRS : BINS;
  static constexpr int THREADS = (JOBS * LANES + 31) / 32 * 32;
  // Rows an odd number of cells apart: fewer than 16 lanes then reach all banks with the next job's.
  static constexpr int PITCH = LANES < 16 ? BINS | 1 : BINS;
  static constexpr int SHARED = N1 * PITCH * LANES;  // pairs
};

// A job of the row passes: rows `job` and `job` + PAIRS; of the column pass: frequency `job`.
template <typename E> struct Job {
  using C = typename E::C;
  int lane, job;
  bool row, both, column;
  SO_DEVICE explicit Job(int thread)
      : lane(thread % E::LANES), job(thread / E::LANES), row(job < E::PAIRS),
        both(E::N1 % 2 == 0 || job + E::PAIRS < E::N1), column(job < E::BINS) {}
  SO_DEVICE u32 item() const { return blockIdx.x * u32(E::LANES) + u32(lane); }
  SO_DEVICE Pair<C>* row_of(Pair<C>* cells) const { return cells + job * E::PITCH * E::LANES + lane; }
  SO_DEVICE Pair<C>* column_of(Pair<C>* cells) const { return cells + job * E::LANES + lane; }
  static constexpr int NEXT = E::PAIRS * E::PITCH * E::LANES;  // from the first row's cells to the second's
};

// An address that N loads are relative to. Of many it is unknown to the compiler from every fourth on, which
// would begin all of them before the first is needed, and spill.
template <int N> SO_DEVICE int some_ahead(int at, int step) { return N > 16 && step % 4 == 0 ? hidden(at) : at; }

template <typename E>
SO_DEVICE void load_pair(const FilterParams& p, const GridArray& from, const GridOf& grid, const Job<E>& job,
                         typename E::C (&x)[E::N2], typename E::C (&y)[E::N2]) {
  using C = typename E::C;
  if (!grid.live || !job.row) {
    SO_UNROLL
    for (int i = 0; i < E::N2; ++i) x[i] = y[i] = C(0);
    return;
  }
  with_storage<C>(p.dtype, [&](auto type) {
    using T = decltype(type);
    const T* a = static_cast<const T*>(from.data) + grid.at(from) + job.job * from.n2;
    const T* b = a + E::PAIRS * from.n2;
    SO_UNROLL
    for (int i = 0; i < E::N2; ++i) x[i] = C(widen(a[i * from.n3]));
    SO_UNROLL
    for (int i = 0; i < E::N2; ++i) y[i] = job.both ? C(widen(b[i * from.n3])) : C(0);
  });
}

template <typename E>
SO_DEVICE void normalise_pair(const FilterParams& p, const GridOf& grid, const Job<E>& job, typename E::C (&x)[E::N2],
                              typename E::C (&y)[E::N2]) {
  if (p.moments == nullptr || !grid.live || !job.row) return;
  const Normalise<typename E::C> norm(p, grid, E::POINTS);
  int at = job.job * E::N2;
  SO_UNROLL
  for (int i = 0; i < E::N2; ++i) x[i] = norm(x[i], (at = some_ahead<E::N2>(at, i)) + i);
  if (!job.both) return;
  at += E::PAIRS * E::N2;
  SO_UNROLL
  for (int i = 0; i < E::N2; ++i) y[i] = norm(y[i], (at = some_ahead<E::N2>(at, i)) + i);
}

// Rows in time -> twice their half spectra in shared memory.
template <typename E>
SO_DEVICE void rows_forward(const Job<E>& job, typename E::C (&x)[E::N2], typename E::C (&y)[E::N2],
                            Pair<typename E::C>* cells) {
  using C = typename E::C;
  if (!job.row) return;
  line<E::N2>(x, y);
  Pair<C>* to = job.row_of(cells);
  SO_UNROLL
  for (int k = 0; k < E::BINS; ++k) {
    const int m = (E::N2 - k) % E::N2;
    to[k * E::LANES] = Pair<C>{x[k] + x[m], y[k] - y[m]};
    if (job.both) to[k * E::LANES + Job<E>::NEXT] = Pair<C>{y[k] + y[m], x[m] - x[k]};
  }
}

// Half spectra -> rows. At k = 0 and N2 / 2 the real parts alone count.
template <typename E>
SO_DEVICE void rows_inverse(const Job<E>& job, const Pair<typename E::C>* from, typename E::C (&x)[E::N2],
                            typename E::C (&y)[E::N2]) {
  using C = typename E::C;
  SO_UNROLL
  for (int k = 0; k < E::BINS; ++k) {
    const int m = (E::N2 - k) % E::N2;
    const Pair<C> a = from[k * E::LANES];
    const Pair<C> b = job.both ? from[k * E::LANES + Job<E>::NEXT] : Pair<C>{C(0), C(0)};
    if (m == k) {
      x[k] = a.x, y[k] = b.x;
    } else {
      x[k] = a.x - b.y, y[k] = a.y + b.x;
      x[m] = a.x + b.y, y[m] = b.x - a.y;
    }
  }
  line<E::N2>(y, x);
}

template <typename E>
SO_DEVICE void store_pair(const FilterParams& p, const GridOf& grid, const Job<E>& job, typename E::C (&x)[E::N2],
                          typename E::C (&y)[E::N2]) {
  using C = typename E::C;
  if (!grid.live) return;
  with_storage<C>(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (p.residual.data) {
      const T* a = static_cast<const T*>(p.residual.data) + grid.at(p.residual) + job.job * p.residual.n2;
      const T* b = a + E::PAIRS * p.residual.n2;
      int step = p.residual.n3;
      SO_UNROLL
      for (int i = 0; i < E::N2; ++i) x[i] += C(widen(a[i * (step = some_ahead<E::N2>(step, i))]));
      if (job.both) {
        SO_UNROLL
        for (int i = 0; i < E::N2; ++i) y[i] += C(widen(b[i * (step = some_ahead<E::N2>(step, i))]));
      }
    }
    T* a = static_cast<T*>(const_cast<void*>(p.y.data)) + grid.at(p.y) + job.job * p.y.n2;
    T* b = a + E::PAIRS * p.y.n2;
    SO_UNROLL
    for (int i = 0; i < E::N2; ++i) a[i * p.y.n3] = narrow<T>(x[i]);
    if (!job.both) return;
    SO_UNROLL
    for (int i = 0; i < E::N2; ++i) b[i * p.y.n3] = narrow<T>(y[i]);
  });
}

template <typename E>
SO_DEVICE void take_column(const Pair<typename E::C>* column, typename E::C (&x)[E::N1], typename E::C (&y)[E::N1]) {
  SO_UNROLL
  for (int i = 0; i < E::N1; ++i) {
    const Pair<typename E::C> v = column[i * E::PITCH * E::LANES];
    x[i] = v.x, y[i] = v.y;
  }
}
template <typename E>
SO_DEVICE void give_column(Pair<typename E::C>* column, const typename E::C (&x)[E::N1], const typename E::C (&y)[E::N1]) {
  SO_UNROLL
  for (int i = 0; i < E::N1; ++i) column[i * E::PITCH * E::LANES] = Pair<typename E::C>{x[i], y[i]};
}

// A column: transform, times the weight, back.
template <typename E>
SO_DEVICE void filter_column(const FilterParams& p, const GridOf& grid, const Job<E>& job, Pair<typename E::C>* cells) {
  using C = typename E::C;
  if (!job.column) return;
  C x[E::N1], y[E::N1];
  Pair<C>* column = job.column_of(cells);
  take_column<E>(column, x, y);
  line<E::N1>(x, y);
  const Weight<C> weight(p, grid, E::POINTS, E::CELLS);
  int at = job.job;
  SO_UNROLL
  for (int k = 0; k < E::N1; ++k) multiply(x[k], y[k], weight((at = some_ahead<E::N1>(at, k)) + k * E::BINS));
  line<E::N1>(y, x);
  give_column<E>(column, x, y);
}

template <typename E>
SO_KERNEL(E::THREADS, E::BLOCKS)
filter_grid(const FilterParams p) {
  using C = typename E::C;
  Pair<C>* cells = dynamic_shared<Pair<C>>();
  SO_UNROLL_BY(1)
  for (int step = 0; step < p.chunk; ++step) {
    const Job<E> job(hidden(int(threadIdx.x)));
    const GridOf grid(p, job.item(), step);
    C x[E::N2], y[E::N2];
    load_pair(p, p.x, grid, job, x, y);
    normalise_pair(p, grid, job, x, y);
    rows_forward(job, x, y, cells);  // into cells that this thread alone has read since the last barrier
    __syncthreads();
    filter_column<E>(p, grid, Job<E>(hidden(int(threadIdx.x))), cells);
    __syncthreads();
    if (!job.row) continue;
    rows_inverse(job, job.row_of(cells), x, y);
    store_pair(p, grid, job, x, y);
  }
}

// ---- the gradient: sums over a chunk's samples in the registers of a column's thread ----------------------------------

template <typename E>
SO_KERNEL(E::THREADS, E::BLOCKS)
filter_grid_gradient(const FilterParams p) {
  using C = typename E::C;
  Pair<C>*cells = dynamic_shared<Pair<C>>(), *others = cells + E::SHARED;
  C sum_x[E::N1], sum_y[E::N1];
  SO_UNROLL
  for (int k = 0; k < E::N1; ++k) sum_x[k] = sum_y[k] = C(0);
  SO_UNROLL_BY(1)
  for (int step = 0; step < p.chunk; ++step) {
    const Job<E> job(hidden(int(threadIdx.x)));
    const GridOf grid(p, job.item(), step);
    SO_UNROLL_BY(1)
    for (int which = 0; which < 2; ++which) {
      C x[E::N2], y[E::N2];
      load_pair(p, which ? p.grad : p.x, grid, job, x, y);
      if (which == 0) normalise_pair(p, grid, job, x, y);
      rows_forward(job, x, y, which ? others : cells);
    }
    __syncthreads();
    if (job.column) {
      C x[E::N1], y[E::N1];
      take_column<E>(job.column_of(cells), x, y);
      line<E::N1>(x, y);
      give_column<E>(job.column_of(cells), x, y);  // as nobody else reads it
      take_column<E>(job.column_of(others), x, y);
      line<E::N1>(x, y);
      int at = job.job * E::LANES + job.lane;
      SO_UNROLL
      for (int k = 0; k < E::N1; ++k) {
        at = some_ahead<E::N1>(at, k);
        const Pair<C> a = cells[at + k * E::PITCH * E::LANES], v = conj_product(a, Pair<C>{x[k], y[k]});
        sum_x[k] += v.x, sum_y[k] += v.y;
      }
    }
    __syncthreads();
  }
  const Job<E> job(hidden(int(threadIdx.x)));
  const u32 item = job.item();
  if (!job.column || item >= p.items) return;
  Pair<C>* to = static_cast<Pair<C>*>(p.sums) + item / u32(p.channels) * (i64(E::CELLS) * p.channels) + item % u32(p.channels);
  SO_UNROLL
  for (int k = 0; k < E::N1; ++k) to[i64(k * E::BINS + job.job) * p.channels] = Pair<C>{sum_x[k], sum_y[k]};
}

}  // namespace fft
}  // namespace spectralops

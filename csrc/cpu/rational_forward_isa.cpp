#include "cpu/rational_loops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename Storage, int V, typename D>
struct Forward {
  using S = Storage;
  using C = compute_t<S>;
  using Known = Coefficients<C, D>;
  using Sum = Sums<C, D>;
  static constexpr bool kSums = false;
  static constexpr int kVersion = V;
  D degree;
  Rows<S> x;
  S* y;
  i64 dim;

  SO_HOST_DEVICE explicit Forward(const RationalJob& job)
      : degree(job.m, job.n), x(job.x, job.x_stride, job), y(static_cast<S*>(job.out)), dim(job.dim) {}

  SO_HOST_DEVICE void load_group(Known& k, const RationalJob& job, i64 group) const {
    broadcast<V, C>(k, degree, numerator<C>(job, group), denominator_row<C>(job, group));
  }
  SO_HOST_DEVICE i64 table_vectors() const { return degree.m.value() + degree.n.value() + 2; }
  SO_HOST_DEVICE void scatter_group(const RationalJob& job, i64 group, C* table, int lane) const {
    scatter<V, C>(table, lane, degree, numerator<C>(job, group), denominator_row<C>(job, group));
  }
  SO_HOST_DEVICE void load_table(Known& k, const C* table) const { take<C>(k, degree, table); }

  struct At {
    const S* x;
    S* y;
  };
  SO_HOST_DEVICE At at(i64 row, i64 col, i64 size, Buffers<S>& buffers) const {
    return {x.segment(row, col, size, buffers.x), y + row * dim + col};
  }
  SO_HOST_DEVICE void point(const Known& k, const At& at, i64 i, int count, Sum&) const {
    store_count<S>(at.y + i, rational_value<V, C>(k, degree, load_count<S>(at.x + i, count)), count);
  }
};

}  // namespace

void rational_forward(const RationalJob& job, const RationalTile& tile) { walk_types<Forward, true>(job, tile); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

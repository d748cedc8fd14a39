#include "cpu/rational_loops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename Storage, int V, typename D>
struct DoubleBackward {
  using S = Storage;
  using C = compute_t<S>;
  struct Known {
    Coefficients<C, D> value, direction;
  };
  using Sum = Sums<C, D>;
  static constexpr bool kSums = true;
  static constexpr int kVersion = V;
  D degree;
  Rows<S> x, grad, ggx;
  S *dx, *dgrad;
  i64 dim;
  C zero_sign;

  SO_HOST_DEVICE explicit DoubleBackward(const RationalJob& job)
      : degree(job.m, job.n), x(job.x, job.x_stride, job), grad(job.grad, job.grad_stride, job),
        ggx(job.ggx, job.ggx_stride, job), dx(static_cast<S*>(job.out)), dgrad(static_cast<S*>(job.dgrad)),
        dim(job.dim), zero_sign(C(job.sign_at_zero)) {}

  // A direction in b_j (j = index + first), made uniform as b is: for A the derivative of |b_j|.
  SO_HOST_DEVICE C along(C b, C d) const { return V != kA ? d : (b > 0 ? C(1) : b < 0 ? C(-1) : zero_sign) * d; }
  struct Direction {
    const C *a, *b;
  };
  SO_HOST_DEVICE Direction direction(const RationalJob& job, i64 group) const {
    return {static_cast<const C*>(job.ggnum) + group * (job.m + 1),
            static_cast<const C*>(job.ggden) + group * job.den_count()};
  }

  SO_HOST_DEVICE void load_group(Known& k, const RationalJob& job, i64 group) const {
    const C* b = denominator_row<C>(job, group);
    const Direction d = direction(job, group);
    broadcast<V, C>(k.value, degree, numerator<C>(job, group), b);
    degree.m.template up<0>([&](auto i) SO_LAMBDA { k.direction.a[i] = splat<C>(d.a[i]); });
    k.direction.b[0] = splat<C>(V == kC ? d.b[0] : C(0));
    degree.n.template up<1>([&](auto j) SO_LAMBDA {
      const int s = V == kC ? j : j - 1;
      k.direction.b[j] = splat<C>(along(b[s], d.b[s]));
    });
  }
  SO_HOST_DEVICE i64 table_vectors() const { return 2 * half_table(); }
  SO_HOST_DEVICE int half_table() const { return degree.m.value() + degree.n.value() + 2; }
  SO_HOST_DEVICE void scatter_group(const RationalJob& job, i64 group, C* table, int lane) const {
    constexpr int L = lanes<C>;
    const C* b = denominator_row<C>(job, group);
    const Direction d = direction(job, group);
    scatter<V, C>(table, lane, degree, numerator<C>(job, group), b);
    C* t = table + half_table() * L + lane;
    for (int i = 0; i <= job.m; ++i, t += L) *t = d.a[i];
    *t = V == kC ? d.b[0] : C(0);
    for (int j = 1; j <= job.n; ++j) {
      const int s = V == kC ? j : j - 1;
      t[j * L] = along(b[s], d.b[s]);
    }
  }
  SO_HOST_DEVICE void load_table(Known& k, const C* table) const {
    take<C>(k.value, degree, table);
    take<C>(k.direction, degree, table + half_table() * lanes<C>);
  }

  struct At {
    const S *x, *grad, *ggx;
    S *dx, *dgrad;
  };
  SO_HOST_DEVICE At at(i64 row, i64 col, i64 size, Buffers<S>& buffers) const {
    return {x.segment(row, col, size, buffers.x), grad.segment(row, col, size, buffers.grad),
            ggx.segment(row, col, size, buffers.ggx), dx + row * dim + col, dgrad + row * dim + col};
  }
  SO_HOST_DEVICE void point(const Known& k, const At& at, i64 i, int count, Sum& sums) const {
    const vec<C> xv = load_count<S>(at.x + i, count), gv = load_count<S>(at.grad + i, count);
    const vec<C> dv = load_count<S>(at.ggx + i, count);
    const auto r = rational_second<V, C>(k.value, k.direction, degree, splat<C>(zero_sign), xv, gv, dv, sums);
    store_count<S>(at.dx + i, r.dx, count);
    store_count<S>(at.dgrad + i, r.dgrad, count);
  }
};

}  // namespace

void rational_double_backward(const RationalJob& job, const RationalTile& tile) {
  walk_types<DoubleBackward, false>(job, tile);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

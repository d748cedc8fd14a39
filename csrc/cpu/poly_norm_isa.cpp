// A row at a time, with z = x / s and s a power of two so that |z| < 2 (ops/poly_norm.py): first max |x|, then the
// means
//     E z^(2i),  M_i = E g z^i,  N_i = E g v z^(i-1),  K_i = E v z^(2i-1)        v = ggx / s
// and with rho_i = (E z^(2i) + eps s^(-2i))^(-1/2) every result is made of a few polynomials:
//     A(z) = sum w_i rho_i z^i                      y = A + b
//     B(t) = sum i w_i rho_i^3 M_i t^(i-1)          dx = (g A' - z B(z^2)) / s
// and in double backward, with b = rho M, a = i N, c = i rho K and e_i = wd_i rho_i - w_i rho_i^2 c_i,
//     D(z) = sum e_i z^i                            dgrad = v A' + D + bd
//     P(t) = sum i rho_i^2 (wd_i b_i + w_i rho_i (a_i - 3 b_i c_i)) t^(i-1)
//     Q(t) = sum i (2 i - 1) w_i rho_i^2 b_i t^(i-1)
//     dx = (g (D' + v A'') - z P(z^2) - v Q(z^2)) / s
#include "cpu/activation_loops.h"
#include "cpu/poly_norm.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

constexpr int kMost = kMaxPolyNormDegree;

// f(i, count) for every vector of a row.
template <typename C, typename F> SO_SIMD void vectors(i64 dim, F f) {
  for (i64 i = 0; i < dim; i += lanes<C>) f(i, int(least(lanes<C>, dim - i)));
}

template <typename C> static C sum_lanes(vec<C> v) {
  C total = 0;
  for (int l = 0; l < lanes<C>; ++l) total += v[l];
  return total;
}

// 1 / s, s = 2^floor(log2 max(1, max |x|)); NaN for a row that is not finite, all of which then is.
template <typename S> static compute_t<S> inverse_scale(const S* x, i64 dim) {
  using C = compute_t<S>;
  vec<C> most = splat<C>(1), odd = vec<C>{};
  vectors<C>(dim, [&](i64 i, int count) SO_LAMBDA {
    const vec<C> v = absolute<C>(load_count(x + i, count));
    most = v > most ? v : most;
    odd += v * C(0);  // NaN where v is NaN or infinite
  });
  const C check = sum_lanes<C>(odd);
  if (!(check == check)) return check;
  C largest = 1;
  for (int l = 0; l < lanes<C>; ++l) largest = most[l] > largest ? most[l] : largest;
  typename lane_int<sizeof(C)>::type bits;
  __builtin_memcpy(&bits, &largest, sizeof bits);
  constexpr int kMantissa = sizeof(C) == 4 ? 23 : 52;
  bits = bits >> kMantissa << kMantissa;
  __builtin_memcpy(&largest, &bits, sizeof bits);
  return C(1) / largest;
}

// Row sums of `Sets` x degree terms: in the compute type over run_terms vectors, in compensated double above.
template <typename C, typename N, int Sets, int Most, typename F>
static void row_sums(const N& degree, i64 dim, double (*sums)[Most], F term) {
  double low[Sets][Most];
  for (int s = 0; s < Sets; ++s)
    for (int i = 0; i < degree.value(); ++i) sums[s][i] = low[s][i] = 0;
  for (i64 begin = 0; begin < dim; begin += run_terms<C> * lanes<C>) {
    vec<C> lane[Sets][Most];
    degree.each([&](auto i) SO_LAMBDA { each<Sets>([&](auto s) SO_LAMBDA { lane[s][i] = vec<C>{}; }); });
    const i64 size = least(dim - begin, run_terms<C> * lanes<C>);
    vectors<C>(size, [&](i64 i, int count) SO_LAMBDA { term(lane, begin + i, count); });
    degree.each([&](auto i) SO_LAMBDA {
      each<Sets>([&](auto s) SO_LAMBDA {
        alignas(64) C spilled[lanes<C>];
        store(spilled, lane[s][i]);
        double total = 0;
        add_lanes(spilled, 1, &total);
        add_compensated(sums[s][i], low[s][i], total);
      });
    });
  }
  for (int s = 0; s < Sets; ++s)
    for (int i = 0; i < degree.value(); ++i) sums[s][i] = compensated(sums[s][i], low[s][i]);
}

// sum_{i < n} c_i z^i, and its derivative.
template <typename C, typename N> SO_SIMD vec<C> polynomial(const N& n, const vec<C>* c, vec<C> z) {
  vec<C> v = c[n.value() - 1];
  n.down([&](auto i) SO_LAMBDA { v = int(i) == n.value() - 1 ? v : mul_add(v, z, c[i]); });
  return v;
}
template <typename C, typename N> SO_SIMD vec<C> derivative(const N& n, const vec<C>* c, vec<C> z) {
  vec<C> v = vec<C>{};
  n.down([&](auto i) SO_LAMBDA {
    const vec<C> term = c[i] * splat<C>(C(int(i)));
    v = int(i) == 0 ? v : int(i) == n.value() - 1 ? term : mul_add(v, z, term);
  });
  return v;
}

// rho_i from the sums of z^(2i).
template <typename C, typename N>
static void inverse_roots(const PolyNormJob& job, const N& degree, const double* squares, C inverse, double* rho) {
  double shrink = 1;
  for (int i = 0; i < degree.value(); ++i) {
    shrink *= double(inverse) * double(inverse);
    const double mean = squares[i] / double(job.dim) + job.eps * shrink;
    rho[i] = 1 / __builtin_sqrt(mean);
  }
}

// Index i of every array here belongs to the power i + 1.
template <typename S, typename N, int Most> struct Row {
  using C = compute_t<S>;
  using V = vec<C>;
  const PolyNormJob& job;
  const N degree;
  const C *w = static_cast<const C*>(job.weight), *wd = static_cast<const C*>(job.ggweight);
  double sums[4][Most], rho[Most];
  V lead[Most], tail[Most], extra[Most], more[Most];
  double total[Most + 1] = {}, low[Most + 1] = {};  // of the parameters, over rows

  explicit Row(const PolyNormJob& j) : job(j), degree(j.degree) {}

  SO_HOST_DEVICE static const S* at(const void* p, i64 i) { return static_cast<const S*>(p) + i; }

  void finish(double* out) const {
    for (int i = 0; i <= degree.value(); ++i) out[i] += compensated(total[i], low[i]);
  }

  void forward(i64 begin) {
    const S* x = at(job.x, begin);
    S* y = static_cast<S*>(job.out) + begin;
    const C inverse = inverse_scale(x, job.dim);
    row_sums<C, N, 1, Most>(degree, job.dim, sums, [&](auto& lane, i64 i, int count) SO_LAMBDA {
      const V z = load_count(x + i, count) * inverse;
      V power = z;
      degree.each([&](auto k) SO_LAMBDA {
        if (int(k) > 0) power *= z;
        lane[0][k] = mul_add(power, power, lane[0][k]);
      });
    });
    inverse_roots(job, degree, sums[0], inverse, rho);
    for (int i = 0; i < degree.value(); ++i) lead[i] = splat<C>(C(w[i] * rho[i]));
    const V bias = splat<C>(*static_cast<const C*>(job.bias));
    vectors<C>(job.dim, [&](i64 i, int count) SO_LAMBDA {
      const V z = load_count(x + i, count) * inverse;
      store_count(y + i, mul_add(polynomial<C>(degree, lead, z), z, bias), count);
    });
  }

  void backward(i64 begin) {
    const S *x = at(job.x, begin), *grad = at(job.grad, begin);
    S* dx = static_cast<S*>(job.out) + begin;
    const C inverse = inverse_scale(x, job.dim);
    row_sums<C, N, 3, Most>(degree, job.dim, sums, [&](auto& lane, i64 i, int count) SO_LAMBDA {
      const V z = load_count(x + i, count) * inverse, g = load_count(grad + i, count);
      V power = z;
      degree.each([&](auto k) SO_LAMBDA {
        if (int(k) > 0) power *= z;
        lane[0][k] = mul_add(power, power, lane[0][k]);
        lane[1][k] = mul_add(g, power, lane[1][k]);
      });
      lane[2][0] += g;
    });
    inverse_roots(job, degree, sums[0], inverse, rho);
    for (int i = 0; i < degree.value(); ++i) {
      const double m = sums[1][i] / double(job.dim), r = rho[i];
      lead[i] = splat<C>(C((i + 1) * w[i] * r));
      tail[i] = splat<C>(C((i + 1) * w[i] * r * (r * r * m)));
      add_compensated(total[i], low[i], r * sums[1][i]);
    }
    add_compensated(total[degree.value()], low[degree.value()], sums[2][0]);
    vectors<C>(job.dim, [&](i64 i, int count) SO_LAMBDA {
      const V z = load_count(x + i, count) * inverse, g = load_count(grad + i, count);
      const V rest = z * polynomial<C>(degree, tail, z * z);
      store_count(dx + i, mul_add(g, polynomial<C>(degree, lead, z), -rest) * inverse, count);
    });
  }

  void double_backward(i64 begin) {
    const S *x = at(job.x, begin), *grad = at(job.grad, begin), *ggx = at(job.ggx, begin);
    S *dx = static_cast<S*>(job.out) + begin, *dgrad = static_cast<S*>(job.dgrad) + begin;
    const C inverse = inverse_scale(x, job.dim);
    row_sums<C, N, 4, Most>(degree, job.dim, sums, [&](auto& lane, i64 i, int count) SO_LAMBDA {
      const V z = load_count(x + i, count) * inverse, g = load_count(grad + i, count);
      const V v = load_count(ggx + i, count) * inverse, gv = g * v;
      V power = z, lower = splat<C>(1);
      degree.each([&](auto k) SO_LAMBDA {
        if (int(k) > 0) lower = power, power *= z;
        lane[0][k] = mul_add(power, power, lane[0][k]);
        lane[1][k] = mul_add(g, power, lane[1][k]);
        lane[2][k] = mul_add(gv, lower, lane[2][k]);
        lane[3][k] = mul_add(power * lower, v, lane[3][k]);
      });
    });
    inverse_roots(job, degree, sums[0], inverse, rho);
    const double n = double(job.dim);
    for (int k = 0; k < degree.value(); ++k) {
      const double r = rho[k], i = k + 1, b = r * sums[1][k] / n, a = i * sums[2][k] / n, c = i * r * sums[3][k] / n;
      lead[k] = splat<C>(C(i * w[k] * r));                                             // of A'
      tail[k] = splat<C>(C(wd[k] * r - w[k] * r * r * c));                             // of D / z
      extra[k] = splat<C>(C(i * r * r * (wd[k] * b + w[k] * r * (a - 3 * b * c))));    // of P
      more[k] = splat<C>(C(i * (2 * i - 1) * w[k] * r * r * b));                       // of Q
      add_compensated(total[k], low[k], n * r * (a - b * c));
    }
    const V bias = splat<C>(*static_cast<const C*>(job.ggbias));
    vectors<C>(job.dim, [&](i64 i, int count) SO_LAMBDA {
      const V z = load_count(x + i, count) * inverse, g = load_count(grad + i, count), t = z * z;
      const V v = load_count(ggx + i, count) * inverse;
      const V below = polynomial<C>(degree, tail, z);  // D = z below
      store_count(dgrad + i, mul_add(v, polynomial<C>(degree, lead, z), mul_add(z, below, bias)), count);
      const V slope = mul_add(z, derivative<C>(degree, tail, z), below);
      const V direct = mul_add(v, derivative<C>(degree, lead, z), slope);
      const V rest = mul_add(z, polynomial<C>(degree, extra, t), v * polynomial<C>(degree, more, t));
      store_count(dx + i, mul_add(g, direct, -rest) * inverse, count);
    });
  }
};

template <typename F> static void with_row(const PolyNormJob& job, F f) {
  const auto typed = [&](auto storage) {
    using S = decltype(storage);
    if (job.degree == 3) {
      Row<S, FixedCount<3>, 3> row(job);
      f(row);
    } else {
      Row<S, AnyCount, kMost> row(job);
      f(row);
    }
  };
  if (job.dtype == 0) typed(float());
  else if (job.dtype == 1) typed(double());
  else if (job.dtype == 2) typed(half_t());
  else typed(bf16_t());
}

}  // namespace

void poly_norm_forward(const PolyNormJob& job, i64 row, i64 row_end, double*) {
  with_row(job, [&](auto& one) {
    for (i64 r = row; r < row_end; ++r) one.forward(r * job.dim);
  });
}
void poly_norm_backward(const PolyNormJob& job, i64 row, i64 row_end, double* sums) {
  with_row(job, [&](auto& one) {
    for (i64 r = row; r < row_end; ++r) one.backward(r * job.dim);
    one.finish(sums);
  });
}
void poly_norm_double_backward(const PolyNormJob& job, i64 row, i64 row_end, double* sums) {
  with_row(job, [&](auto& one) {
    for (i64 r = row; r < row_end; ++r) one.double_backward(r * job.dim);
    one.finish(sums);
  });
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

// Kernels of the rational activation for degrees known at run time, any group width, and double: one column a thread,
// four rows at a time, which share every coefficient that is read.  The coefficients come from the cache and a thread's
// sums live in its own column of shared memory, so that nothing is indexed in registers.
#pragma once

#include "spectralops/rational_plan.h"

namespace spectralops {

constexpr int kRationalRows = 4;

// v, d1, half_d2: value, first and halved second derivative of sum_i coefficient(i) z^i at the four z.
template <typename C, typename Coefficient>
SO_DEVICE void horner_rows(int degree, const C (&z)[kRationalRows], Coefficient coefficient, C (&v)[kRationalRows],
                           C (&d1)[kRationalRows], C (&half_d2)[kRationalRows]) {
  const C top = coefficient(degree);
  SO_UNROLL
  for (int e = 0; e < kRationalRows; ++e) v[e] = top, d1[e] = half_d2[e] = C(0);
  for (int i = degree - 1; i >= 0; --i) {
    const C a = coefficient(i);
    SO_UNROLL
    for (int e = 0; e < kRationalRows; ++e) {
      half_d2[e] = i == degree - 1 ? C(0) : i == degree - 2 ? d1[e] : half_d2[e] * z[e] + d1[e];
      d1[e] = i == degree - 1 ? v[e] : d1[e] * z[e] + v[e];
      v[e] = v[e] * z[e] + a;
    }
  }
}

// Four rows of a column, from row j of the thread's rows on; zeros beyond the last.
template <typename T>
struct RationalRows {
  using C = compute_t<T>;
  const T* base;
  i64 step;

  SO_DEVICE RationalRows(const void* data, i64 row_stride, const RationalParams& p, const RationalLane& lane)
      : base(static_cast<const T*>(data) + lane.row * row_stride + lane.column), step(row_stride * p.plan.row_lanes) {}
  SO_DEVICE void load(int j, int rows, C (&values)[kRationalRows]) const {
    SO_UNROLL
    for (int e = 0; e < kRationalRows; ++e) values[e] = j + e < rows ? widen(base[(j + e) * step]) : C(0);
  }
};
template <typename T>
SO_DEVICE void rational_store_rows(void* data, const RationalParams& p, const RationalLane& lane, int j,
                                   const compute_t<T> (&values)[kRationalRows]) {
  SO_UNROLL
  for (int e = 0; e < kRationalRows; ++e)
    if (j + e < lane.rows)
      static_cast<T*>(data)[(lane.row + i64(j + e) * p.plan.row_lanes) * p.dim + lane.column] = narrow<T>(values[e]);
}

// A group's polynomials and the direction in which they move, scaled as rational_math.h says.
template <typename C>
struct RationalGroup {
  const C *a, *b, *a_dot, *b_dot;
  int m, n, version;
  C at_zero;

  SO_DEVICE RationalGroup(const RationalParams& p, i64 group)
      : a(static_cast<const C*>(p.numerator) + group * p.numerator_stride),
        b(static_cast<const C*>(p.denominator) + group * p.denominator_stride),
        a_dot(static_cast<const C*>(p.ggnumerator) + group * rational_num_size(p)),
        b_dot(static_cast<const C*>(p.ggdenominator) + group * rational_den_size(p)),
        m(p.num_degree),
        n(p.den_degree),
        version(p.version),
        at_zero(C(p.sign_at_zero)) {}

  SO_DEVICE void z(const C (&x)[kRationalRows], C (&z)[kRationalRows]) const {
    SO_UNROLL
    for (int e = 0; e < kRationalRows; ++e) z[e] = rational_z(x[e], version);
  }
  SO_DEVICE void numerator(const C (&x)[kRationalRows], C (&v)[kRationalRows], C (&d1)[kRationalRows],
                           C (&d2)[kRationalRows]) const {
    horner_rows(m, x, [this](int i) { return a[i] * kNumeratorScale<C>; }, v, d1, d2);
  }
  SO_DEVICE void denominator(const C (&z)[kRationalRows], C (&v)[kRationalRows], C (&d1)[kRationalRows],
                             C (&d2)[kRationalRows]) const {
    horner_rows(n, z, [this](int j) { return rational_denominator(b, j, version); }, v, d1, d2);
  }
  SO_DEVICE void numerator_direction(const C (&x)[kRationalRows], C (&v)[kRationalRows], C (&d1)[kRationalRows]) const {
    C unused[kRationalRows];
    horner_rows(m, x, [this](int i) { return a_dot[i] * kNumeratorScale<C>; }, v, d1, unused);
  }
  SO_DEVICE void denominator_direction(const C (&z)[kRationalRows], C (&v)[kRationalRows],
                                       C (&d1)[kRationalRows]) const {
    C unused[kRationalRows];
    horner_rows(
        n, z, [this](int j) { return rational_denominator_direction(b_dot, b, j, version, at_zero); }, v, d1, unused);
  }
};

// A thread's sums: entry i at column[i * blockDim.x].
template <typename C>
struct RationalSums {
  C* column;
  int num_size, size;
  int first;  // the power of the first entry of the denominator

  SO_DEVICE explicit RationalSums(const RationalParams& p)
      : column(dynamic_shared<C>() + threadIdx.x),
        num_size(rational_num_size(p)),
        size(num_size + rational_den_size(p)),
        first(p.version == kRationalC ? 0 : 1) {
    for (int i = 0; i < size; ++i) column[i * blockDim.x] = C(0);
  }
  // Entry from + i - lowest gains sum_e w0[e] z[e]^i, and with SLOPE also sum_e i w1[e] z[e]^(i - 1).
  template <bool SLOPE>
  SO_DEVICE void add(int from, int count, int lowest, const C (&z)[kRationalRows], C (&w0)[kRationalRows],
                     C (&w1)[kRationalRows]) {
    for (int i = 0; i < count + lowest; ++i) {
      C sum = C(0);
      SO_UNROLL
      for (int e = 0; e < kRationalRows; ++e) {
        sum += SLOPE && i > 0 ? w0[e] + C(i) * w1[e] : w0[e];
        if (SLOPE && i > 0) w1[e] *= z[e];
        w0[e] *= z[e];
      }
      if (i >= lowest) column[(from + i - lowest) * blockDim.x] += sum;
    }
  }
  template <bool SLOPE>
  SO_DEVICE void add_numerator(const C (&x)[kRationalRows], C (&w0)[kRationalRows], C (&w1)[kRationalRows]) {
    add<SLOPE>(0, num_size, 0, x, w0, w1);
  }
  template <bool SLOPE>
  SO_DEVICE void add_denominator(const C (&z)[kRationalRows], C (&w0)[kRationalRows], C (&w1)[kRationalRows]) {
    add<SLOPE>(num_size, size - num_size, first, z, w0, w1);
  }
};

template <typename T>
SO_KERNEL(256, 1)
rational_forward_general_kernel(const RationalParams p) {
  using C = compute_t<T>;
  const RationalLane lane = rational_lane(p);
  const RationalGroup<C> k(p, lane.group);
  const RationalRows<T> xs(p.x, p.x_stride, p, lane);
  for (int j = 0; j < lane.rows; j += kRationalRows) {
    C x[kRationalRows], z[kRationalRows], v[kRationalRows], t[kRationalRows], d1[kRationalRows], d2[kRationalRows];
    xs.load(j, lane.rows, x);
    k.z(x, z);
    k.numerator(x, v, d1, d2);
    k.denominator(z, t, d1, d2);
    SO_UNROLL
    for (int e = 0; e < kRationalRows; ++e) v[e] *= reciprocal(rational_q(t[e], p.version));
    rational_store_rows<T>(p.y, p, lane, j, v);
  }
}

template <typename T>
SO_KERNEL(128, 1)
rational_backward_general_kernel(const RationalParams p) {
  using C = compute_t<T>;
  const RationalLane lane = rational_lane(p);
  const RationalGroup<C> k(p, lane.group);
  const RationalRows<T> xs(p.x, p.x_stride, p, lane), gs(p.grad, p.grad_stride, p, lane);
  RationalSums<C> sums(p);
  for (int j = 0; j < lane.rows; j += kRationalRows) {
    C x[kRationalRows], g[kRationalRows], z[kRationalRows], unused[kRationalRows];
    C v[kRationalRows], v1[kRationalRows], t[kRationalRows], t1[kRationalRows];
    C num[kRationalRows], den[kRationalRows];
    xs.load(j, lane.rows, x);
    gs.load(j, lane.rows, g);
    k.z(x, z);
    k.numerator(x, v, v1, unused);
    k.denominator(z, t, t1, unused);
    SO_UNROLL
    for (int e = 0; e < kRationalRows; ++e) {
      const RationalGradient<C> d = rational_gradient(x[e], g[e], v[e], v1[e], t[e], t1[e], p.version, k.at_zero);
      const bool valid = j + e < lane.rows;  // 0 * inf must not reach a sum
      v[e] = d.dx, num[e] = valid ? d.num : C(0), den[e] = valid ? d.den : C(0);
    }
    rational_store_rows<T>(p.dx, p, lane, j, v);
    sums.template add_numerator<false>(x, num, unused);
    sums.template add_denominator<false>(z, den, unused);
  }
  rational_store_partials(p, dynamic_shared<C>(), sums.size);
}

template <typename T>
SO_KERNEL(128, 1)
rational_double_backward_general_kernel(const RationalParams p) {
  using C = compute_t<T>;
  const RationalLane lane = rational_lane(p);
  const RationalGroup<C> k(p, lane.group);
  const RationalRows<T> xs(p.x, p.x_stride, p, lane), gs(p.grad, p.grad_stride, p, lane),
      ggxs(p.ggx, p.ggx_stride, p, lane);
  RationalSums<C> sums(p);
  for (int j = 0; j < lane.rows; j += kRationalRows) {
    C x[kRationalRows], g[kRationalRows], xd[kRationalRows], z[kRationalRows];
    C v[kRationalRows], v1[kRationalRows], v2[kRationalRows], va[kRationalRows], va1[kRationalRows];
    C t[kRationalRows], t1[kRationalRows], t2[kRationalRows], ta[kRationalRows], ta1[kRationalRows];
    C n0[kRationalRows], n1[kRationalRows], d0[kRationalRows], d1[kRationalRows];
    xs.load(j, lane.rows, x);
    gs.load(j, lane.rows, g);
    ggxs.load(j, lane.rows, xd);
    k.z(x, z);
    k.numerator(x, v, v1, v2);
    k.numerator_direction(x, va, va1);
    k.denominator(z, t, t1, t2);
    k.denominator_direction(z, ta, ta1);
    SO_UNROLL
    for (int e = 0; e < kRationalRows; ++e) {
      const RationalSecond<C> d =
          rational_second(x[e], g[e], xd[e], RationalJet<C>{v[e], v1[e], v2[e], va[e], va1[e]},
                          RationalJet<C>{t[e], t1[e], t2[e], ta[e], ta1[e]}, p.version, k.at_zero);
      const bool valid = j + e < lane.rows;  // 0 * inf must not reach a sum
      v[e] = d.dgrad, t[e] = d.dx;
      n0[e] = valid ? d.n0 : C(0), n1[e] = valid ? d.n1 : C(0), d0[e] = valid ? d.d0 : C(0),
      d1[e] = valid ? d.d1 : C(0);
    }
    rational_store_rows<T>(p.dgrad, p, lane, j, v);
    rational_store_rows<T>(p.dx, p, lane, j, t);
    sums.template add_numerator<true>(x, n0, n1);
    sums.template add_denominator<true>(z, d0, d1);
  }
  rational_store_partials(p, dynamic_shared<C>(), sums.size);
}

}  // namespace spectralops

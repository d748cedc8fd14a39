// Kernels of the rational activation for degrees known at compile time and groups of whole 16-byte chunks;
// rational_general.h has the rest. 16-bit and float data only: arithmetic in float, one rounding at the store.
#pragma once

#include "spectralops/rational_plan.h"
#include "spectralops/vec.h"

namespace spectralops {

// A group's coefficients, scaled as rational_math.h says.  den[0] is Q's constant in version A and 0 in B and smooth.
template <int M, int N>
struct RationalCoefficients {
  float num[M + 1], den[N + 1];

  SO_DEVICE RationalCoefficients(const RationalParams& p, i64 group, int version) {
    const float* a = static_cast<const float*>(p.numerator) + group * p.numerator_stride;
    const float* b = static_cast<const float*>(p.denominator) + group * p.denominator_stride;
    SO_UNROLL
    for (int i = 0; i <= M; ++i) num[i] = a[i] * kNumeratorScale<float>;
    SO_UNROLL
    for (int j = 0; j <= N; ++j) den[j] = rational_denominator(b, j, version);
  }
};

template <int D>
SO_DEVICE float horner(const float (&a)[D + 1], float z) {
  float v = a[D];
  SO_UNROLL
  for (int i = D - 1; i >= 0; --i) v = v * z + a[i];
  return v;
}

// Value, first and halved second derivative.  The first products of the derivatives would be with an exact 0; they are
// left out, so that an infinite z gives no NaN there.
template <int D>
SO_DEVICE void horner(const float (&a)[D + 1], float z, float& v, float& d1, float& half_d2) {
  v = a[D], d1 = 0.0f, half_d2 = 0.0f;
  SO_UNROLL
  for (int i = D - 1; i >= 0; --i) {
    half_d2 = i == D - 1 ? 0.0f : i == D - 2 ? d1 : half_d2 * z + d1;
    d1 = i == D - 1 ? v : d1 * z + v;
    v = v * z + a[i];
  }
}

// A thread's pointer at its first element, and the step to its next row.
template <typename T>
struct RationalColumn {
  T* at;
  i64 step;

  SO_DEVICE RationalColumn(T* base, i64 row_stride, const RationalParams& p, const RationalLane& lane)
      : at(base + lane.row * row_stride + lane.column), step(row_stride * p.plan.row_lanes) {}
  SO_DEVICE T* row(int u) const { return at + u * step; }
};

// The loads of UNROLL rows are in flight at once.
template <typename T, int M, int N, int VERSION, int UNROLL>
SO_KERNEL(256, 4)
rational_forward_kernel(const RationalParams p) {
  const RationalLane lane = rational_lane(p);
  const RationalCoefficients<M, N> k(p, lane.group, VERSION);
  RationalColumn<const T> x(static_cast<const T*>(p.x), p.x_stride, p, lane);
  RationalColumn<T> y(static_cast<T*>(p.y), p.dim, p, lane);

  for (int j = 0; j < lane.rows; j += UNROLL) {
    Vec<T> in[UNROLL];
    SO_UNROLL
    for (int u = 0; u < UNROLL; ++u)
      if (j + u < lane.rows) in[u] = vec_load(x.row(u), p.aligned);
    SO_UNROLL
    for (int u = 0; u < UNROLL; ++u) {
      if (j + u >= lane.rows) break;
      float out[Vec<T>::size];
      SO_UNROLL
      for (int i = 0; i < Vec<T>::size; ++i) {
        const float value = vec_get(in[u], i);
        const float t = horner<N>(k.den, rational_z(value, VERSION));
        out[i] = horner<M>(k.num, value) * reciprocal(rational_q(t, VERSION));
      }
      SO_UNROLL
      for (int i = 0; i < Vec<T>::size; i += 2) vec_set_pair(in[u], i, out[i], out[i + 1]);
      vec_store(y.row(u), in[u], p.aligned);
    }
    x.at += UNROLL * x.step, y.at += UNROLL * y.step;
  }
}

// One element of the backward: returns dx, adds to the sums over UNROLL chunks.
template <int M, int N>
SO_DEVICE float rational_backward_element(const RationalCoefficients<M, N>& k, float x, float g, int version,
                                          float at_zero, float (&num)[M + 1], float (&den)[N + 1]) {
  float p, p1, t, t1, unused;
  horner<M>(k.num, x, p, p1, unused);
  horner<N>(k.den, rational_z(x, version), t, t1, unused);
  const RationalGradient<float> d = rational_gradient(x, g, p, p1, t, t1, version, at_zero);
  float power = 1.0f;  // x^i
  SO_UNROLL
  for (int i = 0; i <= (M > N ? M : N); ++i) {
    if (i == 1) power = x;
    if (i > 1) power *= x;
    if (i <= M) num[i] = i == 0 ? num[0] + d.num : num[i] + d.num * power;
    // |x|^i, and the even powers are positive as they are.
    const float z_power = version == kRationalA && i % 2 ? magnitude(power) : power;
    if (i == 0 && version == kRationalC) den[0] += d.den;
    if (i > 0 && i <= N) den[i] += d.den * z_power;
  }
  return d.dx;
}

// Registers to shared memory, and from there to the workspace.
template <int M, int N>
SO_DEVICE void rational_store_sums(const RationalParams& p, const float (&num)[M + 1], const float (&den)[N + 1],
                                   int version) {
  float* sums = dynamic_shared<float>();
  const int first = version == kRationalC ? 0 : 1;
  SO_UNROLL
  for (int i = 0; i <= M; ++i) sums[i * blockDim.x + threadIdx.x] = num[i];
  SO_UNROLL
  for (int j = 0; j <= N; ++j)
    if (j >= first) sums[(M + 1 + j - first) * blockDim.x + threadIdx.x] = den[j];
  rational_store_partials(p, sums, M + 1 + N + 1 - first);
}

// dx, and the coefficients' sums over a block's rows.  A thread adds UNROLL chunks on their own before it adds them to
// its total: two short chains of additions round far less than a long one.  Three blocks of 256 threads leave 80
// registers: enough at 5/4, too few at 7/6.
template <typename T, int M, int N, int VERSION, int UNROLL>
SO_KERNEL(256, M + N > 9 ? 2 : 3)
rational_backward_kernel(const RationalParams p) {
  const RationalLane lane = rational_lane(p);
  const RationalCoefficients<M, N> k(p, lane.group, VERSION);
  RationalColumn<const T> x(static_cast<const T*>(p.x), p.x_stride, p, lane);
  RationalColumn<const T> grad(static_cast<const T*>(p.grad), p.grad_stride, p, lane);
  RationalColumn<T> dx(static_cast<T*>(p.dx), p.dim, p, lane);
  const float at_zero = float(p.sign_at_zero);
  float num_total[M + 1] = {}, den_total[N + 1] = {};

  for (int j = 0; j < lane.rows; j += UNROLL) {
    Vec<T> xs[UNROLL], gs[UNROLL];
    SO_UNROLL
    for (int u = 0; u < UNROLL; ++u)
      if (j + u < lane.rows) xs[u] = vec_load(x.row(u), p.aligned), gs[u] = vec_load(grad.row(u), p.aligned);
    float num[M + 1] = {}, den[N + 1] = {};
    SO_UNROLL
    for (int u = 0; u < UNROLL; ++u) {
      if (j + u >= lane.rows) break;
      float out[Vec<T>::size];
      SO_UNROLL
      for (int i = 0; i < Vec<T>::size; ++i)
        out[i] = rational_backward_element<M, N>(k, vec_get(xs[u], i), vec_get(gs[u], i), VERSION, at_zero, num, den);
      SO_UNROLL
      for (int i = 0; i < Vec<T>::size; i += 2) vec_set_pair(xs[u], i, out[i], out[i + 1]);
      vec_store(dx.row(u), xs[u], p.aligned);
    }
    SO_UNROLL
    for (int i = 0; i <= M; ++i) num_total[i] += num[i];
    SO_UNROLL
    for (int i = 0; i <= N; ++i) den_total[i] += den[i];
    x.at += UNROLL * x.step, grad.at += UNROLL * grad.step, dx.at += UNROLL * dx.step;
  }
  rational_store_sums<M, N>(p, num_total, den_total, VERSION);
}

// What the second derivative needs of a group: the coefficients and the direction in which they move.
template <int M, int N>
struct RationalDirection : RationalCoefficients<M, N> {
  float along_num[M + 1], along_den[N + 1];

  SO_DEVICE RationalDirection(const RationalParams& p, i64 group, int version, float at_zero)
      : RationalCoefficients<M, N>(p, group, version) {
    const float* b = static_cast<const float*>(p.denominator) + group * p.denominator_stride;
    const float* a_dot = static_cast<const float*>(p.ggnumerator) + group * rational_num_size(p);
    const float* b_dot = static_cast<const float*>(p.ggdenominator) + group * rational_den_size(p);
    SO_UNROLL
    for (int i = 0; i <= M; ++i) along_num[i] = a_dot[i] * kNumeratorScale<float>;
    SO_UNROLL
    for (int j = 0; j <= N; ++j) along_den[j] = rational_denominator_direction(b_dot, b, j, version, at_zero);
  }
};

// One element of the double backward: adds to the sums over a chunk.
template <int M, int N>
SO_DEVICE RationalSecond<float> rational_second_element(const RationalDirection<M, N>& k, float x, float g, float xd,
                                                        int version, float at_zero, float (&num)[M + 1],
                                                        float (&den)[N + 1]) {
  const float z = rational_z(x, version);
  float unused;
  RationalJet<float> p, t;
  horner<M>(k.num, x, p.v, p.d1, p.half_d2);
  horner<M>(k.along_num, x, p.along, p.along_d1, unused);
  horner<N>(k.den, z, t.v, t.d1, t.half_d2);
  horner<N>(k.along_den, z, t.along, t.along_d1, unused);
  const RationalSecond<float> d = rational_second(x, g, xd, p, t, version, at_zero);
  float power = 1.0f, below = 0.0f;  // x^i, i x^{i-1} / i
  SO_UNROLL
  for (int i = 0; i <= M; ++i) {
    num[i] += d.n0 * power + d.n1 * float(i) * below;
    below = power, power *= x;
  }
  power = 1.0f, below = 0.0f;
  SO_UNROLL
  for (int j = 0; j <= N; ++j) {
    den[j] += d.d0 * power + d.d1 * float(j) * below;
    below = power, power *= z;
  }
  return d;
}

template <typename T, int M, int N, int VERSION>
SO_KERNEL(256, M + N > 9 ? 1 : 2)
rational_double_backward_kernel(const RationalParams p) {
  const RationalLane lane = rational_lane(p);
  const float at_zero = float(p.sign_at_zero);
  const RationalDirection<M, N> k(p, lane.group, VERSION, at_zero);
  RationalColumn<const T> x(static_cast<const T*>(p.x), p.x_stride, p, lane);
  RationalColumn<const T> grad(static_cast<const T*>(p.grad), p.grad_stride, p, lane);
  RationalColumn<const T> ggx(static_cast<const T*>(p.ggx), p.ggx_stride, p, lane);
  RationalColumn<T> dgrad(static_cast<T*>(p.dgrad), p.dim, p, lane), dx(static_cast<T*>(p.dx), p.dim, p, lane);
  float num_total[M + 1] = {}, den_total[N + 1] = {};

  for (int j = 0; j < lane.rows; ++j) {
    Vec<T> xs = vec_load(x.at, p.aligned), gs = vec_load(grad.at, p.aligned);
    const Vec<T> ggs = vec_load(ggx.at, p.aligned);
    float num[M + 1] = {}, den[N + 1] = {};
    SO_UNROLL
    for (int i = 0; i < Vec<T>::size; i += 2) {
      const RationalSecond<float> low =
          rational_second_element<M, N>(k, vec_get(xs, i), vec_get(gs, i), vec_get(ggs, i), VERSION, at_zero, num, den);
      const RationalSecond<float> high = rational_second_element<M, N>(k, vec_get(xs, i + 1), vec_get(gs, i + 1),
                                                                       vec_get(ggs, i + 1), VERSION, at_zero, num, den);
      vec_set_pair(gs, i, low.dgrad, high.dgrad);
      vec_set_pair(xs, i, low.dx, high.dx);
    }
    vec_store(dgrad.at, gs, p.aligned);
    vec_store(dx.at, xs, p.aligned);
    SO_UNROLL
    for (int i = 0; i <= M; ++i) num_total[i] += num[i];
    SO_UNROLL
    for (int i = 0; i <= N; ++i) den_total[i] += den[i];
    x.at += x.step, grad.at += grad.step, ggx.at += ggx.step, dgrad.at += dgrad.step, dx.at += dx.step;
  }
  rational_store_sums<M, N>(p, num_total, den_total, VERSION);
}

}  // namespace spectralops

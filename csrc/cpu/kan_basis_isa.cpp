// Features of a block: x and u transposed, then the basis of one input after the other on vectors of rows.
#include "cpu/kan_basis.h"
#include "cpu/kan_basis_spline.h"
#include "cpu/kan_loops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

// One input of a block.
template <typename C> struct Input {
  const C *x, *u;  // row_block elements; u may be NULL
  C* out;          // slot k or tap t at out + k * row_block
  int* index;
  unsigned char* spoiled;
  i64 rows;        // to compute, a multiple of lanes
  i64 stride;      // row_block

  SO_HOST_DEVICE vec<C> multiplier(i64 r) const { return u ? load(u + r) : splat<C>(1); }
};

template <typename C, template <typename, int> class Family, int M, int Which>
__attribute__((noinline)) void family_rows(const KanJob& job, const Input<C>& in) {
  const Family<C, M> family(job);
  for (i64 r = 0; r < in.rows; r += lanes<C>) {
    const vec<C> u = in.multiplier(r);
    family.template each<Which>(load(in.x + r),
                                [&](int k, vec<C> v) SO_LAMBDA { store(in.out + k * in.stride + r, v * u); });
  }
}

template <typename C, int M, bool Tangent, int P, typename Knots>
__attribute__((noinline)) void spline_rows(const KanJob& job, const Knots& knots, const Input<C>& in) {
  using I = typename lane_int<sizeof(C)>::type;
  constexpr int L = lanes<C>;
  const int p = P >= 0 ? P : job.a;
  mask<C> spoiled = {};
  for (i64 r = 0; r < in.rows; r += L) {
    Taps<C> taps = spline_taps<C, M, Tangent, P>(job, knots, load(in.x + r), in.multiplier(r));
    spoiled |= taps.spoiled;
    if (job.sparse) {
      fit_taps<C, P>(taps, job.a, job.size);
      each_order<P>(0, p, [&](int t) SO_LAMBDA { store(in.out + t * in.stride + r, taps.b[t]); });
      typename sized_vector<int, L>::type first = __builtin_convertvector(taps.first, typename sized_vector<int, L>::type);
      __builtin_memcpy(in.index + r, &first, sizeof first);
      continue;
    }
    for (int k = 0; k < job.size; ++k)
      store(in.out + k * in.stride + r, taps.spoiled ? splat<C>(C(__builtin_nan(""))) : vec<C>{});
    C value[kMaxSplineOrder + 1][L];
    I first[L];
    __builtin_memcpy(first, &taps.first, sizeof first);
    for (int t = 0; t <= p; ++t) store(value[t], taps.b[t]);
    for (int l = 0; l < L; ++l)
      for (int t = 0; t <= p; ++t)
        if (const I k = first[l] + I(t); k >= 0 && k < job.size) in.out[k * in.stride + r + l] = value[t][l];
  }
  *in.spoiled = any_lane(spoiled);
}

template <typename C, int M, bool Tangent>
void spline_input(const KanJob& job, i64 input, C* room, const Input<C>& in) {
  if (job.family == kUniform) {
    const UniformKnots<C> knots(job);
    return job.a == 3 ? spline_rows<C, M, Tangent, 3>(job, knots, in) : spline_rows<C, M, Tangent, -1>(job, knots, in);
  }
  const AnyKnots<C> knots(job, input, room);
  job.a == 3 ? spline_rows<C, M, Tangent, 3>(job, knots, in) : spline_rows<C, M, Tangent, -1>(job, knots, in);
}

template <typename C> using InputRows = void (*)(const KanJob&, const Input<C>&);

// The loop for what a job says of its family, but for splines.
template <typename C, int M> InputRows<C> rows_of_family(const KanJob& job) {
  if (job.family == kRadial) {
    constexpr InputRows<C> shapes[] = {family_rows<C, Radial, M, 0>, family_rows<C, Radial, M, 1>, family_rows<C, Radial, M, 2>,
                                  family_rows<C, Radial, M, 3>, family_rows<C, Radial, M, 4>, family_rows<C, Radial, M, 5>,
                                  family_rows<C, Radial, M, 6>};
    return shapes[job.a];
  }
  if (job.family == kPolynomial) return job.a ? family_rows<C, Polynomial, M, 1> : family_rows<C, Polynomial, M, 0>;
  if (job.family == kFourier) return family_rows<C, Fourier, M, 0>;
  constexpr InputRows<C> combinations[] = {family_rows<C, ReluPower, M, 0>, family_rows<C, ReluPower, M, 1>,
                                      family_rows<C, ReluPower, M, 2>, family_rows<C, ReluPower, M, 3>};
  return combinations[job.a];
}
template <typename C, int M> InputRows<C> rows_of_base(const KanJob& job) {
  constexpr InputRows<C> activations[] = {family_rows<C, BaseActivation, M, 1>, family_rows<C, BaseActivation, M, 2>,
                                     family_rows<C, BaseActivation, M, 3>, family_rows<C, BaseActivation, M, 4>,
                                     family_rows<C, BaseActivation, M, 5>};
  return activations[job.base - 1];
}

template <typename C, int M> void block_features(const KanJob& job, const KanBlock& block) {
  constexpr int L = lanes<C>;
  const i64 stride = job.row_block, live = job.taps + (job.base != 0);
  C *x = static_cast<C*>(block.work), *u = job.u ? x + job.input_block * stride : nullptr;
  C* room = x + 2 * job.input_block * stride;
  load_transposed(job.dtype, job.x, job.x_stride, block, stride, x);
  if (u) load_transposed(job.dtype, job.u, job.u_stride, block, stride, u);
  const bool spline = job.family <= kSpline, tangent = job.b == kLinear && M == 0;
  for (i64 i = 0; i < block.inputs; ++i) {
    Input<C> in{x + i * stride, u ? u + i * stride : nullptr, static_cast<C*>(block.features) + i * live * stride,
                block.index + i * stride, block.spoiled + i, (block.count + L - 1) / L * L, stride};
    *in.spoiled = 0;
    if (!spline) rows_of_family<C, M>(job)(job, in);
    else if (tangent) spline_input<C, M, M == 0>(job, block.input + i, room, in);
    else spline_input<C, M, false>(job, block.input + i, room, in);
    in.out += job.taps * stride;
    if (job.base) rows_of_base<C, M>(job)(job, in);
  }
}

template <typename C> void any_features(const KanJob& job, const KanBlock& block) {
  if (job.m == 0) return block_features<C, 0>(job, block);
  if (job.m == 1) return block_features<C, 1>(job, block);
  if (job.m == 2) return block_features<C, 2>(job, block);
  if (job.m == 3) return block_features<C, 3>(job, block);
  block_features<C, 4>(job, block);
}

}  // namespace

void kan_features(const KanJob& job, const KanBlock& block) {
  job.element == 8 ? any_features<double>(job, block) : any_features<float>(job, block);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

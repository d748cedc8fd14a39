// Launches of the rational activation: which kernel, which partition, how many blocks.
#include "cuda/rational.h"

#include <stdint.h>

#include "spectralops/rational.h"
#include "spectralops/rational_general.h"

namespace spectralops::cuda {
namespace {

// ---- launch table -------------------------------------------------------------------------------------------------
// The partition of the two gradients follows from these numbers and the sizes alone, never from the GPU: changing one
// changes last bits.
struct Launch {
  int threads;       // at most, in a block
  int unroll;        // rows of a thread whose loads are in flight together
  int max_steps;     // rows a thread visits at most: bounds its chain of additions
  i64 full_threads;  // threads that fill a large GPU; beyond, each takes more rows
};
//                                 threads, unroll, max_steps, full_threads
constexpr Launch kForward32 = {256, 4, 32, 1 << 19};
constexpr Launch kForward16 = {256, 2, 32, 1 << 19};
constexpr Launch kBackward32 = {256, 2, 32, 1 << 19};
constexpr Launch kBackward16 = {256, 2, 32, 1 << 18};
constexpr Launch kDoubleBackward = {256, 1, 32, 1 << 18};
constexpr Launch kForwardGeneral = {256, kRationalRows, 64, 1 << 18};
constexpr Launch kBackwardGeneral = {128, kRationalRows, 64, 1 << 18};
constexpr int kTotalThreads = 256;
constexpr i64 kDefaultShared = 48 * 1024;  // a block's sums stay below it, so that no opt-in is needed

template <typename T>
constexpr const Launch& kForward = sizeof(T) == 4 ? kForward32 : kForward16;
template <typename T>
constexpr const Launch& kBackward = sizeof(T) == 4 ? kBackward32 : kBackward16;

enum class Pass { forward, backward, double_backward };

// ---- sizes --------------------------------------------------------------------------------------------------------
struct Sizes {
  i64 rows, dim, groups;
  int num_degree, den_degree, version, dtype;

  int element_bytes() const { return dtype == SPECTRALOPS_F64 ? 8 : dtype == SPECTRALOPS_F32 ? 4 : 2; }
  int compute_bytes() const { return dtype == SPECTRALOPS_F64 ? 8 : 4; }
  int coefficients() const { return num_degree + 1 + den_degree + (version == SPECTRALOPS_RATIONAL_C); }
  i64 group_width() const { return dim / groups; }
  bool degrees(int m, int n) const { return num_degree == m && den_degree == n; }
  // A kernel for these degrees and whole 16-byte chunks in every group.
  bool fixed() const {
    return dtype != SPECTRALOPS_F64 && group_width() % (16 / element_bytes()) == 0 &&
           (degrees(5, 4) || degrees(3, 2) || degrees(7, 6));
  }
};

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
template <typename T>
T at_most(T value, T limit) {
  return value < limit ? value : limit;
}
template <typename T>
T at_least(T value, T limit) {
  return value > limit ? value : limit;
}

Launch launch_choice(const Sizes& s, Pass pass) {
  if (s.fixed()) {
    if (pass == Pass::forward) return s.element_bytes() == 4 ? kForward32 : kForward16;
    if (pass == Pass::backward) return s.element_bytes() == 4 ? kBackward32 : kBackward16;
    return kDoubleBackward;
  }
  Launch choice = pass == Pass::forward ? kForwardGeneral : kBackwardGeneral;
  if (pass != Pass::forward && i64(s.coefficients()) * s.compute_bytes() * choice.threads > kDefaultShared)
    choice.threads /= 2;
  return choice;
}

RationalPlan make_plan(const Sizes& s, Pass pass) {
  const Launch choice = launch_choice(s, pass);
  RationalPlan plan{};
  plan.width = s.fixed() ? 16 / s.element_bytes() : 1;
  plan.chunks = s.group_width() / plan.width;
  plan.splits = at_least<i64>(1, ceil_div(plan.chunks, choice.threads));
  plan.segment = int(at_least<i64>(1, ceil_div(plan.chunks, plan.splits)));
  plan.segments = s.groups * plan.splits;
  i64 per_block = plan.splits > 1 ? 1 : at_most<i64>(s.groups, choice.threads / plan.segment);
  const i64 tiles = ceil_div(plan.segments, per_block);
  per_block = ceil_div(plan.segments, tiles);
  plan.tiles = u32(at_most<i64>(tiles, INT32_MAX));
  plan.per_block = int(per_block);
  plan.row_lanes = int(at_least<i64>(1, at_most<i64>(s.rows, choice.threads / (per_block * plan.segment))));
  const i64 wanted = ceil_div(s.rows * (s.dim / plan.width), choice.full_threads);
  plan.steps = int(at_most<i64>(choice.max_steps, at_least<i64>(1, ceil_div(wanted, choice.unroll)) * choice.unroll));
  plan.row_blocks = s.dim == 0 ? 0 : ceil_div(s.rows, i64(plan.row_lanes) * plan.steps);
  return plan;
}

i64 partials_bytes(const Sizes& s, const RationalPlan& plan) {
  return s.groups * s.coefficients() * plan.splits * plan.row_blocks * i64(sizeof(double));
}

int block_threads(const RationalPlan& plan) { return (plan.per_block * plan.segment * plan.row_lanes + 31) / 32 * 32; }

int check(const Sizes& s, const RationalPlan& plan, Grid* grid) {
  if (s.num_degree > kRationalMaxDegree || s.den_degree > kRationalMaxDegree)
    return fail(SPECTRALOPS_UNSUPPORTED, "degrees %d/%d: the GPU kernels take degrees up to %d", s.num_degree,
                s.den_degree, kRationalMaxDegree);
  const i64 tiles = ceil_div(plan.segments, plan.per_block);
  if (tiles > INT32_MAX || plan.row_blocks > INT32_MAX / tiles || s.groups > INT32_MAX / s.coefficients())
    return fail(SPECTRALOPS_UNSUPPORTED, "(%lld, %lld) in %lld groups is more than one launch covers", s.rows, s.dim,
                s.groups);
  grid->x = tiles * plan.row_blocks;
  return SPECTRALOPS_OK;
}

// ---- choice of a kernel -------------------------------------------------------------------------------------------
template <typename T>
struct Storage {
  using type = T;
};
template <int V>
struct Version {
  static constexpr int value = V;
};
template <int M_, int N_>
struct Degrees {
  static constexpr int M = M_, N = N_;
};

template <typename Call>
int with_storage(const Sizes& s, const Call& call) {
  if (s.dtype == SPECTRALOPS_F32) return call(Storage<float>{});
  if (s.dtype == SPECTRALOPS_F16) return call(Storage<half_t>{});
  if (s.dtype == SPECTRALOPS_BF16) return call(Storage<bf16_t>{});
  return fail(SPECTRALOPS_INVALID, "dtype code %d is none of f32, f64, f16, bf16", s.dtype);
}
template <typename Call>
int with_degrees(const Sizes& s, const Call& call) {
  if (s.degrees(5, 4)) return call(Degrees<5, 4>{});
  if (s.degrees(3, 2)) return call(Degrees<3, 2>{});
  return call(Degrees<7, 6>{});
}
template <typename Call>
int with_version(const Sizes& s, const Call& call) {
  if (s.version == SPECTRALOPS_RATIONAL_A) return call(Version<kRationalA>{});
  if (s.version == SPECTRALOPS_RATIONAL_B) return call(Version<kRationalB>{});
  if (s.version == SPECTRALOPS_RATIONAL_C) return call(Version<kRationalC>{});
  return call(Version<kRationalSmooth>{});
}

// One launch of a pass; threads and grid are the plan's.
struct Job {
  const Sizes& s;
  const Where& where;
  const RationalParams& p;
  Grid grid;
  Pass pass;

  template <auto Kernel>
  int run() const {
    const int threads = block_threads(p.plan);
    const i64 shared = pass == Pass::forward ? 0 : i64(s.coefficients()) * threads * s.compute_bytes();
    return launch<Kernel>(where, grid, threads, shared, p);
  }
};

template <typename T>
int run_general(const Job& job) {
  if (job.pass == Pass::forward) return job.run<rational_forward_general_kernel<T>>();
  if (job.pass == Pass::backward) return job.run<rational_backward_general_kernel<T>>();
  return job.run<rational_double_backward_general_kernel<T>>();
}

template <typename T, int M, int N, int V>
int run_fixed(const Job& job) {
  if (job.pass == Pass::forward) return job.run<rational_forward_kernel<T, M, N, V, kForward<T>.unroll>>();
  if (job.pass == Pass::backward) return job.run<rational_backward_kernel<T, M, N, V, kBackward<T>.unroll>>();
  return job.run<rational_double_backward_kernel<T, M, N, V>>();
}

int run(const Job& job) {
  const Sizes& s = job.s;
  if (s.dtype == SPECTRALOPS_F64) return run_general<double>(job);
  return with_storage(s, [&](auto storage) {
    using T = typename decltype(storage)::type;
    if (!s.fixed()) return run_general<T>(job);
    return with_degrees(s, [&](auto d) {
      return with_version(
          s, [&](auto v) { return run_fixed<T, decltype(d)::M, decltype(d)::N, decltype(v)::value>(job); });
    });
  });
}

bool sixteen_bytes(const void* pointer, i64 row_stride, const Sizes& s) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && (s.rows <= 1 || row_stride * s.element_bytes() % 16 == 0);
}

void set_common(RationalParams* p, const Sizes& s, const RationalPlan& plan) {
  p->rows = s.rows, p->dim = s.dim, p->plan = plan;
  p->num_degree = s.num_degree, p->den_degree = s.den_degree, p->version = s.version;
}

// The second launch of both gradients.
int launch_totals(const Sizes& s, const RationalParams& p, const Where& where) {
  const Grid grid{s.groups * s.coefficients()};
  constexpr i64 shared = kTotalThreads / 32 * i64(sizeof(double));
  return s.dtype == SPECTRALOPS_F64 ? launch<rational_total_kernel<double>>(where, grid, kTotalThreads, shared, p)
                                    : launch<rational_total_kernel<float>>(where, grid, kTotalThreads, shared, p);
}

int check_workspace(const Sizes& s, const RationalPlan& plan, const void* workspace, i64 workspace_bytes) {
  const i64 needed = partials_bytes(s, plan);
  SO_REQUIRE(workspace_bytes >= needed, "workspace_bytes is %lld, spectralops_rational_workspace says %lld",
             workspace_bytes, needed);
  SO_REQUIRE(needed == 0 || (workspace && reinterpret_cast<uintptr_t>(workspace) % sizeof(double) == 0),
             "workspace is null or not aligned to 8 bytes");
  return SPECTRALOPS_OK;
}

}  // namespace

// One number serves both gradients: the larger of the two partitions.
i64 rational_workspace(i64 rows, i64 dim, i64 groups, int num_degree, int den_degree, int version, int dtype) {
  const Sizes s{rows, dim, groups, num_degree, den_degree, version, dtype};
  return at_least(partials_bytes(s, make_plan(s, Pass::backward)),
                  partials_bytes(s, make_plan(s, Pass::double_backward)));
}

int rational_forward(const void* x, i64 x_stride, const void* numerator, i64 numerator_stride, const void* denominator,
                     i64 denominator_stride, void* y, i64 rows, i64 dim, i64 groups, int num_degree, int den_degree,
                     int version, int dtype, const Where& where) {
  const Sizes s{rows, dim, groups, num_degree, den_degree, version, dtype};
  const RationalPlan plan = make_plan(s, Pass::forward);
  Grid grid;
  if (const int status = check(s, plan, &grid)) return status;
  RationalParams p{};
  set_common(&p, s, plan);
  p.x = x, p.x_stride = x_stride, p.y = y;
  p.numerator = numerator, p.numerator_stride = numerator_stride;
  p.denominator = denominator, p.denominator_stride = denominator_stride;
  p.aligned = sixteen_bytes(x, x_stride, s) && sixteen_bytes(y, dim, s);

  return run(Job{s, where, p, grid, Pass::forward});
}

int rational_backward(const void* grad, i64 grad_stride, const void* x, i64 x_stride, const void* numerator,
                      i64 numerator_stride, const void* denominator, i64 denominator_stride, void* dx, void* dnumerator,
                      void* ddenominator, void* workspace, i64 workspace_bytes, i64 rows, i64 dim, i64 groups,
                      int num_degree, int den_degree, int version, int sign_at_zero, int dtype, const Where& where) {
  const Sizes s{rows, dim, groups, num_degree, den_degree, version, dtype};
  const RationalPlan plan = make_plan(s, Pass::backward);
  Grid grid;
  if (const int status = check(s, plan, &grid)) return status;
  if (const int status = check_workspace(s, plan, workspace, workspace_bytes)) return status;
  RationalParams p{};
  set_common(&p, s, plan);
  p.x = x, p.x_stride = x_stride, p.grad = grad, p.grad_stride = grad_stride, p.dx = dx;
  p.numerator = numerator, p.numerator_stride = numerator_stride;
  p.denominator = denominator, p.denominator_stride = denominator_stride;
  p.dnumerator = dnumerator, p.ddenominator = ddenominator, p.partials = static_cast<double*>(workspace);
  p.sign_at_zero = sign_at_zero;
  p.aligned = sixteen_bytes(x, x_stride, s) && sixteen_bytes(grad, grad_stride, s) && sixteen_bytes(dx, dim, s);

  const int status = run(Job{s, where, p, grid, Pass::backward});
  return status ? status : launch_totals(s, p, where);
}

int rational_double_backward(const void* ggx, i64 ggx_stride, const void* ggnumerator, const void* ggdenominator,
                             const void* grad, i64 grad_stride, const void* x, i64 x_stride, const void* numerator,
                             i64 numerator_stride, const void* denominator, i64 denominator_stride, void* dgrad,
                             void* dx, void* dnumerator, void* ddenominator, void* workspace, i64 workspace_bytes,
                             i64 rows, i64 dim, i64 groups, int num_degree, int den_degree, int version,
                             int sign_at_zero, int dtype, const Where& where) {
  const Sizes s{rows, dim, groups, num_degree, den_degree, version, dtype};
  const RationalPlan plan = make_plan(s, Pass::double_backward);
  Grid grid;
  if (const int status = check(s, plan, &grid)) return status;
  if (const int status = check_workspace(s, plan, workspace, workspace_bytes)) return status;
  RationalParams p{};
  set_common(&p, s, plan);
  p.x = x, p.x_stride = x_stride, p.grad = grad, p.grad_stride = grad_stride, p.ggx = ggx, p.ggx_stride = ggx_stride;
  p.dgrad = dgrad, p.dx = dx;
  p.numerator = numerator, p.numerator_stride = numerator_stride;
  p.denominator = denominator, p.denominator_stride = denominator_stride;
  p.ggnumerator = ggnumerator, p.ggdenominator = ggdenominator;
  p.dnumerator = dnumerator, p.ddenominator = ddenominator, p.partials = static_cast<double*>(workspace);
  p.sign_at_zero = sign_at_zero;
  p.aligned = sixteen_bytes(x, x_stride, s) && sixteen_bytes(grad, grad_stride, s) &&
              sixteen_bytes(ggx, ggx_stride, s) && sixteen_bytes(dgrad, dim, s) && sixteen_bytes(dx, dim, s);

  const int status = run(Job{s, where, p, grid, Pass::double_backward});
  return status ? status : launch_totals(s, p, where);
}

}  // namespace spectralops::cuda

#include "cuda/spectral_filter_plan.h"

namespace spectralops {
namespace cuda {
namespace gate {
namespace {

// n as radices of 8, 7, 5, 4, 3 and 2, or none where it has another factor.
bool radices(i64 n, fft::Axis* axis) {
  axis->n = int(n), axis->count = 0;
  const auto split = [&](int radix) {
    if (axis->count < fft::kMaxRadices) axis->radix[axis->count++] = static_cast<unsigned char>(radix);
    n /= radix;
  };
  int twos = 0;
  while ((n >> twos) % 2 == 0) ++twos;
  for (; twos > 2 && twos != 4; twos -= 3) split(8);
  for (; twos > 1; twos -= 2) split(4);  // 16 is 4 x 4
  constexpr int kPrimes[] = {7, 5, 3, 2};
  for (const int radix : kPrimes)
    while (n % radix == 0) split(radix);
  return n == 1;
}

// The offsets within a grid, which kernels count in 32 bits.
bool grid_array(const Call& c, const void* data, const int64_t* strides, fft::GridArray* array) {
  const i64 sizes[3] = {c.n1, c.n2, c.n3};
  i64 inner[3], reach = 0;
  for (int d = 0; d < 3; ++d) {
    inner[d] = sizes[d] > 1 ? i64(strides[d + 1]) : 0;
    const i64 step = inner[d] < 0 ? -inner[d] : inner[d];
    if (step > 0x7fffffff) return false;
    reach += step * (sizes[d] - 1);
  }
  *array = fft::GridArray{data, i64(strides[0]), i64(strides[4]), int(inner[0]), int(inner[1]), int(inner[2])};
  return reach < 0x7fffffff;
}

// The square's own kernel where it fits.
void square_form(const Call& c, bool gradient, const DeviceLimits& limits, Plan* plan) {
  if (plan->wide || c.n1 != 1 || c.n2 != c.n3 || c.n3 > 64) return;
  const auto choose = [&](auto kind) {
    using E = typename decltype(kind)::Type;
    const i64 shared = i64(gradient ? 2 : 1) * E::SHARED * 8;
    if (shared > limits.shared_limit) return SPECTRALOPS_UNSUPPORTED;
    plan->side = int(c.n3), plan->lanes = E::LANES, plan->threads = E::THREADS;
    plan->shared = shared, plan->resident = E::BLOCKS;
    return SPECTRALOPS_OK;
  };
  gradient ? with_gradient_grid(int(c.n3), choose) : with_filter_grid(int(c.n3), choose);
}

bool general_form(const Call& c, bool gradient, const DeviceLimits& limits, Plan* plan) {
  const i64 real = plan->wide ? 8 : 4, bins = c.n3 / 2 + 1;
  const i64 lane = ceil_div(c.n1 * c.n2, 2) * 2 * bins * 2 * real * (gradient ? 2 : 1);  // bytes
  i64 lanes = kMostLanes;
  // Two blocks of a multiprocessor where 16 channels allow it, else whatever fits.
  const auto fits = [&](i64 blocks) { return blocks * lane * lanes <= limits.shared_limit; };
  while (lanes > kLeastBytes / real && !fits(lanes > 16 ? 2 : 1)) lanes /= 2;
  if (!fits(1)) return false;
  while (lanes > kLeastBytes / real && lanes / 2 >= c.rows * c.channels) lanes /= 2;
  plan->lanes = lanes, plan->shared = lane * lanes;
  // No more threads than a pass of radix 4 has jobs.
  const i64 jobs = ceil_div(c.n1 * c.n2, 2) * ceil_div(c.n3, 4) * lanes;
  const i64 most = plan->shared > kManyBytes ? fft::kAnyThreads : fft::kAnyThreads / 2;
  plan->threads = int(smaller(ceil_div(jobs, 32) * 32, most));
  plan->resident = larger(limits.shared_limit / larger(plan->shared, kManyBytes), 1);
  return true;
}

void deal_samples(const Call& c, bool gradient, const DeviceLimits& limits, Plan* plan) {
  fft::FilterParams& p = plan->p;
  i64 chunk = 1;
  if (gradient) {  // by sizes alone, as the order of the sums
    const i64 wanted = c.samples > 1 ? 1 : c.rows * c.channels / (kMostLanes * kGradientBlocks);
    chunk = smaller(larger(wanted, 1), smaller(kChain, c.rows));
  } else {  // all blocks at once
    const i64 tiles = ceil_div(c.rows * c.channels, plan->lanes);
    chunk = smaller(smaller(ceil_div(tiles, limits.sm_count * plan->resident), kMostSamples), c.rows);
  }
  p.chunk = int(chunk);
  plan->chunks = ceil_div(c.rows, chunk);
  plan->items = plan->chunks * c.channels;
  p.items = u32(plan->items);
  plan->blocks = ceil_div(plan->items, plan->lanes);
}

i64 take(i64* at, i64 bytes) {
  const i64 begin = *at;
  *at += ceil_div(bytes, 256) * 256;
  return begin;
}

i64 root_count(const Call& c) { return c.n1 + c.n2 + c.n3; }
i64 order_count(const Call& c) { return c.n1 + c.n2 + 2 * (c.n3 / 2 + 1); }

int make_tables(const Call& c, const Plan& plan) {
  fft::FilterTableParams t{const_cast<void*>(plan.p.roots), const_cast<int*>(plan.p.order), {}};
  for (int d = 0; d < 3; ++d) t.axis[d] = plan.p.axis[d];
  const Grid grid{ceil_div(larger(root_count(c), order_count(c)), 128)};
  return plan.wide ? launch<fft::filter_tables<double>>(plan.where, grid, 128, 0, t)
                   : launch<fft::filter_tables<float>>(plan.where, grid, 128, 0, t);
}

int make_moments(const Call& c, const Plan& plan) {
  const i64 points = c.rows * c.n1 * c.n2 * c.n3;
  const fft::MomentParams m{plan.p.x, const_cast<void*>(plan.p.moments), points, c.eps, int(c.n1), int(c.n2), int(c.n3),
                            int(c.channels), int(c.dtype)};
  return plan.wide ? launch<fft::filter_moments<double>>(plan.where, Grid{ceil_div(points, 4)}, 128, 0, m)
                   : launch<fft::filter_moments<float>>(plan.where, Grid{ceil_div(points, 4)}, 128, 0, m);
}

}  // namespace

int make_plan(const Call& c, bool gradient, const DeviceLimits& limits, Plan* plan) {
  fft::FilterParams& p = plan->p;
  plan->wide = c.dtype == SPECTRALOPS_F64;
  constexpr i64 kMost = 0x7fffff00;  // samples, channels, points and lanes are counted in 32 bits
  const bool counted =
      c.rows <= kMost && c.channels <= kMost && c.n1 <= kMost / c.n2 && c.n1 * c.n2 <= kMost / c.n3;
  const i64 sizes[3] = {c.n1, c.n2, c.n3};
  bool fits = counted;
  for (int d = 0; d < 3; ++d) fits = fits && radices(sizes[d], &p.axis[d]);
  if (fits) square_form(c, gradient, limits, plan);
  if (!fits || (plan->side == 0 && !general_form(c, gradient, limits, plan)))
    return fail(SPECTRALOPS_UNSUPPORTED, "spectral_filter: no CUDA kernel for grids of %lld x %lld x %lld", (long long)c.n1,
                (long long)c.n2, (long long)c.n3);
  if (!grid_array(c, c.x, c.x_stride, &p.x) || !grid_array(c, c.grad, c.grad_stride, &p.grad) ||
      !grid_array(c, c.residual, c.residual_stride, &p.residual) || !grid_array(c, c.y, c.y_stride, &p.y))
    return fail(SPECTRALOPS_UNSUPPORTED, "spectral_filter: a grid reaches over more than 2^31 elements");
  p.weight = c.weight, p.norm_weight = c.norm_weight, p.norm_bias = c.norm_bias;
  p.rows = int(c.rows), p.channels = int(c.channels), p.groups = int(c.groups), p.group_channels = int(c.channels / c.groups);
  p.each_sample = c.samples > 1, p.conj = c.conj != 0, p.dtype = int(c.dtype);
  for (p.lanes_log = 0; 1 << p.lanes_log < plan->lanes;) ++p.lanes_log;
  deal_samples(c, gradient, limits, plan);
  if (plan->items > kMost)
    return fail(SPECTRALOPS_UNSUPPORTED, "spectral_filter: %lld samples of %lld channels are more than one launch covers",
                (long long)c.rows, (long long)c.channels);
  const i64 real = plan->wide ? 8 : 4;
  plan->cells = c.n1 * c.n2 * (c.n3 / 2 + 1);
  i64 at = 0;
  plan->moments = take(&at, c.eps >= 0 ? 2 * real * c.rows * c.n1 * c.n2 * c.n3 : 0);
  plan->sums = take(&at, gradient ? 2 * real * plan->items * plan->cells : 0);
  plan->roots = take(&at, plan->side ? 0 : 2 * real * root_count(c));
  plan->order = take(&at, plan->side ? 0 : 4 * order_count(c));
  plan->bytes = at;
  return SPECTRALOPS_OK;
}

int begin(const Call& c, bool gradient, const Where& where, Plan* plan) {
  DeviceLimits limits;
  plan->where = where;
  if (const int status = device_limits(where.device, &limits)) return status;
  if (const int status = make_plan(c, gradient, limits, plan)) return status;
  if (c.workspace_bytes < plan->bytes)
    return fail(SPECTRALOPS_INVALID, "workspace of %lld bytes, %lld needed", (long long)c.workspace_bytes, plan->bytes);
  char* work = static_cast<char*>(c.workspace);
  plan->p.sums = work + plan->sums;
  if (c.eps >= 0) {
    plan->p.moments = work + plan->moments;
    if (const int status = make_moments(c, *plan)) return status;
  }
  if (plan->side) return SPECTRALOPS_OK;
  plan->p.roots = work + plan->roots;
  plan->p.order = reinterpret_cast<const int*>(work + plan->order);
  return make_tables(c, *plan);
}

}  // namespace gate

i64 filter_workspace(const spectralops_filter_call& c, bool gradient, int device) {
  DeviceLimits limits;
  gate::Plan plan;
  if (device_limits(device, &limits) != SPECTRALOPS_OK) return -1;
  return gate::make_plan(c, gradient, limits, &plan) == SPECTRALOPS_OK ? plan.bytes : -1;
}

}  // namespace cuda
}  // namespace spectralops

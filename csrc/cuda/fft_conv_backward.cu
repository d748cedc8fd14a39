#include "cuda/fft_conv_plan.h"

namespace spectralops {
namespace cuda {

using namespace conv;

namespace {

int launch_sum(const Plan& plan, const fft::SumParams& sum) {
  const Grid grid{ceil_div(sum.total, 128)};
  return plan.wide ? launch<fft::fft_conv_sum<double>>(plan.where, grid, 128, 0, sum)
                   : launch<fft::fft_conv_sum<float>>(plan.where, grid, 128, 0, sum);
}

// products (filters, channels, chunks, N) -> (samples, filters, groups, N), summed over the channels of a group and, with one
// sample, over the chunks.
fft::SumParams sum_of_products(const Plan& plan, void* out) {
  const fft::ConvParams& p = plan.p;
  const i64 n = 2 * plan.form.points(), channel = p.chunks * n, items = p.items;
  fft::SumParams s{};
  s.in = p.products, s.out = out;
  s.total = plan.p.kernels * n, s.size = n, s.inner = p.groups, s.middle = p.filters;
  s.count = p.channels / p.groups, s.count_step = channel;
  s.chunks = p.by_sample ? 1 : p.chunks, s.chunk_step = n;
  s.inner_step = s.count * channel, s.middle_step = items * n, s.outer_step = n;
  return s;
}

// skips (filters, channels, chunks) -> (filters, channels).
fft::SumParams sum_of_skips(const fft::ConvParams& p) {
  fft::SumParams s{};
  s.in = p.skips, s.out = p.dskip;
  s.total = i64(p.filters) * p.channels, s.size = 1, s.inner = p.channels, s.middle = p.filters;
  s.count = 1, s.chunks = p.chunks, s.chunk_step = 1;
  s.inner_step = p.chunks, s.middle_step = p.items;
  return s;
}

}  // namespace

int fft_conv_backward(const Call& c, const Where& where) {
  DeviceLimits limits;
  Plan plan;
  plan.where = where;
  if (const int status = device_limits(where.device, &limits)) return status;
  if (const int status = make_plan(c, true, limits, &plan)) return status;
  if (const int status = bind_workspace(c, &plan)) return status;
  if (const int status = prepare(c, plan)) return status;
  const int status = with_engine(plan.wide, plan.form, [&](auto kind) {
    using E = typename decltype(kind)::Engine;
    return launch<fft::fft_conv_backward<E>>(where, Grid{plan.blocks}, plan.threads, plan.shared, plan.p);
  });
  if (status) return status;
  if (c.dskip)
    if (const int failed = launch_sum(plan, sum_of_skips(plan.p))) return failed;
  if (!c.dkernel) return SPECTRALOPS_OK;
  if (plan.sum_products) {
    void* summed = static_cast<char*>(c.workspace) + plan.summed;
    if (const int failed = launch_sum(plan, sum_of_products(plan, summed))) return failed;
    plan.p.products = summed;
  }
  return with_engine(plan.wide, plan.form, [&](auto kind) {
    using E = typename decltype(kind)::Engine;
    const i64 blocks = ceil_div(plan.p.kernels, plan.p.layout.slots);
    return launch<fft::fft_conv_kernel_gradient<E>>(where, Grid{blocks}, plan.threads, plan.cells, plan.p);
  });
}

}  // namespace cuda
}  // namespace spectralops

#include "cuda/spectral_filter_plan.h"

namespace spectralops {
namespace cuda {
namespace {

int sum_up(const spectralops_filter_call& c, const gate::Plan& plan) {
  fft::FilterSumParams s{};
  s.sums = plan.p.sums, s.dweight = c.dweight;
  s.total = c.samples * plan.cells * c.groups * 2, s.cells = plan.cells;
  s.n = int(c.n3), s.bins = int(c.n3 / 2 + 1), s.chunks = int(plan.chunks);
  s.channels = plan.p.channels, s.groups = plan.p.groups, s.group_channels = plan.p.group_channels;
  s.each_sample = plan.p.each_sample;
  s.scale = 0.25 / (double(c.n1) * double(c.n2) * double(c.n3));
  const Grid grid{gate::ceil_div(s.total, 128)};
  return plan.wide ? launch<fft::filter_sum<double>>(plan.where, grid, 128, 0, s)
                   : launch<fft::filter_sum<float>>(plan.where, grid, 128, 0, s);
}

}  // namespace

int filter_gradient(const spectralops_filter_call& c, const Where& where) {
  gate::Plan plan;
  if (const int status = gate::begin(c, true, where, &plan)) return status;
  const Grid grid{plan.blocks};
  int status = SPECTRALOPS_OK;
  if (plan.side)
    status = gate::with_gradient_grid(plan.side, [&](auto kind) {
      return launch<fft::filter_grid_gradient<typename decltype(kind)::Type>>(where, grid, plan.threads, plan.shared, plan.p);
    });
  else
    status = plan.wide ? launch<fft::filter_any_gradient<double>>(where, grid, plan.threads, plan.shared, plan.p)
                       : launch<fft::filter_any_gradient<float>>(where, grid, plan.threads, plan.shared, plan.p);
  return status ? status : sum_up(c, plan);
}

}  // namespace cuda
}  // namespace spectralops

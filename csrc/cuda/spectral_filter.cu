#include "cuda/spectral_filter_plan.h"

namespace spectralops {
namespace cuda {

int filter(const spectralops_filter_call& c, const Where& where) {
  gate::Plan plan;
  if (const int status = gate::begin(c, false, where, &plan)) return status;
  const Grid grid{plan.blocks};
  if (plan.side)
    return gate::with_filter_grid(plan.side, [&](auto kind) {
      return launch<fft::filter_grid<typename decltype(kind)::Type>>(where, grid, plan.threads, plan.shared, plan.p);
    });
  return plan.wide ? launch<fft::filter_any<double>>(where, grid, plan.threads, plan.shared, plan.p)
                   : launch<fft::filter_any<float>>(where, grid, plan.threads, plan.shared, plan.p);
}

}  // namespace cuda
}  // namespace spectralops

#include "cuda/fft_conv_plan.h"

namespace spectralops {
namespace cuda {

using namespace conv;

i64 fft_conv_workspace(const Call& c, bool backward, int device) {
  DeviceLimits limits;
  Plan plan;
  if (device_limits(device, &limits) != SPECTRALOPS_OK) return 0;
  return make_plan(c, backward, limits, &plan) == SPECTRALOPS_OK ? plan.bytes : 0;
}

int fft_conv_forward(const Call& c, const Where& where) {
  DeviceLimits limits;
  Plan plan;
  plan.where = where;
  if (const int status = device_limits(where.device, &limits)) return status;
  if (const int status = make_plan(c, false, limits, &plan)) return status;
  if (const int status = bind_workspace(c, &plan)) return status;
  if (const int status = prepare(c, plan)) return status;
  return with_engine(plan.wide, plan.form, [&](auto kind) {
    using E = typename decltype(kind)::Engine;
    return launch<fft::fft_conv_forward<E>>(where, Grid{plan.blocks}, plan.threads, plan.shared, plan.p);
  });
}

}  // namespace cuda
}  // namespace spectralops

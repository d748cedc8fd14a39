#include "cpu/spectral_filter.h"

#include "capi/status.h"

namespace spectralops {
namespace cpu {

i64 filter_workspace(const spectralops_filter_call&, bool, int) { return 0; }
int filter(const spectralops_filter_call&, int) { return fail(SPECTRALOPS_UNSUPPORTED, "filter: no CPU kernel"); }
int filter_gradient(const spectralops_filter_call&, int) {
  return fail(SPECTRALOPS_UNSUPPORTED, "filter_gradient: no CPU kernel");
}

}  // namespace cpu
}  // namespace spectralops

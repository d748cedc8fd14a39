#include "cuda/spectral_filter.h"

#include "capi/status.h"

namespace spectralops::cuda {

i64 filter_workspace(const spectralops_filter_call&, bool, int) { return 0; }
int filter(const spectralops_filter_call&, const Where&) {
  return fail(SPECTRALOPS_UNSUPPORTED, "filter: no CUDA kernel");
}
int filter_gradient(const spectralops_filter_call&, const Where&) {
  return fail(SPECTRALOPS_UNSUPPORTED, "filter_gradient: no CUDA kernel");
}

}  // namespace spectralops::cuda

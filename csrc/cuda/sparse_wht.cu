#include "cuda/sparse_wht.h"

#include "capi/status.h"

namespace spectralops {
namespace cuda {

i64 sparse_wht_workspace(const spectralops_sparse_wht_call&, int) { return 0; }

int sparse_wht_decode(const spectralops_sparse_wht_call&, int, void*) {
  return fail(SPECTRALOPS_UNSUPPORTED, "sparse_wht_decode: no CUDA kernel");
}

int walsh_sum(const int64_t*, const int64_t*, const void*, void*, i64, i64, i64, int, int, void*) {
  return fail(SPECTRALOPS_UNSUPPORTED, "walsh_sum: no CUDA kernel");
}

}  // namespace cuda
}  // namespace spectralops

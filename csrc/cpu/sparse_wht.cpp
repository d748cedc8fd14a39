#include "cpu/sparse_wht.h"

#include "capi/status.h"

namespace spectralops {
namespace cpu {

i64 sparse_wht_workspace(const spectralops_sparse_wht_call&, int) { return 0; }

int sparse_wht_decode(const spectralops_sparse_wht_call&, int) {
  return fail(SPECTRALOPS_UNSUPPORTED, "sparse_wht_decode: no CPU kernel");
}

}  // namespace cpu
}  // namespace spectralops

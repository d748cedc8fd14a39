#include "capi/status.h"
#include "cpu/sparse_wht.h"

namespace spectralops {
namespace cpu {

int walsh_sum(const int64_t*, const int64_t*, const void*, void*, i64, i64, i64, int, int) {
  return fail(SPECTRALOPS_UNSUPPORTED, "walsh_sum: no CPU kernel");
}

}  // namespace cpu
}  // namespace spectralops

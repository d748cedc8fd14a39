#include "cpu/walsh_sum.h"

#include "cpu/sparse_wht.h"

namespace spectralops {
namespace cpu {

int walsh_sum(const int64_t* points, const int64_t* keys, const void* values, void* y, i64 count, i64 terms, i64 words, int dtype, int threads) {
  WalshSum call;
  call.points = reinterpret_cast<const i64*>(points), call.keys = reinterpret_cast<const i64*>(keys);
  call.values = values, call.y = y;
  call.count = count, call.terms = terms, call.words = words;
  call.few = count <= kWalshFew && terms >= 2 * count && terms >= kWalshFew;
  call.threads = double(count) * double(terms) * double(words) < 65536 ? 1 : threads;
  if (dtype == SPECTRALOPS_F64) SO_CPU_CALL(walsh_sum_f64)(call);
  else SO_CPU_CALL(walsh_sum_f32)(call);
  return SPECTRALOPS_OK;
}

}  // namespace cpu
}  // namespace spectralops

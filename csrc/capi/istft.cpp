#include "cpu/istft.h"

#include "capi/status.h"

namespace {

using spectralops::fail;
using spectralops::i64;

int check(const char* entry, const spectralops_istft_call* call, int device, int threads) {
  if (device != SPECTRALOPS_CPU)
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: there is no kernel for device %d", entry, device);
  SO_REQUIRE(threads >= 1, "%s: threads must be at least 1, got %d", entry, threads);
  SO_REQUIRE(call, "%s: call is NULL", entry);
  const spectralops_istft_call& c = *call;
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %lld", entry,
             (long long)c.dtype);
  SO_REQUIRE(c.variant >= 0 && c.variant <= 2, "%s: variant must be 0, 1 or 2, got %lld", entry, (long long)c.variant);
  SO_REQUIRE(c.n >= 1 && c.n <= (i64(1) << 30) && c.hop >= 1 && c.hop <= c.n,
             "%s: n must be 1 to 2^30 and hop 1 to n, got %lld, %lld", entry, (long long)c.n, (long long)c.hop);
  SO_REQUIRE(c.rows >= 0 && c.frames >= 1 && c.start >= 0 && c.length >= 0 &&
                 c.start + c.length <= (c.frames - 1) * c.hop + c.n,
             "%s: %lld frames have no samples %lld to %lld", entry, (long long)c.frames, (long long)c.start,
             (long long)(c.start + c.length));
  SO_REQUIRE(c.workspace_bytes >= 0 && (c.workspace || c.workspace_bytes == 0), "%s: workspace is NULL", entry);
  if (!spectralops::cpu::istft_fits(c.n))
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: n must be 2^a 3^b 5^c and even, got %lld", entry, (long long)c.n);
  return SPECTRALOPS_OK;
}

}  // namespace

extern "C" {

int64_t spectralops_istft_workspace(const spectralops_istft_call* call, int32_t backward, int32_t device, int32_t threads) {
  if (check("istft_workspace", call, device, threads) || call->rows < 1) return 0;
  return spectralops::cpu::istft_workspace(*call, backward != 0, threads);
}

int spectralops_istft_head(const spectralops_istft_call* call, int32_t device, int32_t threads, void*) {
  if (const int status = check("istft_head", call, device, threads)) return status;
  if (call->rows == 0 || call->length == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(call->x && call->window && call->y, "istft_head: x, window and y must not be NULL");
  return spectralops::cpu::istft_head(*call, false, threads);
}

int spectralops_istft_head_backward(const spectralops_istft_call* call, int32_t device, int32_t threads, void*) {
  if (const int status = check("istft_head_backward", call, device, threads)) return status;
  if (call->rows == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(call->grad && call->window && call->y && (call->x || call->variant == 2),
             "istft_head_backward: grad, window, y and, but for variant 2, x must not be NULL");
  return spectralops::cpu::istft_head(*call, true, threads);
}

}  // extern "C"

#include "cpu/spectral_filter.h"

#include <initializer_list>

#include "capi/status.h"
#include "cuda/spectral_filter.h"

#include <initializer_list>

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::Where;
using Call = spectralops_filter_call;

constexpr i64 kMaxSide = i64(1) << 30;  // positions along a dimension are counted in 32 bits

int check(const char* entry, const Call* call, int device, int threads) {
  SO_REQUIRE(call, "%s: call is NULL", entry);
  const Call& c = *call;
  SO_REQUIRE(device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", entry, device);
  SO_REQUIRE(device != SPECTRALOPS_CPU || threads >= 1, "%s: threads must be at least 1, got %d", entry, threads);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %lld", entry,
             (long long)c.dtype);
  SO_REQUIRE(c.rows >= 0 && c.channels >= 0, "%s: rows and channels must not be negative, got %lld, %lld", entry,
             (long long)c.rows, (long long)c.channels);
  for (const i64 n : {c.n1, c.n2, c.n3})
    SO_REQUIRE(n >= 1 && n <= kMaxSide, "%s: n1, n2 and n3 must be 1 to 2^30, got %lld", entry, (long long)n);
  SO_REQUIRE(c.groups >= 1 && c.channels % c.groups == 0, "%s: groups %lld do not divide the %lld channels", entry,
             (long long)c.groups, (long long)c.channels);
  SO_REQUIRE(c.samples == 1 || c.samples == c.rows, "%s: samples must be 1 or rows %lld, got %lld", entry,
             (long long)c.rows, (long long)c.samples);
  SO_REQUIRE(c.eps >= 0 || !(c.norm_weight || c.norm_bias), "%s: norm_weight and norm_bias need eps >= 0", entry);
  SO_REQUIRE(c.workspace_bytes >= 0, "%s: workspace_bytes must not be negative", entry);
  SO_REQUIRE(c.workspace || c.workspace_bytes == 0, "%s: workspace is NULL", entry);
  return SPECTRALOPS_OK;
}

}  // namespace

extern "C" {

int64_t spectralops_filter_workspace(const spectralops_filter_call* call, int32_t gradient, int32_t device,
                                     int32_t threads) {
  if (!call || call->rows < 1 || call->channels < 1) return 0;
  if (device == SPECTRALOPS_CPU) return spectralops::cpu::filter_workspace(*call, gradient != 0, threads);
  return spectralops::cuda::filter_workspace(*call, gradient != 0, device);
}

int spectralops_filter(const spectralops_filter_call* call, int32_t device, int32_t threads, void* stream) {
  if (const int status = check("filter", call, device, threads)) return status;
  if (call->rows == 0 || call->channels == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(call->x && call->weight && call->y, "filter: x, weight and y must not be NULL");
  if (device == SPECTRALOPS_CPU) return spectralops::cpu::filter(*call, threads);
  return spectralops::cuda::filter(*call, Where{device, stream});
}

int spectralops_filter_gradient(const spectralops_filter_call* call, int32_t device, int32_t threads, void* stream) {
  if (const int status = check("filter_gradient", call, device, threads)) return status;
  SO_REQUIRE(call->rows > 0 && call->channels > 0, "filter_gradient: there are no rows or no channels");
  SO_REQUIRE(call->x && call->grad && call->dweight, "filter_gradient: x, grad and dweight must not be NULL");
  if (device == SPECTRALOPS_CPU) return spectralops::cpu::filter_gradient(*call, threads);
  return spectralops::cuda::filter_gradient(*call, Where{device, stream});
}

}  // extern "C"

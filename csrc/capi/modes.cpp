#include "cpu/modes.h"

#include <initializer_list>

#include "capi/status.h"

#include <initializer_list>

namespace {

using spectralops::fail;
using spectralops::i64;

constexpr i64 kMaxSide = i64(1) << 30;  // positions along a dimension are counted in 32 bits

int check_place(const char* entry, int device, int threads) {
  if (device != SPECTRALOPS_CPU)
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: there is no kernel for device %d", entry, device);
  SO_REQUIRE(threads >= 1, "%s: threads must be at least 1, got %d", entry, threads);
  return SPECTRALOPS_OK;
}

int check(const char* entry, const spectralops_modes_call* call, int device, int threads) {
  if (const int status = check_place(entry, device, threads)) return status;
  SO_REQUIRE(call, "%s: call is NULL", entry);
  const spectralops_modes_call& c = *call;
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %lld", entry,
             (long long)c.dtype);
  SO_REQUIRE(c.activation == SPECTRALOPS_IDENTITY || c.activation == SPECTRALOPS_GELU,
             "%s: activation must be 0 (identity) or 2 (gelu), got %lld", entry, (long long)c.activation);
  SO_REQUIRE(c.rows >= 0 && c.channels >= 0, "%s: rows and channels must not be negative, got %lld, %lld", entry,
             (long long)c.rows, (long long)c.channels);
  for (int d = 0; d < 3; ++d) {
    SO_REQUIRE(c.n[d] >= 1 && c.n[d] <= kMaxSide, "%s: sizes must be 1 to 2^30, got %lld", entry, (long long)c.n[d]);
    SO_REQUIRE(c.m[d] >= 1 && c.m[d] <= c.n[d], "%s: %lld modes along a size of %lld", entry, (long long)c.m[d],
               (long long)c.n[d]);
    SO_REQUIRE(c.start[d] > -kMaxSide && c.start[d] < kMaxSide && c.shift[d] >= 0 && c.shift[d] < c.m[d],
               "%s: start must be within 2^30 and shift 0 to modes - 1, got %lld, %lld", entry, (long long)c.start[d],
               (long long)c.shift[d]);
  }
  SO_REQUIRE(c.workspace_bytes >= 0, "%s: workspace_bytes must not be negative", entry);
  SO_REQUIRE(c.workspace || c.workspace_bytes == 0, "%s: workspace is NULL", entry);
  return SPECTRALOPS_OK;
}

}  // namespace

extern "C" {

int64_t spectralops_modes_workspace(const spectralops_modes_call* call, int32_t inverse, int32_t device,
                                    int32_t threads) {
  if (!call || call->rows < 1 || call->channels < 1 || device != SPECTRALOPS_CPU) return 0;
  return spectralops::cpu::modes_workspace(*call, inverse != 0, threads);
}

int spectralops_mode_dft(const spectralops_modes_call* call, int32_t device, int32_t threads, void*) {
  if (const int status = check("mode_dft", call, device, threads)) return status;
  if (call->rows == 0 || call->channels == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(call->x && call->spectrum, "mode_dft: x and spectrum must not be NULL");
  return spectralops::cpu::mode_dft(*call, threads);
}

int spectralops_mode_idft(const spectralops_modes_call* call, int32_t device, int32_t threads, void*) {
  if (const int status = check("mode_idft", call, device, threads)) return status;
  if (call->rows == 0 || call->channels == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(call->y && call->spectrum, "mode_idft: y and spectrum must not be NULL");
  return spectralops::cpu::mode_idft(*call, threads);
}

int spectralops_mode_mix(const spectralops_mix_call* call, int32_t device, int32_t threads, void*) {
  if (const int status = check_place("mode_mix", device, threads)) return status;
  SO_REQUIRE(call, "mode_mix: call is NULL");
  const spectralops_mix_call& c = *call;
  SO_REQUIRE(c.kind >= 0 && c.kind <= 2, "mode_mix: kind must be 0, 1 or 2, got %lld", (long long)c.kind);
  SO_REQUIRE(c.dtype == SPECTRALOPS_F32 || c.dtype == SPECTRALOPS_F64,
             "mode_mix: dtype must be 0 (float32) or 1 (float64), got %lld", (long long)c.dtype);
  SO_REQUIRE(c.weight_dtype >= SPECTRALOPS_F32 && c.weight_dtype <= SPECTRALOPS_BF16,
             "mode_mix: weight_dtype must be 0 to 3, got %lld", (long long)c.weight_dtype);
  for (const i64 n : {c.rows, c.inputs, c.outputs, c.modes})
    SO_REQUIRE(n >= 1, "mode_mix: rows, inputs, outputs and modes must be positive, got %lld", (long long)n);
  SO_REQUIRE(c.a && c.out && (c.kind == 2 ? c.grad : c.weight), "mode_mix: a, weight or grad, or out is NULL");
  return spectralops::cpu::mode_mix(c, threads);
}

}  // extern "C"

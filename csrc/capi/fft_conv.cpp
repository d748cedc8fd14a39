#include "cpu/fft_conv.h"

#include "capi/status.h"
#include "cuda/fft_conv.h"

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::Where;
using Call = spectralops_fft_conv_call;

constexpr i64 kMaxLength = i64(1) << 30;  // positions are counted in 32 bits

int check(const char* entry, const Call* call, int device, int threads) {
  SO_REQUIRE(call, "%s: call is NULL", entry);
  const Call& c = *call;
  SO_REQUIRE(device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", entry, device);
  SO_REQUIRE(device != SPECTRALOPS_CPU || threads >= 1, "%s: threads must be at least 1, got %d", entry, threads);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %lld", entry,
             (long long)c.dtype);
  SO_REQUIRE(c.activation >= SPECTRALOPS_IDENTITY && c.activation <= SPECTRALOPS_GELU,
             "%s: activation must be 0 (identity), 1 (silu) or 2 (gelu), got %lld", entry, (long long)c.activation);
  SO_REQUIRE(c.rows >= 0 && c.channels >= 0, "%s: rows and channels must not be negative, got %lld, %lld", entry,
             (long long)c.rows, (long long)c.channels);
  SO_REQUIRE(c.length >= 1 && c.length <= kMaxLength, "%s: length must be 1 to 2^30, got %lld", entry,
             (long long)c.length);
  SO_REQUIRE(c.filters >= 1 && c.groups >= 1 && c.size >= 1, "%s: filters, groups and size must be positive", entry);
  SO_REQUIRE(c.channels % c.groups == 0, "%s: channels %lld is not a multiple of groups %lld", entry,
             (long long)c.channels, (long long)c.groups);
  SO_REQUIRE(c.samples == 1 || c.samples == c.rows, "%s: samples must be 1 or rows %lld, got %lld", entry,
             (long long)c.rows, (long long)c.samples);
  if (c.grid) {
    SO_REQUIRE(c.grid == c.size && c.lag0 == 0, "%s: a spectrum has size = grid and lag0 = 0", entry);
    SO_REQUIRE(2 * c.grid >= c.length, "%s: a grid of %lld is too small for rows of %lld", entry, (long long)c.grid,
               (long long)c.length);
  } else {
    SO_REQUIRE(c.lag0 >= 0 && c.lag0 < c.length && c.lag0 < c.size && c.size - c.lag0 <= c.length,
               "%s: lags must be below the length %lld; size %lld, lag0 %lld", entry, (long long)c.length,
               (long long)c.size, (long long)c.lag0);
  }
  SO_REQUIRE(c.workspace_bytes >= 0, "%s: workspace_bytes must not be negative", entry);
  SO_REQUIRE(c.workspace || c.workspace_bytes == 0, "%s: workspace is NULL", entry);
  return SPECTRALOPS_OK;
}

int check_backward(const Call& c) {
  SO_REQUIRE(c.grad, "fft_conv_backward: grad is NULL");
  const bool again = c.activation != SPECTRALOPS_IDENTITY || c.dgate_out || c.dmask;  // needs conv(v)
  const bool rows = c.du || c.dgate_in;
  SO_REQUIRE(c.kernel || !(again || rows), "fft_conv_backward: kernel is NULL and a gradient needs it");
  SO_REQUIRE(c.u || !(again || c.dkernel || c.dskip || c.dgate_in),
             "fft_conv_backward: u is NULL and a gradient needs it");
  SO_REQUIRE(c.gate_in || !c.dgate_in, "fft_conv_backward: dgate_in is wanted and gate_in is NULL");
  return SPECTRALOPS_OK;
}

}  // namespace

extern "C" {

int64_t spectralops_fft_conv_workspace(const spectralops_fft_conv_call* call, int32_t backward, int32_t device,
                                       int32_t threads) {
  if (!call || call->rows < 1 || call->channels < 1) return 0;
  if (device == SPECTRALOPS_CPU) return spectralops::cpu::fft_conv_workspace(*call, backward != 0, threads);
  return spectralops::cuda::fft_conv_workspace(*call, backward != 0, device);
}

int spectralops_fft_conv_forward(const spectralops_fft_conv_call* call, int32_t device, int32_t threads, void* stream) {
  if (const int status = check("fft_conv_forward", call, device, threads)) return status;
  if (call->rows == 0 || call->channels == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(call->u && call->kernel && call->y, "fft_conv_forward: u, kernel and y must not be NULL");
  if (device == SPECTRALOPS_CPU) return spectralops::cpu::fft_conv_forward(*call, threads);
  return spectralops::cuda::fft_conv_forward(*call, Where{device, stream});
}

int spectralops_fft_conv_backward(const spectralops_fft_conv_call* call, int32_t device, int32_t threads,
                                  void* stream) {
  if (const int status = check("fft_conv_backward", call, device, threads)) return status;
  if (const int status = check_backward(*call)) return status;
  if (device == SPECTRALOPS_CPU) return spectralops::cpu::fft_conv_backward(*call, threads);
  return spectralops::cuda::fft_conv_backward(*call, Where{device, stream});
}

}  // extern "C"

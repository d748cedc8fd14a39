#include "capi/status.h"
#include "cpu/hadamard.h"
#include "cuda/hadamard.h"

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::Where;

constexpr int kMaxBase = 256;
constexpr i64 kMaxSize = i64(1) << 30;  // positions are counted in 32 bits

int check_where(const char* entry, int device, int threads) {
  SO_REQUIRE(device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", entry, device);
  SO_REQUIRE(device != SPECTRALOPS_CPU || threads >= 1, "%s: threads must be at least 1, got %d", entry, threads);
  return SPECTRALOPS_OK;
}

// n = base_size 2^k.
int check_size(const char* entry, const char* name, i64 n, int base_size) {
  SO_REQUIRE(base_size >= 1 && base_size <= kMaxBase, "%s: base_size must be 1 to %d, got %d", entry, kMaxBase,
             base_size);
  SO_REQUIRE(n >= 1 && n <= kMaxSize, "%s: %s must be 1 to 2^30, got %lld", entry, name, n);
  const i64 rest = n / base_size;
  SO_REQUIRE(n % base_size == 0 && (rest & (rest - 1)) == 0, "%s: %s %lld is not base_size %d times a power of two",
             entry, name, n, base_size);
  return SPECTRALOPS_OK;
}

int check_base(const char* entry, const void* base, int base_size) {
  SO_REQUIRE(base || base_size == 1, "%s: base is NULL and base_size is %d", entry, base_size);
  return SPECTRALOPS_OK;
}

int check_dtype(const char* entry, int dtype, bool quantized) {
  if (quantized) {
    SO_REQUIRE(dtype == SPECTRALOPS_F32 || dtype == SPECTRALOPS_F16 || dtype == SPECTRALOPS_BF16,
               "%s: dtype must be 0 (float32), 2 (float16) or 3 (bfloat16), got %d", entry, dtype);
  } else {
    SO_REQUIRE(dtype >= SPECTRALOPS_F32 && dtype <= SPECTRALOPS_I64,
               "%s: dtype must be 0 (float32), 1 (float64), 2 (float16), 3 (bfloat16), 4 (int32) or 5 (int64), "
               "got %d",
               entry, dtype);
  }
  return SPECTRALOPS_OK;
}

int check_scale(const char* entry, double scale, int dtype) {
  if (dtype != SPECTRALOPS_I32 && dtype != SPECTRALOPS_I64) return SPECTRALOPS_OK;
  const bool fits = scale >= -0x1p53 && scale <= 0x1p53;
  SO_REQUIRE(fits && double(i64(scale)) == scale, "%s: scale must be an integer for integer data, got %g", entry,
             scale);
  return SPECTRALOPS_OK;
}

int check_signs(const char* entry, const void* signs, i64 sign_blocks) {
  SO_REQUIRE(!signs || sign_blocks >= 1, "%s: sign_blocks must be at least 1, got %lld", entry, sign_blocks);
  return SPECTRALOPS_OK;
}

int check_order(const char* entry, const char* name, int order) {
  SO_REQUIRE(order >= SPECTRALOPS_NATURAL && order <= SPECTRALOPS_SEQUENCY,
             "%s: %s must be 0 (natural), 1 (dyadic) or 2 (sequency), got %d", entry, name, order);
  return SPECTRALOPS_OK;
}

int check_workspace(const char* entry, const void* workspace, i64 workspace_bytes) {
  SO_REQUIRE(workspace_bytes >= 0, "%s: workspace_bytes must not be negative, got %lld", entry, workspace_bytes);
  SO_REQUIRE(workspace || workspace_bytes == 0, "%s: workspace is NULL", entry);
  return SPECTRALOPS_OK;
}

int check_hadamard(const char* entry, i64 outer, i64 n, i64 inner, int base_size, int dtype, int device, int threads) {
  if (const int status = check_where(entry, device, threads)) return status;
  if (const int status = check_size(entry, "n", n, base_size)) return status;
  SO_REQUIRE(outer >= 0, "%s: outer must not be negative, got %lld", entry, outer);
  SO_REQUIRE(inner >= 0, "%s: inner must not be negative, got %lld", entry, inner);
  return check_dtype(entry, dtype, false);
}

int check_quantize(const char* entry, i64 rows, i64 dim, i64 block, int base_size, int dtype, int device,
                   int threads) {
  if (const int status = check_where(entry, device, threads)) return status;
  SO_REQUIRE(rows >= 0, "%s: rows must not be negative, got %lld", entry, rows);
  SO_REQUIRE(dim >= 0, "%s: dim must not be negative, got %lld", entry, dim);
  if (const int status = check_size(entry, "block", block, base_size)) return status;
  SO_REQUIRE(dim % block == 0, "%s: dim %lld is not a multiple of block %lld", entry, dim, block);
  return check_dtype(entry, dtype, true);
}

int check_srht(const char* entry, i64 outer, i64 n, int base_size, int dtype, int device, int threads) {
  return check_hadamard(entry, outer, n, 1, base_size, dtype, device, threads);
}

}  // namespace

extern "C" {

// Wrong arguments need no workspace: the call that they belong to says what is wrong.
int64_t spectralops_hadamard_workspace(int64_t outer, int64_t n, int64_t inner, int32_t base_size, int32_t dtype,
                                       int32_t device, int32_t threads) {
  if (check_hadamard("hadamard_workspace", outer, n, inner, base_size, dtype, device, threads)) return 0;
  if (device == SPECTRALOPS_CPU)
    return spectralops::cpu::hadamard_workspace(outer, n, inner, base_size, dtype, threads);
  return spectralops::cuda::hadamard_workspace(outer, n, inner, base_size, dtype, device);
}

int spectralops_hadamard(const void* x, int64_t x_stride, void* y, const void* signs_in, const void* signs_out,
                         int64_t sign_blocks, const void* base, int64_t outer, int64_t n, int64_t inner,
                         int32_t base_size, double scale, int32_t order_in, int32_t order_out, void* workspace,
                         int64_t workspace_bytes, int32_t dtype, int32_t device, int32_t threads, void* stream) {
  const char* entry = "hadamard";
  if (const int status = check_hadamard(entry, outer, n, inner, base_size, dtype, device, threads)) return status;
  if (const int status = check_base(entry, base, base_size)) return status;
  if (const int status = check_scale(entry, scale, dtype)) return status;
  if (const int status = check_signs(entry, signs_in ? signs_in : signs_out, sign_blocks)) return status;
  if (const int status = check_workspace(entry, workspace, workspace_bytes)) return status;
  SO_REQUIRE(x_stride >= 0, "%s: x_stride must not be negative, got %lld", entry, (i64)x_stride);
  if (const int status = check_order(entry, "order_in", order_in)) return status;
  if (const int status = check_order(entry, "order_out", order_out)) return status;
  SO_REQUIRE(base_size == 1 || (order_in == 0 && order_out == 0),
             "%s: order_in %d, order_out %d: another order than 0 (natural) needs a power of "
             "two, base_size is %d",
             entry, order_in, order_out, base_size);
  const bool empty = outer == 0 || inner == 0;
  SO_REQUIRE(x || empty, "%s: x is NULL", entry);
  SO_REQUIRE(y || empty, "%s: y is NULL", entry);
  if (device == SPECTRALOPS_CPU)
    return spectralops::cpu::hadamard(x, x_stride, y, signs_in, signs_out, sign_blocks, base, outer, n, inner,
                                      base_size, scale, order_in, order_out, workspace, workspace_bytes, dtype,
                                      threads);
  return spectralops::cuda::hadamard(x, x_stride, y, signs_in, signs_out, sign_blocks, base, outer, n, inner,
                                     base_size, scale, order_in, order_out, workspace, workspace_bytes, dtype,
                                     Where{device, stream});
}

int64_t spectralops_hadamard_quantize_workspace(int64_t rows, int64_t dim, int64_t block, int32_t base_size,
                                                int32_t dtype, int32_t device, int32_t threads) {
  if (check_quantize("hadamard_quantize_workspace", rows, dim, block, base_size, dtype, device, threads)) return 0;
  if (device == SPECTRALOPS_CPU)
    return spectralops::cpu::hadamard_quantize_workspace(rows, dim, block, base_size, dtype, threads);
  return spectralops::cuda::hadamard_quantize_workspace(rows, dim, block, base_size, dtype, device);
}

int spectralops_hadamard_quantize(const void* x, int64_t x_stride, void* q, void* scales, const void* signs,
                                  int64_t sign_blocks, const void* base, int64_t rows, int64_t dim, int64_t block,
                                  int64_t group, int32_t base_size, double scale, int32_t format,
                                  int32_t round_rotation, void* workspace, int64_t workspace_bytes, int32_t dtype,
                                  int32_t device, int32_t threads, void* stream) {
  const char* entry = "hadamard_quantize";
  if (const int status = check_quantize(entry, rows, dim, block, base_size, dtype, device, threads)) return status;
  if (const int status = check_base(entry, base, base_size)) return status;
  if (const int status = check_signs(entry, signs, sign_blocks)) return status;
  if (const int status = check_workspace(entry, workspace, workspace_bytes)) return status;
  SO_REQUIRE(x_stride >= 0, "%s: x_stride must not be negative, got %lld", entry, (i64)x_stride);
  SO_REQUIRE(format >= SPECTRALOPS_INT8 && format <= SPECTRALOPS_NVFP4,
             "%s: format must be 0 (int8), 1 (fp8_e4m3), 2 (mxfp4) or 3 (nvfp4), got %d", entry, format);
  SO_REQUIRE(group >= 1, "%s: group must be at least 1, got %lld", entry, (i64)group);
  SO_REQUIRE(dim % group == 0, "%s: dim %lld is not a multiple of group %lld", entry, (i64)dim, (i64)group);
  SO_REQUIRE(format < SPECTRALOPS_MXFP4 || group % 2 == 0, "%s: group must be even for 4-bit formats, got %lld", entry,
             (i64)group);
  const bool empty = rows == 0 || dim == 0;
  SO_REQUIRE(x || empty, "%s: x is NULL", entry);
  SO_REQUIRE(q || empty, "%s: q is NULL", entry);
  SO_REQUIRE(scales || empty, "%s: scales is NULL", entry);
  if (device == SPECTRALOPS_CPU)
    return spectralops::cpu::hadamard_quantize(x, x_stride, q, scales, signs, sign_blocks, base, rows, dim, block,
                                               group, base_size, scale, format, round_rotation, workspace,
                                               workspace_bytes, dtype, threads);
  return spectralops::cuda::hadamard_quantize(x, x_stride, q, scales, signs, sign_blocks, base, rows, dim, block,
                                              group, base_size, scale, format, round_rotation, workspace,
                                              workspace_bytes, dtype, Where{device, stream});
}

int64_t spectralops_srht_workspace(int64_t outer, int64_t n, int32_t base_size, int32_t dtype, int32_t device,
                                   int32_t threads) {
  if (check_srht("srht_workspace", outer, n, base_size, dtype, device, threads)) return 0;
  if (device == SPECTRALOPS_CPU) return spectralops::cpu::srht_workspace(outer, n, base_size, dtype, threads);
  return spectralops::cuda::srht_workspace(outer, n, base_size, dtype, device);
}

int spectralops_srht(const void* x, int64_t x_stride, const void* signs, const void* rows, void* y, const void* base,
                     int64_t outer, int64_t n, int64_t num_rows, int32_t base_size, double scale, void* workspace,
                     int64_t workspace_bytes, int32_t dtype, int32_t device, int32_t threads, void* stream) {
  const char* entry = "srht";
  if (const int status = check_srht(entry, outer, n, base_size, dtype, device, threads)) return status;
  if (const int status = check_base(entry, base, base_size)) return status;
  if (const int status = check_scale(entry, scale, dtype)) return status;
  if (const int status = check_workspace(entry, workspace, workspace_bytes)) return status;
  SO_REQUIRE(x_stride >= 0, "%s: x_stride must not be negative, got %lld", entry, (i64)x_stride);
  SO_REQUIRE(num_rows >= 0, "%s: num_rows must not be negative, got %lld", entry, (i64)num_rows);
  const bool empty = outer == 0 || num_rows == 0;
  SO_REQUIRE(x || empty, "%s: x is NULL", entry);
  SO_REQUIRE(rows || empty, "%s: rows is NULL", entry);
  SO_REQUIRE(y || empty, "%s: y is NULL", entry);
  if (device == SPECTRALOPS_CPU) {
    const int64_t* chosen = static_cast<const int64_t*>(rows);
    for (i64 i = 0; i < num_rows; ++i)
      SO_REQUIRE(chosen[i] >= 0 && chosen[i] < n, "%s: rows[%lld] must be 0 to %lld, got %lld", entry, i, (i64)n - 1,
                 (i64)chosen[i]);
    return spectralops::cpu::srht(x, x_stride, signs, rows, y, base, outer, n, num_rows, base_size, scale, workspace,
                                  workspace_bytes, dtype, threads);
  }
  return spectralops::cuda::srht(x, x_stride, signs, rows, y, base, outer, n, num_rows, base_size, scale, workspace,
                                 workspace_bytes, dtype, Where{device, stream});
}

}  // extern "C"

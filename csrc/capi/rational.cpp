#include "capi/status.h"
#include "cpu/rational.h"
#include "cuda/rational.h"

namespace {

using spectralops::Where;
using spectralops::fail;
using spectralops::i64;
using spectralops::cpu::RationalJob;

// What every entry is given: sizes, codes and where to run.
struct Common {
  const char* entry;
  i64 rows, dim, groups;
  int m, n, version, dtype, device, threads;

  int den_count() const { return version == SPECTRALOPS_RATIONAL_C ? n + 1 : n; }
  RationalJob job() const {
    RationalJob j = {};
    j.rows = rows, j.dim = dim, j.groups = groups;
    j.m = m, j.n = n, j.version = version, j.dtype = dtype, j.threads = threads;
    return j;
  }
};

int check(const Common& c) {
  constexpr int kMax = spectralops::cpu::kMaxDegree;
  SO_REQUIRE(c.rows >= 0, "%s: rows must not be negative, got %lld", c.entry, c.rows);
  SO_REQUIRE(c.dim >= 0, "%s: dim must not be negative, got %lld", c.entry, c.dim);
  SO_REQUIRE(c.groups >= 1, "%s: groups must be at least 1, got %lld", c.entry, c.groups);
  SO_REQUIRE(c.dim % c.groups == 0, "%s: dim %lld is not a multiple of groups %lld", c.entry, c.dim, c.groups);
  SO_REQUIRE(c.m >= 0, "%s: num_degree must not be negative, got %d", c.entry, c.m);
  SO_REQUIRE(c.n >= 0, "%s: den_degree must not be negative, got %d", c.entry, c.n);
  SO_REQUIRE(c.version >= 0 && c.version <= 3, "%s: version must be 0 (A), 1 (B), 2 (C) or 3 (smooth), got %d", c.entry,
             c.version);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %d", c.entry, c.dtype);
  SO_REQUIRE(c.device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", c.entry, c.device);
  SO_REQUIRE(c.device != SPECTRALOPS_CPU || c.threads >= 1, "%s: threads must be at least 1, got %d", c.entry,
             c.threads);
  if (c.m > kMax || c.n > kMax)
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: num_degree %d, den_degree %d: no kernel takes a degree above %d", c.entry,
                c.m, c.n, kMax);
  return SPECTRALOPS_OK;
}

int check_tensor(const Common& c, const char* name, const void* pointer, i64 stride) {
  SO_REQUIRE(pointer || c.rows == 0 || c.dim == 0, "%s: %s is NULL", c.entry, name);
  SO_REQUIRE(stride >= 0, "%s: %s_stride must not be negative, got %lld", c.entry, name, stride);
  return SPECTRALOPS_OK;
}

// A denominator may be NULL only where it has no coefficient.
int check_coefficients(const Common& c, const char* num_name, const void* num, i64 num_stride, const char* den_name,
                       const void* den, i64 den_stride) {
  SO_REQUIRE(num, "%s: %s is NULL", c.entry, num_name);
  SO_REQUIRE(den || c.den_count() == 0, "%s: %s is NULL", c.entry, den_name);
  SO_REQUIRE(num_stride >= 0, "%s: %s_stride must not be negative, got %lld", c.entry, num_name, num_stride);
  SO_REQUIRE(den_stride >= 0, "%s: %s_stride must not be negative, got %lld", c.entry, den_name, den_stride);
  return SPECTRALOPS_OK;
}

i64 workspace_size(const Common& c) {
  if (c.device == SPECTRALOPS_CPU) return spectralops::cpu::rational_workspace(c.job());
  return spectralops::cuda::rational_workspace(c.rows, c.dim, c.groups, c.m, c.n, c.version, c.dtype);
}

int check_workspace(const Common& c, int sign_at_zero, const void* workspace, i64 workspace_bytes) {
  SO_REQUIRE(sign_at_zero == 0 || sign_at_zero == 1, "%s: sign_at_zero must be 0 or 1, got %d", c.entry, sign_at_zero);
  const i64 needed = workspace_size(c);
  SO_REQUIRE(workspace_bytes >= needed, "%s: workspace_bytes is %lld, %lld are needed", c.entry, workspace_bytes,
             needed);
  SO_REQUIRE(workspace || needed == 0, "%s: workspace is NULL", c.entry);
  return SPECTRALOPS_OK;
}

}  // namespace

#define SO_CHECK(call) \
  if (const int status = call) return status

extern "C" {

int spectralops_rational_forward(const void* x, int64_t x_stride, const void* numerator, int64_t numerator_stride,
                                 const void* denominator, int64_t denominator_stride, void* y, int64_t rows,
                                 int64_t dim, int64_t groups, int32_t num_degree, int32_t den_degree, int32_t version,
                                 int32_t dtype, int32_t device, int32_t threads, void* stream) {
  const Common c{"rational_forward", rows,    dim,   groups, num_degree,
                 den_degree,         version, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_coefficients(c, "numerator", numerator, numerator_stride, "denominator", denominator,
                              denominator_stride));
  SO_CHECK(check_tensor(c, "x", x, x_stride));
  SO_CHECK(check_tensor(c, "y", y, 0));
  if (device != SPECTRALOPS_CPU)
    return spectralops::cuda::rational_forward(x, x_stride, numerator, numerator_stride, denominator,
                                               denominator_stride, y, rows, dim, groups, num_degree, den_degree,
                                               version, dtype, Where{device, stream});
  RationalJob job = c.job();
  job.x = x, job.x_stride = x_stride;
  job.num = numerator, job.num_stride = numerator_stride;
  job.den = denominator, job.den_stride = denominator_stride;
  job.out = y;
  return spectralops::cpu::rational_forward(job);
}

int64_t spectralops_rational_workspace(int64_t rows, int64_t dim, int64_t groups, int32_t num_degree,
                                       int32_t den_degree, int32_t version, int32_t dtype, int32_t device) {
  const Common c{"rational_workspace", rows, dim, groups, num_degree, den_degree, version, dtype, device, 1};
  // Wrong sizes need no workspace: the call that they belong to fails and says what is wrong.
  return check(c) ? 0 : workspace_size(c);
}

int spectralops_rational_backward(const void* grad, int64_t grad_stride, const void* x, int64_t x_stride,
                                  const void* numerator, int64_t numerator_stride, const void* denominator,
                                  int64_t denominator_stride, void* dx, void* dnumerator, void* ddenominator,
                                  void* workspace, int64_t workspace_bytes, int64_t rows, int64_t dim, int64_t groups,
                                  int32_t num_degree, int32_t den_degree, int32_t version, int32_t sign_at_zero,
                                  int32_t dtype, int32_t device, int32_t threads, void* stream) {
  const Common c{"rational_backward", rows,    dim,   groups, num_degree,
                 den_degree,          version, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_coefficients(c, "numerator", numerator, numerator_stride, "denominator", denominator,
                              denominator_stride));
  SO_CHECK(check_tensor(c, "grad", grad, grad_stride));
  SO_CHECK(check_tensor(c, "x", x, x_stride));
  SO_CHECK(check_tensor(c, "dx", dx, 0));
  SO_CHECK(check_coefficients(c, "dnumerator", dnumerator, 0, "ddenominator", ddenominator, 0));
  SO_CHECK(check_workspace(c, sign_at_zero, workspace, workspace_bytes));
  if (device != SPECTRALOPS_CPU)
    return spectralops::cuda::rational_backward(
        grad, grad_stride, x, x_stride, numerator, numerator_stride, denominator, denominator_stride, dx, dnumerator,
        ddenominator, workspace, workspace_bytes, rows, dim, groups, num_degree, den_degree, version, sign_at_zero,
        dtype, Where{device, stream});
  RationalJob job = c.job();
  job.x = x, job.x_stride = x_stride;
  job.grad = grad, job.grad_stride = grad_stride;
  job.num = numerator, job.num_stride = numerator_stride;
  job.den = denominator, job.den_stride = denominator_stride;
  job.out = dx, job.dnum = dnumerator, job.dden = ddenominator;
  job.partial = static_cast<double*>(workspace);
  job.sign_at_zero = sign_at_zero;
  return spectralops::cpu::rational_backward(job);
}

int spectralops_rational_double_backward(
    const void* ggx, int64_t ggx_stride, const void* ggnumerator, const void* ggdenominator, const void* grad,
    int64_t grad_stride, const void* x, int64_t x_stride, const void* numerator, int64_t numerator_stride,
    const void* denominator, int64_t denominator_stride, void* dgrad, void* dx, void* dnumerator, void* ddenominator,
    void* workspace, int64_t workspace_bytes, int64_t rows, int64_t dim, int64_t groups, int32_t num_degree,
    int32_t den_degree, int32_t version, int32_t sign_at_zero, int32_t dtype, int32_t device, int32_t threads,
    void* stream) {
  const Common c{"rational_double_backward", rows,    dim,   groups, num_degree,
                 den_degree,                 version, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_coefficients(c, "numerator", numerator, numerator_stride, "denominator", denominator,
                              denominator_stride));
  SO_CHECK(check_coefficients(c, "ggnumerator", ggnumerator, 0, "ggdenominator", ggdenominator, 0));
  SO_CHECK(check_tensor(c, "ggx", ggx, ggx_stride));
  SO_CHECK(check_tensor(c, "grad", grad, grad_stride));
  SO_CHECK(check_tensor(c, "x", x, x_stride));
  SO_CHECK(check_tensor(c, "dgrad", dgrad, 0));
  SO_CHECK(check_tensor(c, "dx", dx, 0));
  SO_CHECK(check_coefficients(c, "dnumerator", dnumerator, 0, "ddenominator", ddenominator, 0));
  SO_CHECK(check_workspace(c, sign_at_zero, workspace, workspace_bytes));
  if (device != SPECTRALOPS_CPU)
    return spectralops::cuda::rational_double_backward(
        ggx, ggx_stride, ggnumerator, ggdenominator, grad, grad_stride, x, x_stride, numerator, numerator_stride,
        denominator, denominator_stride, dgrad, dx, dnumerator, ddenominator, workspace, workspace_bytes, rows, dim,
        groups, num_degree, den_degree, version, sign_at_zero, dtype, Where{device, stream});
  RationalJob job = c.job();
  job.x = x, job.x_stride = x_stride;
  job.grad = grad, job.grad_stride = grad_stride;
  job.ggx = ggx, job.ggx_stride = ggx_stride;
  job.num = numerator, job.num_stride = numerator_stride;
  job.den = denominator, job.den_stride = denominator_stride;
  job.ggnum = ggnumerator, job.ggden = ggdenominator;
  job.out = dx, job.dgrad = dgrad, job.dnum = dnumerator, job.dden = ddenominator;
  job.partial = static_cast<double*>(workspace);
  job.sign_at_zero = sign_at_zero;
  return spectralops::cpu::rational_double_backward(job);
}

}  // extern "C"

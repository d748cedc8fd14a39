#include "cpu/poly_norm.h"

#include "capi/status.h"

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::cpu::PolyNormJob;

// What every entry is given: sizes, codes and where to run.
struct Common {
  const char* entry;
  i64 rows, dim;
  int degree;
  double eps;
  int dtype, device, threads;

  PolyNormJob job() const {
    PolyNormJob j = {};
    j.rows = rows, j.dim = dim, j.degree = degree, j.eps = eps, j.dtype = dtype, j.threads = threads;
    return j;
  }
};

int check(const Common& c) {
  constexpr int kMost = spectralops::cpu::kMaxPolyNormDegree;
  SO_REQUIRE(c.rows >= 0, "%s: rows must not be negative, got %lld", c.entry, c.rows);
  SO_REQUIRE(c.dim >= 0, "%s: dim must not be negative, got %lld", c.entry, c.dim);
  SO_REQUIRE(c.degree >= 1, "%s: degree must be at least 1, got %d", c.entry, c.degree);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %d", c.entry, c.dtype);
  SO_REQUIRE(c.device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", c.entry, c.device);
  SO_REQUIRE(c.device != SPECTRALOPS_CPU || c.threads >= 1, "%s: threads must be at least 1, got %d", c.entry,
             c.threads);
  if (c.device != SPECTRALOPS_CPU) return fail(SPECTRALOPS_UNSUPPORTED, "%s: no CUDA kernel", c.entry);
  if (c.degree > kMost)
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: degree %d: no kernel takes one above %d", c.entry, c.degree, kMost);
  return SPECTRALOPS_OK;
}

int check_data(const Common& c, const char* name, const void* pointer) {
  SO_REQUIRE(pointer || c.rows == 0 || c.dim == 0, "%s: %s is NULL", c.entry, name);
  return SPECTRALOPS_OK;
}
int check_table(const Common& c, const char* name, const void* pointer) {
  SO_REQUIRE(pointer, "%s: %s is NULL", c.entry, name);
  return SPECTRALOPS_OK;
}

int check_workspace(const Common& c, const void* workspace, i64 workspace_bytes) {
  const i64 needed = spectralops::cpu::poly_norm_workspace(c.job());
  SO_REQUIRE(workspace_bytes >= needed, "%s: workspace_bytes is %lld, %lld are needed", c.entry, workspace_bytes,
             needed);
  SO_REQUIRE(workspace || needed == 0, "%s: workspace is NULL", c.entry);
  return SPECTRALOPS_OK;
}

}  // namespace

#define SO_CHECK(call) \
  if (const int status = call) return status

extern "C" {

int spectralops_poly_norm_forward(const void* x, const void* weight, const void* bias, void* y, int64_t rows,
                                  int64_t dim, int32_t degree, double eps, int32_t dtype, int32_t device,
                                  int32_t threads, void*) {
  const Common c{"poly_norm_forward", rows, dim, degree, eps, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "x", x));
  SO_CHECK(check_table(c, "weight", weight));
  SO_CHECK(check_table(c, "bias", bias));
  SO_CHECK(check_data(c, "y", y));
  PolyNormJob job = c.job();
  job.x = x, job.weight = weight, job.bias = bias, job.out = y;
  return spectralops::cpu::poly_norm_forward(job);
}

int64_t spectralops_poly_norm_workspace(int64_t rows, int64_t dim, int32_t degree, int32_t dtype, int32_t device) {
  const Common c{"poly_norm_workspace", rows, dim, degree, 0, dtype, device, 1};
  // Wrong sizes need no workspace: the call that they belong to fails and says what is wrong.
  return check(c) ? 0 : spectralops::cpu::poly_norm_workspace(c.job());
}

int spectralops_poly_norm_backward(const void* grad, const void* x, const void* weight, void* dx, void* dweight,
                                   void* dbias, void* workspace, int64_t workspace_bytes, int64_t rows, int64_t dim,
                                   int32_t degree, double eps, int32_t dtype, int32_t device, int32_t threads, void*) {
  const Common c{"poly_norm_backward", rows, dim, degree, eps, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "grad", grad));
  SO_CHECK(check_data(c, "x", x));
  SO_CHECK(check_table(c, "weight", weight));
  SO_CHECK(check_data(c, "dx", dx));
  SO_CHECK(check_table(c, "dweight", dweight));
  SO_CHECK(check_table(c, "dbias", dbias));
  SO_CHECK(check_workspace(c, workspace, workspace_bytes));
  PolyNormJob job = c.job();
  job.x = x, job.grad = grad, job.weight = weight;
  job.out = dx, job.dweight = dweight, job.dbias = dbias, job.partial = static_cast<double*>(workspace);
  return spectralops::cpu::poly_norm_backward(job);
}

int spectralops_poly_norm_double_backward(const void* ggx, const void* ggweight, const void* ggbias, const void* grad,
                                          const void* x, const void* weight, void* dgrad, void* dx, void* dweight,
                                          void* workspace, int64_t workspace_bytes, int64_t rows, int64_t dim,
                                          int32_t degree, double eps, int32_t dtype, int32_t device, int32_t threads,
                                          void*) {
  const Common c{"poly_norm_double_backward", rows, dim, degree, eps, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "ggx", ggx));
  SO_CHECK(check_table(c, "ggweight", ggweight));
  SO_CHECK(check_table(c, "ggbias", ggbias));
  SO_CHECK(check_data(c, "grad", grad));
  SO_CHECK(check_data(c, "x", x));
  SO_CHECK(check_table(c, "weight", weight));
  SO_CHECK(check_data(c, "dgrad", dgrad));
  SO_CHECK(check_data(c, "dx", dx));
  SO_CHECK(check_table(c, "dweight", dweight));
  SO_CHECK(check_workspace(c, workspace, workspace_bytes));
  PolyNormJob job = c.job();
  job.x = x, job.grad = grad, job.ggx = ggx, job.weight = weight, job.ggweight = ggweight, job.ggbias = ggbias;
  job.out = dx, job.dgrad = dgrad, job.dweight = dweight, job.partial = static_cast<double*>(workspace);
  return spectralops::cpu::poly_norm_double_backward(job);
}

}  // extern "C"

#include "capi/status.h"
#include "cpu/kan.h"

#include <math.h>

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::cpu::KanJob;
using namespace spectralops::cpu;

constexpr const char* kEntries[] = {"kan_forward", "kan_dx", "kan_dcoeff"};

// What every entry is given beside its tensors: sizes, the basis and where to run.
struct Common {
  const char* entry;
  i64 rows, inputs, outputs;
  int family, size, a, b, c;
  double scalar0, scalar1;
  int base, m, dtype, device, threads;

  KanJob job(int operation) const {
    KanJob j = {};
    j.operation = operation;
    j.rows = rows, j.inputs = inputs, j.outputs = outputs;
    j.family = family, j.size = size, j.a = a, j.b = b, j.c = c;
    j.scalars[0] = scalar0, j.scalars[1] = scalar1;
    j.base = base, j.m = m, j.dtype = dtype, j.threads = threads;
    return j;
  }
};

int check_basis(const Common& c) {
  SO_REQUIRE(c.size >= 1, "%s: size must be at least 1, got %d", c.entry, c.size);
  switch (c.family) {
    case kUniform:
    case kSpline:
      SO_REQUIRE(c.a >= 0 && c.a <= kMaxSplineOrder, "%s: a, the order of splines, must be 0 to %d, got %d", c.entry,
                 kMaxSplineOrder, c.a);
      SO_REQUIRE(c.b >= kZero && c.b <= kLinear, "%s: b must be 0 (zero), 1 (clamp) or 2 (linear), got %d", c.entry, c.b);
      SO_REQUIRE(c.c == 0 || c.c == 1, "%s: c must be 0 (knots) or 1 (grid), got %d", c.entry, c.c);
      SO_REQUIRE(c.family == kSpline || (isfinite(c.scalar0) && isfinite(c.scalar1) && c.scalar1 > 0),
                 "%s: the knots' start must be finite and their step positive, got %g and %g", c.entry, c.scalar0, c.scalar1);
      return SPECTRALOPS_OK;
    case kRadial:
      SO_REQUIRE(c.a >= 0 && c.a <= 6, "%s: a, the shape, must be 0 to 6, got %d", c.entry, c.a);
      return SPECTRALOPS_OK;
    case kPolynomial:
      SO_REQUIRE(c.a == 0 || c.a == 1, "%s: a must be 0 or 1 (tanh), got %d", c.entry, c.a);
      return SPECTRALOPS_OK;
    case kFourier:
      SO_REQUIRE(c.size % 2 == 0, "%s: size must be even, got %d", c.entry, c.size);
      return SPECTRALOPS_OK;
    case kReluPower:
      SO_REQUIRE(c.a >= 0 && c.a <= 3, "%s: a, the combination, must be 0 to 3, got %d", c.entry, c.a);
      SO_REQUIRE(c.b >= 1, "%s: b, the power, must be at least 1, got %d", c.entry, c.b);
      return SPECTRALOPS_OK;
    default:
      return fail(SPECTRALOPS_INVALID, "%s: family must be 0 to 5, got %d", c.entry, c.family);
  }
}

int check(const Common& c) {
  SO_REQUIRE(c.rows >= 0, "%s: rows must not be negative, got %lld", c.entry, c.rows);
  SO_REQUIRE(c.inputs >= 0, "%s: inputs must not be negative, got %lld", c.entry, c.inputs);
  SO_REQUIRE(c.outputs >= 0, "%s: outputs must not be negative, got %lld", c.entry, c.outputs);
  if (const int status = check_basis(c)) return status;
  SO_REQUIRE(c.base >= kNoBase && c.base <= kTanh, "%s: base must be 0 (none) to 5, got %d", c.entry, c.base);
  SO_REQUIRE(c.m >= 0, "%s: m must not be negative, got %d", c.entry, c.m);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %d", c.entry, c.dtype);
  SO_REQUIRE(c.device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", c.entry, c.device);
  SO_REQUIRE(c.device != SPECTRALOPS_CPU || c.threads >= 1, "%s: threads must be at least 1, got %d", c.entry, c.threads);
  if (c.device != SPECTRALOPS_CPU) return fail(SPECTRALOPS_UNSUPPORTED, "%s: there is no CUDA kernel", c.entry);
  if (c.m > kMaxDerivative)
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: m is %d, no kernel takes a derivative above %d", c.entry, c.m, kMaxDerivative);
  return SPECTRALOPS_OK;
}

int check_rows(const Common& c, const char* name, const void* pointer, i64 stride, i64 columns) {
  SO_REQUIRE(pointer || c.rows == 0 || columns == 0, "%s: %s is NULL", c.entry, name);
  SO_REQUIRE(stride >= 0, "%s: %s_stride must not be negative, got %lld", c.entry, name, stride);
  return SPECTRALOPS_OK;
}

int check_coefficients(const Common& c, const char* name, const void* coeff, const char* base_name, const void* base) {
  const bool none = c.inputs == 0 || c.outputs == 0;
  SO_REQUIRE(coeff || none, "%s: %s is NULL", c.entry, name);
  SO_REQUIRE(base || none || !c.base, "%s: %s is NULL", c.entry, base_name);
  return SPECTRALOPS_OK;
}

int check_rest(const Common& c, const KanJob& job, const void* workspace, i64 workspace_bytes) {
  SO_REQUIRE(job.table || c.family == kUniform || c.family == kFourier, "%s: table is NULL", c.entry);
  SO_REQUIRE(c.family != kSpline || job.table_rows == 1 || job.table_rows == c.inputs,
             "%s: table_rows must be 1 or inputs, %lld, got %lld", c.entry, c.inputs, job.table_rows);
  const i64 needed = kan_workspace(job);
  SO_REQUIRE(workspace_bytes >= needed, "%s: workspace_bytes is %lld, %lld are needed", c.entry, workspace_bytes, needed);
  SO_REQUIRE(workspace || needed == 0, "%s: workspace is NULL", c.entry);
  return SPECTRALOPS_OK;
}

}  // namespace

#define SO_CHECK(call) \
  if (const int status = call) return status

extern "C" {

int64_t spectralops_kan_workspace(int32_t operation, int64_t rows, int64_t inputs, int64_t outputs, int32_t family,
                                  int32_t size, int32_t a, int32_t b, int32_t c, int32_t base, int32_t dtype,
                                  int32_t device, int32_t threads) {
  const Common common{"kan_workspace", rows, inputs, outputs, family, size, a, b, c, 0, 1, base, 0, dtype, device, threads};
  // Wrong sizes need no workspace: the call that they belong to fails and says what is wrong.
  if (operation < 0 || operation > 2 || check(common)) return 0;
  return kan_workspace(common.job(operation));
}

int spectralops_kan_forward(const void* x, int64_t x_stride, const void* u, int64_t u_stride, const void* coeff,
                            const void* base_weight, const void* bias, const void* table, int64_t table_rows, void* y,
                            void* workspace, int64_t workspace_bytes, int64_t rows, int64_t inputs, int64_t outputs,
                            int32_t family, int32_t size, int32_t a, int32_t b, int32_t c, double scalar0, double scalar1,
                            int32_t base, int32_t m, int32_t dtype, int32_t device, int32_t threads, void*) {
  const Common common{kEntries[0], rows, inputs, outputs, family, size, a, b, c, scalar0, scalar1, base, m, dtype, device, threads};
  SO_CHECK(check(common));
  SO_CHECK(check_rows(common, "x", x, x_stride, inputs));
  SO_CHECK(check_rows(common, "u", u ? u : x, u_stride, inputs));
  SO_CHECK(check_coefficients(common, "coeff", coeff, "base_weight", base_weight));
  SO_CHECK(check_rows(common, "y", y, 0, outputs));
  KanJob job = common.job(kKanForward);
  job.x = x, job.x_stride = x_stride, job.u = u, job.u_stride = u_stride;
  job.coeff = coeff, job.base_weight = base_weight, job.bias = bias;
  job.table = table, job.table_rows = table_rows;
  job.out = y;
  SO_CHECK(check_rest(common, job, workspace, workspace_bytes));
  return kan_run(job, workspace);
}

int spectralops_kan_dx(const void* grad, int64_t grad_stride, const void* x, int64_t x_stride, const void* u,
                       int64_t u_stride, const void* coeff, const void* base_weight, const void* table, int64_t table_rows,
                       void* d, void* workspace, int64_t workspace_bytes, int64_t rows, int64_t inputs, int64_t outputs,
                       int32_t family, int32_t size, int32_t a, int32_t b, int32_t c, double scalar0, double scalar1,
                       int32_t base, int32_t m, int32_t dtype, int32_t device, int32_t threads, void*) {
  const Common common{kEntries[1], rows, inputs, outputs, family, size, a, b, c, scalar0, scalar1, base, m, dtype, device, threads};
  SO_CHECK(check(common));
  SO_CHECK(check_rows(common, "grad", grad, grad_stride, outputs));
  SO_CHECK(check_rows(common, "x", x, x_stride, inputs));
  SO_CHECK(check_rows(common, "u", u ? u : x, u_stride, inputs));
  SO_CHECK(check_coefficients(common, "coeff", coeff, "base_weight", base_weight));
  SO_CHECK(check_rows(common, "d", d, 0, inputs));
  KanJob job = common.job(kKanDx);
  job.grad = grad, job.grad_stride = grad_stride;
  job.x = x, job.x_stride = x_stride, job.u = u, job.u_stride = u_stride;
  job.coeff = coeff, job.base_weight = base_weight;
  job.table = table, job.table_rows = table_rows;
  job.out = d;
  SO_CHECK(check_rest(common, job, workspace, workspace_bytes));
  return kan_run(job, workspace);
}

int spectralops_kan_dcoeff(const void* grad, int64_t grad_stride, const void* x, int64_t x_stride, const void* u,
                           int64_t u_stride, const void* table, int64_t table_rows, void* dcoeff, void* dbase,
                           void* workspace, int64_t workspace_bytes, int64_t rows, int64_t inputs, int64_t outputs,
                           int32_t family, int32_t size, int32_t a, int32_t b, int32_t c, double scalar0, double scalar1,
                           int32_t base, int32_t m, int32_t dtype, int32_t device, int32_t threads, void*) {
  const Common common{kEntries[2], rows, inputs, outputs, family, size, a, b, c, scalar0, scalar1, base, m, dtype, device, threads};
  SO_CHECK(check(common));
  SO_CHECK(check_rows(common, "grad", grad, grad_stride, outputs));
  SO_CHECK(check_rows(common, "x", x, x_stride, inputs));
  SO_CHECK(check_rows(common, "u", u ? u : x, u_stride, inputs));
  SO_CHECK(check_coefficients(common, "dcoeff", dcoeff, "dbase", dbase));
  KanJob job = common.job(kKanDcoeff);
  job.grad = grad, job.grad_stride = grad_stride;
  job.x = x, job.x_stride = x_stride, job.u = u, job.u_stride = u_stride;
  job.table = table, job.table_rows = table_rows;
  job.dcoeff = dcoeff, job.dbase = base ? dbase : nullptr;
  SO_CHECK(check_rest(common, job, workspace, workspace_bytes));
  return kan_run(job, workspace);
}

}  // extern "C"

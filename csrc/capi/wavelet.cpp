#include "cpu/wavelet.h"

#include "capi/status.h"

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::cpu::WaveletJob;

// What every entry is given: sizes, codes and where to run.
struct Common {
  const char* entry;
  i64 rows, inputs, outputs;
  int kind, dtype, device, threads;

  WaveletJob job() const {
    WaveletJob j = {};
    j.rows = rows, j.inputs = inputs, j.outputs = outputs;
    j.kind = kind, j.dtype = dtype, j.threads = threads;
    return j;
  }
};

int check(const Common& c) {
  SO_REQUIRE(c.rows >= 0, "%s: rows must not be negative, got %lld", c.entry, c.rows);
  SO_REQUIRE(c.inputs >= 0, "%s: inputs must not be negative, got %lld", c.entry, c.inputs);
  SO_REQUIRE(c.outputs >= 0, "%s: outputs must not be negative, got %lld", c.entry, c.outputs);
  SO_REQUIRE(c.kind >= SPECTRALOPS_MEXICAN_HAT && c.kind <= SPECTRALOPS_DOG,
             "%s: kind must be 0 (mexican hat), 1 (morlet) or 2 (dog), got %d", c.entry, c.kind);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %d", c.entry, c.dtype);
  SO_REQUIRE(c.device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", c.entry, c.device);
  SO_REQUIRE(c.threads >= 1 || c.device != SPECTRALOPS_CPU, "%s: threads must be at least 1, got %d", c.entry,
             c.threads);
  if (c.device != SPECTRALOPS_CPU)
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: there is no kernel for device %d", c.entry, c.device);
  return SPECTRALOPS_OK;
}

// A matrix of `count` elements; an empty one may be NULL.
int check_tensor(const Common& c, const char* name, const void* pointer, i64 stride, i64 count) {
  SO_REQUIRE(pointer || count == 0, "%s: %s is NULL", c.entry, name);
  SO_REQUIRE(stride >= 0, "%s: %s_stride must not be negative, got %lld", c.entry, name, stride);
  return SPECTRALOPS_OK;
}

int check_workspace(const Common& c, const void* workspace, i64 workspace_bytes) {
  const i64 needed = spectralops::cpu::wavelet_workspace(c.job());
  SO_REQUIRE(workspace_bytes >= needed, "%s: workspace_bytes is %lld, %lld are needed", c.entry, workspace_bytes,
             needed);
  SO_REQUIRE(workspace || needed == 0, "%s: workspace is NULL", c.entry);
  return SPECTRALOPS_OK;
}

}  // namespace

#define SO_CHECK(call) \
  if (const int status = call) return status
#define SO_CHECK_INPUT(name) SO_CHECK(check_tensor(c, #name, name, name##_stride, rows * inputs))
#define SO_CHECK_ROWS(name, columns) SO_CHECK(check_tensor(c, #name, name, 0, rows * (columns)))
#define SO_CHECK_PARAMETER(name) SO_CHECK(check_tensor(c, #name, name, 0, outputs * inputs))

extern "C" {

int spectralops_wavelet_forward(const void* x, int64_t x_stride, const void* weight, const void* scale,
                                const void* translation, void* y, int64_t rows, int64_t inputs, int64_t outputs,
                                int32_t kind, int32_t dtype, int32_t device, int32_t threads, void*) {
  const Common c{"wavelet_forward", rows, inputs, outputs, kind, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK_INPUT(x);
  SO_CHECK_PARAMETER(weight);
  SO_CHECK_PARAMETER(scale);
  SO_CHECK_PARAMETER(translation);
  SO_CHECK_ROWS(y, outputs);
  WaveletJob job = c.job();
  job.x = x, job.x_stride = x_stride;
  job.weight = weight, job.scale = scale, job.translation = translation;
  job.y = y;
  return spectralops::cpu::wavelet_forward(job);
}

int64_t spectralops_wavelet_workspace(int64_t rows, int64_t inputs, int64_t outputs, int32_t dtype, int32_t device) {
  const Common c{"wavelet_workspace", rows, inputs, outputs, SPECTRALOPS_MEXICAN_HAT, dtype, device, 1};
  // Wrong sizes need no workspace: the call that they belong to fails and says what is wrong.
  return check(c) ? 0 : spectralops::cpu::wavelet_workspace(c.job());
}

int spectralops_wavelet_backward(const void* grad, int64_t grad_stride, const void* x, int64_t x_stride,
                                 const void* weight, const void* scale, const void* translation, void* dx,
                                 void* dweight, void* dscale, void* dtranslation, void* workspace,
                                 int64_t workspace_bytes, int64_t rows, int64_t inputs, int64_t outputs, int32_t kind,
                                 int32_t dtype, int32_t device, int32_t threads, void*) {
  const Common c{"wavelet_backward", rows, inputs, outputs, kind, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_tensor(c, "grad", grad, grad_stride, rows * outputs));
  SO_CHECK_INPUT(x);
  SO_CHECK_PARAMETER(weight);
  SO_CHECK_PARAMETER(scale);
  SO_CHECK_PARAMETER(translation);
  SO_CHECK_ROWS(dx, inputs);
  SO_CHECK_PARAMETER(dweight);
  SO_CHECK_PARAMETER(dscale);
  SO_CHECK_PARAMETER(dtranslation);
  SO_CHECK(check_workspace(c, workspace, workspace_bytes));
  WaveletJob job = c.job();
  job.x = x, job.x_stride = x_stride;
  job.grad = grad, job.grad_stride = grad_stride;
  job.weight = weight, job.scale = scale, job.translation = translation;
  job.dx = dx, job.dweight = dweight, job.dscale = dscale, job.dtranslation = dtranslation;
  job.partial = static_cast<double*>(workspace);
  return spectralops::cpu::wavelet_backward(job);
}

int spectralops_wavelet_double_backward(
    const void* ggx, int64_t ggx_stride, const void* ggweight, const void* ggscale, const void* ggtranslation,
    const void* grad, int64_t grad_stride, const void* x, int64_t x_stride, const void* weight, const void* scale,
    const void* translation, void* dgrad, void* dx, void* dweight, void* dscale, void* dtranslation, void* workspace,
    int64_t workspace_bytes, int64_t rows, int64_t inputs, int64_t outputs, int32_t kind, int32_t dtype, int32_t device,
    int32_t threads, void*) {
  const Common c{"wavelet_double_backward", rows, inputs, outputs, kind, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK_INPUT(ggx);
  SO_CHECK_PARAMETER(ggweight);
  SO_CHECK_PARAMETER(ggscale);
  SO_CHECK_PARAMETER(ggtranslation);
  SO_CHECK(check_tensor(c, "grad", grad, grad_stride, rows * outputs));
  SO_CHECK_INPUT(x);
  SO_CHECK_PARAMETER(weight);
  SO_CHECK_PARAMETER(scale);
  SO_CHECK_PARAMETER(translation);
  SO_CHECK_ROWS(dgrad, outputs);
  SO_CHECK_ROWS(dx, inputs);
  SO_CHECK_PARAMETER(dweight);
  SO_CHECK_PARAMETER(dscale);
  SO_CHECK_PARAMETER(dtranslation);
  SO_CHECK(check_workspace(c, workspace, workspace_bytes));
  WaveletJob job = c.job();
  job.ggx = ggx, job.ggx_stride = ggx_stride;
  job.ggweight = ggweight, job.ggscale = ggscale, job.ggtranslation = ggtranslation;
  job.grad = grad, job.grad_stride = grad_stride;
  job.x = x, job.x_stride = x_stride;
  job.weight = weight, job.scale = scale, job.translation = translation;
  job.y = dgrad;
  job.dx = dx, job.dweight = dweight, job.dscale = dscale, job.dtranslation = dtranslation;
  job.partial = static_cast<double*>(workspace);
  return spectralops::cpu::wavelet_double_backward(job);
}

}  // extern "C"

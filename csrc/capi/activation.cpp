#include "cpu/activation.h"

#include "capi/status.h"

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::cpu::ActivationJob;

// What every entry is given: sizes, codes and where to run.
struct Common {
  const char* entry;
  i64 outer, channels, inner;
  int count, function, dtype, device, threads;

  bool empty() const { return outer == 0 || channels == 0 || inner == 0; }
  ActivationJob job() const {
    ActivationJob j = {};
    j.rows = outer, j.channels = channels, j.inner = inner;
    j.count = count, j.function = function, j.dtype = dtype, j.threads = threads;
    return j;
  }
};

// Parameters of each function; poly_relu has as many as it is given.
constexpr int kCounts[] = {1, 1, 0, 3, -1, 1, 2, 2};
constexpr int kFunctions = sizeof kCounts / sizeof kCounts[0];

int check(const Common& c) {
  constexpr int kMost = spectralops::cpu::kMaxActivationParams;
  SO_REQUIRE(c.outer >= 0, "%s: outer must not be negative, got %lld", c.entry, c.outer);
  SO_REQUIRE(c.channels >= 0, "%s: channels must not be negative, got %lld", c.entry, c.channels);
  SO_REQUIRE(c.inner >= 0, "%s: inner must not be negative, got %lld", c.entry, c.inner);
  SO_REQUIRE(c.function >= 0 && c.function < kFunctions,
             "%s: function must be 0 (snake), 1 (sine), 2 (spder), 3 (cauchy), 4 (poly_relu), 5 (square_wave), "
             "6 (wire) or 7 (wire of a complex x), got %d",
             c.entry, c.function);
  const int needs = kCounts[c.function];
  SO_REQUIRE(needs < 0 ? c.count >= 1 : c.count == needs, "%s: count must be %s%d for function %d, got %d", c.entry,
             needs < 0 ? "at least " : "", needs < 0 ? 1 : needs, c.function, c.count);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %d", c.entry, c.dtype);
  SO_REQUIRE(c.device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", c.entry, c.device);
  SO_REQUIRE(c.device != SPECTRALOPS_CPU || c.threads >= 1, "%s: threads must be at least 1, got %d", c.entry,
             c.threads);
  if (c.device != SPECTRALOPS_CPU) return fail(SPECTRALOPS_UNSUPPORTED, "%s: no CUDA kernel", c.entry);
  if (c.count > kMost)
    return fail(SPECTRALOPS_UNSUPPORTED, "%s: count %d: no kernel takes more than %d parameters", c.entry, c.count,
                kMost);
  return SPECTRALOPS_OK;
}

int check_data(const Common& c, const char* name, const void* pointer) {
  SO_REQUIRE(pointer || c.empty(), "%s: %s is NULL", c.entry, name);
  return SPECTRALOPS_OK;
}

int check_params(const Common& c, const void* pointer) {
  SO_REQUIRE(pointer || c.count == 0 || c.channels == 0, "%s: params is NULL", c.entry);
  return SPECTRALOPS_OK;
}

int check_workspace(const Common& c, const void* dparams, const void* workspace, i64 workspace_bytes) {
  const i64 needed = dparams ? spectralops::cpu::activation_workspace(c.job()) : 0;
  SO_REQUIRE(workspace_bytes >= needed, "%s: workspace_bytes is %lld, %lld are needed", c.entry, workspace_bytes,
             needed);
  SO_REQUIRE(workspace || needed == 0, "%s: workspace is NULL", c.entry);
  return SPECTRALOPS_OK;
}

}  // namespace

#define SO_CHECK(call) \
  if (const int status = call) return status

extern "C" {

int spectralops_activation_forward(const void* x, const void* params, void* y, int64_t outer, int64_t channels,
                                   int64_t inner, int32_t count, int32_t function, int32_t dtype, int32_t device,
                                   int32_t threads, void*) {
  const Common c{"activation_forward", outer, channels, inner, count, function, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "x", x));
  SO_CHECK(check_params(c, params));
  SO_CHECK(check_data(c, "y", y));
  ActivationJob job = c.job();
  job.in[0] = x, job.params = params, job.out[0] = y;
  return spectralops::cpu::activation_forward(job);
}

int64_t spectralops_activation_workspace(int64_t outer, int64_t channels, int64_t inner, int32_t count,
                                         int32_t function, int32_t dtype, int32_t device) {
  const Common c{"activation_workspace", outer, channels, inner, count, function, dtype, device, 1};
  // Wrong sizes need no workspace: the call that they belong to fails and says what is wrong.
  return check(c) ? 0 : spectralops::cpu::activation_workspace(c.job());
}

int spectralops_activation_backward(const void* grad, const void* x, const void* params, void* dx, void* dparams,
                                    void* workspace, int64_t workspace_bytes, int64_t outer, int64_t channels,
                                    int64_t inner, int32_t count, int32_t function, int32_t dtype, int32_t device,
                                    int32_t threads, void*) {
  const Common c{"activation_backward", outer, channels, inner, count, function, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "grad", grad));
  SO_CHECK(check_data(c, "x", x));
  SO_CHECK(check_params(c, params));
  SO_CHECK(check_data(c, "dx", dx));
  SO_CHECK(check_workspace(c, dparams, workspace, workspace_bytes));
  ActivationJob job = c.job();
  job.in[0] = x, job.in[1] = grad, job.params = params;
  job.out[0] = dx, job.dparams = dparams, job.partial = static_cast<double*>(workspace);
  return spectralops::cpu::activation_backward(job);
}

int spectralops_activation_double_backward(const void* ggx, const void* ggparams, const void* grad, const void* x,
                                           const void* params, void* dgrad, void* dx, void* dparams, void* workspace,
                                           int64_t workspace_bytes, int64_t outer, int64_t channels, int64_t inner,
                                           int32_t count, int32_t function, int32_t dtype, int32_t device,
                                           int32_t threads, void*) {
  const Common c{"activation_double_backward", outer, channels, inner, count, function, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "ggx", ggx));
  SO_CHECK(check_data(c, "grad", grad));
  SO_CHECK(check_data(c, "x", x));
  SO_CHECK(check_params(c, params));
  SO_CHECK(check_data(c, "dgrad", dgrad));
  SO_CHECK(check_data(c, "dx", dx));
  SO_CHECK(check_workspace(c, dparams, workspace, workspace_bytes));
  ActivationJob job = c.job();
  job.in[0] = x, job.in[1] = grad, job.in[2] = ggx, job.params = params, job.tangents = ggparams;
  job.out[0] = dx, job.out[1] = dgrad, job.dparams = dparams, job.partial = static_cast<double*>(workspace);
  return spectralops::cpu::activation_double_backward(job);
}

}  // extern "C"

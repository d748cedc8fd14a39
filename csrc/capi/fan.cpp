#include "cpu/fan.h"

#include "capi/status.h"

namespace {

using spectralops::fail;
using spectralops::i64;
using spectralops::cpu::FanJob;

// What every entry is given: sizes, codes and where to run.
struct Common {
  const char* entry;
  i64 rows, p, q;
  int dtype, device, threads;

  FanJob job() const {
    FanJob j = {};
    j.rows = rows, j.p = p, j.q = q, j.dtype = dtype, j.threads = threads;
    return j;
  }
};

int check(const Common& c) {
  SO_REQUIRE(c.rows >= 0, "%s: rows must not be negative, got %lld", c.entry, c.rows);
  SO_REQUIRE(c.p >= 0, "%s: p must not be negative, got %lld", c.entry, c.p);
  SO_REQUIRE(c.q >= 0, "%s: q must not be negative, got %lld", c.entry, c.q);
  SO_REQUIRE(c.dtype >= SPECTRALOPS_F32 && c.dtype <= SPECTRALOPS_BF16,
             "%s: dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got %d", c.entry, c.dtype);
  SO_REQUIRE(c.device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", c.entry, c.device);
  SO_REQUIRE(c.device != SPECTRALOPS_CPU || c.threads >= 1, "%s: threads must be at least 1, got %d", c.entry,
             c.threads);
  if (c.device != SPECTRALOPS_CPU) return fail(SPECTRALOPS_UNSUPPORTED, "%s: no CUDA kernel", c.entry);
  return SPECTRALOPS_OK;
}

// A tensor (rows, width).
int check_data(const Common& c, const char* name, const void* pointer, i64 width) {
  SO_REQUIRE(pointer || c.rows * width == 0, "%s: %s is NULL", c.entry, name);
  return SPECTRALOPS_OK;
}

}  // namespace

#define SO_CHECK(call) \
  if (const int status = call) return status

extern "C" {

int spectralops_fan_forward(const void* h, const void* e, void* y, int64_t rows, int64_t p, int64_t q, int32_t dtype,
                            int32_t device, int32_t threads, void*) {
  const Common c{"fan_forward", rows, p, q, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "h", h, p));
  SO_CHECK(check_data(c, "e", e, q));
  SO_CHECK(check_data(c, "y", y, 2 * p + q));
  FanJob job = c.job();
  job.h = h, job.e = e, job.y = y;
  return spectralops::cpu::fan_forward(job);
}

int spectralops_fan_backward(const void* grad, const void* h, const void* e, void* dh, void* de, int64_t rows,
                             int64_t p, int64_t q, int32_t dtype, int32_t device, int32_t threads, void*) {
  const Common c{"fan_backward", rows, p, q, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "grad", grad, 2 * p + q));
  SO_CHECK(check_data(c, "h", h, p));
  SO_CHECK(check_data(c, "e", e, q));
  SO_CHECK(check_data(c, "dh", dh, p));
  SO_CHECK(check_data(c, "de", de, q));
  FanJob job = c.job();
  job.grad = grad, job.h = h, job.e = e, job.dh = dh, job.de = de;
  return spectralops::cpu::fan_backward(job);
}

int spectralops_fan_double_backward(const void* ggh, const void* gge, const void* grad, const void* h, const void* e,
                                    void* dgrad, void* dh, void* de, int64_t rows, int64_t p, int64_t q, int32_t dtype,
                                    int32_t device, int32_t threads, void*) {
  const Common c{"fan_double_backward", rows, p, q, dtype, device, threads};
  SO_CHECK(check(c));
  SO_CHECK(check_data(c, "ggh", ggh, p));
  SO_CHECK(check_data(c, "gge", gge, q));
  SO_CHECK(check_data(c, "grad", grad, 2 * p + q));
  SO_CHECK(check_data(c, "h", h, p));
  SO_CHECK(check_data(c, "e", e, q));
  SO_CHECK(check_data(c, "dgrad", dgrad, 2 * p + q));
  SO_CHECK(check_data(c, "dh", dh, p));
  SO_CHECK(check_data(c, "de", de, q));
  FanJob job = c.job();
  job.ggh = ggh, job.gge = gge, job.grad = grad, job.h = h, job.e = e;
  job.dgrad = dgrad, job.dh = dh, job.de = de;
  return spectralops::cpu::fan_double_backward(job);
}

}  // extern "C"

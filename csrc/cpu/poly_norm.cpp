#include "cpu/poly_norm.h"

#include "capi/spectralops.h"
#include "cpu/parallel.h"

#include <string.h>

namespace spectralops {
namespace cpu {
namespace {

constexpr i64 kTaskElements = 32768;
constexpr i64 kMaxRowChunks = 256;  // bounds the workspace
constexpr i64 kGrain = 16384;       // elements that repay waking a thread: a few microseconds of work

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// From the sizes alone, as then is the order of the sums.
void plan(PolyNormJob& job) {
  job.row_chunk = larger(larger(1, kTaskElements / job.dim), ceil_div(job.rows, kMaxRowChunks));
  job.row_chunks = ceil_div(job.rows, job.row_chunk);
}

using Loop = void (*)(const PolyNormJob&, i64, i64, double*);

void run(const PolyNormJob& job, Loop loop) {
  const int threads = int(larger(1, smaller(job.threads, job.rows * job.dim / kGrain)));
  parallel_for(threads, job.row_chunks, [&](i64 chunk) {
    const i64 row = chunk * job.row_chunk;
    double* sums = job.partial ? job.partial + chunk * (job.degree + 1) : nullptr;
    loop(job, row, smaller(job.rows, row + job.row_chunk), sums);
  });
}

int run_and_reduce(PolyNormJob& job, Loop loop) {
  const bool empty = job.rows == 0 || job.dim == 0;
  if (!empty) {
    plan(job);
    memset(job.partial, 0, sizeof(double) * u64(job.row_chunks * (job.degree + 1)));
    run(job, loop);
  }
  for (int i = 0; i <= job.degree; ++i) {
    double total = 0, low = 0;
    for (i64 chunk = 0; !empty && chunk < job.row_chunks; ++chunk)
      add_compensated(total, low, job.partial[chunk * (job.degree + 1) + i]);
    const double sum = compensated(total, low);
    void* out = i < job.degree ? job.dweight : job.dbias;
    const int at = i < job.degree ? i : 0;
    if (!out) continue;
    if (job.dtype == SPECTRALOPS_F64) static_cast<double*>(out)[at] = sum;
    else static_cast<float*>(out)[at] = float(sum);
  }
  return SPECTRALOPS_OK;
}

}  // namespace

int poly_norm_forward(PolyNormJob job) {
  if (job.rows == 0 || job.dim == 0) return SPECTRALOPS_OK;
  plan(job);
  run(job, SO_CPU_CALL(poly_norm_forward));
  return SPECTRALOPS_OK;
}

int poly_norm_backward(PolyNormJob job) { return run_and_reduce(job, SO_CPU_CALL(poly_norm_backward)); }

int poly_norm_double_backward(PolyNormJob job) { return run_and_reduce(job, SO_CPU_CALL(poly_norm_double_backward)); }

i64 poly_norm_workspace(PolyNormJob job) {
  if (job.rows == 0 || job.dim == 0) return 0;
  plan(job);
  return i64(sizeof(double)) * job.row_chunks * (job.degree + 1);
}

}  // namespace cpu
}  // namespace spectralops

#include "cpu/wavelet.h"

#include "capi/status.h"
#include "cpu/parallel.h"

#include <string.h>

namespace spectralops {
namespace cpu {
namespace {

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

constexpr i64 kTasks = 128;    // of a gradient, as far as there are rows for them; bounds the workspace
constexpr i64 kGrain = 16384;  // evaluations of psi that repay waking a thread: a few microseconds of work

// From the sizes alone: the order of every sum follows from this, and the number of threads does not change it.
void plan(WaveletJob& job) {
  job.in_blocks = ceil_div(job.inputs, kGradIn);
  const i64 blocks = ceil_div(job.rows, kGradRows);
  const i64 chunks = smaller(blocks, ceil_div(kTasks, larger(1, job.in_blocks)));
  job.row_chunk = chunks ? ceil_div(blocks, chunks) * kGradRows : 0;
  job.row_chunks = chunks ? ceil_div(job.rows, job.row_chunk) : 0;
}

int worth(const WaveletJob& job) {
  const double evaluations = double(job.rows) * double(job.inputs) * double(job.outputs);
  return evaluations / kGrain >= job.threads ? job.threads : int(larger(1, i64(evaluations / kGrain)));
}

using Loop = void (*)(const WaveletJob&, i64 task);

void run_value(const WaveletJob& job, Loop loop) {
  const i64 tasks = ceil_div(job.rows, kValueRows) * ceil_div(job.outputs, kValueOut);
  parallel_for(worth(job), tasks, [&](i64 task) { loop(job, task); });
}

// The chunks of a sum in order; then what does not depend on the row:
//   first   dw = S0    ds = -(w / s) S1                dt = -(w / s) S2
//   second  dw = S0    ds = -(1 / s) (S1 + w S0)       dt = -(1 / s) S2
template <typename C>
void reduce(const WaveletJob& job, bool second) {
  const i64 each = job.outputs * job.inputs, span = 4096;
  const double amplitude = job.kind == SPECTRALOPS_MEXICAN_HAT ? kMexicanHatAmplitude : 1;
  const C *w = static_cast<const C*>(job.weight), *s = static_cast<const C*>(job.scale);
  C *dw = static_cast<C*>(job.dweight), *ds = static_cast<C*>(job.dscale), *dt = static_cast<C*>(job.dtranslation);
  const int threads = int(larger(1, smaller(job.threads, each * job.row_chunks / kGrain)));
  parallel_for(threads, ceil_div(each, span), [&](i64 task) {
    for (i64 k = task * span; k < smaller(each, (task + 1) * span); ++k) {
      double sum[3] = {0, 0, 0};
      for (i64 chunk = 0; chunk < job.row_chunks; ++chunk)
        for (int j = 0; j < 3; ++j) sum[j] += job.partial[(chunk * 3 + j) * each + k];
      for (int j = 0; j < 3; ++j) sum[j] *= amplitude;
      const double weight = double(w[k]), factor = -1.0 / double(s[k]);
      dw[k] = C(sum[0]);
      ds[k] = C(second ? factor * (sum[1] + weight * sum[0]) : factor * weight * sum[1]);
      dt[k] = C(second ? factor * sum[2] : factor * weight * sum[2]);
    }
  });
}

void run_gradient(WaveletJob& job, Loop loop, bool second) {
  plan(job);
  memset(job.partial, 0, u64(wavelet_workspace(job)));  // tasks add to their part
  parallel_for(worth(job), job.row_chunks * job.in_blocks, [&](i64 task) { loop(job, task); });
  if (job.dtype == SPECTRALOPS_F64) reduce<double>(job, second);
  else reduce<float>(job, second);
}

}  // namespace

int wavelet_forward(WaveletJob job) {
  run_value(job, SO_CPU_CALL(wavelet_forward));
  return SPECTRALOPS_OK;
}

int wavelet_backward(WaveletJob job) {
  run_gradient(job, SO_CPU_CALL(wavelet_backward), false);
  return SPECTRALOPS_OK;
}

int wavelet_double_backward(WaveletJob job) {
  run_value(job, SO_CPU_CALL(wavelet_dgrad));
  run_gradient(job, SO_CPU_CALL(wavelet_double_backward), true);
  return SPECTRALOPS_OK;
}

i64 wavelet_workspace(WaveletJob job) {
  plan(job);
  return i64(sizeof(double)) * job.row_chunks * 3 * job.outputs * job.inputs;
}

}  // namespace cpu
}  // namespace spectralops

#include "cpu/fan.h"

#include "capi/spectralops.h"
#include "cpu/parallel.h"

namespace spectralops {
namespace cpu {
namespace {

constexpr i64 kColumns = 8192, kTaskElements = 32768;
constexpr i64 kGrain = 8192;  // elements that repay waking a thread: a few microseconds of work

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

using Loop = void (*)(const FanJob&, const FanTile&);

int run(const FanJob& job, Loop loop) {
  const i64 elements = job.rows * (job.p + job.q);
  if (elements == 0) return SPECTRALOPS_OK;
  const i64 first = ceil_div(job.p, kColumns), pieces = first + ceil_div(job.q, kColumns);
  const i64 row_chunk = larger(1, kTaskElements / smaller(kColumns, larger(job.p, job.q)));
  const int threads = int(larger(1, smaller(job.threads, elements / kGrain)));
  parallel_for(threads, ceil_div(job.rows, row_chunk) * pieces, [&](i64 task) {
    const i64 row = task / pieces * row_chunk, piece = task % pieces;
    const bool periodic = piece < first;
    const i64 col = (periodic ? piece : piece - first) * kColumns, end = periodic ? job.p : job.q;
    loop(job, {row, smaller(job.rows, row + row_chunk), col, smaller(end, col + kColumns), periodic});
  });
  return SPECTRALOPS_OK;
}

}  // namespace

int fan_forward(const FanJob& job) { return run(job, SO_CPU_CALL(fan_forward)); }
int fan_backward(const FanJob& job) { return run(job, SO_CPU_CALL(fan_backward)); }
int fan_double_backward(const FanJob& job) { return run(job, SO_CPU_CALL(fan_double_backward)); }

}  // namespace cpu
}  // namespace spectralops

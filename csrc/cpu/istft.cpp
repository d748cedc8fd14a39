#include "cpu/istft.h"

#include "capi/status.h"
#include "cpu/fft_conv_roots.h"
#include "cpu/parallel.h"

#include <algorithm>
#include <initializer_list>

namespace spectralops {
namespace cpu {
namespace {

using Call = spectralops_istft_call;

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 padded(i64 count) { return ceil_div(count, kIstftFrames) * kIstftFrames; }

// How many radices make h, or -1.
int factor(i64 h, int* radix) {
  int levels = 0;
  for (const i64 r : {4, 2, 3, 5})
    for (; h % r == 0; h /= r) radix[levels++] = int(r);
  return h == 1 ? levels : -1;
}

i64 plan_of(const Call& c, bool backward, int threads, IstftPlan& p) {
  const i64 size = c.dtype == SPECTRALOPS_F64 ? 8 : 4;
  p.call = &c, p.half = c.n / 2, p.bins = p.half + 1, p.before = ceil_div(c.n, c.hop) - 1;
  p.pitch = padded(p.bins), p.span = padded(c.n);
  p.levels = factor(p.half, p.radix);
  const i64 about = std::max<i64>(c.n <= 256 ? 128 : 64, padded(4 * p.before));  // frames computed for a chunk
  p.frames = std::min<i64>(c.frames, backward ? about : about - p.before);
  p.chunks = ceil_div(c.frames, p.frames);
  p.region = (p.frames + p.before) * c.hop + c.n;
  const double work = double(c.rows) * double(c.frames) * double(c.n);
  p.threads = clamp_threads(work < 16384 ? 1 : threads, c.rows * p.chunks);
  i64 end = 0;
  const auto take = [&](i64 count) {
    const i64 from = end;
    end += padded(count);
    return from;
  };
  p.a = take(kIstftFrames * p.pitch), p.b = take(kIstftFrames * p.pitch);
  p.h = take(2 * p.bins * kIstftFrames);
  const i64 block = std::max<i64>(c.n, p.pitch) * kIstftFrames;
  p.first = take(block), p.second = take(block);
  p.samples = take(kIstftFrames * p.span);
  p.sum = take(p.region + kIstftFrames);
  p.slot = end;
  return padded(2 * c.n) * size + p.threads * p.slot * size + 64;
}

template <typename C> void make_roots(i64 n, C* roots) {
  for (i64 j = 0; j < n; ++j) {
    const Root w = root_of(j, n);
    roots[2 * j] = C(w.c), roots[2 * j + 1] = C(-w.s);
  }
}

}  // namespace

bool istft_fits(i64 n) {
  int radix[40];
  return n % 2 == 0 && factor(n / 2, radix) >= 0;
}

i64 istft_workspace(const Call& c, bool backward, int threads) {
  IstftPlan plan;
  return plan_of(c, backward, threads, plan);
}

int istft_head(const Call& c, bool backward, int threads) {
  IstftPlan plan;
  const i64 needed = plan_of(c, backward, threads, plan);
  if (c.workspace_bytes < needed)
    return fail(SPECTRALOPS_INVALID, "workspace_bytes: got %lld, this call takes %lld", (long long)c.workspace_bytes,
                (long long)needed);
  char* const work = static_cast<char*>(c.workspace) + (-reinterpret_cast<u64>(c.workspace) & 63u);
  const bool wide = c.dtype == SPECTRALOPS_F64;
  if (wide) make_roots(c.n, reinterpret_cast<double*>(work));
  else make_roots(c.n, reinterpret_cast<float*>(work));
  plan.roots = work, plan.scratch = work + padded(2 * c.n) * (wide ? 8 : 4);
  if (backward) SO_CPU_CALL(istft_head_backward_run)(plan);
  else SO_CPU_CALL(istft_head_run)(plan);
  return SPECTRALOPS_OK;
}

}  // namespace cpu
}  // namespace spectralops

#include "cpu/fft_conv.h"

#include "capi/status.h"
#include "cpu/fft_conv_plan.h"
#include "cpu/fft_conv_roots.h"
#include "cpu/parallel.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace spectralops {
namespace cpu {
namespace {

using Call = spectralops_fft_conv_call;

constexpr i64 kUnitBytes = 4 << 20;   // what the spectra of channels side by side may take
constexpr i64 kTasks = 64;            // wanted, so that cores share them evenly
constexpr i64 kTaskPoints = 8 * 1024; // less work than this is not worth a second thread

i64 compute_bytes(const Call& c) { return c.dtype == SPECTRALOPS_F64 ? 8 : 4; }
i64 round_up(i64 a, i64 b) { return (a + b - 1) / b * b; }
// A tile is a square of vectors: where a row fills a quarter of the widest or less, narrower ones are quicker.
Isa isa_for(const Call& c, i64 n) {
  const Isa isa = active_isa();
  const bool small = n * compute_bytes(c) * compute_bytes(c) <= 1024;
  return isa == Isa::avx512 && small ? Isa::avx2 : isa;
}
int vector_lanes(const Call& c, i64 n) {
  const Isa isa = isa_for(c, n);
  return (isa == Isa::avx512 ? 64 : isa == Isa::avx2 ? 32 : 16) / int(compute_bytes(c));
}
void call_loops(const ConvJob& job, bool backward) {
#if SO_CPU_X86
  if (isa_for(*job.call, job.plan->n) != active_isa()) {
    if (backward) avx2::fft_conv_backward_run(job);
    else avx2::fft_conv_forward_run(job);
    return;
  }
#endif
  if (backward) SO_CPU_CALL(fft_conv_backward_run)(job);
  else SO_CPU_CALL(fft_conv_forward_run)(job);
}

// The operations of transforming windows of 2n numbers that give `step` results each.
double cost(i64 n, double windows) { return windows * double(n) * (std::log2(double(n)) + 6); }

// Overlap-save where it is cheaper by enough: the best power of two for its windows, or 0.
i64 window_points(const Call& c) {
  if (c.grid) return 0;
  const i64 whole = fast_points((c.length + std::max(c.lag0, c.size - 1 - c.lag0) + 1) / 2);
  double best = 0.85 * cost(whole, 1);
  i64 found = 0;
  for (i64 n = kLeastPoints; n < whole; n *= 2) {
    const i64 step = 2 * n - c.size + 1;
    if (step < n / 2) continue;
    const double windows = double((c.length + step - 1) / step), its = cost(n, windows);
    if (its < best) best = its, found = n;
  }
  return found;
}

bool lies_across(i64 channel, i64 time) { return time != 1 && channel == 1; }

// The layout: whether tensors are contiguous in time, and if not whether channels are.
void plan_layout(const Call& c, bool backward, ConvPlan& p) {
  bool across = false;
  p.direct = true;
  const auto see = [&](const void* t, i64 channel, i64 time) {
    if (!t) return;
    p.direct &= time == 1;
    across |= lies_across(channel, time);
  };
  see(c.u, c.u_channel, c.u_time);
  see(c.gate_in, c.gate_in_channel, c.gate_in_time);
  see(c.gate_out, c.gate_out_channel, c.gate_out_time);
  if (backward) see(c.grad, c.grad_channel, c.grad_time);
  see(backward ? c.dgate_out : c.y, c.y_channel, c.y_time);
  if (backward) see(c.du ? c.du : c.dgate_in, c.du_channel, c.du_time);
  p.unit = 1;
  const i64 bytes = 2 * p.pitch * compute_bytes(c) * c.filters;
  while (across && p.unit < kMostUnit && p.unit < c.channels && 2 * p.unit * bytes <= kUnitBytes) p.unit *= 2;
}

void plan_tasks(const Call& c, ConvPlan& p) {
  const i64 per_group = c.channels / c.groups;
  if (per_group >= p.unit) {
    p.units = (per_group + p.unit - 1) / p.unit, p.kernels = 1, p.supers = c.groups;
  } else {
    p.units = 1, p.kernels = p.unit / per_group, p.supers = (c.groups + p.kernels - 1) / p.kernels;
  }
  p.samples = c.samples;
  p.items = p.units * (c.samples > 1 ? 1 : c.rows);
  const i64 supers = p.supers * p.samples;
  p.parts = std::min(p.items, (kTasks + supers - 1) / supers);
  p.tasks = supers * p.parts;
  p.shared = p.parts > 1;
}

ConvPlan make_plan(const Call& c, bool backward, int threads) {
  ConvPlan p = {};
  const i64 bytes = compute_bytes(c), points = window_points(c);
  p.tiled = points != 0;
  p.n = c.grid ? c.grid : p.tiled ? points : fast_points((c.length + std::max(c.lag0, c.size - 1 - c.lag0) + 1) / 2);
  const i64 lanes = vector_lanes(c, p.n);
  p.pitch = round_up(p.n, lanes * lanes);
  p.real = !p.tiled && c.length <= p.n;
  p.low = p.tiled ? c.size - 1 : 0;
  p.step = p.tiled ? 2 * p.n - c.size + 1 : c.length;
  p.span = round_up(p.real ? p.n : 2 * p.n, lanes * lanes) + lanes;
  plan_layout(c, backward, p);
  plan_tasks(c, p);
  const bool inputs = backward && (c.du || c.dgate_in);
  p.row_span = inputs && (p.tiled || !p.direct || c.filters > 1) ? round_up(c.length, lanes) : 0;
  p.threads = clamp_threads(threads, std::min(p.tasks, 1 + c.rows * c.channels * c.filters * p.n / kTaskPoints));
  const ConvSlot slot = conv_slot(p, c.filters, backward);
  const i64 spectrum = 2 * p.pitch * bytes;
  i64 at = 0;
  const auto take = [&at](i64 count) {
    const i64 from = at;
    at += round_up(count, 64);
    return from;
  };
  p.spectra = take(p.shared && c.kernel ? c.samples * c.filters * c.groups * spectrum : 0);
  p.partials = take(c.dkernel && p.parts > 1 ? p.tasks * p.kernels * c.filters * spectrum : 0);
  p.skips = take(c.dskip ? c.rows * c.filters * c.channels * 8 : 0);
  p.slot_bytes = round_up(slot.numbers * bytes, 64);
  p.slots = take(p.threads * p.slot_bytes);
  p.bytes = at + 64;
  return p;
}

// ---- spectra on grids that no transform here has ---------------------------------------------------------------------
// Such a kernel is the Toeplitz one of its lags, h_d = Re sum_m Q_m exp(2 pi i d (m + 1/4) / N) / N, |d| <
// length, summed as it stands: grids of less than 96 points, and what a caller made himself.

bool foreign(const Call& c) { return c.grid && fast_points(c.grid) != c.grid; }

struct Foreign {
  Call call;
  i64 kernels, taps, gradient, own;  // offsets in bytes
};
Foreign foreign_call(const Call& c) {
  Foreign f = {c, c.samples * c.filters * c.groups, 0, 0, 0};
  f.call.size = 2 * c.length - 1, f.call.lag0 = c.length - 1, f.call.grid = 0;
  const i64 bytes = round_up(f.kernels * f.call.size * compute_bytes(c), 64);
  f.gradient = c.kernel ? bytes : 0;
  f.own = f.gradient + (c.dkernel ? bytes : 0);
  return f;
}

template <typename C> void taps_of(const Call& c, const Foreign& f, C* taps) {
  const C* q = static_cast<const C*>(c.kernel);
  for (i64 k = 0; k < f.kernels; ++k, q += 2 * c.grid)
    for (i64 d = 1 - c.length; d < c.length; ++d) {
      double sum = 0;
      for (i64 m = 0; m < c.grid; ++m) {
        const Root w = root_of((d * (4 * m + 1)) % (4 * c.grid), 4 * c.grid);
        sum += double(q[2 * m]) * w.c + double(q[2 * m + 1]) * w.s;
      }
      *taps++ = C(sum / double(c.grid));
    }
}
template <typename C> void gradient_of(const Call& c, const Foreign& f, const C* taps, C* q) {
  for (i64 k = 0; k < f.kernels; ++k, taps += f.call.size)
    for (i64 m = 0; m < c.grid; ++m) {
      double x = 0, y = 0;
      for (i64 d = 1 - c.length; d < c.length; ++d) {
        const Root w = root_of((d * (4 * m + 1)) % (4 * c.grid), 4 * c.grid);
        const double t = double(taps[d + c.length - 1]);
        x += t * w.c, y += t * w.s;
      }
      *q++ = C(x / double(c.grid)), *q++ = C(y / double(c.grid));
    }
}

int run(const Call& c, bool backward, int threads);

int run_foreign(const Call& c, bool backward, int threads, char* work) {
  Foreign f = foreign_call(c);
  const bool wide = c.dtype == SPECTRALOPS_F64;
  if (c.kernel) {
    if (wide) taps_of(c, f, reinterpret_cast<double*>(work));
    else taps_of(c, f, reinterpret_cast<float*>(work));
    f.call.kernel = work;
  }
  if (c.dkernel) f.call.dkernel = work + f.gradient;
  f.call.workspace = work + f.own, f.call.workspace_bytes = c.workspace_bytes - f.own;
  if (const int status = run(f.call, backward, threads)) return status;
  if (c.dkernel && wide) gradient_of(c, f, reinterpret_cast<double*>(work + f.gradient), static_cast<double*>(c.dkernel));
  else if (c.dkernel) gradient_of(c, f, reinterpret_cast<float*>(work + f.gradient), static_cast<float*>(c.dkernel));
  return SPECTRALOPS_OK;
}

int run(const Call& c, bool backward, int threads) {
  const i64 needed = fft_conv_workspace(c, backward, threads);
  if (c.workspace_bytes < needed)
    return fail(SPECTRALOPS_INVALID, "workspace_bytes: got %lld, this call takes %lld", (long long)c.workspace_bytes,
                (long long)needed);
  char* const work = static_cast<char*>(c.workspace) + (-reinterpret_cast<u64>(c.workspace) & 63u);
  if (foreign(c)) return run_foreign(c, backward, threads, work);
  const ConvPlan plan = make_plan(c, backward, threads);
  const FftRoots* roots = fft_roots(plan.n, vector_lanes(c, plan.n), c.dtype == SPECTRALOPS_F64);
  if (!roots) return fail(SPECTRALOPS_INVALID, "fft_conv: out of memory for the roots of %lld points", (long long)plan.n);
  const ConvJob job{&c, &plan, roots, work};
  call_loops(job, backward);
  return SPECTRALOPS_OK;
}

}  // namespace

i64 fft_conv_workspace(const Call& c, bool backward, int threads) {
  if (!foreign(c)) return make_plan(c, backward, threads).bytes;
  const Foreign f = foreign_call(c);
  return f.own + make_plan(f.call, backward, threads).bytes + 64;
}

int fft_conv_forward(const Call& c, int threads) { return run(c, false, threads); }
int fft_conv_backward(const Call& c, int threads) { return run(c, true, threads); }

}  // namespace cpu
}  // namespace spectralops

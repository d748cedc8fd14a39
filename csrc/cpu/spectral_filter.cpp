#include "cpu/spectral_filter.h"

#include "capi/status.h"
#include "cpu/parallel.h"
#include "cpu/spectral_filter_plan.h"

namespace spectralops {
namespace cpu {
namespace {

using Call = spectralops_filter_call;

// A sample's channels in turn while its pages are at hand, as far as their weights or sums stay in a near cache.
constexpr i64 kPackBytes = i64(512) << 10;
constexpr i64 kTasks = 16;                 // of a gradient, whose sums must not know the number of threads
constexpr i64 kUnitBytes = i64(128) << 10; // a spectrum of up to this is taken two vectors at a time

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 least(i64 a, i64 b) { return a < b ? a : b; }
i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }
i64 compute_bytes(const Call& c) { return c.dtype == SPECTRALOPS_F64 ? 8 : 4; }

void plan_channels(const Call& c, bool gradient, FilterPlan& p) {
  p.channels_each = c.groups ? c.channels / c.groups : 1;
  p.span = p.lanes, p.blocks = 1, p.weights = p.lanes;
  if (gradient && p.channels_each < p.lanes) {
    p.weights = p.lanes / p.channels_each;
    p.span = p.weights * p.channels_each;
  }
  if (gradient && p.channels_each >= p.lanes) p.weights = 1, p.blocks = ceil_div(p.channels_each, p.lanes);
  p.vectors = gradient && p.blocks > 1 ? c.groups * p.blocks : ceil_div(c.channels, p.span);
  const bool near = c.x_stride[4] == 1 && p.bins * 2 * p.lanes * compute_bytes(c) <= kUnitBytes;
  p.unit = near ? least(kMostUnit, p.vectors) : 1;
  p.units = ceil_div(p.vectors, p.unit);
  p.slab_size = round_up(p.bins * 2 * p.lanes, 64);
}

i64 level_count(i64 samples) {
  i64 levels = 1;
  for (; samples > kChainSamples; samples = ceil_div(samples, kChainSamples)) ++levels;
  return levels;
}

// Nothing is held from one sample to the next: as few packs as the threads leave.
void plan_free_tasks(const Call& c, int threads, FilterPlan& p) {
  const i64 tasks = threads > 1 ? 3 * threads : 1;
  p.parts = least(c.rows, tasks), p.levels = 1;
  p.pack = ceil_div(p.units, least(p.units, ceil_div(tasks, p.parts)));
  p.packs = ceil_div(p.units, p.pack);
}

void plan_tasks(const Call& c, bool gradient, int threads, FilterPlan& p) {
  if (!c.groups) return plan_free_tasks(c, threads, p);
  const bool sums = gradient && c.samples == 1;
  p.levels = sums ? level_count(c.rows) : 1;
  const i64 most = ceil_div(p.units, gradient ? 4 : 1), unit_bytes = p.unit * p.levels * p.slab_size * compute_bytes(c);
  p.pack = c.samples > 1 ? most : least(most, kPackBytes / unit_bytes);
  if (p.pack < 1) p.pack = 1;
  p.packs = ceil_div(p.units, p.pack);
  p.parts = least(c.rows, ceil_div(gradient ? kTasks : threads > 1 ? 3 * threads : 1, p.packs));
  p.direct = p.blocks == 1 && (c.samples > 1 || p.parts == 1);
}

bool plan_lines(const Call& c, FilterPlan& p) {
  const bool wide = c.dtype == SPECTRALOPS_F64;
  p.last = line_plan(c.n3, wide);
  p.packed = p.rows % 2 && c.n3 % 2 == 0 ? line_plan(c.n3 / 2, wide) : nullptr;
  p.middle = c.n1 > 1 && c.n2 > 1 ? line_plan(c.n2, wide) : nullptr;
  p.outermost = line_plan(p.outer, wide);
  const bool lacks = p.rows % 2 && c.n3 % 2 == 0 && !p.packed;
  return p.last && p.outermost && !lacks && (p.middle || c.n1 == 1 || c.n2 == 1);
}

void plan_memory(const Call& c, bool gradient, int threads, FilterPlan& p) {
  const i64 L = p.lanes;
  i64 at = 0;
  const auto take = [&at](i64 numbers) {
    const i64 here = at;
    at += round_up(numbers, 64);
    return here;
  };
  i64 scratch = p.last->scratch;
  const LinePlan* const others[] = {p.packed, p.middle, p.outermost};
  for (const LinePlan* plan : others)
    if (plan && plan->scratch > scratch) scratch = plan->scratch;
  p.row = take(p.unit * 2 * c.n3 * L);
  p.line = take(2 * c.n3 * L);
  p.column = take((gradient ? 4 : 2) * p.outer * L);
  p.scratch = take(scratch * 2 * L);
  p.residual = take(!gradient && c.residual ? p.unit * c.n3 * L : 0);
  p.slab = take(p.unit * p.slab_size);
  const i64 held = !c.groups ? 0 : c.samples > 1 ? 1 : p.pack;
  p.second = take(p.unit * p.slab_size * (gradient ? 1 : held));  // the other spectrum, or weights
  p.sums = take(gradient ? p.unit * p.slab_size * p.levels * held : 0);
  p.slot = at;
  at *= p.threads = clamp_threads(threads, c.rows * p.rows > p.packs * p.parts ? c.rows * p.rows : p.packs * p.parts);
  p.statistics = take(c.eps >= 0 ? 2 * c.rows * p.rows * c.n3 : 0);
  p.entry = round_up(p.bins * p.weights * 2, 64);
  p.partial = take(!gradient || p.direct ? 0 : (c.samples > 1 ? c.rows : p.parts) * p.vectors * p.entry);
  p.bytes = at * compute_bytes(c) + 64;
}

}  // namespace

bool make_filter_plan(const Call& c, bool gradient, int threads, FilterPlan& p) {
  p = {};
  p.lanes = (i64(16) << int(active_isa())) / compute_bytes(c);
  p.half = c.n3 / 2 + 1, p.rows = c.n1 * c.n2, p.bins = p.rows * p.half;
  p.outer = c.n1 > 1 ? c.n1 : c.n2, p.inner = p.bins / p.outer;
  if (!plan_lines(c, p)) return false;
  plan_channels(c, gradient, p);
  plan_tasks(c, gradient, threads, p);
  plan_memory(c, gradient, threads, p);
  return true;
}

namespace {

int run(const Call& c, bool gradient, int threads) {
  FilterPlan plan;
  if (!make_filter_plan(c, gradient, threads, plan)) return fail(SPECTRALOPS_INVALID, "filter: out of memory for the roots");
  if (c.workspace_bytes < plan.bytes)
    return fail(SPECTRALOPS_INVALID, "workspace_bytes: got %lld, this call takes %lld", (long long)c.workspace_bytes,
                (long long)plan.bytes);
  char* const work = static_cast<char*>(c.workspace) + (-reinterpret_cast<u64>(c.workspace) & 63u);
  const FilterJob job{&c, &plan, work};
  if (gradient) SO_CPU_CALL(filter_gradient_run)(job);
  else SO_CPU_CALL(filter_run)(job);
  return SPECTRALOPS_OK;
}

}  // namespace

i64 filter_workspace(const Call& c, bool gradient, int threads) {
  FilterPlan plan;
  return make_filter_plan(c, gradient, threads, plan) ? plan.bytes : 0;
}
int filter(const Call& c, int threads) { return run(c, false, threads); }
int filter_gradient(const Call& c, int threads) { return run(c, true, threads); }

}  // namespace cpu
}  // namespace spectralops

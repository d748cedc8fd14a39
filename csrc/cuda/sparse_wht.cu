#include "cuda/sparse_wht.h"

#include "capi/status.h"
#include "cuda/launch.h"
#include "spectralops/sparse_wht_rounds.h"
#include "spectralops/walsh_sum.h"

namespace spectralops {
namespace cuda {
namespace {

using Call = spectralops_sparse_wht_call;

// ---- launch choices ---------------------------------------------------------------------------------------
constexpr i64 kWarpBytes = 8 * 1024;  // of a problem in shared memory, for each warp: 227 KB then hold 28
constexpr int kLeastWarps = 4, kMostWarps = 12;
constexpr int kBinWarps = 8;           // of a block that goes over bins in device memory
constexpr i64 kBlocksPerSm = 16;       // of them; then each takes several bins: launches after the end are short
constexpr int kStages = 5;             // of the transform in a pass over device memory, 32 values a thread
constexpr i64 kMostGrid = 0x7fffffff;
constexpr i64 kFewPoints = 4096;       // of walsh_sum: a thread each would leave most of a GPU idle
// -----------------------------------------------------------------------------------------------------------

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 samples_of(const Call& c) { return c.repeats * (c.checks + 1); }
i64 slots_of(const Call& c) { return i64(c.groups) << c.b; }

struct Plan {
  SparseParams p{};
  bool inside = false;
  int warps = 0;
  i64 u_bytes = 0, bytes = 0, sums = 0;  // in the workspace; in shared memory for sums
};

// Of a warp, in 8-byte words; scratch_of() has the order.
i64 scratch_words(const Call& c, i64 size) {
  const i64 words = (c.n + 63) / 64, row = larger(c.n, c.checks) / 64 + 1;
  const i64 level = c.scheme == SPECTRALOPS_BCH ? c.checks + 1 : 0;
  return words + row + (c.repeats + 63) / 64 + ceil_div((c.repeats + (c.repeats & 1)) * size, 8) + ceil_div(level * size, 8);
}

// Arrays of eight bytes an element first.
SparseLayout layout_of(const Call& c, i64 size, bool inside, i64 sums, i64 scratch, i64 warps) {
  const i64 slots = slots_of(c), words = (c.n + 63) / 64;
  SparseLayout at{};
  i64 next = inside ? sums : 0;
  const auto take = [&next](i64 bytes) {
    const i64 here = next;
    next += (bytes + 7) / 8 * 8;
    return here;
  };
  at.found = take(slots * words * 8);
  if (inside) at.scratch = take(scratch * warps * 8);
  if (inside) at.u = take(slots * samples_of(c) * size);
  if (inside) at.energy = take(slots * size);
  at.rho = take(slots * size);
  at.mean = take(slots * size);
  at.there = take(slots * 4);
  at.place = take(slots * 4);
  at.bins = take(slots * c.groups * 4);
  at.next = take(slots * c.groups * 4);
  at.head = take(slots * 4);
  at.dictionary = take(slots / c.groups * 4);
  at.link = take(c.capacity * 4);
  at.state = take(sizeof(SparseState));
  at.bytes = next;
  return at;
}

int make_plan(const Call& c, const DeviceLimits& limits, Plan* plan) {
  const i64 size = c.dtype == SPECTRALOPS_F64 ? 8 : 4, slots = slots_of(c), scratch = scratch_words(c, size);
  const i64 limit = limits.shared_limit;
  const i64 most = i64(1) << 30;
  if (slots > most || c.capacity > most || c.rounds > most || samples_of(c) > most || samples_of(c) * slots > most << 25 ||
      c.problems > kMostGrid)
    return fail(SPECTRALOPS_UNSUPPORTED, "sparse_wht_decode: no CUDA kernel for %lld bins of %lld samples and %lld problems",
                (long long)slots, (long long)samples_of(c), (long long)c.problems);
  plan->sums = 64 * (size + 4);
  // A slot takes 8 bytes of shared memory at least, so that what follows does not overflow where it matters.
  const i64 least = layout_of(c, size, true, plan->sums, scratch, kLeastWarps).bytes;
  plan->warps = int(larger(kLeastWarps, smaller(kMostWarps, least / kWarpBytes)));
  SparseLayout at = layout_of(c, size, true, plan->sums, scratch, plan->warps);
  plan->inside = slots * samples_of(c) < limit && at.bytes <= limit;
  if (!plan->inside) {
    at = layout_of(c, size, false, 0, 0, 0);
    plan->warps = int(smaller(kBinWarps, limit / (scratch * 8)));
    if (plan->warps < 1)
      return fail(SPECTRALOPS_UNSUPPORTED, "sparse_wht_decode: no CUDA kernel for %lld variables and %lld repeats",
                  (long long)c.n, (long long)c.repeats);
    plan->u_bytes = c.problems * slots * samples_of(c) * size;
    plan->u_bytes = (plan->u_bytes + 15) / 16 * 16;
    plan->bytes = plan->u_bytes + c.problems * at.bytes;
  }
  SparseParams& p = plan->p;
  p.at = at;
  p.scratch = int(scratch);
  p.chunk = int(plan->inside ? larger(1, smaller(32, slots / (4 * plan->warps))) : 1);
  p.blocks = 1;
  if (!plan->inside)
    p.blocks = int(smaller(ceil_div(slots, plan->warps), larger(1, ceil_div(limits.sm_count * kBlocksPerSm, c.problems))));
  if (c.problems * p.blocks > kMostGrid) p.blocks = 1;
  return SPECTRALOPS_OK;
}

void bind(const Call& c, Plan* plan) {
  SparseParams& p = plan->p;
  const auto table = [](const int64_t* t) { return reinterpret_cast<const i64*>(t); };
  p.values = c.values, p.index = c.index;
  p.to_bin_rows = table(c.to_bin_rows), p.to_bin_columns = table(c.to_bin_columns), p.to_key_columns = table(c.to_key_columns);
  p.base = table(c.base), p.check_columns = table(c.check_columns), p.field = c.field;
  p.keys = reinterpret_cast<i64*>(c.keys), p.coefficients = c.coefficients, p.counts = c.counts;
  p.energy = c.energy, p.noise = c.noise;
  p.u = c.workspace;
  p.work = static_cast<unsigned char*>(c.workspace) + (plan->inside ? 0 : plan->u_bytes);
  p.queries = c.queries, p.problems = c.problems;
  p.tau_try = c.tau_try, p.tau = c.tau, p.tau_one = c.tau_one, p.theta = c.theta, p.refuse = c.refuse, p.given = c.noise_given;
  p.groups = int(c.groups), p.b = int(c.b), p.n = int(c.n), p.words = int((c.n + 63) / 64);
  p.check_words = int((c.checks + 63) / 64);
  p.repeats = int(c.repeats), p.checks = int(c.checks), p.samples = int(samples_of(c)), p.scheme = int(c.scheme);
  p.hard = c.hard != 0;
  p.degree = int(c.degree), p.chase = int(c.chase), p.capacity = int(c.capacity), p.rounds = int(c.rounds);
}

template <typename T> int transform(const Where& where, SparseParams p, i64 b) {
  const i64 passes = larger(1, ceil_div(b, kStages));
  for (i64 pass = 0; pass < passes; ++pass) {
    p.step = int(pass * b / passes);
    p.stages = int((pass + 1) * b / passes) - p.step;
    p.first = pass == 0, p.last = pass == passes - 1;
    const i64 items = p.problems * (i64(p.groups) << b >> p.stages) * p.samples;
    const Grid grid{smaller(ceil_div(items, 256), kMostGrid)};
    int status = SPECTRALOPS_OK;
    switch (p.stages) {
      case 0: status = launch<sparse_wht_transform<T, 0>>(where, grid, 256, 0, p); break;
      case 1: status = launch<sparse_wht_transform<T, 1>>(where, grid, 256, 0, p); break;
      case 2: status = launch<sparse_wht_transform<T, 2>>(where, grid, 256, 0, p); break;
      case 3: status = launch<sparse_wht_transform<T, 3>>(where, grid, 256, 0, p); break;
      case 4: status = launch<sparse_wht_transform<T, 4>>(where, grid, 256, 0, p); break;
      default: status = launch<sparse_wht_transform<T, 5>>(where, grid, 256, 0, p);
    }
    if (status != SPECTRALOPS_OK) return status;
  }
  return SPECTRALOPS_OK;
}

// The whole loop is enqueued: the host does not wait for a round, and launches after the end return at once.
template <typename T, bool CODED> int run(const Where& where, const Plan& plan) {
  SparseParams p = plan.p;
  if (plan.inside) return launch<sparse_wht_block<T, CODED>>(where, Grid{p.problems}, 32 * plan.warps, p.at.bytes, p);
  int status = transform<T>(where, p, p.b);
  const Grid bins{p.problems * p.blocks}, problems{p.problems};
  const i64 scratch = i64(plan.warps) * p.scratch * 8;
  const int appending = int(larger(128, smaller(1024, (i64(1) << p.b) / 2)));
  for (p.round = -1; p.round <= p.rounds && status == SPECTRALOPS_OK; ++p.round) {
    p.phase = p.round < 0 ? kSparseBegin : p.round < p.rounds ? kSparseRound : kSparseFinish;
    status = launch<sparse_wht_bins<T, CODED>>(where, bins, 32 * plan.warps, scratch, p);
    if (status == SPECTRALOPS_OK && p.phase == kSparseRound)
      status = launch<sparse_wht_vote<T>>(where, bins, 32 * plan.warps, scratch, p);
    if (status == SPECTRALOPS_OK && p.phase != kSparseFinish)
      status = launch<sparse_wht_append<T>>(where, problems, appending, plan.sums, p);
  }
  return status;
}

template <typename T> int sum(const Where& where, const WalshSumParams& p) {
  const i64 blocks = ceil_div(p.count, kWalshThreads);
  if (p.count <= kFewPoints || blocks > kMostGrid)
    return launch<walsh_sum_terms<T>>(where, Grid{ceil_div(p.count, kWalshPoints)}, kWalshThreads,
                                      kWalshPoints * p.words * 8 + 32 * i64(sizeof(T)), p);
  const i64 shared = kWalshChain * (p.words * 8 + i64(sizeof(T)));
  const Grid grid{blocks};
  switch (p.words) {
    case 1: return launch<walsh_sum_points<T, 1>>(where, grid, kWalshThreads, shared, p);
    case 2: return launch<walsh_sum_points<T, 2>>(where, grid, kWalshThreads, shared, p);
    case 4: return launch<walsh_sum_points<T, 4>>(where, grid, kWalshThreads, shared, p);
    case 8: return launch<walsh_sum_points<T, 8>>(where, grid, kWalshThreads, shared, p);
    default: return launch<walsh_sum_points<T, 0>>(where, grid, kWalshThreads, shared, p);
  }
}

}  // namespace

i64 sparse_wht_workspace(const spectralops_sparse_wht_call& call, int device) {
  DeviceLimits limits;
  Plan plan;
  if (device_limits(device, &limits) != SPECTRALOPS_OK || make_plan(call, limits, &plan) != SPECTRALOPS_OK) return -1;
  return plan.bytes;
}

int sparse_wht_decode(const spectralops_sparse_wht_call& call, int device, void* stream) {
  DeviceLimits limits;
  Plan plan;
  int status = device_limits(device, &limits);
  if (status == SPECTRALOPS_OK) status = make_plan(call, limits, &plan);
  if (status != SPECTRALOPS_OK) return status;
  if (plan.bytes > call.workspace_bytes)
    return fail(SPECTRALOPS_INVALID, "sparse_wht_decode: needs a workspace of %lld bytes, got %lld", (long long)plan.bytes,
                (long long)call.workspace_bytes);
  bind(call, &plan);
  const Where where{device, stream};
  const bool wide = call.dtype == SPECTRALOPS_F64;
  if (call.scheme == SPECTRALOPS_BCH) return wide ? run<double, true>(where, plan) : run<float, true>(where, plan);
  return wide ? run<double, false>(where, plan) : run<float, false>(where, plan);
}

int walsh_sum(const int64_t* points, const int64_t* keys, const void* values, void* y, i64 count, i64 terms, i64 words, int dtype,
              int device, void* stream) {
  DeviceLimits limits;
  const int status = device_limits(device, &limits);
  if (status != SPECTRALOPS_OK) return status;
  if (kWalshChain * (words + 1) * 8 > limits.shared_limit)
    return fail(SPECTRALOPS_UNSUPPORTED, "walsh_sum: no CUDA kernel for keys of %lld words", (long long)words);
  const WalshSumParams p{reinterpret_cast<const i64*>(points), reinterpret_cast<const i64*>(keys), values, y, count, terms,
                         words};
  const Where where{device, stream};
  return dtype == SPECTRALOPS_F64 ? sum<double>(where, p) : sum<float>(where, p);
}

}  // namespace cuda
}  // namespace spectralops

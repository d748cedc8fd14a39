#include "cpu/sparse_wht.h"

#include "capi/status.h"
#include "cpu/parallel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string.h>

namespace spectralops {
namespace cpu {
namespace {

using Call = spectralops_sparse_wht_call;
using Plan = SparseWhtPlan;
using State = SparseWhtState;

constexpr int kEstimates = 3;     // of the noise
constexpr double kFloor = 8.0;    // roundings that a sample of a bin may carry
constexpr i64 kGrain = 1 << 15;   // samples worth a thread of their own
constexpr i64 kTileBytes = 1 << 18;
constexpr i64 kAcrossBytes = i64(1) << 24;  // of a problem, up to which each thread may have one of its own

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 lines(i64 bytes) { return ceil_div(bytes, kLine) * kLine; }

// The parts of a problem, or with base = nullptr their bytes alone.
i64 place(const Plan& p, char* base, State& s) {
  i64 end = 0;
  const auto take = [&](auto*& pointer, i64 bytes) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base ? base + end : nullptr);
    end += lines(bytes);
  };
  take(s.u, p.total * p.pitch * p.size + 2 * kLine);
  take(s.list, p.total * 8), take(s.candidates, p.total * 8), take(s.taken, p.total * 8);
  take(s.found, p.total), take(s.kept, p.total), take(s.active, p.total);
  take(s.rho, p.total * p.size), take(s.mean, p.total * p.size);
  take(s.keys, p.total * p.words * 8), take(s.places, p.total * p.call->groups * 4);
  take(s.known, p.slots * 4);
  return end;
}

i64 plan_of(const Call& c, int threads, Plan& p) {
  p.call = &c, p.wide = c.dtype == SPECTRALOPS_F64, p.size = p.wide ? 8 : 4;
  p.bins = i64(1) << c.b, p.total = c.groups * p.bins, p.words = ceil_div(c.n, 64);
  p.rows = c.checks + 1, p.samples = c.repeats * p.rows;
  // An odd number of lines: rows a power of two apart would share a set of the cache.
  const i64 line = kLine / p.size, count = ceil_div(p.samples, line);
  p.pitch = (count > 4 ? count | 1 : count) * line;
  p.tile = std::min(p.pitch, std::max<i64>(1, kTileBytes / (p.bins * kLine)) * line);
  p.tiles = ceil_div(p.pitch, p.tile);
  p.shares = std::min<i64>(p.bins, 16);
  for (p.slots = 2; p.slots < 2 * c.capacity;) p.slots *= 2;
  State state;
  p.problem_bytes = place(p, nullptr, state);
  i64 end = 0;
  const auto take = [&](i64 bytes) {
    const i64 from = end;
    end += lines(bytes);
    return from;
  };
  p.levels = take(p.rows * p.size + 2 * kLine);
  p.signature = take(p.words * 8 + p.rows / 8 + 2 * kLine), p.signs = take(p.pitch / 8 + 2 * kLine);
  p.key = take(2 * p.words * 8 + 2 * kLine);
  p.scratch_bytes = end;
  const i64 work = p.total * p.pitch;
  const bool divides = work >= 4 * kGrain;
  p.across = c.problems > 1 && (!divides || (c.problems >= 2 * threads && p.problem_bytes <= kAcrossBytes));
  const double all = double(work) * double(p.across ? c.problems : 1);
  p.threads = clamp_threads(all < double(kGrain) ? 1 : threads, p.across ? c.problems : ceil_div(work, kGrain));
  p.problems = p.across ? p.threads : 1;
  return p.problems * p.problem_bytes + p.threads * p.scratch_bytes + kLine;
}

// As torch.maximum: NaN where one is.
template <typename C> C larger(C a, C b) { return a >= b || a != a ? a : b; }

// The decoding of one problem, in the state of `slot`.
template <typename C> struct Decode {
  const Plan& p;
  const Call& c;
  State s;
  const i64 row;
  const int threads, first_slot;
  C* const energy;
  C *const rho, *const mean;
  i64 listed = 0, count = 0;
  bool full = false;

  Decode(const Plan& plan, State state, i64 problem, int slot)
      : p(plan), c(*plan.call), s(state), row(problem), threads(plan.across ? 1 : plan.threads), first_slot(plan.across ? slot : 0),
        energy(static_cast<C*>(c.energy) + problem * p.total), rho(static_cast<C*>(s.rho)), mean(static_cast<C*>(s.mean)) {
    s.values = static_cast<const C*>(c.values) + problem * c.queries, s.energy = energy;
  }

  // fn(begin, end, slot) over [0, count), in blocks whatever the threads.
  template <typename F> void each(i64 count, i64 samples, F&& fn) {
    const i64 block = std::max<i64>(1, kGrain / 4 / samples), blocks = ceil_div(count, block);
    parallel_for(count * samples < kGrain ? 1 : threads, blocks, [&](i64 task, int slot) {
      fn(task * block, std::min(count, (task + 1) * block), first_slot + slot);
    });
  }
  void energies() {
    each(listed, p.samples, [&](i64 begin, i64 end, int) { SO_CPU_CALL(sparse_wht_energies)(p, s, begin, end); });
  }
  void list_all() {
    for (listed = 0; listed < p.total; ++listed) s.list[listed] = listed;
  }

  // (8 eps)^2 mean_c sum_j e: what rounding makes.
  C floor_of() const {
    double sum = 0;
    for (i64 i = 0; i < p.total; ++i) sum += double(energy[i]);
    const double eps = double(std::numeric_limits<C>::epsilon()) / 2;
    return C(kFloor * eps * kFloor * eps * sum / double(c.groups));
  }
  C noise_of(C floor) {
    C* const sorted = mean;
    for (i64 i = 0; i < p.total; ++i) sorted[i] = energy[i] == energy[i] ? energy[i] : std::numeric_limits<C>::infinity();
    C* const nth = sorted + (p.total + 15) / 16 - 1;
    std::nth_element(sorted, nth, sorted + p.total);
    C v = larger(*nth, floor);
    i64 before = -1;
    for (int pass = 0; pass < 64; ++pass) {
      const C limit = C(c.tau) * v;
      double sum = 0;
      i64 below = 0;
      for (i64 i = 0; i < p.total; ++i)
        if (energy[i] <= limit) sum += double(energy[i]), ++below;
      if (below == before) break;
      before = below;
      if (below) v = larger(C(sum / double(below)), floor);
    }
    return v;
  }

  // The number of a key among those known, or -1 after it became the next one; capacity: *full.
  i64 number_of(const int64_t* key) {
    u64 h = 0;
    for (i64 w = 0; w < p.words; ++w) h = (h ^ u64(key[w])) * 0x9E3779B97F4A7C15ull, h ^= h >> 29;
    i64 slot = i64(h) & (p.slots - 1);
    for (; s.known[slot]; slot = (slot + 1) & (p.slots - 1)) {
      const i64 number = s.known[slot] - 1;
      if (!memcmp(keys_out() + number * p.words, key, u64(p.words) * 8)) return number;
    }
    if (count == c.capacity) {
      full = true;
      return -1;
    }
    s.known[slot] = unsigned(count + 1);
    memcpy(keys_out() + count * p.words, key, u64(p.words) * 8);
    values_out()[count] = 0;
    return count++;
  }
  int64_t* keys_out() const { return c.keys + row * c.capacity * p.words; }
  C* values_out() const { return static_cast<C*>(c.coefficients) + row * c.capacity; }

  // Candidates -> taken; a group whose next key finds no room ends there.
  void take(i64 candidates) {
    s.num_taken = 0;
    i64 closed = -1;
    for (i64 i = 0; i < candidates; ++i) {
      const i64 bin = s.candidates[i], group = bin >> c.b;
      if (!s.kept[bin] || group == closed) continue;
      const i64 number = number_of(s.keys + bin * p.words);
      if (number < 0) {
        closed = group;
        continue;
      }
      values_out()[number] += mean[bin];
      s.taken[s.num_taken++] = bin;
    }
  }
  // Detection, what the groups agree on, and its subtraction: the list becomes that of the bins that changed.
  void round() {
    each(listed, p.samples, [&](i64 begin, i64 end, int slot) { SO_CPU_CALL(sparse_wht_detect)(p, s, begin, end, slot); });
    i64 candidates = 0;
    for (i64 i = 0; i < listed; ++i)
      if (s.found[s.list[i]]) s.candidates[candidates++] = s.list[i];
    each(candidates, p.words * c.b * c.groups + 8, [&](i64 begin, i64 end, int) { SO_CPU_CALL(sparse_wht_match)(p, s, begin, end); });
    take(candidates);
    for (i64 i = 0; i < candidates; ++i) s.found[s.candidates[i]] = 0;
    listed = 0;
    if (!s.num_taken) return;
    const i64 work = s.num_taken * c.groups * (p.samples + c.n);
    parallel_for(work < kGrain ? 1 : threads, c.groups * p.shares,
                 [&](i64 task, int slot) { SO_CPU_CALL(sparse_wht_subtract)(p, s, task, first_slot + slot); });
    for (i64 i = 0; i < s.num_taken; ++i)
      for (i64 g = 0; g < c.groups; ++g) s.active[g * p.bins + s.places[s.taken[i] * c.groups + g]] = 1;
    for (i64 bin = 0; bin < p.total; ++bin)
      if (s.active[bin]) s.list[listed++] = bin, s.active[bin] = 0;
    energies();
  }

  void run() {
    memset(s.found, 0, u64(p.total)), memset(s.active, 0, u64(p.total)), memset(s.known, 0, u64(p.slots) * 4);
    parallel_for(threads, c.groups * p.tiles, [&](i64 task) { SO_CPU_CALL(sparse_wht_transform)(p, s, task); });
    list_all();
    energies();
    const bool given = c.noise_given >= 0;
    const C floor = floor_of();
    C v = given ? larger(floor, C(c.noise_given)) : noise_of(floor);
    int estimates = 1;
    for (i64 i = 0; i < c.rounds; ++i) {
      s.v = double(v);
      round();
      if (full) break;
      if (listed) continue;
      if (given || estimates == kEstimates) break;
      const C before = v;
      v = noise_of(floor), ++estimates;
      if (v == before) break;
      list_all();
    }
    memset(keys_out() + count * p.words, 0, u64((c.capacity - count) * p.words) * 8);
    std::fill(values_out() + count, values_out() + c.capacity, C(0));
    c.counts[row] = int32_t(count);
    C* const noise = static_cast<C*>(c.noise) + 2 * row;
    noise[0] = v, noise[1] = floor;
  }
};

template <typename C> void decode_all(const Plan& p, char* work) {
  char* const scratch = work + p.problems * p.problem_bytes;
  parallel_for(p.across ? p.threads : 1, p.call->problems, [&](i64 problem, int slot) {
    State state = {};
    place(p, work + slot * p.problem_bytes, state);
    state.scratch = scratch;
    Decode<C>(p, state, problem, slot).run();
  });
}

}  // namespace

i64 sparse_wht_workspace(const Call& c, int threads) {
  Plan plan;
  return plan_of(c, threads, plan);
}

int sparse_wht_decode(const Call& c, int threads) {
  Plan plan;
  const i64 needed = plan_of(c, threads, plan);
  if (c.workspace_bytes < needed)
    return fail(SPECTRALOPS_INVALID, "workspace_bytes: got %lld, this call takes %lld", (long long)c.workspace_bytes,
                (long long)needed);
  char* const work = static_cast<char*>(c.workspace) + (-reinterpret_cast<u64>(c.workspace) & 63u);
  if (plan.wide) decode_all<double>(plan, work);
  else decode_all<float>(plan, work);
  return SPECTRALOPS_OK;
}

}  // namespace cpu
}  // namespace spectralops

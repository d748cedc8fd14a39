// The scheduler of the shim: one block at a time, one fiber a thread.
#include "simt/simt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "capi/kernel_name.h"
#include "simt/fiber.h"

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#endif

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread uint3 blockDim;
__thread uint3 gridDim;

extern __thread __attribute__((visibility("hidden"))) unsigned char simt_shared_begin[64];
extern __thread __attribute__((visibility("hidden"))) unsigned char simt_shared_end[64];

namespace simt {
namespace {

constexpr int kMaxThreads = 1024;
constexpr long long kGuard = 4096;  // bytes on each side of dynamic shared memory
constexpr uint32_t kGuardWord = 0xffffa5a5u;  // a NaN too, but not the fill

std::atomic<int> order_now{0}, sm_now{90}, sm_count_now{132};
std::atomic<long long> shared_limit_now{227 * 1024};

struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || strcmp(file, other.file) == 0);
  }
};

const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

const char* const kCollectiveNames[] = {"__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
                                        "a vote", "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync"};

struct Arrival {  // of a lane at a collective
  Collective kind;
  unsigned mask;
  int argument, width;
  Site site;
  uint64_t value;
};

struct Warp {
  unsigned present, waiting, exited;
  Arrival lanes[32];
};

struct Engine {
  Fiber main;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Warp warps[kMaxThreads / 32];
  Site barrier_site[kMaxThreads];  // of the threads that wait at a barrier
  bool at_barrier[kMaxThreads];
  uint64_t ready[kMaxThreads / 64];  // by position in the order
  int thread_at[kMaxThreads], position_of[kMaxThreads];
  int threads = 0, current = 0, cursor = 0, waiting_at_barrier = 0, exited = 0;
  Vote vote = NONE;
  int vote_count = 0, vote_result = 0, order = 0;
  uint64_t random = 1;
  Launch launch{};
  char* shared = nullptr;  // kGuard bytes before it are mapped
  char* shared_map = nullptr;
  long long shared_capacity = 0, shared_padded = 0;
  std::string error;

  ~Engine() {
    if (shared_map) free(shared_map);
  }
};

thread_local std::unique_ptr<Engine> engine_owner;
__thread Engine* engine;

uint64_t next_random(Engine& e) {  // xorshift64*
  e.random ^= e.random >> 12;
  e.random ^= e.random << 25;
  e.random ^= e.random >> 27;
  return e.random * 0x2545f4914f6cdd1dull;
}

[[noreturn, gnu::format(printf, 1, 2)]] void die(const char* format, ...) {
  Engine& e = *engine;
  char text[640], where[128];
  snprintf(where, sizeof where, "block (%u, %u, %u) thread %d: ", blockIdx.x, blockIdx.y, blockIdx.z, e.current);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  e.error = std::string(where) + text;
  switch_fiber(*e.fibers[size_t(e.current)], e.main);
  abort();  // an abandoned fiber is reset, never resumed
}

std::string describe(const Engine& e, int thread) {
  const Warp& warp = e.warps[thread / 32];
  const int lane = thread % 32;
  char text[256];
  if ((warp.exited >> lane) & 1u) {
    snprintf(text, sizeof text, "thread %d has returned", thread);
  } else if (e.at_barrier[thread]) {
    const Site& site = e.barrier_site[thread];
    snprintf(text, sizeof text, "thread %d waits at __syncthreads (%s:%d)", thread, base_name(site.file), site.line);
  } else {
    const Arrival& a = warp.lanes[lane];
    snprintf(text, sizeof text, "thread %d waits at %s with mask %08x (%s:%d)", thread, kCollectiveNames[a.kind], a.mask,
             base_name(a.site.file), a.site.line);
  }
  return text;
}

// Every thread waits and nobody can wake another.  A lane at a collective waits for a lane that is elsewhere; without one, threads
// wait at a barrier for ones that wait elsewhere, so some lane is at a collective.
[[noreturn]] void die_of_deadlock(Engine& e) {
  for (int thread = 0; thread < e.threads; ++thread) {
    const Warp& warp = e.warps[thread / 32];
    const int lane = thread % 32;
    if (!((warp.waiting >> lane) & 1u)) continue;
    const unsigned mask = warp.lanes[lane].mask;
    for (int other = 0; other < 32; ++other) {
      if (!((mask >> other) & 1u)) continue;
      if (((warp.waiting >> other) & 1u) && warp.lanes[other].mask == mask) continue;
      die("deadlock: %s, while %s", describe(e, thread).c_str(), describe(e, (thread & ~31) + other).c_str());
    }
  }
  die("deadlock: %s", describe(e, 0).c_str());
}

void mark_ready(Engine& e, int thread) {
  const int position = e.position_of[thread];
  e.ready[position >> 6] |= 1ull << (position & 63);
}

void resume(Engine& e, int from, int to) {
  if (from == to) return;
  e.current = to;
  threadIdx.x = unsigned(to);
  switch_fiber(*e.fibers[size_t(from)], *e.fibers[size_t(to)]);
}

// The next ready thread at or after the cursor, going round.
void run_next(Engine& e) {
  const int words = (e.threads + 63) / 64, self = e.current;
  int start = e.cursor;
  if (e.order >= 2) start = int(next_random(e) % uint64_t(e.threads));
  int word = start >> 6;
  uint64_t bits = e.ready[word] & (~0ull << (start & 63));
  for (int tried = 0; tried <= words; ++tried) {
    if (bits) {
      const int position = word * 64 + __builtin_ctzll(bits);
      e.ready[word] &= ~(1ull << (position & 63));
      e.cursor = position + 1 < e.threads ? position + 1 : 0;
      return resume(e, self, e.thread_at[position]);
    }
    word = word + 1 < words ? word + 1 : 0;
    bits = e.ready[word];
  }
  die_of_deadlock(e);
}

void thread_returns(Engine& e) {
  const int thread = e.current, lane = thread % 32;
  Warp& warp = e.warps[thread / 32];
  warp.exited |= 1u << lane;
  ++e.exited;
  if (e.waiting_at_barrier)
    for (int other = 0; other < e.threads; ++other)
      if (e.at_barrier[other]) die("divergent barrier: this thread returns, while %s", describe(e, other).c_str());
  for (unsigned left = warp.waiting; left; left &= left - 1) {
    const int other = __builtin_ctz(left);
    if ((warp.lanes[other].mask >> lane) & 1u)
      die("this thread returns, while %s", describe(e, (thread & ~31) + other).c_str());
  }
  if (e.exited < e.threads) return run_next(e);
  switch_fiber(*e.fibers[size_t(thread)], e.main);
}

void fiber_main() {
  fiber_entered();
  for (;;) {  // once a block
    Engine& e = *engine;
    e.launch.body(e.launch.context);
    thread_returns(e);
  }
}

// What lane `lane` of the collective obtains.
uint64_t result_for(const Warp& warp, unsigned mask, int lane) {
  const Arrival& mine = warp.lanes[lane];
  const int width = mine.width, first = lane & ~(width - 1), last = first + width - 1;
  int source = lane;
  switch (mine.kind) {
    case SYNC: return 0;
    case SHFL: source = first | (mine.argument & (width - 1)); break;
    case SHFL_UP: source = lane - mine.argument >= first ? lane - mine.argument : lane; break;
    case SHFL_DOWN: source = lane + mine.argument <= last ? lane + mine.argument : lane; break;
    case SHFL_XOR: source = (lane ^ mine.argument) <= last ? lane ^ mine.argument : lane; break;
    default: {
      uint64_t all = mine.kind == BALLOT || mine.kind == ADD ? 0 : mine.value;
      for (unsigned left = mask; left; left &= left - 1) {
        const int other = __builtin_ctz(left);
        const uint64_t value = warp.lanes[other].value;
        if (mine.kind == BALLOT) all |= value << other;
        else if (mine.kind == ADD) all += value;
        else if (mine.kind == MIN) all = int64_t(value) < int64_t(all) ? value : all;
        else all = int64_t(value) > int64_t(all) ? value : all;
      }
      return all;
    }
  }
  if (source < 0 || source > 31 || !((mask >> source) & 1u))
    die("lane %d of %s (%s:%d) reads lane %d, which is not in its mask %08x", lane, kCollectiveNames[mine.kind],
        base_name(mine.site.file), mine.site.line, source, mask);
  return warp.lanes[source].value;
}

void complete(Engine& e, Warp& warp, unsigned mask, int base) {
  uint64_t results[32];
  const Arrival& mine = warp.lanes[e.current % 32];
  for (unsigned left = mask; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    const Arrival& other = warp.lanes[lane];
    if (other.kind != mine.kind || other.width != mine.width || !(other.site == mine.site))
      die("lanes of one mask meet in different calls: %s, %s", describe(e, e.current).c_str(), describe(e, base + lane).c_str());
    results[lane] = result_for(warp, mask, lane);
  }
  warp.waiting &= ~mask;
  for (unsigned left = mask; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    warp.lanes[lane].value = results[lane];
    if (base + lane != e.current) mark_ready(e, base + lane);
  }
}

void release_barrier(Engine& e) {
  e.vote_result = e.vote == COUNT ? e.vote_count : e.vote == ALL ? e.vote_count == e.threads : e.vote_count > 0;
  e.waiting_at_barrier = e.vote_count = 0;
  for (int thread = 0; thread < e.threads; ++thread) {
    e.at_barrier[thread] = false;
    mark_ready(e, thread);
  }
  e.cursor = 0;
}

}  // namespace

int barrier(Vote vote, int predicate, const char* file, int line) {
  Engine& e = *engine;
  const Site site{file, line};
  const int self = e.current;
  if (e.exited)
    for (int other = 0; other < e.threads; ++other)
      if ((e.warps[other / 32].exited >> (other % 32)) & 1u)
        die("divergent barrier: __syncthreads (%s:%d), but thread %d has returned", base_name(file), line, other);
  if (e.waiting_at_barrier) {
    int other = e.thread_at[0];
    for (int p = 0; p < e.threads && !e.at_barrier[other]; ++p) other = e.thread_at[p];
    if (!(e.barrier_site[other] == site))
      die("divergent barrier: __syncthreads (%s:%d), while %s", base_name(file), line, describe(e, other).c_str());
  }
  e.at_barrier[self] = true;
  e.barrier_site[self] = site;
  e.vote = vote;
  e.vote_count += predicate != 0;
  if (++e.waiting_at_barrier == e.threads) release_barrier(e);
  run_next(e);
  return e.vote_result;
}

uint64_t collective(Collective kind, unsigned mask, uint64_t value, int argument, int width, const char* file, int line) {
  Engine& e = *engine;
  const int self = e.current, lane = self % 32, base = self & ~31;
  Warp& warp = e.warps[self / 32];
  const char* name = kCollectiveNames[kind];
  if (!((mask >> lane) & 1u))
    die("%s (%s:%d): mask %08x leaves out the calling lane %d", name, base_name(file), line, mask, lane);
  if (mask & ~warp.present)
    die("%s (%s:%d): mask %08x names lanes that a block of %d threads does not have", name, base_name(file), line, mask, e.threads);
  if (mask & warp.exited)
    die("%s (%s:%d): %s, but mask %08x names it", name, base_name(file), line,
        describe(e, base + __builtin_ctz(mask & warp.exited)).c_str(), mask);
  if (width < 1 || width > 32 || (width & (width - 1)))
    die("%s (%s:%d): width %d is not a power of two up to 32", name, base_name(file), line, width);
  warp.lanes[lane] = Arrival{kind, mask, argument, width, Site{file, line}, value};
  warp.waiting |= 1u << lane;
  bool all = (warp.waiting & mask) == mask;
  if (all)
    for (unsigned left = mask; left; left &= left - 1) all = all && warp.lanes[__builtin_ctz(left)].mask == mask;
  if (!all) {
    run_next(e);
  } else {
    complete(e, warp, mask, base);
    if (e.order >= 2) {  // let any thread go first, not always the one that came last
      mark_ready(e, self);
      run_next(e);
    }
  }
  return warp.lanes[lane].value;
}

unsigned active_mask() {
  const Warp& warp = engine->warps[engine->current / 32];
  return warp.present & ~warp.exited;
}

void* dynamic_shared() { return engine->shared; }

void limits(int* sm, int* sm_count, long long* shared_limit) {
  *sm = sm_now;
  *sm_count = sm_count_now;
  *shared_limit = shared_limit_now;
}

namespace {

void shuffle_order(Engine& e) {
  for (int i = 0; i < e.threads; ++i) e.thread_at[i] = e.order == 1 ? e.threads - 1 - i : i;
  if (e.order >= 2)
    for (int i = e.threads - 1; i > 0; --i) std::swap(e.thread_at[i], e.thread_at[next_random(e) % uint64_t(i + 1)]);
  for (int i = 0; i < e.threads; ++i) e.position_of[e.thread_at[i]] = i;
}

bool prepare(Engine& e) {
  const int have = int(e.fibers.size());
  if (have < e.threads) {
    const int more = e.threads - have;
    std::vector<Fiber> fresh(static_cast<size_t>(more));
    if (!allocate_stacks(fresh.data(), more, have)) return false;
    for (int i = 0; i < more; ++i) {
      e.fibers.push_back(std::make_unique<Fiber>(fresh[size_t(i)]));
      reset_fiber(*e.fibers.back(), have + i, fiber_main);
    }
  }
  e.shared_padded = (e.launch.shared + 15) / 16 * 16;
  if (!e.shared_map || e.shared_capacity < e.shared_padded) {
    free(e.shared_map);
    e.shared_capacity = e.shared_padded;
    e.shared_map = static_cast<char*>(aligned_alloc(1024, size_t((e.shared_capacity + 2 * kGuard + 1023) / 1024 * 1024)));
    if (!e.shared_map) return false;
    e.shared = e.shared_map + kGuard;
  }
  return true;
}

// Bytes [bytes of shared, end of its padding) are guarded too.
void fill_shared(Engine& e) {
  const size_t used = size_t(e.launch.shared);
#if defined(SIMT_ASAN)
  ASAN_UNPOISON_MEMORY_REGION(e.shared_map, size_t(e.shared_capacity + 2 * kGuard));
#endif
  for (long long i = 0; i < kGuard; i += 4) {
    memcpy(e.shared - kGuard + i, &kGuardWord, 4);
    memcpy(e.shared + e.shared_padded + i, &kGuardWord, 4);
  }
  memset(e.shared, 0xff, size_t(e.shared_padded));
#if defined(SIMT_ASAN)
  ASAN_POISON_MEMORY_REGION(e.shared - kGuard, size_t(kGuard));
  ASAN_POISON_MEMORY_REGION(e.shared + used, size_t(e.shared_padded + kGuard) - used);
#endif
  (void)used;
  if (&simt_shared_begin[0] < &simt_shared_end[0])
    memset(simt_shared_begin + sizeof simt_shared_begin, 0xff,
           size_t(simt_shared_end - simt_shared_begin) - sizeof simt_shared_begin);
}

void check_guards(Engine& e) {
#if defined(SIMT_ASAN)
  ASAN_UNPOISON_MEMORY_REGION(e.shared_map, size_t(e.shared_capacity + 2 * kGuard));
#endif
  long long at = -1;
  bool outside = false;
  const auto check = [&](long long offset, unsigned char expected) {
    if (!outside && static_cast<unsigned char>(e.shared[offset]) != expected) outside = true, at = offset;
  };
  unsigned char guard[4];
  memcpy(guard, &kGuardWord, 4);
  for (long long i = 0; i < kGuard; ++i) check(i - kGuard, guard[i & 3]);
  for (long long i = e.launch.shared; i < e.shared_padded; ++i) check(i, 0xff);
  for (long long i = 0; i < kGuard; ++i) check(e.shared_padded + i, guard[i & 3]);
  if (!outside) return;
  char text[200];
  snprintf(text, sizeof text, "block (%u, %u, %u): a write outside dynamic shared memory, at byte %lld of %lld", blockIdx.x,
           blockIdx.y, blockIdx.z, at, e.launch.shared);
  e.error = text;
}

void run_block(Engine& e) {
  e.exited = e.waiting_at_barrier = e.vote_count = e.cursor = 0;
  memset(e.at_barrier, 0, sizeof e.at_barrier);
  memset(e.ready, 0, sizeof e.ready);
  for (int i = 0; i < e.threads; ++i) mark_ready(e, i);
  for (int w = 0; w * 32 < e.threads; ++w) {
    const int lanes = e.threads - w * 32;
    e.warps[w].present = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1u;
    e.warps[w].waiting = e.warps[w].exited = 0;
  }
  fill_shared(e);
  const int first = e.thread_at[0];
  e.ready[0] &= ~1ull;
  e.cursor = e.threads > 1 ? 1 : 0;
  e.current = first;
  threadIdx = uint3{unsigned(first), 0, 0};
  switch_fiber(e.main, *e.fibers[size_t(first)]);
  if (e.error.empty()) check_guards(e);
}

}  // namespace

int run_blocks(const Launch& launch) {
  const std::string name = spectralops::kernel_name(launch.name);
  const long long *grid = launch.grid, limit = shared_limit_now;
  if (grid[0] < 1 || grid[1] < 1 || grid[2] < 1 || grid[0] > 0x7fffffffLL || grid[1] > 65535 || grid[2] > 65535)
    return spectralops::fail(SPECTRALOPS_CUDA, "%s: a grid of (%lld, %lld, %lld) blocks is outside CUDA's limits", name.c_str(), grid[0],
                             grid[1], grid[2]);
  if (launch.threads < 1 || launch.threads > kMaxThreads)
    return spectralops::fail(SPECTRALOPS_CUDA, "%s: %d threads, a block has 1 to %d", name.c_str(), launch.threads, kMaxThreads);
  if (launch.shared < 0 || launch.shared > limit)
    return spectralops::fail(SPECTRALOPS_CUDA, "%s: %lld bytes of shared memory, the limit is %lld", name.c_str(), launch.shared, limit);
  if (!engine) {
    engine_owner = std::make_unique<Engine>();
    engine = engine_owner.get();
  }
  Engine& e = *engine;
  adopt_thread(e.main);
  e.launch = launch;
  e.threads = launch.threads;
  e.order = order_now;
  e.random = 0x9e3779b97f4a7c15ull * uint64_t(e.order + 1);
  e.error.clear();
  if (!prepare(e)) return spectralops::fail(SPECTRALOPS_CUDA, "%s: no memory for %d stacks", name.c_str(), e.threads);
  blockDim = uint3{unsigned(e.threads), 1, 1};
  gridDim = uint3{unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
  shuffle_order(e);
  // Blocks in the order of the threads: forward, backward, or by an affine map of the index (odd step over a power of two, skipping the excess).
  const uint64_t blocks = uint64_t(grid[0]) * uint64_t(grid[1]) * uint64_t(grid[2]);
  uint64_t span = 1;
  while (span < blocks) span *= 2;
  const uint64_t step = next_random(e) | 1, offset = next_random(e);
  for (uint64_t i = 0; i < (e.order >= 2 ? span : blocks); ++i) {
    const uint64_t b = e.order >= 2 ? (i * step + offset) & (span - 1) : e.order == 1 ? blocks - 1 - i : i;
    if (b >= blocks) continue;
    blockIdx.x = unsigned(b % uint64_t(grid[0]));
    blockIdx.y = unsigned(b / uint64_t(grid[0]) % uint64_t(grid[1]));
    blockIdx.z = unsigned(b / uint64_t(grid[0]) / uint64_t(grid[1]));
    if (e.order >= 2) shuffle_order(e);
    run_block(e);
    if (e.error.empty()) continue;
    for (size_t f = 0; f < e.fibers.size(); ++f) reset_fiber(*e.fibers[f], int(f), fiber_main);
    return spectralops::fail(SPECTRALOPS_CUDA, "%s: %s", name.c_str(), e.error.c_str());
  }
  return SPECTRALOPS_OK;
}

}  // namespace simt

extern "C" {
void simt_set_order(int order) { simt::order_now = order < 0 ? 0 : order; }
void simt_set_limits(int sm, int sm_count, long long shared_limit) {
  simt::sm_now = sm;
  simt::sm_count_now = sm_count;
  simt::shared_limit_now = shared_limit;
}
}

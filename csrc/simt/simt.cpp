// The scheduler of the shim: who runs next, barriers, warp collectives, and what is wrong when nobody can run.
#include "simt/simt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "simt/engine.h"

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread uint3 blockDim;
__thread uint3 gridDim;

namespace simt {
namespace {

__thread Engine* current_engine;

const char* const kCollectiveNames[] = {"__syncwarp",       "__shfl_sync",     "__shfl_up_sync",
                                        "__shfl_down_sync", "__shfl_xor_sync", "a vote",
                                        "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync"};

const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

bool has(unsigned mask, int lane) { return (mask >> lane) & 1u; }

[[noreturn, gnu::format(printf, 1, 2)]] void die(const char* format, ...) {
  Engine& e = *engine();
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

// A text that outlives the fiber that asked: die() never returns to free a string.
const char* describe(const Engine& e, int thread) {
  static thread_local char texts[2][256];
  static thread_local int turn;
  turn ^= 1;
  char* text = texts[turn];
  const Warp& warp = e.warps[thread / 32];
  if (has(warp.exited, thread % 32)) {
    snprintf(text, sizeof texts[0], "thread %d has returned", thread);
  } else if (e.at_barrier[thread]) {
    const Site& site = e.barrier_site[thread];
    snprintf(text, sizeof texts[0], "thread %d waits at __syncthreads (%s:%d)", thread, base_name(site.file),
             site.line);
  } else {
    const Arrival& a = warp.lanes[thread % 32];
    snprintf(text, sizeof texts[0], "thread %d waits at %s with mask %08x (%s:%d)", thread, kCollectiveNames[a.kind],
             a.mask, base_name(a.site.file), a.site.line);
  }
  return text;
}

// Every thread waits and nobody can wake another.  A lane at a collective waits for a lane that is elsewhere; without
// one, threads wait at a barrier for ones that wait elsewhere, so some lane is at a collective.
[[noreturn]] void die_of_deadlock(Engine& e) {
  for (int thread = 0; thread < e.threads; ++thread) {
    const Warp& warp = e.warps[thread / 32];
    if (!has(warp.waiting, thread % 32)) continue;
    const unsigned mask = warp.lanes[thread % 32].mask;
    for (int other = 0; other < 32; ++other) {
      if (!has(mask, other) || (has(warp.waiting, other) && warp.lanes[other].mask == mask)) continue;
      die("deadlock: %s, while %s", describe(e, thread), describe(e, (thread & ~31) + other));
    }
  }
  die("deadlock: %s", describe(e, 0));
}

void resume(Engine& e, int from, int to) {
  if (from == to) return;
  e.current = to;
  threadIdx.x = unsigned(to);
  switch_fiber(*e.fibers[size_t(from)], *e.fibers[size_t(to)]);
}

// The next ready thread at or after the cursor, going round; in a shuffled order, after a random place.
void run_next(Engine& e) {
  const int words = (e.threads + 63) / 64, self = e.current;
  const int start = e.order >= 2 ? int(next_random(e) % uint64_t(e.threads)) : e.cursor;
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
      if (e.at_barrier[other]) die("divergent barrier: this thread returns, while %s", describe(e, other));
  for (unsigned left = warp.waiting; left; left &= left - 1) {
    const int other = __builtin_ctz(left);
    if (has(warp.lanes[other].mask, lane)) die("this thread returns, while %s", describe(e, (thread & ~31) + other));
  }
  if (e.exited < e.threads) return run_next(e);
  switch_fiber(*e.fibers[size_t(thread)], e.main);
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
  if (source < 0 || source > 31 || !has(mask, source))
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
      die("lanes of one mask meet in different calls: %s, %s", describe(e, e.current), describe(e, base + lane));
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

Engine*& engine() { return current_engine; }

uint64_t next_random(Engine& e) {  // xorshift64*
  e.random ^= e.random >> 12;
  e.random ^= e.random << 25;
  e.random ^= e.random >> 27;
  return (e.random * 0x2545f4914f6cdd1dull) >> 16;
}

void mark_ready(Engine& e, int thread) {
  const int position = e.position_of[thread];
  e.ready[position >> 6] |= 1ull << (position & 63);
}

void fiber_main() {
  fiber_entered();
  for (;;) {  // once a block
    Engine& e = *engine();
    e.launch.body(e.launch.context);
    thread_returns(e);
  }
}

int barrier(Vote vote, int predicate, const char* file, int line) {
  Engine& e = *engine();
  const Site site{file, line};
  const int self = e.current;
  if (e.exited)
    for (int other = 0; other < e.threads; ++other)
      if (has(e.warps[other / 32].exited, other % 32))
        die("divergent barrier: __syncthreads (%s:%d), while %s", base_name(file), line, describe(e, other));
  if (e.waiting_at_barrier) {
    int other = 0;
    while (!e.at_barrier[other]) ++other;
    if (!(e.barrier_site[other] == site))
      die("divergent barrier: __syncthreads (%s:%d), while %s", base_name(file), line, describe(e, other));
  }
  e.at_barrier[self] = true;
  e.barrier_site[self] = site;
  e.vote = vote;
  e.vote_count += predicate != 0;
  if (++e.waiting_at_barrier == e.threads) release_barrier(e);
  run_next(e);
  return e.vote_result;
}

uint64_t collective(Collective kind, unsigned mask, uint64_t value, int argument, int width, const char* file,
                    int line) {
  Engine& e = *engine();
  const int self = e.current, lane = self % 32, base = self & ~31;
  Warp& warp = e.warps[self / 32];
  const char* name = kCollectiveNames[kind];
  if (!has(mask, lane))
    die("%s (%s:%d): mask %08x leaves out the calling lane %d", name, base_name(file), line, mask, lane);
  if (mask & ~warp.present)
    die("%s (%s:%d): mask %08x names lanes that a block of %d threads does not have", name, base_name(file), line,
        mask, e.threads);
  if (mask & warp.exited)
    die("%s (%s:%d): %s, but mask %08x names it", name, base_name(file), line,
        describe(e, base + __builtin_ctz(mask & warp.exited)), mask);
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
  const Warp& warp = engine()->warps[engine()->current / 32];
  return warp.present & ~warp.exited;
}

void* dynamic_shared() { return engine()->shared; }

}  // namespace simt

// A launch: its limits, the blocks in their order, shared memory filled before each block and checked after it.
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <atomic>

#include "capi/kernel_name.h"
#include "simt/engine.h"

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

extern __thread __attribute__((visibility("hidden"))) unsigned char simt_shared_begin[64];
extern __thread __attribute__((visibility("hidden"))) unsigned char simt_shared_end[64];

namespace simt {
namespace {

constexpr long long kGuard = 4096;  // bytes on each side of dynamic shared memory
constexpr unsigned char kGuardBytes[4] = {0xa5, 0xa5, 0xff, 0xff};  // a NaN to readers, but not the fill
constexpr unsigned char kFill = 0xff;

std::atomic<int> order_now{0}, sm_now{90}, sm_count_now{132};
std::atomic<long long> shared_limit_now{227 * 1024};

thread_local std::unique_ptr<Engine> owner;

void choose_order(Engine& e) {
  for (int i = 0; i < e.threads; ++i) e.thread_at[i] = e.order == 1 ? e.threads - 1 - i : i;
  if (e.order >= 2)
    for (int i = e.threads - 1; i > 0; --i) std::swap(e.thread_at[i], e.thread_at[next_random(e) % uint64_t(i + 1)]);
  for (int i = 0; i < e.threads; ++i) e.position_of[e.thread_at[i]] = i;
}

bool allocate(Engine& e) {
  const int have = int(e.fibers.size());
  if (have < e.threads) {
    std::vector<Fiber> fresh(static_cast<size_t>(e.threads - have));
    const auto block = allocate_stacks(fresh.data(), e.threads - have, have);
    if (!block.first) return false;
    e.stacks.push_back(block);
    for (const Fiber& fiber : fresh) {
      e.fibers.push_back(std::make_unique<Fiber>(fiber));
      reset_fiber(*e.fibers.back(), fiber_main);
    }
  }
  e.shared_padded = (e.launch.shared + 15) / 16 * 16;
  if (!e.shared_map || e.shared_capacity < e.shared_padded) {
    free(e.shared_map);
    e.shared_capacity = e.shared_padded;
    const long long bytes = (e.shared_capacity + 2 * kGuard + 1023) / 1024 * 1024;
    e.shared_map = static_cast<char*>(aligned_alloc(1024, size_t(bytes)));
    if (!e.shared_map) return false;
    e.shared = e.shared_map + kGuard;
  }
  return true;
}

void fill_shared(Engine& e) {
  const size_t used = size_t(e.launch.shared);
  ASAN_UNPOISON_MEMORY_REGION(e.shared_map, size_t(e.shared_capacity + 2 * kGuard));
  for (long long i = 0; i < kGuard; i += 4) {
    memcpy(e.shared - kGuard + i, kGuardBytes, 4);
    memcpy(e.shared + e.shared_padded + i, kGuardBytes, 4);
  }
  memset(e.shared, kFill, size_t(e.shared_padded));
  ASAN_POISON_MEMORY_REGION(e.shared - kGuard, size_t(kGuard));
  ASAN_POISON_MEMORY_REGION(e.shared + used, size_t(e.shared_padded + kGuard) - used);
  unsigned char *begin = simt_shared_begin + sizeof simt_shared_begin, *end = simt_shared_end;
  if (begin < end) memset(begin, kFill, size_t(end - begin));
}

// The first byte outside dynamic shared memory that changed, as an offset into it.
bool changed_outside(const Engine& e, long long* at) {
  const auto bytes = reinterpret_cast<const unsigned char*>(e.shared);
  const auto differs = [&](long long offset, unsigned char expected) {
    *at = offset;
    return bytes[offset] != expected;
  };
  for (long long i = 0; i < kGuard; ++i)
    if (differs(i - kGuard, kGuardBytes[i & 3])) return true;
  for (long long i = e.launch.shared; i < e.shared_padded; ++i)
    if (differs(i, kFill)) return true;
  for (long long i = 0; i < kGuard; ++i)
    if (differs(e.shared_padded + i, kGuardBytes[i & 3])) return true;
  return false;
}

void check_guards(Engine& e) {
  ASAN_UNPOISON_MEMORY_REGION(e.shared_map, size_t(e.shared_capacity + 2 * kGuard));
  long long at = 0;
  if (!changed_outside(e, &at)) return;
  char text[200];
  snprintf(text, sizeof text, "block (%u, %u, %u): a write outside dynamic shared memory, at byte %lld of %lld",
           blockIdx.x, blockIdx.y, blockIdx.z, at, e.launch.shared);
  e.error = text;
}

void run_block(Engine& e) {
  e.exited = e.waiting_at_barrier = e.vote_count = 0;
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

// Which block comes i-th: forward, backward, or an odd multiple modulo the next power of two (none where that exceeds
// the grid).
struct BlockOrder {
  uint64_t blocks, turns, step, offset;
  int order;
  BlockOrder(Engine& e, uint64_t count) : blocks(count), turns(count), step(1), offset(0), order(e.order) {
    if (order < 2) return;
    for (turns = 1; turns < blocks;) turns *= 2;
    step = next_random(e) | 1;
    offset = next_random(e);
  }
  uint64_t at(uint64_t i) const {
    return order >= 2 ? (i * step + offset) & (turns - 1) : order == 1 ? blocks - 1 - i : i;
  }
};

int check_launch(const Launch& launch, const char* name) {
  const long long *grid = launch.grid, limit = shared_limit_now;
  const auto inside = [](long long n, long long most) { return n >= 1 && n <= most; };
  if (!inside(grid[0], 0x7fffffff) || !inside(grid[1], 65535) || !inside(grid[2], 65535))
    return spectralops::fail(SPECTRALOPS_CUDA, "%s: a grid of (%lld, %lld, %lld) blocks is outside CUDA's limits", name,
                             grid[0], grid[1], grid[2]);
  if (!inside(launch.threads, kMaxThreads))
    return spectralops::fail(SPECTRALOPS_CUDA, "%s: %d threads, a block has 1 to %d", name, launch.threads,
                             kMaxThreads);
  if (launch.shared < 0 || launch.shared > limit)
    return spectralops::fail(SPECTRALOPS_CUDA, "%s: %lld bytes of shared memory, the limit is %lld", name,
                             launch.shared, limit);
  return SPECTRALOPS_OK;
}

}  // namespace

Engine::~Engine() {
  free(shared_map);
  for (const auto& block : stacks) munmap(block.first, block.second);
}

void limits(int* sm, int* sm_count, long long* shared_limit) {
  *sm = sm_now;
  *sm_count = sm_count_now;
  *shared_limit = shared_limit_now;
}

int run_blocks(const Launch& launch) {
  const std::string name = spectralops::kernel_name(launch.name);
  if (const int status = check_launch(launch, name.c_str())) return status;
  if (!owner) owner = std::make_unique<Engine>();
  Engine& e = *owner;
  engine() = &e;
  adopt_thread(e.main);
  e.launch = launch;
  e.threads = launch.threads;
  e.order = order_now;
  e.random = 0x9e3779b97f4a7c15ull * uint64_t(e.order + 1);
  e.error.clear();
  if (!allocate(e)) return spectralops::fail(SPECTRALOPS_CUDA, "%s: no memory for %d stacks", name.c_str(), e.threads);
  const auto gx = uint64_t(launch.grid[0]), gy = uint64_t(launch.grid[1]), gz = uint64_t(launch.grid[2]);
  blockDim = uint3{unsigned(e.threads), 1, 1};
  gridDim = uint3{unsigned(gx), unsigned(gy), unsigned(gz)};
  choose_order(e);
  const BlockOrder blocks(e, gx * gy * gz);
  for (uint64_t i = 0; i < blocks.turns; ++i) {
    const uint64_t block = blocks.at(i);
    if (block >= blocks.blocks) continue;
    blockIdx = uint3{unsigned(block % gx), unsigned(block / gx % gy), unsigned(block / gx / gy)};
    if (e.order >= 2) choose_order(e);
    run_block(e);
    if (e.error.empty()) continue;
    for (auto& fiber : e.fibers) reset_fiber(*fiber, fiber_main);
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

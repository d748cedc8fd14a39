// Running a kernel on several CPU threads.
//
//   parallel_for(threads, tasks, [&](i64 task) { ... });               every task exactly once
//   parallel_for(threads, tasks, [&](i64 task, int slot) { ... });     no two running tasks share a slot < threads
//   parallel_run(threads, [&](int slot, int slots) { ... });           every slot exactly once
//
// The calling thread works too; threads == 1 runs inline and touches nothing shared, so a caller asks for one thread
// below its grain size.  Nothing promises that two tasks or slots run at the same time, so a body must not wait for
// another.  A body must not throw.  Calls nest, and several threads may call at once.
//
// A per-instruction-set file (see capability.h) may call these with its own lambdas: each instantiation then belongs to
// that file.
#pragma once

#include "spectralops/platform.h"

#include <atomic>
#include <type_traits>

namespace spectralops {
namespace cpu {

constexpr int kMaxThreads = 256;

inline __attribute__((always_inline)) int clamp_threads(int threads, i64 tasks) {
  i64 n = threads < kMaxThreads ? threads : kMaxThreads;
  if (n > tasks) n = tasks;
  return n < 1 ? 1 : int(n);
}

// Calls body(context, slot) once for each slot < slots, on at most `slots` threads: the OpenMP runtime given to
// set_openmp, or this library's pool.
void run_slots(int slots, void (*body)(void* context, int slot), void* context);

// 0, or an INVALID status.  See spectralops_set_openmp.
int set_openmp(void* gomp_parallel, void* omp_get_thread_num);
const char* threading_name();  // "openmp" or "pool"

template <typename F>
void parallel_run(int threads, F&& body) {
  struct Job {
    F& body;
    int slots;
  } job{body, clamp_threads(threads, kMaxThreads)};
  if (job.slots == 1) return void(body(0, 1));
  run_slots(job.slots, [](void* context, int slot) noexcept {
    Job& j = *static_cast<Job*>(context);
    j.body(slot, j.slots);
  }, &job);
}

// Each slot owns a contiguous range of tasks, which keeps pages and caches together, and takes from its neighbours'
// ranges when its own is empty: a core that is taken away half way then costs little.
template <typename F>
void parallel_for(int threads, i64 tasks, F&& fn) {
  const auto call = [&fn](i64 task, int slot) {
    if constexpr (std::is_invocable_v<F&, i64, int>) fn(task, slot);
    else fn(task), void(slot);
  };
  const int slots = clamp_threads(threads, tasks);
  if (slots == 1) {
    for (i64 task = 0; task < tasks; ++task) call(task, 0);
    return;
  }
  struct alignas(64) Range {
    std::atomic<i64> next;
    i64 end;
  };
  Range ranges[kMaxThreads];
  for (int s = 0; s < slots; ++s) {
    ranges[s].next.store(tasks * s / slots, std::memory_order_relaxed);
    ranges[s].end = tasks * (s + 1) / slots;
  }
  parallel_run(slots, [&](int slot, int) {
    for (int k = 0; k < slots; ++k) {
      Range& range = ranges[slot + k < slots ? slot + k : slot + k - slots];
      for (;;) {
        const i64 task = range.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= range.end) break;
        call(task, slot);
      }
    }
  });
}

}  // namespace cpu
}  // namespace spectralops

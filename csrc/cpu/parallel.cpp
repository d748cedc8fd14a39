#include "cpu/parallel.h"

#include "capi/status.h"

#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <unistd.h>

namespace spectralops {
namespace cpu {
namespace {

using Body = void (*)(void*, int);

// A runtime may grant fewer threads than were asked for, so slots are claimed: each thread tries its own number first,
// which keeps a slot on the same core from call to call, then every other one.
struct Job {
  Body body;
  void* context;
  int slots;
  std::atomic<int> unclaimed;
  int helpers = 0;  // pool workers inside work(), under the pool's mutex
  Job* next = nullptr;
  std::atomic<unsigned char> taken[kMaxThreads];

  Job(Body b, void* c, int n) : body(b), context(c), slots(n), unclaimed(n) {
    for (int s = 0; s < n; ++s) taken[s].store(0, std::memory_order_relaxed);
  }
  bool open() const { return unclaimed.load(std::memory_order_relaxed) > 0; }
  void work(int first) {
    for (int k = 0; k < slots && open(); ++k) {
      const int slot = unsigned(first + k) % unsigned(slots);
      if (taken[slot].exchange(1, std::memory_order_relaxed)) continue;
      unclaimed.fetch_sub(1, std::memory_order_relaxed);
      body(context, slot);
    }
  }
};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The jobs of all calling threads, newest first.  Each caller works on its own job and so never depends on a worker
// being free.
class Pool {
 public:
  explicit Pool(pid_t pid) : pid_(pid) {}
  pid_t pid() const { return pid_; }

  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(job.slots - 1);
      job.next = jobs_;
      jobs_ = &job;
      posted_.fetch_add(1, std::memory_order_release);
    }
    if (job.slots == 2) wake_.notify_one();
    else wake_.notify_all();
    job.work(0);
    // No slot is left; unlink, so that no worker can join any more, and wait for those still inside.
    std::unique_lock<std::mutex> lock(mutex_);
    for (Job** link = &jobs_; *link; link = &(*link)->next)
      if (*link == &job) {
        *link = job.next;
        break;
      }
    done_.wait(lock, [&job] { return job.helpers == 0; });
  }

 private:
  void grow(int workers) {
    try {
      for (; workers_ < workers; ++workers_) std::thread([this, n = workers_ + 1] { serve(n); }).detach();
    } catch (...) {
      // The system grants no more threads: the caller and the workers there are run all slots.
    }
  }

  Job* find() {
    for (Job* job = jobs_; job; job = job->next)
      if (job->open()) return job;
    return nullptr;
  }

  void serve(int number) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = find();
      if (!job) {
        // Waking a sleeping thread costs tens of microseconds, as much as a small kernel: look for the next job for
        // about that long first.
        const unsigned seen = posted_.load(std::memory_order_acquire);
        lock.unlock();
        for (int i = 0; i < kSpins && posted_.load(std::memory_order_acquire) == seen; ++i) relax();
        lock.lock();
        wake_.wait(lock, [&] { return (job = find()) != nullptr; });
      }
      ++job->helpers;
      lock.unlock();
      job->work(number);
      lock.lock();
      if (--job->helpers == 0) done_.notify_all();
    }
  }

  static constexpr int kSpins = 2000;
  const pid_t pid_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<unsigned> posted_{0};
  Job* jobs_ = nullptr;
  int workers_ = 0;
};

// Never destroyed: its detached workers outlive static destructors.  After a fork only the forking thread exists in the
// child, and the old pool's mutex may be held for ever, so the child leaves it behind and makes its own.
std::atomic<Pool*> current_pool{nullptr};

Pool* pool(pid_t pid) {
  Pool* found = current_pool.load(std::memory_order_acquire);
  while (!found || found->pid() != pid) {
    Pool* fresh = new (std::nothrow) Pool(pid);
    if (!fresh) return nullptr;
    if (current_pool.compare_exchange_strong(found, fresh, std::memory_order_acq_rel)) return fresh;
    delete fresh;
  }
  return found;
}

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using ThreadNumber = int (*)();

struct OpenMp {
  GompParallel parallel;
  ThreadNumber thread_number;
  pid_t pid;  // libgomp's own pool does not survive a fork either, so a child does not use it
};
std::mutex openmp_mutex;
std::atomic<const OpenMp*> current_openmp{nullptr};  // superseded ones are kept: another thread may be reading them

}  // namespace

void run_slots(int slots, Body body, void* context) {
  Job job(body, context, slots);
  const pid_t pid = getpid();
  const OpenMp* openmp = current_openmp.load(std::memory_order_acquire);
  if (openmp && openmp->pid == pid) {
    struct Call {
      Job& job;
      ThreadNumber number;
    } call{job, openmp->thread_number};
    const auto member = [](void* c) { static_cast<Call*>(c)->job.work(static_cast<Call*>(c)->number()); };
    openmp->parallel(member, &call, unsigned(slots), 0);
    return;
  }
  if (Pool* p = pool(pid)) p->run(job);
  else job.work(0);
}

int set_openmp(void* gomp_parallel, void* omp_get_thread_num) {
  if ((gomp_parallel == nullptr) != (omp_get_thread_num == nullptr))
    return fail(SPECTRALOPS_INVALID,
                "set_openmp takes both addresses or neither, got gomp_parallel %p, omp_get_thread_num %p",
                gomp_parallel, omp_get_thread_num);
  std::lock_guard<std::mutex> lock(openmp_mutex);
  const OpenMp* old = current_openmp.load(std::memory_order_relaxed);
  const auto parallel = reinterpret_cast<GompParallel>(gomp_parallel);
  const auto number = reinterpret_cast<ThreadNumber>(omp_get_thread_num);
  if (!parallel) {
    current_openmp.store(nullptr, std::memory_order_release);
    return SPECTRALOPS_OK;
  }
  if (old && old->parallel == parallel && old->thread_number == number && old->pid == getpid()) return SPECTRALOPS_OK;
  const OpenMp* fresh = new (std::nothrow) OpenMp{parallel, number, getpid()};
  if (!fresh) return fail(SPECTRALOPS_INVALID, "set_openmp: out of memory");
  current_openmp.store(fresh, std::memory_order_release);
  return SPECTRALOPS_OK;
}

const char* threading_name() {
  const OpenMp* openmp = current_openmp.load(std::memory_order_acquire);
  return openmp && openmp->pid == getpid() ? "openmp" : "pool";
}

}  // namespace cpu
}  // namespace spectralops

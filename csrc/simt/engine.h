// The state of the block that runs, shared by the scheduler (simt.cpp) and what sets blocks up (block.cpp).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "simt/fiber.h"
#include "simt/simt.h"

namespace simt {

constexpr int kMaxThreads = 1024;

struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || strcmp(file, other.file) == 0);
  }
};

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
  std::vector<std::pair<void*, size_t>> stacks;
  Launch launch{};
  int threads = 0, order = 0;
  uint64_t random = 1;

  // A thread is ready, or waits at a barrier, or waits at a collective, or has returned; or it is the current one.
  int current = 0;
  uint64_t ready[kMaxThreads / 64];  // by position in the order
  int thread_at[kMaxThreads], position_of[kMaxThreads], cursor = 0;
  Warp warps[kMaxThreads / 32];
  bool at_barrier[kMaxThreads];
  Site barrier_site[kMaxThreads];
  int waiting_at_barrier = 0, exited = 0;
  Vote vote = NONE;
  int vote_count = 0, vote_result = 0;
  std::string error;

  char* shared = nullptr;      // dynamic shared memory, guard bytes on both sides
  char* shared_map = nullptr;  // what was allocated
  long long shared_capacity = 0, shared_padded = 0;

  ~Engine();
};

// The calling thread's; null before its first launch.
Engine*& engine();

uint64_t next_random(Engine& e);
void mark_ready(Engine& e, int thread);
void fiber_main();

}  // namespace simt

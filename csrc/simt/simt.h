// CUDA on a CPU, for tests: one fiber a thread, so that a kernel's barriers, warp collectives and shared memory behave
// as on a device and their misuse is an error instead of undefined behaviour.
//
//   * Blocks run one after another; the threads of a block run one at a time, each until it waits, in an order that
//     simt_set_order chooses: 0 forward, 1 backward, n >= 2 shuffled with seed n.  The blocks follow the same order.
//     A result that depends on the order is a race.
//   * __syncthreads must be reached by every thread of the block at one line of source; a thread that returns while
//     others wait is an error.  A warp collective must be reached, at one line and with one mask, by every lane that
//     its mask names.
//   * Shared memory is filled with 0xff (NaN) before every block; bytes around the dynamic part are checked after it.
//
// With SPECTRALOPS_RECORD_ONLY nothing runs: kernels compile, launches are recorded, and the device functions trap.
#pragma once

#include <stdint.h>
#include <string.h>

#include "capi/status.h"
#include "simt/math.h"
#include "simt/types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#if defined(SPECTRALOPS_RECORD_ONLY)
#define __shared__ static
#else
// Two marker objects enclose the kernels' objects at link time and with them their .tbss: static shared memory.
#define __shared__ static thread_local
#endif

constexpr int warpSize = 32;

namespace simt {

enum Collective : int { SYNC, SHFL, SHFL_UP, SHFL_DOWN, SHFL_XOR, BALLOT, ADD, MIN, MAX };
enum Vote : int { NONE, COUNT, ALL, ANY };

#if defined(SPECTRALOPS_RECORD_ONLY)

[[noreturn]] inline int barrier(Vote, int, const char*, int) { __builtin_trap(); }
[[noreturn]] inline uint64_t collective(Collective, unsigned, uint64_t, int, int, const char*, int) {
  __builtin_trap();
}
[[noreturn]] inline unsigned active_mask() { __builtin_trap(); }
[[noreturn]] inline void* dynamic_shared() { __builtin_trap(); }

template <typename Body>
int run(const char*, long long, long long, long long, int, long long, const Body&) {
  return spectralops::fail(SPECTRALOPS_NO_CUDA, "this library was built without its CUDA part");
}

#else

int barrier(Vote vote, int predicate, const char* file, int line);
uint64_t collective(Collective kind, unsigned mask, uint64_t value, int argument, int width, const char* file,
                    int line);
unsigned active_mask();
void* dynamic_shared();

struct Launch {
  const char* name;  // anything that kernel_name() takes
  long long grid[3];
  int threads;
  long long shared;
  void (*body)(const void*);
  const void* context;
};
int run_blocks(const Launch& launch);

template <typename Body>
int run(const char* name, long long gx, long long gy, long long gz, int threads, long long shared, const Body& body) {
  return run_blocks(Launch{name, {gx, gy, gz}, threads, shared,
                           [](const void* context) { (*static_cast<const Body*>(context))(); }, &body});
}

#endif

// What a launcher may plan with, as simt_set_limits left it.
void limits(int* sm, int* sm_count, long long* shared_limit);

template <typename T>
inline T shuffle(Collective kind, unsigned mask, T value, int argument, int width, const char* file, int line) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 32 or 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = collective(kind, mask, bits, argument, width, file, line);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace simt

extern "C" {
SPECTRALOPS_API void simt_set_order(int order);
SPECTRALOPS_API void simt_set_limits(int sm, int sm_count, long long shared_limit);
}

#if defined(SPECTRALOPS_RECORD_ONLY)
static constexpr uint3 threadIdx{}, blockIdx{}, blockDim{}, gridDim{};
#else
// The scheduler rewrites threadIdx at every switch between fibers.
#define SIMT_REGISTER extern __thread __attribute__((visibility("hidden")))
SIMT_REGISTER uint3 threadIdx;
SIMT_REGISTER uint3 blockIdx;
SIMT_REGISTER uint3 blockDim;
SIMT_REGISTER uint3 gridDim;
#undef SIMT_REGISTER
#endif

// The call's place in the source is part of what must agree between the threads that meet in it.
#define SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_HERE) { simt::barrier(simt::NONE, 0, file, line); }
inline int __syncthreads_count(int predicate, SIMT_HERE) { return simt::barrier(simt::COUNT, predicate, file, line); }
inline int __syncthreads_and(int predicate, SIMT_HERE) { return simt::barrier(simt::ALL, predicate, file, line); }
inline int __syncthreads_or(int predicate, SIMT_HERE) { return simt::barrier(simt::ANY, predicate, file, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_HERE) {
  simt::collective(simt::SYNC, mask, 0, 0, 32, file, line);
}
inline unsigned __activemask() { return simt::active_mask(); }
inline void __threadfence_block() {}
inline void __threadfence() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() { __builtin_trap(); }

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_HERE) {
  return simt::shuffle(simt::SHFL, mask, value, source, width, file, line);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
  return simt::shuffle(simt::SHFL_UP, mask, value, int(delta), width, file, line);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
  return simt::shuffle(simt::SHFL_DOWN, mask, value, int(delta), width, file, line);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_HERE) {
  return simt::shuffle(simt::SHFL_XOR, mask, value, lane_mask, width, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
  return unsigned(simt::collective(simt::BALLOT, mask, predicate != 0, 0, 32, file, line));
}
inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::collective(simt::BALLOT, mask, predicate != 0, 0, 32, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
  return unsigned(simt::collective(simt::BALLOT, mask, predicate != 0, 0, 32, file, line)) == mask;
}
// Integer reductions; a signed value travels as the 64-bit number that it is.
template <typename T>
inline T __reduce_add_sync(unsigned mask, T value, SIMT_HERE) {
  return T(simt::collective(simt::ADD, mask, uint64_t(int64_t(value)), 0, 32, file, line));
}
template <typename T>
inline T __reduce_min_sync(unsigned mask, T value, SIMT_HERE) {
  return T(simt::collective(simt::MIN, mask, uint64_t(int64_t(value)), 0, 32, file, line));
}
template <typename T>
inline T __reduce_max_sync(unsigned mask, T value, SIMT_HERE) {
  return T(simt::collective(simt::MAX, mask, uint64_t(int64_t(value)), 0, 32, file, line));
}
#undef SIMT_HERE

// Stacks that can be switched between: a few instructions on x86-64, ucontext elsewhere, ASan told of every switch.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <utility>

#if !defined(__x86_64__) || defined(SPECTRALOPS_SIMT_UCONTEXT)
#define SIMT_UCONTEXT 1
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#endif

namespace simt {

struct Fiber {
#if defined(SIMT_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer;
#endif
  char* stack = nullptr;  // lowest usable address
  size_t size = 0;
  void* fake_stack = nullptr;  // ASan's
};

// The calling thread's own stack, for the fiber that stands for it.
void adopt_thread(Fiber& fiber);

// Stacks for `count` more fibers, each with an unmapped page below it; returns the one mapping they are in, or null.
std::pair<void*, size_t> allocate_stacks(Fiber* fibers, int count, int first_index);

// Makes the next switch to the fiber call entry(), which must not return; whatever was on its stack is forgotten.
void reset_fiber(Fiber& fiber, void (*entry)());

void switch_fiber(Fiber& from, Fiber& to);

// Must be the first call of entry().
void fiber_entered();

}  // namespace simt

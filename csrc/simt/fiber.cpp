// Fibers: stacks, the switch, and what ASan must know of both.
#include "simt/fiber.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

#if defined(SIMT_ASAN) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 256 * 1024;  // red zones and unoptimised frames
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

}  // namespace

#if !defined(SIMT_UCONTEXT)
extern "C" void simt_swap_stacks(void** save, void* load);
// The callee-saved registers of the System V ABI; the rest are the caller's to save.
asm(R"(
  .text
  .p2align 4
  .hidden simt_swap_stacks
  .globl simt_swap_stacks
  .type simt_swap_stacks, @function
simt_swap_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_swap_stacks, .-simt_swap_stacks
)");
#endif

void adopt_thread(Fiber& fiber) {
#if defined(__linux__)
  pthread_attr_t attributes;
  void* stack = nullptr;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &stack, &fiber.size);
    pthread_attr_destroy(&attributes);
  }
  fiber.stack = static_cast<char*>(stack);
#else
  (void)fiber;
#endif
}

std::pair<void*, size_t> allocate_stacks(Fiber* fibers, int count, int first_index) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE)), stride = kStackBytes + page;
  void* block = mmap(nullptr, stride * size_t(count), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) return {nullptr, 0};
  for (int i = 0; i < count; ++i) {
    char* base = static_cast<char*>(block) + stride * size_t(i);
    mprotect(base, page, PROT_NONE);
    // Stacks a multiple of the page size apart would all compete for the same cache sets.
    const size_t colour = size_t((first_index + i) % 61) * 64;
    fibers[i].stack = base + page;
    fibers[i].size = kStackBytes - colour;
  }
  return {block, stride * size_t(count)};
}

void reset_fiber(Fiber& fiber, void (*entry)()) {
  fiber.fake_stack = nullptr;
#if defined(SIMT_ASAN)
  __asan_unpoison_memory_region(fiber.stack, fiber.size);
#endif
#if defined(SIMT_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  // Six registers, then entry as the return address; above it a zero where entry's caller would be, 8 bytes off a
  // multiple of 16 as after a call.
  uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack) + fiber.size) & ~uintptr_t(15);
  void** slot = reinterpret_cast<void**>(top) - 2;
  slot[1] = nullptr;
  slot[0] = reinterpret_cast<void*>(entry);
  for (int i = 1; i <= 6; ++i) slot[-i] = nullptr;
  fiber.stack_pointer = slot - 6;
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
#if defined(SIMT_ASAN)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.size);
#endif
#if defined(SIMT_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  simt_swap_stacks(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void fiber_entered() {
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

}  // namespace simt

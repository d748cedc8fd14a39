#include "cpu/capability.h"

#include "capi/status.h"

#include <atomic>
#include <string.h>

namespace spectralops {
namespace cpu {
namespace {
constexpr const char* kNames[] = {"portable", "avx2", "avx512"};
std::atomic<int> chosen{-1};
}  // namespace

const char* isa_name(Isa isa) { return kNames[int(isa)]; }

// __builtin_cpu_supports also asks the operating system whether it saves the wider registers.
Isa best_isa() {
#if SO_CPU_X86
  static const Isa best = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
      return Isa::portable;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? Isa::avx512 : Isa::avx2;
  }();
  return best;
#else
  return Isa::portable;
#endif
}

Isa active_isa() {
  const int set = chosen.load(std::memory_order_relaxed);
  return set < 0 ? best_isa() : Isa(set);
}

int set_isa(const char* name) {
  if (!name) {
    chosen.store(-1, std::memory_order_relaxed);
    return SPECTRALOPS_OK;
  }
  for (int i = 0; i < 3; ++i) {
    if (strcmp(name, kNames[i]) != 0) continue;
    if (i > int(best_isa()))
      return fail(SPECTRALOPS_UNSUPPORTED, "cpu capability \"%s\": this machine has \"%s\" at best", name,
                  isa_name(best_isa()));
    chosen.store(i, std::memory_order_relaxed);
    return SPECTRALOPS_OK;
  }
  return fail(SPECTRALOPS_INVALID, "cpu capability \"%s\" is none of \"avx512\", \"avx2\", \"portable\"", name);
}

}  // namespace cpu
}  // namespace spectralops

// What the shim's test kernels share: one parameter block and one kind of entry point.
#pragma once

#include "cuda/launch.h"
#include "spectralops/types.h"

namespace shim_test {

using spectralops::i64;
using spectralops::u32;
using spectralops::u64;

struct Params {
  const float* x;
  float* y;
  i64 n;
};

constexpr unsigned kAll = 0xffffffffu;

}  // namespace shim_test

// A launcher of one kernel (the variable part is its name with template arguments, commas included).
#define ENTRY(name, ...)                                                                                    \
  extern "C" SPECTRALOPS_API int name(const float* x, float* y, long long n, long long blocks, int threads, \
                                      long long shared) {                                                   \
    using namespace spectralops;                                                                            \
    return launch<shim_test::__VA_ARGS__>(Where{0, nullptr}, Grid{blocks}, threads, shared,                 \
                                          shim_test::Params{x, y, n});                                      \
  }

// Status codes with a text: `return fail(SPECTRALOPS_INVALID, "dim %lld is not a multiple of groups %lld", ...)`.
#pragma once

#include "capi/spectralops.h"

namespace spectralops {

// Keeps the text for spectralops_last_error() in this thread and returns the status.
[[gnu::format(printf, 2, 3)]] int fail(int status, const char* format, ...);

}  // namespace spectralops

#define SO_REQUIRE(condition, ...)                                                    \
  do {                                                                                \
    if (!(condition)) return ::spectralops::fail(SPECTRALOPS_INVALID, __VA_ARGS__);   \
  } while (0)

// spectralops::fail for test libraries that hold kernels of their own and none of csrc/capi's entry points.
#include <stdarg.h>
#include <stdio.h>

#include "capi/status.h"

static thread_local char last[1024];

namespace spectralops {
int fail(int status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last, sizeof last, format, arguments);
  va_end(arguments);
  return status;
}
}  // namespace spectralops

extern "C" SPECTRALOPS_API const char* spectralops_last_error(void) { return last; }

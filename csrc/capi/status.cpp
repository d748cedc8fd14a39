#include "capi/status.h"

#include <stdarg.h>
#include <stdio.h>

namespace spectralops {
namespace {
thread_local char last_error[1024] = "";
}  // namespace

int fail(int status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

}  // namespace spectralops

extern "C" const char* spectralops_last_error(void) { return spectralops::last_error; }

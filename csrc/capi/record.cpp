// Launches as a list instead of on a device: what spectralops_record_begin/end/get keep, in the calling thread.
#include <stdint.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "capi/kernel_name.h"
#include "cuda/limits.h"

namespace spectralops {
namespace {

struct Recorded {
  std::string name;
  Grid grid;
  int threads;
  i64 shared;
  std::unique_ptr<unsigned char[]> params;  // as aligned as operator new makes it: at least 16 bytes
  i64 params_bytes;
};

struct Recorder {
  bool on = false;
  DeviceLimits limits{};
  std::vector<Recorded> launches;
};

thread_local Recorder recorder;

}  // namespace

bool recording() { return recorder.on; }

int device_limits(int device, DeviceLimits* limits) {
  if (recorder.on) {
    *limits = recorder.limits;
    return SPECTRALOPS_OK;
  }
  return cuda::runtime_limits(device, limits);
}

int record_append(const char* encoded, const Grid& grid, int threads, i64 shared, const void* params,
                  i64 params_bytes) {
  Recorded launch{kernel_name(encoded), grid, threads, shared, nullptr, params_bytes};
  const char* name = launch.name.c_str();
  if (launch.name.empty())
    return fail(SPECTRALOPS_UNSUPPORTED, "a kernel without a name that another compiler can find: %s", encoded);
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffLL || grid.y > 65535 || grid.z > 65535)
    return fail(SPECTRALOPS_CUDA, "%s: a grid of (%lld, %lld, %lld) blocks is outside CUDA's limits", name, grid.x,
                grid.y, grid.z);
  if (threads < 1 || threads > 1024)
    return fail(SPECTRALOPS_CUDA, "%s: %d threads, a block has 1 to 1024", name, threads);
  const i64 limit = recorder.limits.shared_limit;
  if (shared < 0 || shared > limit)
    return fail(SPECTRALOPS_CUDA, "%s: %lld bytes of shared memory, the limit is %lld", name, shared, limit);
  launch.params.reset(new unsigned char[static_cast<size_t>(params_bytes > 0 ? params_bytes : 1)]);
  memcpy(launch.params.get(), params, static_cast<size_t>(params_bytes));
  recorder.launches.push_back(std::move(launch));
  return SPECTRALOPS_OK;
}

}  // namespace spectralops

using spectralops::recorder;

extern "C" {

int spectralops_record_begin(int32_t sm, int32_t sm_count, int64_t shared_limit) {
  SO_REQUIRE(sm >= 10, "sm must be a compute capability such as 90, got %d", int(sm));
  SO_REQUIRE(sm_count >= 1, "sm_count must be at least 1, got %d", int(sm_count));
  SO_REQUIRE(shared_limit >= 0, "shared_limit must not be negative, got %lld", static_cast<long long>(shared_limit));
  recorder.on = true;
  recorder.limits = spectralops::DeviceLimits{sm, sm_count, shared_limit};
  recorder.launches.clear();
  return SPECTRALOPS_OK;
}

int spectralops_record_end(void) {
  recorder.on = false;
  return int(recorder.launches.size());
}

int spectralops_record_get(int32_t index, const char** name, int64_t grid[3], int64_t block[3], int64_t* shared_bytes,
                           const void** params, int64_t* params_bytes) {
  const int count = int(recorder.launches.size());
  SO_REQUIRE(index >= 0 && index < count, "launch %d of %d", int(index), count);
  SO_REQUIRE(name && grid && block && shared_bytes && params && params_bytes, "record_get was given a null pointer");
  const spectralops::Recorded& launch = recorder.launches[static_cast<size_t>(index)];
  *name = launch.name.c_str();
  grid[0] = launch.grid.x;
  grid[1] = launch.grid.y;
  grid[2] = launch.grid.z;
  block[0] = launch.threads;
  block[1] = block[2] = 1;
  *shared_bytes = launch.shared;
  *params = launch.params.get();
  *params_bytes = launch.params_bytes;
  return SPECTRALOPS_OK;
}

}  // extern "C"

// The only place that launches kernels.  A launcher names its kernel as a template argument and passes one by-value
// params struct:
//
//   return launch<rational_forward<T, M, N, V>>(where, Grid{blocks}, kThreads, shared_bytes, params);
//
// Three builds share this line: nvcc launches on the stream; SPECTRALOPS_SIMT runs the kernel on the CPU; and while
// recording is on, in any of them, the launch is appended to a list for another runtime.
#pragma once

#include "capi/status.h"
#include "spectralops/platform.h"

#include <stddef.h>

#include <typeinfo>

#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace spectralops {

struct Where {
  int device;
  void* stream;
};

struct Grid {
  i64 x = 1, y = 1, z = 1;
};

// What a launcher may plan with.  Filled once a device by the CUDA runtime, by record_begin, or with H200-like values
// under SIMT.
struct DeviceLimits {
  int sm;            // compute capability, 90 for 9.0
  int sm_count;      // multiprocessors
  i64 shared_limit;  // opt-in dynamic shared memory of one block, bytes
};
int device_limits(int device, DeviceLimits* limits);

// True while launches go to the calling thread's list.  append: `encoded` is what encoded_name returns.
bool recording();
int record_append(const char* encoded, const Grid& grid, int threads, i64 shared, const void* params, i64 params_bytes);

// The kernel's mangled name inside KernelName's: unlike __PRETTY_FUNCTION__ it qualifies every name in the template
// arguments.
template <auto Kernel>
struct KernelName {};
template <auto Kernel>
const char* encoded_name() {
  return typeid(KernelName<Kernel>).name();
}

template <auto Kernel, typename Params>
int launch([[maybe_unused]] const Where& where, const Grid& grid, int threads, i64 shared, const Params& params) {
  static_assert(sizeof(Params) <= 4096 && __is_trivially_copyable(Params), "a launch copies up to 4 KB of plain data");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return SPECTRALOPS_OK;
  if (recording()) return record_append(encoded_name<Kernel>(), grid, threads, shared, &params, sizeof(Params));
#if defined(__CUDACC__)
  int previous = -1;
  cudaError_t error = cudaGetDevice(&previous);
  if (error == cudaSuccess && previous != where.device) error = cudaSetDevice(where.device);
  const void* kernel = reinterpret_cast<const void*>(Kernel);
  if (error == cudaSuccess && shared > 48 * 1024)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
  if (error == cudaSuccess) {
    void* arguments[] = {const_cast<Params*>(&params)};
    const dim3 blocks(unsigned(grid.x), unsigned(grid.y), unsigned(grid.z));
    error = cudaLaunchKernel(kernel, blocks, dim3(unsigned(threads)), arguments, size_t(shared),
                             static_cast<cudaStream_t>(where.stream));
  }
  if (previous >= 0 && previous != where.device) cudaSetDevice(previous);
  if (error != cudaSuccess) {
    cudaGetLastError();  // reported here: the framework's next check should not find it again
    return fail(SPECTRALOPS_CUDA, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
  }
  return SPECTRALOPS_OK;
#elif defined(SPECTRALOPS_SIMT)
  return simt::run(encoded_name<Kernel>(), grid.x, grid.y, grid.z, threads, shared, [&params] { Kernel(params); });
#else
  return fail(SPECTRALOPS_NO_CUDA, "this library was built without its CUDA part");
#endif
}

}  // namespace spectralops

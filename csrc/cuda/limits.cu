// The limits of a device, from the CUDA runtime, from the shim, or none.
#include "cuda/limits.h"

#if defined(__CUDACC__)
#include <atomic>
#endif

namespace spectralops::cuda {

#if defined(__CUDACC__)

int runtime_limits(int device, DeviceLimits* limits) {
  // A query costs a microsecond or so each; a launch should not.  Writers that race store the same values.
  struct Slot {
    std::atomic<int> sm{0}, sm_count{0}, shared_limit{0};
  };
  constexpr int kSlots = 64;
  static Slot slots[kSlots];
  if (device >= 0 && device < kSlots) {
    const Slot& slot = slots[device];
    if (const int sm = slot.sm.load(std::memory_order_acquire)) {
      *limits = DeviceLimits{sm, slot.sm_count.load(std::memory_order_relaxed),
                             slot.shared_limit.load(std::memory_order_relaxed)};
      return SPECTRALOPS_OK;
    }
  }
  int major = 0, minor = 0, count = 0, shared = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) {
    cudaGetLastError();  // the error is reported here, not to the caller's next launch
    return fail(SPECTRALOPS_CUDA, "device %d: %s: %s", device, cudaGetErrorName(error), cudaGetErrorString(error));
  }
  *limits = DeviceLimits{10 * major + minor, count, shared};
  if (device < kSlots) {
    Slot& slot = slots[device];
    slot.sm_count.store(count, std::memory_order_relaxed);
    slot.shared_limit.store(shared, std::memory_order_relaxed);
    slot.sm.store(limits->sm, std::memory_order_release);
  }
  return SPECTRALOPS_OK;
}

#elif defined(SPECTRALOPS_SIMT) && !defined(SPECTRALOPS_RECORD_ONLY)

int runtime_limits(int, DeviceLimits* limits) {
  simt::limits(&limits->sm, &limits->sm_count, &limits->shared_limit);
  return SPECTRALOPS_OK;
}

#else

int runtime_limits(int, DeviceLimits*) {
  return fail(SPECTRALOPS_NO_CUDA, "this library was built without its CUDA part");
}

#endif

}  // namespace spectralops::cuda

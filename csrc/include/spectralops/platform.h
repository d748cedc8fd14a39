// What a kernel may assume of its compiler.  The same headers are read by nvcc, by NVRTC (no standard library at all), and by a
// host compiler: as the CPU core, and as the SIMT shim that runs kernels on a CPU in tests.
#pragma once

#if defined(SPECTRALOPS_SIMT)
#include "simt/simt.h"  // __global__, threadIdx, __syncthreads, __shfl_xor_sync, ... on fibers
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SO_DEVICE __device__ __forceinline__
#define SO_HOST_DEVICE __host__ __device__ __forceinline__
#define SO_KERNEL(max_threads, min_blocks) __global__ void __launch_bounds__(max_threads, min_blocks)
#define SO_UNROLL _Pragma("unroll")
#elif defined(SPECTRALOPS_SIMT)
#define SO_DEVICE inline
#define SO_HOST_DEVICE inline
#define SO_KERNEL(max_threads, min_blocks) __global__ void
#define SO_UNROLL
#else
// Always inlined: the CPU core compiles these for several instruction sets, and an emitted copy would be shared by all.
#define SO_DEVICE inline __attribute__((always_inline))
#define SO_HOST_DEVICE inline __attribute__((always_inline))
#define SO_UNROLL
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SO_PRAGMA(text) _Pragma(#text)
#define SO_UNROLL_BY(times) SO_PRAGMA(unroll(times))
#else
#define SO_UNROLL_BY(times)
#endif

namespace spectralops {

using i64 = long long;
using u64 = unsigned long long;
using u32 = unsigned int;
using u16 = unsigned short;
using u8 = unsigned char;

template <typename A, typename B>
struct same_type { static constexpr bool value = false; };
template <typename A>
struct same_type<A, A> { static constexpr bool value = true; };

// Launches a block's dynamic shared memory as T.  One untyped 16-byte aligned array serves every instantiation.
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
template <typename T>
SO_DEVICE T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char spectralops_dynamic_shared[];
  return reinterpret_cast<T*>(spectralops_dynamic_shared);
}
#elif defined(SPECTRALOPS_SIMT)
template <typename T>
inline T* dynamic_shared() {
  return reinterpret_cast<T*>(simt::dynamic_shared());
}
#endif

// Bits of a float and back, without aliasing.
SO_HOST_DEVICE u32 float_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  u32 bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
#endif
}
SO_HOST_DEVICE float bits_float(u32 bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
#endif
}

}  // namespace spectralops

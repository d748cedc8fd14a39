// Correct kernels for the shim: every collective, both kinds of shared memory, and what recording keeps of a launch.
#include "common.h"

#include <stdio.h>

#include "capi/kernel_name.h"

namespace shim_test {

// y[block] = the sum of the block's part of x.  Static and dynamic shared memory, two barriers, shuffles within warps.
template <typename T, int Unused>
SO_KERNEL(1024, 1) block_sum(const Params p) {
  __shared__ T partial[32];
  T* tile = spectralops::dynamic_shared<T>();
  const unsigned t = threadIdx.x, count = blockDim.x;
  const i64 i = i64(blockIdx.x) * count + t;
  tile[t] = i < p.n ? T(p.x[i]) : T(0);
  __syncthreads();
  T v = tile[(t + 1) % count];
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(kAll, v, d);
  if (t % 32 == 0) partial[t / 32] = v;
  __syncthreads();
  if (t < 32) {
    v = t < count / 32 ? partial[t] : T(0);
    for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(kAll, v, d);
    if (t == 0) p.y[blockIdx.x] = float(v);
  }
}

// Row k of y (32 lanes of each of 2 warps): the k-th collective on value 100 + thread.
SO_KERNEL(64, 1) collectives(const Params p) {
  const int t = int(threadIdx.x), lane = t % 32, v = 100 + t;
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  float* y = p.y + t;
  y[0 * 64] = float(__shfl_sync(kAll, v, 5));
  y[1 * 64] = float(__shfl_sync(kAll, v, lane + 1));
  y[2 * 64] = float(__shfl_sync(kAll, v, 3, 8));
  y[3 * 64] = float(__shfl_up_sync(kAll, v, 3));
  y[4 * 64] = float(__shfl_up_sync(kAll, v, 3, 8));
  y[5 * 64] = float(__shfl_down_sync(kAll, v, 3));
  y[6 * 64] = float(__shfl_down_sync(kAll, v, 3, 8));
  y[7 * 64] = float(__shfl_xor_sync(kAll, v, 9));
  y[8 * 64] = float(__shfl_xor_sync(kAll, v, 9, 8));
  y[9 * 64] = float(__shfl_xor_sync(half, v, 1));
  y[10 * 64] = float(__popc(__ballot_sync(kAll, lane % 3 == 0)));
  y[11 * 64] = float(__any_sync(half, lane == 20));
  y[12 * 64] = float(__all_sync(half, lane < 16));
  y[13 * 64] = float(__reduce_add_sync(half, v));
  y[14 * 64] = float(__reduce_min_sync(kAll, -v));
  y[15 * 64] = float(__reduce_max_sync(kAll, -v));
  y[16 * 64] = float(__shfl_xor_sync(kAll, i64(v) << 40, 1) >> 40);
  y[17 * 64] = float(__shfl_xor_sync(kAll, double(v) + 0.5, 1));
  y[18 * 64] = float(__syncthreads_count(t % 5 == 0));
  y[19 * 64] = float(__syncthreads_and(t >= 0) * 2 + __syncthreads_or(t == 63));
  if (lane < 16) {  // half a warp takes a branch of its own
    y[20 * 64] = float(__shfl_xor_sync(half, v, 2));
  } else {
    y[20 * 64] = float(__shfl_up_sync(half, v, 1, 16));
  }
  __syncwarp();
}

// Intrinsics whose value does not depend on the thread.
SO_KERNEL(32, 1) intrinsics(const Params p) {
  if (threadIdx.x != 0) return;
  const float nan = __uint_as_float(0x7fc00000u);
  int i = 0;
  p.y[i++] = float(__byte_perm(0x33221100u, 0x77665544u, 0x7153u) == 0x77115533u);
  p.y[i++] = float(__byte_perm(0x00008000u, 0u, 0x9999u) == 0xffffffffu);
  p.y[i++] = float(__brev(1u) == 0x80000000u && __brevll(2u) == 1ull << 62);
  p.y[i++] = float(__funnelshift_l(0x80000000u, 1u, 1) == 3u && __funnelshift_r(1u, 3u, 1) == 0x80000000u);
  p.y[i++] = float(__umulhi(0x80000000u, 6u) == 3u && __umul64hi(1ull << 63, 10) == 5 && __mulhi(-1, 1) == -1);
  p.y[i++] = float(__clz(1) == 31 && __clzll(0) == 64 && __ffs(8) == 4 && __popcll(~0ull) == 64);
  p.y[i++] = float(min(nan, 2.0f) == 2.0f && max(3, 4u) == 4u && min(-1ll, 1) == -1 && max(1.0, 2.0f) == 2.0);
  p.y[i++] = float(fmaf(1 + 0x1p-12f, 1 + 0x1p-12f, -1.0f) == 0x1p-11f + 0x1p-24f);
  p.y[i++] = float(__fdiv_rn(1.0f, 3.0f) == 1.0f / 3.0f && __float2int_rn(2.5f) == 2 && rsqrtf(4.0f) == 0.5f);
  float cell = 1.0f;
  p.y[i++] = float(atomicAdd(&cell, 2.0f) == 1.0f && atomicMax(&cell, 9) == 3.0f && atomicExch(&cell, 4) == 9.0f);
  p.y[i++] = float(warpSize == 32 && blockDim.x == 32 && gridDim.x == 1 && threadIdx.y == 0);
}

}  // namespace shim_test

ENTRY(shim_block_sum, block_sum<float, 3>)
ENTRY(shim_collectives, collectives)
ENTRY(shim_intrinsics, intrinsics)

// The same reduction planned for the device at hand: what a launcher does.
extern "C" SPECTRALOPS_API int shim_planned_sum(const float* x, float* y, long long n, int three_d) {
  using namespace spectralops;
  DeviceLimits limits;
  if (const int status = device_limits(0, &limits)) return status;
  const Grid grid = three_d ? Grid{2, 3, 4} : Grid{limits.sm_count};
  return launch<shim_test::block_sum<double, -1>>(Where{0, nullptr}, grid, limits.sm, limits.shared_limit / 2,
                                                  shim_test::Params{x, y, n});
}

namespace shim_test {
namespace {
SO_KERNEL(32, 1) nameless(const Params p) { p.y[0] = 1; }
}  // namespace
}  // namespace shim_test
ENTRY(shim_nameless, nameless)

extern "C" SPECTRALOPS_API int shim_kernel_name(const char* encoded, char* out, int bytes) {
  return snprintf(out, size_t(bytes), "%s", spectralops::kernel_name(encoded).c_str());
}

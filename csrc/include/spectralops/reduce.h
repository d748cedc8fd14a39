// Sums in a fixed order, without atomics.
#pragma once

#include "spectralops/platform.h"

namespace spectralops {

// The sum over each aligned run of WIDTH lanes, in every lane of it.  All 32 lanes take part.
template <int WIDTH, typename C>
SO_DEVICE C lanes_sum(C value) {
  SO_UNROLL
  for (int offset = WIDTH / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The sum over the block, in thread 0.  buffer: one value a warp, in shared memory.
template <typename C>
SO_DEVICE C block_sum(C value, C* buffer) {
  value = lanes_sum<32>(value);
  if (threadIdx.x % 32 == 0) buffer[threadIdx.x / 32] = value;
  __syncthreads();
  C total = C(0);
  if (threadIdx.x == 0)
    for (u32 warp = 0; warp < blockDim.x / 32; ++warp) total += buffer[warp];
  return total;
}

}  // namespace spectralops

// One planted defect a kernel, each of a kind that runs without a sign of it on some GPU, on some day.
#include "common.h"

namespace shim_test {

SO_DEVICE int position() { return int(threadIdx.x); }

// ---- races: the answer depends on the order of the threads ----
SO_KERNEL(1024, 1) missing_barrier(const Params p) {  // reads a neighbour's element that may not be written yet
  float* tile = spectralops::dynamic_shared<float>();
  const int t = position(), count = int(blockDim.x);
  tile[t] = p.x[t];
  p.y[t] = tile[count - 1 - t];
}

SO_KERNEL(1024, 1) missing_second_barrier(const Params p) {  // overwrites what a neighbour may not have read yet
  float* tile = spectralops::dynamic_shared<float>();
  const int t = position(), count = int(blockDim.x);
  float sum = 0;
  for (int i = 0; i < 4; ++i) {
    tile[t] = p.x[t] * float(i + 1);
    __syncthreads();
    sum += tile[count - 1 - t] * float(1 << i);
  }
  p.y[t] = sum;
}

SO_KERNEL(32, 1) missing_syncwarp(const Params p) {
  __shared__ float tile[32];
  const int t = position();
  tile[t] = p.x[t];
  p.y[t] = tile[31 - t];
}

SO_KERNEL(32, 1) blocks_depend(const Params p) {  // a block that takes its predecessor to be done
  if (position() != 0) return;
  const int b = int(blockIdx.x);
  p.y[b] = (b ? p.y[b - 1] : 0) + 1;
}

// ---- memory ----
SO_KERNEL(1024, 1) shared_overrun(const Params p) {
  float* tile = spectralops::dynamic_shared<float>();
  tile[position() + 1] = p.x[position()];
}

SO_KERNEL(1024, 1) shared_underrun(const Params p) {
  float* tile = spectralops::dynamic_shared<float>();
  tile[position() - 1] = p.x[position()];
}

SO_KERNEL(1024, 1) shared_read_overrun(const Params p) {
  const float* tile = spectralops::dynamic_shared<float>();
  p.y[position()] = tile[position() + 1];
}

SO_KERNEL(1024, 1) static_overrun(const Params p) {
  __shared__ float tile[64];
  tile[position() + int(p.n)] = 1.0f;
  __syncthreads();
  p.y[position()] = tile[position()];
}

SO_KERNEL(1024, 1) global_overrun(const Params p) { p.y[position() + 1] = p.x[position()]; }
SO_KERNEL(1024, 1) global_read_overrun(const Params p) { p.y[position()] = p.x[position() + 1]; }

SO_KERNEL(1024, 1) misaligned_vector(const Params p) {
  const float4 v = *reinterpret_cast<const float4*>(p.x + 1 + 4 * position());
  p.y[position()] = v.x;
}

SO_KERNEL(1024, 1) uninitialised_dynamic(const Params p) {
  p.y[position()] = spectralops::dynamic_shared<float>()[position()];
  spectralops::dynamic_shared<float>()[position()] = 1.0f;  // must not be what the next block finds
}

SO_KERNEL(1024, 1) uninitialised_static(const Params p) {
  __shared__ float tile[1024];
  p.y[position()] = tile[position()];
  tile[position()] = 1.0f;
}

// ---- collectives that do not converge ----
SO_KERNEL(64, 1) mask_without_self(const Params p) {
  p.y[position()] = __shfl_xor_sync(0x0000ffffu, p.x[position()], 1);
}

SO_KERNEL(64, 1) mask_with_returned_lane(const Params p) {
  if (position() % 32 >= 30) return;
  p.y[position()] = __shfl_xor_sync(kAll, p.x[position()], 1);
}

SO_KERNEL(64, 1) masks_disagree(const Params p) {
  const unsigned mask = position() % 32 < 16 ? kAll : 0xffff0000u;
  p.y[position()] = __shfl_xor_sync(mask, p.x[position()], 1);
}

SO_KERNEL(64, 1) masks_overlap(const Params p) {
  const unsigned mask = position() % 32 < 16 ? kAll : 0xfffffffeu;
  p.y[position()] = __shfl_xor_sync(mask, p.x[position()], 1);
}

SO_KERNEL(64, 1) mask_with_waiting_lane(const Params p) {
  if (position() % 32 == 7) __syncthreads();
  p.y[position()] = __shfl_xor_sync(kAll, p.x[position()], 1);
}

SO_KERNEL(64, 1) mask_beyond_block(const Params p) {
  p.y[position()] = __shfl_xor_sync(kAll, p.x[position()], 1);
}

SO_KERNEL(64, 1) reads_outside_mask(const Params p) {
  if (position() % 32 < 16) p.y[position()] = __shfl_down_sync(0x0000ffffu, p.x[position()], 1);
}

SO_KERNEL(64, 1) different_calls(const Params p) {
  const float v = p.x[position()];
  if (position() % 2) p.y[position()] = __shfl_xor_sync(kAll, v, 1);
  else p.y[position()] = __shfl_down_sync(kAll, v, 1);
}

SO_KERNEL(64, 1) different_lines(const Params p) {
  float v = p.x[position()];
  if (position() % 2) {
    v = 2.0f * __shfl_xor_sync(kAll, v, 1);
  } else {
    v = 3.0f * __shfl_xor_sync(kAll, v, 1);
  }
  p.y[position()] = v;
}

// ---- barriers that do not converge ----
SO_KERNEL(1024, 1) barrier_after_return(const Params p) {
  if (position() >= p.n) return;
  __syncthreads();
  p.y[position()] = p.x[position()];
}

SO_KERNEL(1024, 1) barrier_in_branches(const Params p) {
  if (position() % 64 < 32) {
    p.y[position()] = p.x[position()];
    __syncthreads();
  } else {
    __syncthreads();
    p.y[position()] = 0;
  }
}

SO_KERNEL(1024, 1) barrier_in_loop(const Params p) {  // one more time round for some
  for (int i = 0; i < 2 + (position() == 5); ++i) __syncthreads();
  p.y[position()] = p.x[position()];
}

SO_KERNEL(1024, 1) correct(const Params p) { p.y[position()] = p.x[position()]; }

}  // namespace shim_test

ENTRY(shim_missing_barrier, missing_barrier)
ENTRY(shim_missing_second_barrier, missing_second_barrier)
ENTRY(shim_missing_syncwarp, missing_syncwarp)
ENTRY(shim_blocks_depend, blocks_depend)
ENTRY(shim_shared_overrun, shared_overrun)
ENTRY(shim_shared_underrun, shared_underrun)
ENTRY(shim_shared_read_overrun, shared_read_overrun)
ENTRY(shim_static_overrun, static_overrun)
ENTRY(shim_global_overrun, global_overrun)
ENTRY(shim_global_read_overrun, global_read_overrun)
ENTRY(shim_misaligned_vector, misaligned_vector)
ENTRY(shim_uninitialised_dynamic, uninitialised_dynamic)
ENTRY(shim_uninitialised_static, uninitialised_static)
ENTRY(shim_mask_without_self, mask_without_self)
ENTRY(shim_mask_with_returned_lane, mask_with_returned_lane)
ENTRY(shim_masks_disagree, masks_disagree)
ENTRY(shim_masks_overlap, masks_overlap)
ENTRY(shim_mask_with_waiting_lane, mask_with_waiting_lane)
ENTRY(shim_mask_beyond_block, mask_beyond_block)
ENTRY(shim_reads_outside_mask, reads_outside_mask)
ENTRY(shim_different_calls, different_calls)
ENTRY(shim_different_lines, different_lines)
ENTRY(shim_barrier_after_return, barrier_after_return)
ENTRY(shim_barrier_in_branches, barrier_in_branches)
ENTRY(shim_barrier_in_loop, barrier_in_loop)
ENTRY(shim_correct, correct)

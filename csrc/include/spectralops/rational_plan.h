// Who works on what: the partition of a (rows, dim) array with grouped coefficients over blocks and threads, and the
// sums over a group.
//
// A thread owns one chunk of `width` neighbouring columns inside one group and walks down the rows, so that its
// coefficients stay in registers.  A segment is at most a block's worth of chunks: a whole group, or one of `splits`
// equal parts of a wide one.  A block covers `per_block` neighbouring segments (more than one only where a segment is a
// whole group) and row_lanes * steps rows. Nothing here depends on the device: partial sums are the same on every GPU.
#pragma once

#include "spectralops/reduce.h"
#include "spectralops/rational_math.h"

namespace spectralops {

struct RationalPlan {
  i64 chunks;      // chunks in a row of a group
  i64 splits;      // segments in a group
  i64 segments;    // groups * splits
  i64 row_blocks;  // blocks down the rows
  u32 tiles;       // blocks along the columns
  int segment;     // chunks in a segment
  int per_block;   // segments in a block
  int row_lanes;   // rows that a block visits at a time
  int steps;       // rows that a thread visits
  int width;       // columns in a chunk
};

struct RationalParams {
  const void *x, *grad, *ggx;               // (rows, dim) with row strides
  const void *numerator, *denominator;      // (groups or 1, m + 1), (groups or 1, coefficients of Q)
  const void *ggnumerator, *ggdenominator;  // (groups, m + 1), (groups, coefficients of Q)
  void *y, *dgrad, *dx;                     // (rows, dim)
  void *dnumerator, *ddenominator;          // (groups, m + 1), (groups, coefficients of Q)
  double* partials;                         // (groups, m + 1 + coefficients of Q, splits, row_blocks)
  i64 x_stride, grad_stride, ggx_stride, numerator_stride, denominator_stride;
  i64 rows, dim;
  RationalPlan plan;
  int num_degree, den_degree, version, sign_at_zero;
  int aligned;  // every pointer and row stride allows 16-byte access
};

SO_HOST_DEVICE int rational_num_size(const RationalParams& p) { return p.num_degree + 1; }
SO_HOST_DEVICE int rational_den_size(const RationalParams& p) { return p.den_degree + (p.version == kRationalC); }

// A thread's part: rows `row`, row + row_lanes, ... (`rows` of them, none for a thread beyond the data) of the chunk
// that starts at `column`.
struct RationalLane {
  i64 group, column, row;
  int rows;
};

SO_DEVICE RationalLane rational_lane(const RationalParams& p) {
  const RationalPlan& plan = p.plan;
  const u32 span = u32(plan.per_block * plan.segment);
  const u32 column_lane = threadIdx.x % span, row_lane = threadIdx.x / span;
  const i64 segment = i64(blockIdx.x % plan.tiles) * plan.per_block + column_lane / u32(plan.segment);
  const i64 group = plan.splits == 1 ? segment : segment / plan.splits;
  const i64 chunk = (segment - group * plan.splits) * plan.segment + column_lane % u32(plan.segment);
  const i64 first = i64(blockIdx.x / plan.tiles) * plan.row_lanes * plan.steps, left = p.rows - first;
  const u32 rows = u32(left < i64(plan.row_lanes) * plan.steps ? left : i64(plan.row_lanes) * plan.steps);
  const bool active =
      segment < plan.segments && chunk < plan.chunks && row_lane < u32(plan.row_lanes) && row_lane < rows;
  if (!active) return {0, 0, 0, 0};
  return {group, (group * plan.chunks + chunk) * plan.width, first + row_lane,
          int((rows - row_lane - 1) / u32(plan.row_lanes)) + 1};
}

// sums: (coefficients, blockDim.x) in shared memory, each thread having written its own column.  Eight lanes add up one
// coefficient of one segment, always in the same order, and write it where rational_total_kernel looks for it.
template <typename C>
SO_DEVICE void rational_store_partials(const RationalParams& p, const C* sums, int coefficients) {
  const RationalPlan& plan = p.plan;
  const u32 segment = u32(plan.segment), span = u32(plan.per_block) * segment, values = u32(plan.row_lanes) * segment;
  const u32 lane = threadIdx.x % 8, first_row = lane / segment * span, first_chunk = lane % segment;
  const i64 first = i64(blockIdx.x % plan.tiles) * plan.per_block, left = plan.segments - first;
  const i64 group = plan.splits == 1 ? first : first / plan.splits, split = first - group * plan.splits;
  const i64 stride = plan.splits * plan.row_blocks;
  double* out = p.partials + group * coefficients * stride + split * plan.row_blocks + blockIdx.x / plan.tiles;
  const u32 pairs = u32(left < plan.per_block ? left : plan.per_block) * u32(coefficients);  // (segment, coefficient)
  __syncthreads();
  for (u32 base = 0; base < pairs; base += blockDim.x / 8) {
    const u32 pair = base + threadIdx.x / 8, slot = pair / u32(coefficients);
    double total = 0.0;
    if (pair < pairs) {
      const C* from = sums + (pair - slot * u32(coefficients)) * blockDim.x + slot * segment;
      u32 row = first_row, chunk = first_chunk;
      for (u32 i = lane; i < values; i += 8) {
        total += double(from[row + chunk]);
        for (chunk += 8; chunk >= segment; chunk -= segment) row += span;
      }
    }
    total = lanes_sum<8>(total);
    if (pair < pairs && lane == 0) out[pair * stride] = total;
  }
}

// The second launch: block (group, coefficient) adds up its partial sums, rounds once and returns from the scaled to
// the given coefficients.
template <typename C>
SO_KERNEL(256, 1)
rational_total_kernel(const RationalParams p) {
  const int num_size = rational_num_size(p), den_size = rational_den_size(p), coefficients = num_size + den_size;
  const i64 group = blockIdx.x / u32(coefficients), count = p.plan.splits * p.plan.row_blocks;
  const int c = int(blockIdx.x % u32(coefficients)), j = c - num_size;
  const double* partials = p.partials + i64(blockIdx.x) * count;

  double sum = 0.0;
  for (i64 i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
  const double total = block_sum(sum, dynamic_shared<double>());
  if (threadIdx.x != 0) return;

  if (j < 0) {
    static_cast<C*>(p.dnumerator)[group * num_size + c] = C(total) * kNumeratorScale<C>;
    return;
  }
  C value = C(total) * rational_denominator_scale<C>(p.version);
  if (p.version == kRationalA)  // b' = |b|
    value =
        times_sign(value, static_cast<const C*>(p.denominator)[group * p.denominator_stride + j], C(p.sign_at_zero));
  static_cast<C*>(p.ddenominator)[group * den_size + j] = value;
}

}  // namespace spectralops

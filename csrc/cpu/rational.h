// The rational activation on a CPU.  rational.cpp plans and reduces; rational_*_isa.cpp hold the loops, once for each
// instruction set.
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

constexpr int kMaxDegree = 32;

// A call, and, below it, how rational.cpp cuts it up for the loops.
struct RationalJob {
  const void *x, *grad, *ggx;  // (rows, dim), row strides in elements
  i64 x_stride, grad_stride, ggx_stride;
  const void *num, *den;  // compute type; row g at + g * stride
  i64 num_stride, den_stride;
  const void *ggnum, *ggden;  // (groups, m+1), (groups, nb) contiguous
  void *out, *dgrad;          // y or dx, and double backward's dgrad; contiguous
  void *dnum, *dden;          // (groups, m+1), (groups, nb) contiguous
  double* partial;            // (row_chunks, pieces, coefficients): the coefficient sums of each task
  i64 rows, dim, groups;      // the loops see rows x dim after folding; the group of column c is (c / width) % groups
  int m, n, version, sign_at_zero, dtype, threads;

  i64 width;

  // Tasks: row_chunks x col_blocks.  A column block is whole groups, or a part of one where a group is wider than a
  // block; a piece is a group, or such a part.
  i64 row_chunk, row_chunks, col_block, col_blocks, blocks_per_group;

  // Folding walks `fold` short rows of fold_dim elements as one long one (fold 1: none).  The last has `tail` columns.
  i64 fold, fold_dim, tail;

  SO_HOST_DEVICE int den_count() const { return version == 2 ? n + 1 : n; }
  SO_HOST_DEVICE int coefficients() const { return m + 1 + den_count(); }
  SO_HOST_DEVICE i64 pieces() const { return groups * blocks_per_group; }
};

// The rectangle of one task.  Rows [row, row_end) x columns [col, col_end).
struct RationalTile {
  i64 chunk, row, row_end, col, col_end;
};

// clang-format off
SO_CPU_DECLARE(
  void rational_forward(const RationalJob& job, const RationalTile& tile);
  void rational_backward(const RationalJob& job, const RationalTile& tile);
  void rational_double_backward(const RationalJob& job, const RationalTile& tile);
)
// clang-format on

// The job's first half is filled in; validated.
int rational_forward(RationalJob job);
int rational_backward(RationalJob job);
int rational_double_backward(RationalJob job);
i64 rational_workspace(RationalJob job);  // from rows, dim, groups, m, n and version

}  // namespace cpu
}  // namespace spectralops

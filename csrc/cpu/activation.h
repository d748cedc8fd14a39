// The learnable activations on a CPU: y = f(x; p_1, ..., p_P), the parameters shared or one set for each channel.
// activation.cpp plans and reduces; activation_*_isa.cpp hold the loops, once for each instruction set.
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

constexpr int kMaxActivationParams = 33;  // poly_relu of degree 32
constexpr int kPolyRelu = 4;  // SPECTRALOPS_POLY_RELU

// A call, and, below it, how activation.cpp cuts it up for the loops.
struct ActivationJob {
  const void* in[3];     // x, then grad, then ggx: (rows, channels, inner), contiguous
  void* out[2];          // y, or dx and double backward's dgrad
  const void* params;    // (count, channels), compute type
  const void* tangents;  // double backward: directions of the parameters, as params; NULL: zero
  void* dparams;         // as params; NULL: not wanted
  double* partial;       // (row_chunks, channels, parts, count): the sums of each task; NULL with dparams
  i64 rows, channels, inner;
  int function, count, dtype, threads;

  // Rows as the loops see them: several short ones are folded into one of dim elements; the last has `tail`.
  i64 dim, tail;

  // Tasks: row_chunks x col_blocks.  A column block is whole channels, or one of `parts` of a channel.  Narrow: a
  // vector of columns spans channels, so each lane has parameters of its own.
  i64 row_chunk, row_chunks, col_block, col_blocks, parts;
  bool narrow;

  SO_HOST_DEVICE i64 sums() const { return channels * parts * count; }
  // Only poly_relu has a loop for any number of parameters, and one for 4.
  SO_HOST_DEVICE int room() const { return function == kPolyRelu && count != 4 ? kMaxActivationParams : count; }
};

// Columns of a narrow task, so that their parameters and sums stay in the caches next to the core.  A multiple of every
// vector's lanes.  `most` is the number of parameters that the loop has room for.
SO_HOST_DEVICE constexpr i64 activation_narrow_columns(int most) {
  return most <= 4 ? 4096 / (most + 1) / 64 * 64 : 128;
}

// The rectangle of one task: rows [row, row_end) x columns [col, col_end).
struct ActivationTile {
  i64 chunk, row, row_end, col, col_end;
};

// clang-format off
SO_CPU_DECLARE(
  void activation_forward(const ActivationJob& job, const ActivationTile& tile);
  void activation_backward(const ActivationJob& job, const ActivationTile& tile);
  void activation_double_backward(const ActivationJob& job, const ActivationTile& tile);
)
// clang-format on

// The job's first half is filled in; validated.
int activation_forward(ActivationJob job);
int activation_backward(ActivationJob job);
int activation_double_backward(ActivationJob job);
i64 activation_workspace(ActivationJob job);  // from the sizes, function and count

}  // namespace cpu
}  // namespace spectralops

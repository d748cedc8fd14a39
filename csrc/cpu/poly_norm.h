// poly_norm on a CPU: y = sum_i w_i norm(x^i) + b over rows.  poly_norm.cpp cuts up and reduces; poly_norm_isa.cpp
// holds the rows, once for each instruction set.
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

constexpr int kMaxPolyNormDegree = 33;

struct PolyNormJob {
  const void *x, *grad, *ggx;  // (rows, dim) contiguous
  const void *weight, *bias, *ggweight, *ggbias;
  void *out, *dgrad;           // y or dx, and double backward's dgrad
  void *dweight, *dbias;
  double* partial;             // (row_chunks, degree + 1): the sums of each task, dbias last
  double eps;
  i64 rows, dim;
  int degree, dtype, threads;
  i64 row_chunk, row_chunks;
};

// A sum and what its roundings left out, both added up: to `low` goes the error of sum + value.
SO_HOST_DEVICE void add_compensated(double& sum, double& low, double value) {
  const double total = sum + value, taken = total - sum;
  low += (sum - (total - taken)) + (value - taken);
  sum = total;
}
// Beyond the range the error of a sum is no number.
SO_HOST_DEVICE double compensated(double sum, double low) { return low == low ? sum + low : sum; }

// Rows [row, row_end) of a task; `sums` (degree + 1) are its own.
// clang-format off
SO_CPU_DECLARE(
  void poly_norm_forward(const PolyNormJob& job, i64 row, i64 row_end, double* sums);
  void poly_norm_backward(const PolyNormJob& job, i64 row, i64 row_end, double* sums);
  void poly_norm_double_backward(const PolyNormJob& job, i64 row, i64 row_end, double* sums);
)
// clang-format on

// The job but for its last line is filled in; validated.
int poly_norm_forward(PolyNormJob job);
int poly_norm_backward(PolyNormJob job);
int poly_norm_double_backward(PolyNormJob job);
i64 poly_norm_workspace(PolyNormJob job);  // from rows, dim and degree

}  // namespace cpu
}  // namespace spectralops

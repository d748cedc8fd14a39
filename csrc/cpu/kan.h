// kan_linear on a CPU: forward, dx and dcoeff of python/spectralops/ops/kan_reference.py.
//
// kan.cpp plans and hands out tasks; kan_*_isa.cpp hold what runs in one, once for each instruction set:
//   kan_basis_isa.cpp    features of a block of rows and inputs: the basis, and nothing else, knows its family
//   kan_dense_isa.cpp    products with every basis function, and the packing of coefficients
//   kan_sparse_isa.cpp   products with the order + 1 B-splines that are not zero at a point
// A feature is B_k^(m)(x) u, or sigma^(m)(x) u of the base branch, which is slot K of an input; an input has
// slots = K + (base ? 1 : 0) of them.
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

constexpr int kMaxDerivative = 4, kMaxSplineOrder = 7;

enum KanFamily { kUniform, kSpline, kRadial, kPolynomial, kFourier, kReluPower };
enum KanOutside { kZero, kClamp, kLinear };
enum KanBase { kNoBase, kSilu, kGelu, kRelu, kIdentity, kTanh };
enum KanOperation { kKanForward, kKanDx, kKanDcoeff };

// A call, and, below it, how kan.cpp cuts it up.  Coefficients, table and their gradients are in the compute type.
struct KanJob {
  const void *grad, *x, *u;  // (rows, outputs), (rows, inputs), row strides in elements; u may be NULL
  i64 grad_stride, x_stride, u_stride;
  const void *coeff, *base_weight, *bias, *table;
  i64 table_rows;       // knots: 1 or inputs
  void *out;            // y or d
  void *dcoeff, *dbase;
  i64 rows, inputs, outputs;
  int family, size, a, b, c;
  double scalars[2];
  int base, m, dtype, threads;

  int operation;
  bool sparse;
  int slots, taps;             // taps: slots of an input that are not zero, sparse; else slots
  i64 lanes, element;          // of the instruction set; bytes of the compute type
  i64 padded;                  // outputs, up to a multiple of lanes
  i64 width;                   // vectors of outputs in a packed block of coefficients
  i64 row_block, input_block;  // a block of features
  i64 row_tasks, column_tasks; // forward: blocks of rows x of outputs; dx: of inputs; dcoeff: parts of rows x of inputs
  i64 row_span, column_span;   // rows (a multiple of row_block, but for forward and dx one block), columns of a task
  char* packed;                // coefficients as the loops read them
  char* partial;               // dcoeff in parts: (row_tasks, inputs, slots, padded)
  char* scratch;               // of a slot
  i64 packed_bytes, partial_bytes, scratch_bytes;
};

// A block of features.  Dense: feature k of input i of the block, row r, at features[(i slots + k) row_block + r].
// Sparse: tap t (the base last) at features[(i (taps + base) + t) row_block + r], of slot index[i row_block + r] + t.
// Where a feature is not finite by x or u alone, every slot of the input is NaN, and spoiled[i] is set.
struct KanBlock {
  i64 row, count, input, inputs;
  void* features;
  int* index;
  unsigned char* spoiled;
  void* work;  // kan_feature_work() elements
};

// clang-format off
SO_CPU_DECLARE(
  void kan_features(const KanJob& job, const KanBlock& block);
  void kan_pack(const KanJob& job, i64 task, i64 tasks);
  void kan_forward_task(const KanJob& job, i64 task, char* scratch);
  void kan_dx_task(const KanJob& job, i64 task, char* scratch);
  void kan_dcoeff_task(const KanJob& job, i64 task, char* scratch);
  void kan_dcoeff_reduce(const KanJob& job, i64 task, i64 tasks);
  void kan_dense_forward(const KanJob& job, const KanBlock& block, i64 first, i64 last, void* sums);
  void kan_dense_dx(const KanJob& job, const KanBlock& block, const void* grad, void* sums);
  void kan_dense_dcoeff(const KanJob& job, const KanBlock& block, const void* grad, i64 stride, void* partial);
  void kan_sparse_forward(const KanJob& job, const KanBlock& block, i64 first, i64 last, void* sums);
  void kan_sparse_dx(const KanJob& job, const KanBlock& block, const void* grad, i64 stride, void* sums, void* work);
  void kan_sparse_dcoeff(const KanJob& job, const KanBlock& block, const void* grad, i64 stride, void* partial, void* work);
)
// clang-format on

// The job's first half is filled in; validated.
int kan_run(KanJob job, void* workspace);
i64 kan_workspace(KanJob job);

}  // namespace cpu
}  // namespace spectralops

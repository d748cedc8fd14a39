#include "cpu/rational.h"

#include "capi/status.h"
#include "cpu/parallel.h"

#include <string.h>

namespace spectralops {
namespace cpu {
namespace {

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// Below 16 columns a group is narrower than a vector of some instruction set.
constexpr i64 kNarrow = 16;
constexpr i64 kFoldColumns = 512;   // short rows are folded into rows of about so many
constexpr i64 kBlockColumns = 4096;
constexpr i64 kTaskElements = 65536;
constexpr i64 kMaxRowChunks = 256;  // bounds the workspace
constexpr i64 kGrain = 16384;       // elements that repay waking a thread: a few microseconds of work

// Shape, folding and tasks, from the sizes alone: the order of every sum follows from them, and neither threads nor
// strides change it.
void plan(RationalJob& job) {
  const i64 rows = job.rows, dim = job.dim, groups = job.groups;
  job.tail = job.fold_dim = dim;
  job.width = dim / groups;
  job.fold = 1;
  if (dim < kFoldColumns && rows > 1 && (groups == 1 || job.width < kNarrow)) {
    job.fold = smaller(rows, kFoldColumns / dim);
    job.rows = ceil_div(rows, job.fold);
    job.dim = job.fold * dim;
    job.tail = (rows - (job.rows - 1) * job.fold) * dim;
    if (groups == 1) job.width = job.dim;
  }
  const bool narrow = job.width < kNarrow;
  job.blocks_per_group = 1;
  if (job.width > kBlockColumns) {
    job.col_block = kBlockColumns;
    job.blocks_per_group = ceil_div(job.width, kBlockColumns);
    job.col_blocks = groups * job.blocks_per_group;
  } else {
    job.col_block = smaller(job.dim, larger(1, (narrow ? kFoldColumns : kBlockColumns) / job.width) * job.width);
    job.col_blocks = ceil_div(job.dim, job.col_block);
  }
  job.row_chunk = larger(1, kTaskElements / job.col_block);
  if (narrow) job.row_chunk = larger(job.row_chunk, 256);  // a lane's coefficients are set up once a task
  job.row_chunk = larger(job.row_chunk, ceil_div(job.rows, kMaxRowChunks));
  job.row_chunks = ceil_div(job.rows, job.row_chunk);
}

RationalTile tile_of(const RationalJob& job, i64 task) {
  RationalTile tile;
  const i64 block = task % job.col_blocks;
  tile.chunk = task / job.col_blocks;
  tile.row = tile.chunk * job.row_chunk;
  tile.row_end = smaller(job.rows, tile.row + job.row_chunk);
  if (job.blocks_per_group > 1) {
    const i64 group_start = block / job.blocks_per_group * job.width;
    tile.col = group_start + block % job.blocks_per_group * job.col_block;
    tile.col_end = smaller(group_start + job.width, tile.col + job.col_block);
  } else {
    tile.col = block * job.col_block;
    tile.col_end = smaller(job.dim, tile.col + job.col_block);
  }
  return tile;
}

int worth(int threads, i64 elements) { return int(larger(1, smaller(threads, elements / kGrain))); }

using Loop = void (*)(const RationalJob&, const RationalTile&);

void run(const RationalJob& job, Loop loop) {
  const i64 tasks = job.row_chunks * job.col_blocks;
  parallel_for(worth(job.threads, job.rows * job.dim), tasks, [&](i64 task) { loop(job, tile_of(job, task)); });
}

double sign(double b, int zero_sign) { return b > 0 ? 1.0 : b < 0 ? -1.0 : double(zero_sign); }

// The sums of all tasks: over row chunks in order, then over the pieces of a group in order.  Version A's sgn(b_j) is
// applied here.
template <typename C>
void reduce(const RationalJob& job, C* dnum, C* dden) {
  const i64 k = job.coefficients(), each = job.pieces() * k, m1 = job.m + 1, nb = job.den_count();
  const i64 span = 4096;
  parallel_for(worth(job.threads, each * job.row_chunks), ceil_div(each, span), [&](i64 task) {
    const i64 begin = task * span, end = smaller(each, begin + span);
    for (i64 chunk = 1; chunk < job.row_chunks; ++chunk)
      for (i64 i = begin; i < end; ++i) job.partial[i] += job.partial[chunk * each + i];
  });
  const C* den = static_cast<const C*>(job.den);
  for (i64 g = 0; g < job.groups; ++g)
    for (i64 i = 0; i < k; ++i) {
      double sum = 0;
      for (i64 b = 0; b < job.blocks_per_group; ++b) sum += job.partial[(g * job.blocks_per_group + b) * k + i];
      if (i < m1) dnum[g * m1 + i] = C(sum);
      else if (job.version == SPECTRALOPS_RATIONAL_A)
        dden[g * nb + i - m1] = C(sum * sign(double(den[g * job.den_stride + i - m1]), job.sign_at_zero));
      else dden[g * nb + i - m1] = C(sum);
    }
}

// Tasks add to their part of the workspace, so it starts at zero.
int run_and_reduce(RationalJob& job, Loop loop) {
  const bool wide = job.dtype == SPECTRALOPS_F64;
  const u64 size = wide ? 8 : 4;
  if (job.rows == 0 || job.dim == 0) {
    memset(job.dnum, 0, u64(job.groups) * u64(job.m + 1) * size);
    if (job.den_count()) memset(job.dden, 0, u64(job.groups) * u64(job.den_count()) * size);
    return SPECTRALOPS_OK;
  }
  plan(job);
  memset(job.partial, 0, sizeof(double) * u64(job.row_chunks * job.pieces() * job.coefficients()));
  run(job, loop);
  if (wide) reduce(job, static_cast<double*>(job.dnum), static_cast<double*>(job.dden));
  else reduce(job, static_cast<float*>(job.dnum), static_cast<float*>(job.dden));
  return SPECTRALOPS_OK;
}

}  // namespace

int rational_forward(RationalJob job) {
  if (job.rows == 0 || job.dim == 0) return SPECTRALOPS_OK;
  if (job.groups == 1 || (job.num_stride == 0 && job.den_stride == 0)) {
    job.groups = 1;
    // Nothing is summed, so what lies in one piece may be walked as one row.
    if (job.x_stride == job.dim || job.rows == 1) {
      job.dim *= job.rows;
      job.rows = 1;
    }
  }
  plan(job);
  run(job, SO_CPU_CALL(rational_forward));
  return SPECTRALOPS_OK;
}

int rational_backward(RationalJob job) { return run_and_reduce(job, SO_CPU_CALL(rational_backward)); }

int rational_double_backward(RationalJob job) { return run_and_reduce(job, SO_CPU_CALL(rational_double_backward)); }

i64 rational_workspace(RationalJob job) {
  if (job.rows == 0 || job.dim == 0) return 0;
  plan(job);
  return i64(sizeof(double)) * job.row_chunks * job.pieces() * job.coefficients();
}

}  // namespace cpu
}  // namespace spectralops

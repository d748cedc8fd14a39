#include "cpu/activation.h"

#include "capi/spectralops.h"
#include "cpu/parallel.h"

#include <string.h>

namespace spectralops {
namespace cpu {
namespace {

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// Below 64 elements of a channel in a row, vectors that each lie in one channel would be broken off too often.
constexpr i64 kNarrow = 64;
constexpr i64 kFoldColumns = 512;    // short rows are folded into rows of about so many
constexpr i64 kBlockColumns = 4096;
constexpr i64 kTaskElements = 65536;
constexpr i64 kMaxRowChunks = 256;   // bounds the workspace
constexpr i64 kGrain = 16384;        // elements that repay waking a thread: a few microseconds of work

// Folding and tasks, from the sizes alone: the order of every sum follows from them, never from the threads.
void plan(ActivationJob& job) {
  job.tail = job.dim = job.channels * job.inner;
  job.narrow = job.inner < kNarrow;
  job.parts = 1;
  if (job.narrow) {
    const i64 columns = activation_narrow_columns(job.room());
    const i64 rows = job.rows, fold = smaller(rows, smaller(kFoldColumns, columns) / job.dim);
    if (fold > 1) {  // within one column block, so that all copies of a channel are summed by one task
      job.rows = ceil_div(rows, fold);
      job.tail = (rows - (job.rows - 1) * fold) * job.dim;
      job.dim *= fold;
    }
    job.col_block = smaller(job.dim, columns / job.inner * job.inner);
    job.col_blocks = ceil_div(job.dim, job.col_block);
  } else if (job.inner > kBlockColumns) {
    job.col_block = kBlockColumns;
    job.parts = ceil_div(job.inner, kBlockColumns);
    job.col_blocks = job.channels * job.parts;
  } else {
    job.col_block = smaller(job.dim, kBlockColumns / job.inner * job.inner);
    job.col_blocks = ceil_div(job.dim, job.col_block);
  }
  job.row_chunk = larger(1, kTaskElements / job.col_block);
  job.row_chunk = larger(job.row_chunk, ceil_div(job.rows, kMaxRowChunks));
  if (job.narrow) job.row_chunk = larger(job.row_chunk, 64);  // a task begins by setting up its columns
  job.row_chunks = ceil_div(job.rows, job.row_chunk);
}

ActivationTile tile_of(const ActivationJob& job, i64 task) {
  ActivationTile tile;
  const i64 block = task % job.col_blocks;
  tile.chunk = task / job.col_blocks;
  tile.row = tile.chunk * job.row_chunk;
  tile.row_end = smaller(job.rows, tile.row + job.row_chunk);
  if (job.parts > 1) {
    const i64 start = block / job.parts * job.inner;
    tile.col = start + block % job.parts * job.col_block;
    tile.col_end = smaller(start + job.inner, tile.col + job.col_block);
  } else {
    tile.col = block * job.col_block;
    tile.col_end = smaller(job.dim, tile.col + job.col_block);
  }
  return tile;
}

int worth(int threads, i64 elements) { return int(larger(1, smaller(threads, elements / kGrain))); }

using Loop = void (*)(const ActivationJob&, const ActivationTile&);

void run(const ActivationJob& job, Loop loop) {
  const i64 tasks = job.row_chunks * job.col_blocks;
  parallel_for(worth(job.threads, job.rows * job.dim), tasks, [&](i64 task) { loop(job, tile_of(job, task)); });
}

// The sum of `count` rows of `width` numbers, `pitch` apart, in place in the first: by halves, so that rounding grows
// with the logarithm of count.
void add_rows(double* rows, i64 count, i64 width, i64 pitch) {
  for (i64 apart = 1; apart < count; apart *= 2)
    for (i64 r = 0; r + apart < count; r += 2 * apart)
      for (i64 i = 0; i < width; ++i) rows[r * pitch + i] += rows[(r + apart) * pitch + i];
}

// The sums of all tasks: over row chunks, then over the parts of a channel.
template <typename C>
void reduce(const ActivationJob& job) {
  const i64 each = job.sums(), span = 4096;
  parallel_for(worth(job.threads, each * job.row_chunks), ceil_div(each, span), [&](i64 task) {
    const i64 begin = task * span;
    add_rows(job.partial + begin, job.row_chunks, smaller(each - begin, span), each);
  });
  C* out = static_cast<C*>(job.dparams);
  for (i64 c = 0; c < job.channels; ++c) {
    double* sums = job.partial + c * job.parts * job.count;
    add_rows(sums, job.parts, job.count, job.count);
    for (i64 i = 0; i < job.count; ++i) out[i * job.channels + c] = C(sums[i]);
  }
}

// Tasks add to their part of the workspace, so it starts at zero.
int run_and_reduce(ActivationJob& job, Loop loop) {
  const bool wide = job.dtype == SPECTRALOPS_F64, empty = job.rows == 0 || job.channels == 0 || job.inner == 0;
  if (job.count == 0) job.dparams = nullptr;
  if (!job.dparams) job.partial = nullptr;
  if (empty) {
    if (job.dparams) memset(job.dparams, 0, u64(job.channels) * u64(job.count) * (wide ? 8 : 4));
    return SPECTRALOPS_OK;
  }
  plan(job);
  if (job.partial) memset(job.partial, 0, sizeof(double) * u64(job.row_chunks * job.sums()));
  run(job, loop);
  if (!job.partial) return SPECTRALOPS_OK;
  if (wide) reduce<double>(job);
  else reduce<float>(job);
  return SPECTRALOPS_OK;
}

}  // namespace

int activation_forward(ActivationJob job) {
  if (job.rows == 0 || job.channels == 0 || job.inner == 0) return SPECTRALOPS_OK;
  plan(job);
  run(job, SO_CPU_CALL(activation_forward));
  return SPECTRALOPS_OK;
}

int activation_backward(ActivationJob job) { return run_and_reduce(job, SO_CPU_CALL(activation_backward)); }

int activation_double_backward(ActivationJob job) {
  return run_and_reduce(job, SO_CPU_CALL(activation_double_backward));
}

i64 activation_workspace(ActivationJob job) {
  if (job.rows == 0 || job.channels == 0 || job.inner == 0) return 0;
  plan(job);
  return i64(sizeof(double)) * job.row_chunks * job.sums();
}

}  // namespace cpu
}  // namespace spectralops

#include "cpu/kan.h"

#include "capi/status.h"
#include "cpu/parallel.h"

namespace spectralops {
namespace cpu {
namespace {

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

constexpr i64 kGrain = 1 << 18;  // multiplications that repay waking a thread

// Which inner form.  The sparse one does order + 1 of size products, and more than one load for each.
struct Form {
  int order, sparse_from;  // sparse where the basis has at least so many functions
};
constexpr Form kForms[] = {{0, 3}, {1, 4}, {2, 5}, {3, 6}, {4, 8}, {5, 9}, {6, 11}, {7, 12}};

// How a block of features is cut, by the form and the operation.
struct Blocks {
  i64 rows, inputs;  // of a block; inputs where an input has up to 12 slots, fewer where it has more
  i64 vectors;       // of outputs in a packed block of coefficients, 0: by the slots
};
constexpr Blocks kDense[] = {{128, 16, 3}, {96, 8, 0}, {128, 16, 0}};
constexpr Blocks kSparse[] = {{256, 16, 16}, {256, 16, 0}, {256, 16, 0}};

constexpr i64 kSlab = 32768;  // bytes of coefficients meant to stay in the first-level cache

void plan(KanJob& job) {
  const bool spline = job.family <= kSpline;
  const int order = job.a;
  const Isa isa = active_isa();
  const i64 vector_bytes = isa == Isa::avx512 ? 64 : isa == Isa::avx2 ? 32 : 16;
  job.element = job.dtype == SPECTRALOPS_F64 ? 8 : 4;
  job.lanes = vector_bytes / job.element;
  job.padded = round_up(job.outputs, job.lanes);
  job.slots = job.size + (job.base != 0);
  job.sparse = spline && job.size >= kForms[order].sparse_from;
  job.taps = job.sparse ? order + 1 : job.size;
  const Blocks& blocks = (job.sparse ? kSparse : kDense)[job.operation];
  const i64 live = job.taps + (job.base != 0), vectors = job.padded / job.lanes;
  job.input_block = smaller(job.inputs, larger(1, live <= 12 ? blocks.inputs : blocks.inputs * 12 / live));

  const double work = double(job.rows) * double(job.inputs) * double(live) * double(job.padded);
  const i64 threads = job.threads = int(larger(1, smaller(job.threads, i64(smaller(1 << 20, i64(work / kGrain))))));
  job.row_block = blocks.rows;
  if (job.operation != kKanDcoeff) job.row_block = smaller(job.row_block, round_up(ceil_div(job.rows, threads), 16));
  else job.row_block = smaller(job.row_block, round_up(job.rows, 16));
  const i64 row_blocks = ceil_div(job.rows, job.row_block);

  job.width = blocks.vectors;
  if (job.width == 0 || (job.sparse && job.operation == kKanForward)) {
    const i64 bytes = job.slots * vector_bytes, most = job.width ? job.width : vectors;
    job.width = 1;
    const i64 fitting = kSlab / bytes / (job.operation == kKanDx ? 2 : 1);
    while (2 * job.width <= smaller(most, fitting)) job.width *= 2;
    if (job.operation == kKanDx && fitting >= vectors) job.width = vectors;
  }
  if (job.operation == kKanForward && vector_bytes < 64)  // of 16 registers
    job.width = smaller(job.width, job.sparse ? 8 : vector_bytes == 32 ? 3 : 2);

  const i64 packed_blocks = ceil_div(vectors, job.width);
  job.packed_bytes = job.partial_bytes = 0;
  i64 scratch = job.input_block * (live * job.row_block * job.element + job.row_block * (4 + 2 * job.element) + 1) +
                8 * job.row_block * job.element + (job.size + 64) * job.element + 64 * 16;
  const i64 block_rows = job.row_block * job.padded * job.element;
  if (job.operation == kKanForward) {
    job.row_tasks = row_blocks, job.row_span = job.row_block;
    job.column_span = ceil_div(packed_blocks, smaller(packed_blocks, ceil_div(threads, row_blocks)));
    job.column_tasks = ceil_div(packed_blocks, job.column_span);
    job.packed_bytes = job.inputs * job.slots * job.padded * job.element;
    scratch += block_rows;
  } else if (job.operation == kKanDx) {
    const i64 input_blocks = ceil_div(job.inputs, job.input_block);
    job.row_tasks = row_blocks, job.row_span = job.row_block;
    job.column_span = job.input_block * ceil_div(input_blocks, smaller(input_blocks, ceil_div(threads, row_blocks)));
    job.column_tasks = ceil_div(job.inputs, job.column_span);
    job.packed_bytes = job.inputs * job.slots * job.padded * job.element;
    if (!job.sparse)  // whole panels of 8 slots, block by block
      job.packed_bytes = input_blocks * round_up(job.input_block * job.slots, 8) * job.outputs * job.element;
    scratch += 2 * block_rows + job.input_block * job.row_block * job.element + 2 * job.row_block * vector_bytes;
  } else {
    // Parts of rows, whose sums are added in order, depend on the shape alone; which inputs a task has does not matter.
    const i64 row_parts = larger(1, smaller(ceil_div(32, job.inputs), ceil_div(job.rows, 1024)));
    job.row_span = round_up(ceil_div(job.rows, row_parts), job.row_block);
    job.row_tasks = ceil_div(job.rows, job.row_span);
    const i64 wanted = threads == 1 ? 1 : ceil_div(4 * threads, job.row_tasks);
    const i64 bytes = job.slots * job.padded * job.element;
    job.column_span = smaller(ceil_div(job.inputs, wanted), larger(1, (1 << 19) / bytes));
    if (job.column_span > job.input_block) job.column_span = job.column_span / job.input_block * job.input_block;
    else job.input_block = job.column_span;
    job.column_tasks = ceil_div(job.inputs, job.column_span);
    if (job.row_tasks > 1) job.partial_bytes = job.row_tasks * job.inputs * bytes;
    else scratch += job.column_span * bytes;
    scratch += block_rows + job.row_block * (8 + live * job.element) + (job.size + 2) * 8 + job.column_span;
  }
  job.packed_bytes = round_up(job.packed_bytes, 64);
  job.partial_bytes = round_up(job.partial_bytes, 64);
  job.scratch_bytes = round_up(scratch + 64 * 16, 4096) + 192;  // so that threads do not meet in the same cache sets
}

i64 slots_of(const KanJob& job) { return smaller(job.threads, job.row_tasks * job.column_tasks); }

template <typename T> void clear(void* p, i64 count) {
  for (i64 i = 0; p && i < count; ++i) static_cast<T*>(p)[i] = T(0);
}

}  // namespace

i64 kan_workspace(KanJob job) {
  if (job.rows == 0 || job.inputs == 0 || job.outputs == 0) return 0;
  plan(job);
  return job.packed_bytes + job.partial_bytes + slots_of(job) * job.scratch_bytes + 64;
}

int kan_run(KanJob job, void* workspace) {
  if (job.rows == 0 || job.inputs == 0 || job.outputs == 0) {
    if (job.operation == kKanDcoeff) {
      const i64 edges = job.inputs * job.outputs, words = job.dtype == SPECTRALOPS_F64 ? 2 : 1;
      clear<float>(job.dcoeff, edges * job.size * words);
      clear<float>(job.dbase, edges * words);
    }
    return SPECTRALOPS_OK;
  }
  plan(job);
  char* at = static_cast<char*>(workspace);
  at += -reinterpret_cast<unsigned long>(at) & 63;
  job.packed = at;
  job.partial = at + job.packed_bytes;
  job.scratch = job.partial + job.partial_bytes;
  const i64 tasks = job.row_tasks * job.column_tasks;
  const auto run = [&](void (*one)(const KanJob&, i64, char*)) {
    parallel_for(job.threads, tasks, [&](i64 task, int slot) { one(job, task, job.scratch + slot * job.scratch_bytes); });
  };
  const i64 parts = smaller(larger(1, 4 * job.threads), ceil_div(job.inputs, job.input_block));
  if (job.operation != kKanDcoeff)
    parallel_for(job.threads, parts, [&](i64 task) { SO_CPU_CALL(kan_pack)(job, task, parts); });
  if (job.operation == kKanForward) run(SO_CPU_CALL(kan_forward_task));
  else if (job.operation == kKanDx) run(SO_CPU_CALL(kan_dx_task));
  else run(SO_CPU_CALL(kan_dcoeff_task));
  if (job.operation == kKanDcoeff && job.row_tasks > 1)
    parallel_for(job.threads, job.inputs, [&](i64 task) { SO_CPU_CALL(kan_dcoeff_reduce)(job, task, job.inputs); });
  return SPECTRALOPS_OK;
}

}  // namespace cpu
}  // namespace spectralops

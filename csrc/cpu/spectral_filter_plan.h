// How a call of spectral_filter is cut into tasks, and where their memory is. A call of no groups has no weights: grids and
// spectra alone, as the truncated transforms take them (modes_last.h).
#pragma once

#include "capi/spectralops.h"
#include "cpu/capability.h"
#include "cpu/dft_line.h"

namespace spectralops {
namespace cpu {

constexpr int kMostUnit = 2;      // vectors that go together: two lines of memory a point
constexpr i64 kChainSamples = 32; // samples whose products are added one after another

// Offsets and sizes are in numbers of the compute type.
struct FilterPlan {
  i64 lanes, half, rows, bins;  // rows n1 n2 of a grid, bins rows * half of its spectrum
  i64 outer, inner;             // the dimension transformed last, and bins / outer
  const LinePlan *last, *packed, *middle, *outermost;  // n3, n3 / 2 or null, n2 and n1 where both are there, outer
  i64 channels_each, span, vectors;               // channels of a weight; of a vector; vectors in all
  i64 unit, units, pack, packs;                   // vectors that go together, their number, and units of a task, and so on
  i64 blocks;                                     // vectors that share a weight
  i64 parts, levels;                              // of the samples; of sums of sums
  bool direct;                                    // dweight needs no sum over tasks
  i64 weights;                                    // of a vector, for the gradient
  i64 row, line, column, scratch, residual, slab, second, sums, slot;  // offsets in a slot, and its size
  i64 slab_size, statistics, partial, entry;      // offsets in the workspace
  i64 bytes;
  int threads;
};

// false without memory for the roots.
bool make_filter_plan(const spectralops_filter_call& call, bool gradient, int threads, FilterPlan& plan);

struct FilterJob {
  const spectralops_filter_call* call;
  const FilterPlan* plan;
  char* workspace;
};

SO_CPU_DECLARE(void filter_run(const FilterJob&); void filter_gradient_run(const FilterJob&);)

}  // namespace cpu
}  // namespace spectralops

// The sparse Walsh-Hadamard transform's decoder and walsh_sum on a CPU; validated by csrc/capi/sparse_wht.cpp.  Formulas:
// ops/sparse_wht_reference.py.  sparse_wht.cpp has the rounds, sparse_wht_isa.cpp the steps of a round, once for each instruction set.
//
// The samples of a group are (B, P), offsets fastest, so that lanes are offsets: the transform adds whole rows, a test is a sum over
// one row, and the signs of a key are a string of P bits that flip the signs of a row's lanes.  Rows are padded with zeros to lines.
// Sums run over the lanes of a line whatever the vector's width.  Of a problem, bins are independent in detection, and rows in the
// peeling, where each task takes the keys in the order found: no sum depends on the threads.
#pragma once

#include "capi/spectralops.h"
#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

i64 sparse_wht_workspace(const spectralops_sparse_wht_call& call, int threads);
int sparse_wht_decode(const spectralops_sparse_wht_call& call, int threads);
int walsh_sum(const int64_t* points, const int64_t* keys, const void* values, void* y, i64 count, i64 terms, i64 words, int dtype, int threads);

constexpr i64 kLine = 64;

struct SparseWhtPlan {
  const spectralops_sparse_wht_call* call;
  bool wide;                          // double
  i64 size, bins, total, words;       // of a number; B; C B; of a key
  i64 samples, rows, pitch;           // P; of one base, checks + 1; P padded
  i64 tile, tiles, shares;            // columns of a tile; tiles of a group; parts of a group's bins in the peeling
  i64 slots;                          // of the table of known keys, a power of two
  i64 problem_bytes, scratch_bytes;   // what a problem and what a thread take
  i64 levels, signature, signs, key;  // offsets in a thread's scratch
  bool across;                        // threads take problems, not parts of one
  int threads, problems;              // at once
};

// One problem.  Bins (c, j) are numbered c B + j.
struct SparseWhtState {
  const void* values;
  void *u, *energy;           // (C, B, pitch), (C, B)
  double v;                   // a number of the call's type
  i64* list;                  // bins to be looked at, ascending
  i64* candidates;            // bins in which a key was found, ascending
  i64* taken;                 // those whose keys are subtracted, in order
  unsigned char* found;       // (C, B)
  unsigned char* kept;        // (C, B): not found by an earlier group, not refused
  void *rho, *mean;           // (C, B): of the bin's key here, and over the groups that found it
  int64_t* keys;              // (C, B, W)
  int* places;                // (C, B, C): the key's bin in every group
  char* scratch;              // of the threads
  i64 num_taken;
  unsigned* known;            // (slots): 1 + number of a key
  unsigned char* active;      // (C, B)
};

// clang-format off
SO_CPU_DECLARE(
  // Tile `task` of (groups, tiles): samples -> U.
  void sparse_wht_transform(const SparseWhtPlan& plan, const SparseWhtState& state, i64 task);
  // Energies of list[begin .. end).
  void sparse_wht_energies(const SparseWhtPlan& plan, const SparseWhtState& state, i64 begin, i64 end);
  // Steps 1 to 5 for list[begin .. end): found, keys, rho.
  void sparse_wht_detect(const SparseWhtPlan& plan, const SparseWhtState& state, i64 begin, i64 end, int slot);
  // What the groups found together, for candidates[begin .. end): places, kept, mean.
  void sparse_wht_match(const SparseWhtPlan& plan, const SparseWhtState& state, i64 begin, i64 end);
  // The keys taken, out of the bins of share `task` of (groups, shares).
  void sparse_wht_subtract(const SparseWhtPlan& plan, const SparseWhtState& state, i64 task, int slot);
)
// clang-format on

}  // namespace cpu
}  // namespace spectralops

// Truncated transforms and the mixing of modes on a CPU; validated by csrc/capi/modes.cpp.  modes.cpp plans and makes the tables;
// modes_*_isa.cpp hold the loops, once for each instruction set.
//
// A dimension of N points is folded about its middle: with E_j = x_j + x_(N-j), O_j = x_j - x_(N-j) (alone at j = 0 and N/2),
//   sum_n x_n exp(-2 pi i f n / N) = sum_j E_j cos(2 pi f j / N) - i sum_j O_j sin(2 pi f j / N),   j = 0 .. N/2,
// so each dimension is two real products of half the length.  Of the outer dimensions, f and -f share theirs.  The last dimension
// goes first, from real to complex; back, it comes last.  A plane (one row and channel) stays in cache from its grid to its box.
#pragma once

#include "capi/spectralops.h"
#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

i64 modes_workspace(const spectralops_modes_call& call, bool inverse, int threads);
int mode_dft(const spectralops_modes_call& call, int threads);
int mode_idft(const spectralops_modes_call& call, int threads);
int mode_mix(const spectralops_mix_call& call, int threads);

// With channels last (modes_last.h).
i64 modes_last_workspace(const spectralops_modes_call& call, bool inverse, int threads);
int modes_last(const spectralops_modes_call& call, bool inverse, int threads);

constexpr i64 kModeLanes = 16;  // rows of tables and of scratch are padded to this: a vector of any type

// A dimension but the last.  Its modes are grouped by |f|: pair p has u and -u modulo n, either of which may be missing.
struct ModeAxis {
  i64 n, m, half;  // half = n/2 + 1
  i64 pairs;
  const i64 *plus, *minus;   // (pairs,) the mode, or -1
  const void *cosine, *sine; // (pairs, half) for dft, (half, pairs) for idft
};

// Offsets within a slot's scratch are in numbers of the compute type.
struct ModesPlan {
  const spectralops_modes_call* call;
  ModeAxis axis[2];
  i64 n, m, half, columns;    // the last dimension; columns: of its tables, padded
  const void *cosine, *sine;  // (half, columns) for dft, (m, columns) for idft
  i64 box;                    // m2 m3
  i64 row, slab;              // pitch of a transformed line, [re (m3) | im (m3)], and of a slab, [re (box) | im (box)]
  i64 planes, group, units;   // planes of a unit; slabs (n2 lines each) transformed together
  i64 lines;                  // folded together
  i64 buffer, rows, slabs, even, odd, first, second, slot;
  char* scratch;
  int threads;
};

// clang-format off
SO_CPU_DECLARE(
  void mode_dft_run(const ModesPlan& plan);
  void mode_idft_run(const ModesPlan& plan);
  void mode_mix_run(const spectralops_mix_call& call, int threads);
)
// clang-format on

}  // namespace cpu
}  // namespace spectralops

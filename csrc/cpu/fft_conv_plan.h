// What fft_conv.cpp decides and the loops of every instruction set follow.
#pragma once

#include "capi/spectralops.h"
#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

constexpr int kMaxLevels = 12;
constexpr i64 kMostUnit = 16;  // channels side by side: a line of float32

// The roots of a transform of n points for vectors of `lanes`. Level l splits blocks of n / (radix[0] ..
// radix[l-1]) points by radix[l]; after the last a block is one vector. A tile is `lanes` of them.
struct FftRoots {
  i64 n, pitch;  // pitch: n in whole tiles
  int lanes, levels;
  int radix[kMaxLevels];
  const void* pass[kMaxLevels];  // [block][q - 1][2]: e(q p / radix)
  const void* tile;              // [tile][q - 1][2][lane]: e(q p / lanes); null where that would be too much memory, and then
  const void* tile_first;        // [tile][q - 1][2] of its first vector, and
  const void* tile_rest;         // [q - 1][2][lane] the others relative to it
  const int* bin;                // point k of vector g stands for frequency bin[g] + k n / lanes
};

// Channels are worked on `unit` at a time, side by side in memory where they lie so; a unit has up to
// `kernels` kernels. Supers are what shares kernels: one group in several units, or one unit of several
// groups. The items of a super are its (row, unit) pairs, split into `parts`, which depend on sizes alone:
// sums are taken part by part.
struct ConvPlan {
  i64 n, pitch, span;  // span: numbers of a window in whole tiles, and a vector
  bool direct;         // no staging: one channel at a time, every tensor contiguous in time
  bool real;           // a window has at most n numbers
  bool tiled;          // overlap-save: of a window's 2 n results those from `low` on are kept, windows are `step` apart
  i64 low, step;
  i64 unit, kernels, supers, units, items, samples, parts, tasks;
  bool shared;                  // kernel spectra are made once, before the tasks
  i64 row_span;                 // numbers of a whole row, for its gradient; 0 where that is never put together
  i64 slots, spectra, partials, skips, bytes;  // the workspace, in bytes: where things begin, and its size
  i64 slot_bytes;
  int threads;
};

// The imaginary parts of a row lie this many numbers off a power of two from the real ones, so that the
// points a pass takes together do not all fall into one set of the first-level cache.
constexpr i64 kSkew = 64;

// Offsets in a thread's scratch, in numbers.
struct ConvSlot {
  i64 v, work, out, kernels, spectra, sums, chains, total, dv, grad, first, second, numbers;
};
static inline __attribute__((always_inline)) ConvSlot conv_slot(const ConvPlan& p, i64 filters, bool backward) {
  ConvSlot s = {};
  i64 at = 0;
  const auto take = [&at](i64 count) __attribute__((always_inline)) {
    const i64 from = at;
    at += (count + 31) / 32 * 32;
    return from;
  };
  const i64 spectrum = 2 * p.pitch;
  s.v = take(p.unit * p.span > spectrum ? p.unit * p.span : spectrum);  // a kernel, too, on its way
  s.work = take(spectrum + kSkew);
  s.out = take(spectrum);
  s.kernels = take(p.shared ? 0 : p.kernels * filters * spectrum);
  s.spectra = take(backward || filters > 1 ? p.unit * spectrum : 0);
  s.sums = take(backward ? p.kernels * filters * spectrum : 0);
  s.chains = take(backward ? 2 * p.kernels * filters * spectrum : 0);  // doubles
  s.total = take(backward && filters > 1 ? p.unit * spectrum : 0);
  s.dv = take(backward ? p.unit * p.row_span : 0);
  s.grad = take(backward ? p.span : 0);
  s.first = take(p.direct ? 0 : p.unit * p.span);
  s.second = take(p.direct ? 0 : p.unit * p.span);
  s.numbers = at;
  return s;
}

struct ConvJob {
  const spectralops_fft_conv_call* call;
  const ConvPlan* plan;
  const FftRoots* roots;
  char* workspace;
};

SO_CPU_DECLARE(void fft_conv_forward_run(const ConvJob&); void fft_conv_backward_run(const ConvJob&);)

}  // namespace cpu
}  // namespace spectralops

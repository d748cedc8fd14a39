// Which kernel a spectral filter uses, how samples are dealt to blocks, and what stands where in the
// workspace.
#pragma once

#include "cuda/spectral_filter.h"
#include "spectralops/spectral_filter_any.h"
#include "spectralops/spectral_filter_grid.h"

namespace spectralops {
namespace cuda {
namespace gate {

using Call = spectralops_filter_call;

// ---- launch choices --------------------------------------------------------------------------------------------------
// Squares that have a kernel of their own in float32: side, channels of a block, blocks of a multiprocessor.
// A block of 32 channels reads whole 128-byte lines; from side 28 on fewer let two blocks share a
// multiprocessor, one loading while the other computes; a column of 56 points takes all registers that a
// thread may have. The gradient's threads hold the sums as well.
template <int SIDE> struct Squares;
template <> struct Squares<7> {
  using Filter = fft::FixedGrid<float, 7, 7, 32, 8>;
  using Gradient = fft::FixedGrid<float, 7, 7, 32, 6>;
};
template <> struct Squares<8> {
  using Filter = fft::FixedGrid<float, 8, 8, 32, 6>;
  using Gradient = fft::FixedGrid<float, 8, 8, 32, 4>;
};
template <> struct Squares<14> {
  using Filter = fft::FixedGrid<float, 14, 14, 32, 3>;
  using Gradient = fft::FixedGrid<float, 14, 14, 32, 2>;
};
template <> struct Squares<16> {
  using Filter = fft::FixedGrid<float, 16, 16, 32, 2>;
  using Gradient = fft::FixedGrid<float, 16, 16, 16, 3>;
};
template <> struct Squares<28> {
  using Filter = fft::FixedGrid<float, 28, 28, 8, 3>;
  using Gradient = fft::FixedGrid<float, 28, 28, 8, 2>;
};
template <> struct Squares<32> {
  using Filter = fft::FixedGrid<float, 32, 32, 8, 2>;
};
template <> struct Squares<56> {
  using Filter = fft::FixedGrid<float, 56, 56, 8, 1>;
};

constexpr i64 kMostLanes = 32;
constexpr i64 kLeastBytes = 32;       // of a block's channels, in the compute type: a sector of memory
constexpr i64 kManyBytes = 64 * 1024;  // of shared memory, above which a block of the general kernels has all its threads
constexpr i64 kMostSamples = 64;      // of a lane, one after the other
constexpr i64 kChain = 32;            // of samples that the gradient sums one after the other
#if defined(SPECTRALOPS_SIMT)
constexpr i64 kGradientBlocks = 1;  // few samples show in tests what many do on a GPU
#else
constexpr i64 kGradientBlocks = 256;  // of 32 channels aimed at by the gradient: beyond them a lane takes several samples
#endif
// ----------------------------------------------------------------------------------------------------------------------

template <typename E> struct GridKind { using Type = E; };

// Calls f(GridKind of a square), and none where there is no kernel of its own.
template <typename F> int with_filter_grid(int side, const F& f) {
  switch (side) {
    case 7: return f(GridKind<Squares<7>::Filter>{});
    case 8: return f(GridKind<Squares<8>::Filter>{});
    case 14: return f(GridKind<Squares<14>::Filter>{});
    case 16: return f(GridKind<Squares<16>::Filter>{});
    case 28: return f(GridKind<Squares<28>::Filter>{});
    case 32: return f(GridKind<Squares<32>::Filter>{});
    case 56: return f(GridKind<Squares<56>::Filter>{});
    default: return SPECTRALOPS_UNSUPPORTED;
  }
}
template <typename F> int with_gradient_grid(int side, const F& f) {
  switch (side) {
    case 7: return f(GridKind<Squares<7>::Gradient>{});
    case 8: return f(GridKind<Squares<8>::Gradient>{});
    case 14: return f(GridKind<Squares<14>::Gradient>{});
    case 16: return f(GridKind<Squares<16>::Gradient>{});
    case 28: return f(GridKind<Squares<28>::Gradient>{});
    default: return SPECTRALOPS_UNSUPPORTED;
  }
}

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
inline i64 larger(i64 a, i64 b) { return a > b ? a : b; }
inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

struct Plan {
  fft::FilterParams p{};
  Where where{};
  bool wide = false;
  int side = 0;  // of a square with a kernel of its own; 0: the general one
  int threads = 0;
  i64 lanes = 0, shared = 0, blocks = 0, resident = 1, chunks = 0, items = 0;
  i64 cells = 0;  // n1 n2 bins
  i64 moments = 0, sums = 0, roots = 0, order = 0, bytes = 0;  // offsets, then their end
};

// The plan of a call, pointers into the workspace still missing. UNSUPPORTED where no kernel takes it.
int make_plan(const Call& c, bool gradient, const DeviceLimits& limits, Plan* plan);
// The plan on a device, bound to the workspace; the layer norm's moments and the tables are launched.
int begin(const Call& c, bool gradient, const Where& where, Plan* plan);

}  // namespace gate
}  // namespace cuda
}  // namespace spectralops

// Which transform a convolution uses, how rows are dealt to blocks, and what stands where in the workspace.
#pragma once

#include "cuda/fft_conv.h"
#include "spectralops/fft_conv_backward.h"
#include "spectralops/fft_conv_forward.h"
#include "spectralops/fft_conv_kernel.h"

namespace spectralops {
namespace cuda {
namespace conv {

using Call = spectralops_fft_conv_call;

// ---- launch choices --------------------------------------------------------------------------------------------------
constexpr i64 kItemLimit = 0x7fffff00;  // items are counted in 32 bits
#if defined(SPECTRALOPS_SIMT)
constexpr i64 kItemBlocks = 2;  // few rows show in tests what many do on a GPU
#else
constexpr i64 kItemBlocks = 1024;  // blocks aimed at by the backward pass: beyond them an item takes several rows
#endif
constexpr int kParkBlocks = 2;     // blocks a multiprocessor where lanes set aside into memory
constexpr int kResidentThreads = 512;  // of 65536 / 128 registers
constexpr int kPartsLog[] = {2, 5};      // columns of 4 and of 32 points
constexpr int kLeastLineBits = 7;         // a warp's threads work on neighbouring columns, a block's on 128
constexpr i64 kBatchBytes = i64(1) << 28; // of a set of spectra in the workspace, where more than one channel fits
constexpr double kPointCost = 4;   // of loading and storing a point, in radix-2 layers of a transform
constexpr double kCutGain = 0.8;   // rows are cut into windows where that costs at most this much of the whole
// ----------------------------------------------------------------------------------------------------------------------

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
inline i64 larger(i64 a, i64 b) { return a > b ? a : b; }
inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

struct Form {  // a transform of odd 2^bits points, 2^log points of a part in a lane
  int odd = 0, log = 0, bits = 0;
  i64 points() const { return i64(odd) << bits; }
  int lanes() const { return 1 << (bits - log); }
};

// Calls f(Engine type) of a form.
template <typename C, int ODD, int LOG> struct Kind {
  using Engine = fft::Engine<C, ODD, LOG>;
};
template <typename F> int with_engine(bool wide, const Form& form, const F& f) {
  if (wide) {
    if (form.odd == 1) return f(Kind<double, 1, 3>{});
    return form.odd == 3 ? f(Kind<double, 3, 2>{}) : f(Kind<double, 5, 2>{});
  }
  if (form.odd == 1) return form.log == 4 ? f(Kind<float, 1, 4>{}) : f(Kind<float, 1, 5>{});
  return form.odd == 3 ? f(Kind<float, 3, 3>{}) : f(Kind<float, 5, 2>{});
}

struct Plan {
  Form form;
  fft::ConvParams p{};
  Where where{};
  bool wide = false;
  int threads = 0;
  i64 cells = 0, shared = 0, blocks = 0;  // shared: of the kernel that takes rows
  i64 tables = 0, spectrum = 0, products = 0, summed = 0, skips = 0, park = 0, bytes = 0;  // offsets, then their end
  bool sum_products = false;
  // Transforms of 2^parts_log forms: columns and lines. 0: in a block.
  int parts_log = 0;
  i64 batch = 0;  // channels that the sets hold at a time
  i64 column_tables = 0, sets = 0, set_bytes = 0, skipped = 0, mask_parts = 0;
};

// The plan of a call, pointers into the workspace still missing. UNSUPPORTED where no kernel takes it.
int make_plan(const Call& c, bool backward, const DeviceLimits& limits, Plan* plan);
// Checks the workspace and sets what points into it.
int bind_workspace(const Call& c, Plan* plan);
// Tables, and the spectrum where the call has a kernel.
int prepare(const Call& c, const Plan& plan);
// Sums of the backward pass: a launch, and that of products (filters, channels, chunks, N) -> (samples,
// filters, groups, N).
int launch_sum(const Plan& plan, const fft::SumParams& sum);
fft::SumParams sum_of_products(const Plan& plan, void* out);
// The whole call where plan.parts_log > 0.
int long_forward(const Call& c, const Plan& plan);
int long_backward(const Call& c, const Plan& plan);

}  // namespace conv
}  // namespace cuda
}  // namespace spectralops

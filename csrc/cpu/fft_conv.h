// Long convolution on a CPU, y = act(gate_out (conv(gate_in u, k) + skip gate_in u)) mask: fft_conv.cpp plans
// and keeps the tables of roots, fft_conv_*isa.cpp run rows on threads.
//
// A row of up to 2N real numbers is a polynomial modulo X^2N + 1, hence a complex one of N terms modulo X^N +
// i (see ops/fft_conv_reference.py). The transform splits it down to single points,
//
//   X^n = e(p)  ->  X^(n/R) = e((p + k) / R),  k < R,      e(p) = exp(-2 pi i p),
//   a^k_j = sum_q a_(j + q n/R) e(q p / R) e(q k / R),     p = 1/4 at the top,
//
// so that the twist of the right-angle convolution costs nothing, a root belongs to a whole block instead of
// to a point, and blocks are contiguous: a row longer than a cache is split until a block fits it, and that
// block is carried through the product and back before the next is touched. Spectra stay in the order in
// which the splitting leaves them.
//
// Our own transform and not a library's, because the core must build from its own sources and needs only this
// much of one: no reordering, no plans for other sizes, and its first, middle and last passes fused with what
// surrounds them.
#pragma once

#include "capi/spectralops.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

// Validated by csrc/capi/fft_conv.cpp.
i64 fft_conv_workspace(const spectralops_fft_conv_call& call, bool backward, int threads);
int fft_conv_forward(const spectralops_fft_conv_call& call, int threads);
int fft_conv_backward(const spectralops_fft_conv_call& call, int threads);

}  // namespace cpu
}  // namespace spectralops

// Wav-KAN's layer on a CPU, y_no = sum_i w_oi psi((x_ni - t_oi) / s_oi).  wavelet.cpp plans and reduces; wavelet_*_isa.cpp
// hold the loops, once for each instruction set.
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

// A call, and, below it, how wavelet.cpp cuts it up for the loops.
struct WaveletJob {
  const void *x, *grad, *ggx;  // (rows, inputs), (rows, outputs), (rows, inputs); row strides in elements
  i64 x_stride, grad_stride, ggx_stride;
  const void *weight, *scale, *translation;        // (outputs, inputs), contiguous, compute type
  const void *ggweight, *ggscale, *ggtranslation;  // the same
  void *y, *dx;                                    // y or dgrad (rows, outputs); dx (rows, inputs); contiguous
  void *dweight, *dscale, *dtranslation;           // (outputs, inputs), contiguous, compute type
  double* partial;                                 // (row_chunks, 3, outputs, inputs): the sums over the rows of a chunk
  i64 rows, inputs, outputs;
  int kind, dtype, threads;

  i64 row_chunk, row_chunks, in_blocks;
};

// A task of a value (forward, dgrad) is kValueRows rows x kValueOut outputs, kValueIn inputs at a time.  A task of a
// gradient is a chunk of rows x kGradIn inputs, kGradRows rows and kGradOut outputs at a time.
constexpr int kValueRows = 64, kValueOut = 32, kValueIn = 64;
constexpr int kGradRows = 256, kGradOut = 32, kGradIn = 16;

// 2 / (sqrt 3 pi^(1/4)), which the loops apply to sums rather than to psi.
constexpr double kMexicanHatAmplitude = 0x1.bc12081a51aaap-1;

// clang-format off
SO_CPU_DECLARE(
  void wavelet_forward(const WaveletJob& job, i64 task);
  void wavelet_dgrad(const WaveletJob& job, i64 task);
  void wavelet_backward(const WaveletJob& job, i64 task);
  void wavelet_double_backward(const WaveletJob& job, i64 task);
)
// clang-format on

// The job's first half is filled in; validated.
int wavelet_forward(WaveletJob job);
int wavelet_backward(WaveletJob job);
int wavelet_double_backward(WaveletJob job);
i64 wavelet_workspace(WaveletJob job);  // from rows, inputs and outputs

}  // namespace cpu
}  // namespace spectralops

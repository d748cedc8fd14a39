// Walsh-Hadamard transforms on the CPU: the functions of spectralops.h without device and stream.  Arguments are
// validated by csrc/capi.
#pragma once

#include "spectralops/platform.h"

#include <stdint.h>

namespace spectralops {
namespace cpu {

i64 hadamard_workspace(i64 outer, i64 n, i64 inner, int base_size, int dtype, int threads);
int hadamard(const void* x, i64 x_stride, void* y, const void* signs_in, const void* signs_out, i64 sign_blocks,
             const void* base, i64 outer, i64 n, i64 inner, int base_size, double scale, int order_in, int order_out,
             void* workspace, i64 workspace_bytes, int dtype, int threads);

i64 hadamard_quantize_workspace(i64 rows, i64 dim, i64 block, int base_size, int dtype, int threads);
int hadamard_quantize(const void* x, i64 x_stride, void* q, void* scales, const void* signs, i64 sign_blocks,
                      const void* base, i64 rows, i64 dim, i64 block, i64 group, int base_size, double scale,
                      int format, int round_rotation, void* workspace, i64 workspace_bytes, int dtype, int threads);

i64 srht_workspace(i64 outer, i64 n, int base_size, int dtype, int threads);
int srht(const void* x, i64 x_stride, const void* signs, const void* rows, void* y, const void* base, i64 outer, i64 n,
         i64 num_rows, int base_size, double scale, void* workspace, i64 workspace_bytes, int dtype, int threads);

}  // namespace cpu
}  // namespace spectralops

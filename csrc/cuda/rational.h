// The rational activation on a GPU: one function an entry of the C interface, which has validated pointers, sizes and
// codes.
#pragma once

#include "cuda/launch.h"

namespace spectralops::cuda {

// The largest degree that a kernel takes; a larger one is SPECTRALOPS_UNSUPPORTED.
constexpr int kRationalMaxDegree = 32;

i64 rational_workspace(i64 rows, i64 dim, i64 groups, int num_degree, int den_degree, int version, int dtype);

int rational_forward(const void* x, i64 x_stride, const void* numerator, i64 numerator_stride, const void* denominator,
                     i64 denominator_stride, void* y, i64 rows, i64 dim, i64 groups, int num_degree, int den_degree,
                     int version, int dtype, const Where& where);

int rational_backward(const void* grad, i64 grad_stride, const void* x, i64 x_stride, const void* numerator,
                      i64 numerator_stride, const void* denominator, i64 denominator_stride, void* dx, void* dnumerator,
                      void* ddenominator, void* workspace, i64 workspace_bytes, i64 rows, i64 dim, i64 groups,
                      int num_degree, int den_degree, int version, int sign_at_zero, int dtype, const Where& where);

int rational_double_backward(const void* ggx, i64 ggx_stride, const void* ggnumerator, const void* ggdenominator,
                             const void* grad, i64 grad_stride, const void* x, i64 x_stride, const void* numerator,
                             i64 numerator_stride, const void* denominator, i64 denominator_stride, void* dgrad,
                             void* dx, void* dnumerator, void* ddenominator, void* workspace, i64 workspace_bytes,
                             i64 rows, i64 dim, i64 groups, int num_degree, int den_degree, int version,
                             int sign_at_zero, int dtype, const Where& where);

}  // namespace spectralops::cuda

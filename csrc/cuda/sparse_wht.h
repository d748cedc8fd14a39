// The sparse Walsh-Hadamard transform's decoder and walsh_sum on a GPU; validated by csrc/capi/sparse_wht.cpp.
#pragma once

#include "capi/spectralops.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cuda {

i64 sparse_wht_workspace(const spectralops_sparse_wht_call& call, int device);
int sparse_wht_decode(const spectralops_sparse_wht_call& call, int device, void* stream);
int walsh_sum(const int64_t* points, const int64_t* keys, const void* values, void* y, i64 count, i64 terms, i64 words, int dtype, int device,
              void* stream);

}  // namespace cuda
}  // namespace spectralops

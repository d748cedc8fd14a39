// The sparse Walsh-Hadamard transform's decoder and walsh_sum on a CPU; validated by csrc/capi/sparse_wht.cpp.
#pragma once

#include "capi/spectralops.h"
#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

i64 sparse_wht_workspace(const spectralops_sparse_wht_call& call, int threads);
int sparse_wht_decode(const spectralops_sparse_wht_call& call, int threads);
int walsh_sum(const int64_t* points, const int64_t* keys, const void* values, void* y, i64 count, i64 terms, i64 words, int dtype, int threads);

}  // namespace cpu
}  // namespace spectralops

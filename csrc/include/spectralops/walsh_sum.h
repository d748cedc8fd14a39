// y[m] = sum_k values[k] (-1)^<points[m], keys[k]> on a GPU.
//
// Many points: a thread a point, its words in registers, keys in tiles of shared memory that all threads read
// at once.  Few points: a block takes four of them and its threads the terms in turn, so that a key is read
// once for four points.  In both, partial sums of 32 terms are added to a total, in an order that the sizes
// alone set.
#pragma once

#include "spectralops/reduce.h"

namespace spectralops {

constexpr int kWalshPoints = 4;     // of a block, where there are few
constexpr int kWalshChain = 32;     // terms summed one after the other
constexpr int kWalshThreads = 256;

struct WalshSumParams {
  const i64 *points, *keys;
  const void* values;
  void* y;
  i64 count, terms, words;
};

namespace walsh {

template <typename T> SO_DEVICE T signed_by(T value, u64 x) { return __popcll(x) & 1 ? -value : value; }

}  // namespace walsh

// WORDS = 0: any number, read from memory.
template <typename T, int WORDS>
SO_KERNEL(kWalshThreads, 4)
walsh_sum_points(const WalshSumParams p) {
  u64* keys = dynamic_shared<u64>();  // (kWalshChain, words)
  const int words = WORDS ? WORDS : int(p.words);
  T* values = reinterpret_cast<T*>(keys + kWalshChain * words);
  const i64 m = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  const i64* point = p.points + (m < p.count ? m : 0) * words;
  u64 own[WORDS ? WORDS : 1];
  if (WORDS) {
    SO_UNROLL
    for (int w = 0; w < WORDS; ++w) own[w] = u64(point[w]);
  }
  T total = T(0);
  for (i64 first = 0; first < p.terms; first += kWalshChain) {
    const int here = int(p.terms - first < kWalshChain ? p.terms - first : kWalshChain);
    __syncthreads();
    for (int at = int(threadIdx.x); at < here * words; at += int(blockDim.x)) keys[at] = u64(p.keys[first * words + at]);
    for (int at = int(threadIdx.x); at < here; at += int(blockDim.x)) values[at] = static_cast<const T*>(p.values)[first + at];
    __syncthreads();
    T sum = T(0);
    for (int k = 0; k < here; ++k) {
      u64 x = 0;
      if (WORDS) {
        SO_UNROLL
        for (int w = 0; w < WORDS; ++w) x ^= own[w] & keys[k * WORDS + w];
      } else {
        for (int w = 0; w < words; ++w) x ^= u64(point[w]) & keys[k * words + w];
      }
      sum += walsh::signed_by(values[k], x);
    }
    total += sum;
  }
  if (m < p.count) static_cast<T*>(p.y)[m] = total;
}

template <typename T>
SO_KERNEL(kWalshThreads, 2)
walsh_sum_terms(const WalshSumParams p) {
  u64* points = dynamic_shared<u64>();  // (kWalshPoints, words), then 32 sums
  const i64 first = i64(blockIdx.x) * kWalshPoints, words = p.words;
  T* buffer = reinterpret_cast<T*>(points + kWalshPoints * words);
  for (i64 at = threadIdx.x; at < kWalshPoints * words; at += blockDim.x)
    points[at] = first * words + at < p.count * words ? u64(p.points[first * words + at]) : 0;
  __syncthreads();
  T total[kWalshPoints] = {}, sum[kWalshPoints] = {};
  int chain = 0;
  for (i64 k = threadIdx.x; k < p.terms; k += blockDim.x) {
    u64 x[kWalshPoints] = {};
    for (i64 w = 0; w < words; ++w) {
      const u64 key = u64(p.keys[k * words + w]);
      SO_UNROLL
      for (int i = 0; i < kWalshPoints; ++i) x[i] ^= points[i * words + w] & key;
    }
    const T value = static_cast<const T*>(p.values)[k];
    SO_UNROLL
    for (int i = 0; i < kWalshPoints; ++i) sum[i] += walsh::signed_by(value, x[i]);
    if (++chain == kWalshChain) {
      chain = 0;
      SO_UNROLL
      for (int i = 0; i < kWalshPoints; ++i) total[i] += sum[i], sum[i] = T(0);
    }
  }
  for (int i = 0; i < kWalshPoints; ++i) {
    const T all = block_sum(total[i] + sum[i], buffer);
    if (threadIdx.x == 0 && first + i < p.count) static_cast<T*>(p.y)[first + i] = all;
    __syncthreads();
  }
}

}  // namespace spectralops

// The base factor H_m, m <= 256: y[j] = sum_i (+-1) x[i] over m numbers that lie 2^k (or inner) apart, i ascending.
// The table is packed one bit an entry, set where H_m is -1; bits become the factors 1 and -1 of a fused multiply-add,
// which is exact, so an entry costs one instruction.
#pragma once

#include "spectralops/hadamard_tile.h"

namespace spectralops {
namespace hadamard {

constexpr int kBaseOutputs = 4;  // outputs a thread sums from one read of its inputs
constexpr int kBaseItems = 2;    // times it does so before any sum is written back
// Neighbouring places a thread takes at once.
template <typename C> SO_HOST_DEVICE int base_places(int k) { return k < 2 ? 1 : sizeof(C) == 8 ? 2 : 4; }

template <typename C> SO_DEVICE C signed_one(u32 bit) { return bit & 1u ? C(0) - C(1) : C(1); }
template <> SO_DEVICE float signed_one<float>(u32 bit) { return bits_float(0x3f800000u | (bit << 31)); }

// Words of 32 bits in a row of the table, whose rows are whole 64-bit words.
SO_HOST_DEVICE int base_words(int m) { return 2 * ((m + 63) / 64); }

// sum[o][q] = sum_i H[j0 + o][i] x(i)[q]; read(i, x) fetches P numbers.
template <typename C, int P, typename Read>
SO_DEVICE void base_sums(const u32* table, int m, int j0, const Read& read, C (&sum)[kBaseOutputs][P]) {
  const int words = base_words(m);
  SO_UNROLL
  for (int o = 0; o < kBaseOutputs; ++o)
    SO_UNROLL
    for (int q = 0; q < P; ++q) sum[o][q] = C(0);
  SO_UNROLL_BY(1)
  for (int first = 0; first < m; first += 32) {
    u32 bits[kBaseOutputs];
    SO_UNROLL
    for (int o = 0; o < kBaseOutputs; ++o) bits[o] = j0 + o < m ? table[(j0 + o) * words + first / 32] : 0u;
    const int last = first + 32 < m ? first + 32 : m;
    SO_UNROLL_BY(1)
    for (int i = first; i < last; ++i) {
      C x[P];
      read(i, x);
      SO_UNROLL
      for (int o = 0; o < kBaseOutputs; ++o) {
        const C sign = signed_one<C>(bits[o]);
        bits[o] >>= 1;
        SO_UNROLL
        for (int q = 0; q < P; ++q) sum[o][q] += sign * x[q];
      }
    }
  }
}

// The rows of a block, m rows of 2^k at a time, through shared memory: v in the edge layout before and after. A
// thread takes P neighbouring places of four outputs at a time and keeps all its sums until every thread has read.
template <int P, typename T>
SO_DEVICE void combine_in_shared(const u32* table, int m, int groups, int k, compute_t<T>* shared) {
  using C = compute_t<T>;
  constexpr int width = 16 / int(sizeof(C)) < P ? 16 / int(sizeof(C)) : P;
  const int place_bits = k - (P == 4 ? 2 : P - 1), quads = (m + kBaseOutputs - 1) / kBaseOutputs,
            total = (groups * quads) << place_bits;
  C sum[kBaseItems][kBaseOutputs][P];
  SO_UNROLL
  for (int n = 0; n < kBaseItems; ++n) {
    const int item = int(threadIdx.x + n * blockDim.x), rest = item >> place_bits;
    if (item >= total) continue;
    const int row = rest / quads * m, at = pad<T>((item & ((1 << place_bits) - 1)) * P);
    base_sums(
        table, m, rest % quads * kBaseOutputs,
        [&](int i, C(&x)[P]) {
          const C* from = shared + pad<T>((row + i) << k) + at;
          SO_UNROLL
          for (int q = 0; q < P; q += width) {
            const Pack<C, width> pack = *reinterpret_cast<const Pack<C, width>*>(from + q);
            SO_UNROLL
            for (int e = 0; e < width; ++e) x[q + e] = pack.v[e];
          }
        },
        sum[n]);
  }
  __syncthreads();
  SO_UNROLL
  for (int n = 0; n < kBaseItems; ++n) {
    const int item = int(threadIdx.x + n * blockDim.x), rest = item >> place_bits;
    if (item >= total) continue;
    const int row = rest / quads * m, at = pad<T>((item & ((1 << place_bits) - 1)) * P),
              j0 = rest % quads * kBaseOutputs;
    SO_UNROLL
    for (int o = 0; o < kBaseOutputs; ++o)
      SO_UNROLL
      for (int q = 0; q < P; ++q)
        if (j0 + o < m) shared[pad<T>((row + j0 + o) << k) + at + q] = sum[n][o][q];
  }
}

template <typename T, int K>
SO_DEVICE void combine_base(const void* base, int m, int block_rows, const Tile<T, K>& tile, compute_t<T>* shared,
                            compute_t<T> (&v)[kValues]) {
  const u32* table = static_cast<const u32*>(base);
  tile.put(shared, v);
  __syncthreads();
  if (tile.k >= 2)
    combine_in_shared<sizeof(compute_t<T>) == 8 ? 2 : 4, T>(table, m, block_rows / m, tile.k, shared);
  else
    combine_in_shared<1, T>(table, m, block_rows / m, tile.k, shared);
  __syncthreads();
  Tile<T, K>(tile.k).get(shared, v);
}

}  // namespace hadamard
}  // namespace spectralops

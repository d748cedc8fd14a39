// Rotation and quantisation in one pass: the rotated values stay in registers while their groups' magnitudes are
// found, so the input is read once and only codes and scales are written. The rotation is the one of hadamard_rows,
// so its values are the same bits.
#pragma once

#include "spectralops/formats.h"
#include "spectralops/hadamard_rows.h"

namespace spectralops {
namespace hadamard {

struct Quantise {
  Rows rows;  // y unused; rows of 2^k numbered through all of x; block_rows * 2^k is a multiple of group
  void* q;
  void* scales;
  int group;
  int team_bits;      // >= 0: a group is 2^team_bits neighbouring lanes of one vector each; -1: groups meet in shared
                      // memory
  int whole_vectors;  // a vector of x never holds two groups, and q takes whole vectors
  int round_rotation;
};

// Codes of N neighbouring elements, at element `at` of the output.
template <typename Q, int N> SO_DEVICE void store_codes(void* q, i64 at, const u8 (&code)[N]) {
  constexpr int bytes = Q::packed ? N / 2 : N;
  Pack<u8, bytes> pack;
  SO_UNROLL
  for (int i = 0; i < bytes; ++i) pack.v[i] = Q::packed ? u8(code[2 * i % N] | (code[(2 * i + 1) % N] << 4)) : code[i];
  *reinterpret_cast<Pack<u8, bytes>*>(static_cast<u8*>(q) + (Q::packed ? at / 2 : at)) = pack;
}

// A group is one vector of each lane of a team: shuffles find its magnitude, without shared memory.
template <int Format, typename T, int K>
SO_DEVICE void quantise_teams(const Quantise& p, const Tile<T, K>& tile, i64 first_row, const float (&v)[kValues]) {
  using Q = Quantiser<Format>;
  constexpr int N = Tile<T, K>::vector;
  SO_UNROLL
  for (int slot = 0; slot < Tile<T, K>::slots; ++slot) {
    u32 amax = 0;
    SO_UNROLL
    for (int e = 0; e < N; ++e) {
      const u32 m = Q::magnitude(v[slot * N + e]);
      amax = m > amax ? m : amax;
    }
    for (int bit = 0; bit < p.team_bits; ++bit) {
      const u32 m = __shfl_xor_sync(0xffffffffu, amax, 1 << bit);
      amax = m > amax ? m : amax;
    }
    const int element = tile.element(slot);
    if (!inside(p.rows, first_row, element >> tile.k)) continue;
    const Q group = Q::of(amax);
    u8 code[N];
    SO_UNROLL
    for (int e = 0; e < N; ++e) code[e] = group.code(v[slot * N + e]);
    const i64 at = (first_row << tile.k) + element;
    store_codes<Q, N>(p.q, at, code);
    if ((element & (p.group - 1)) == 0) group.store_scale(p.scales, at >> (p.team_bits + tile.g));
  }
}

// Whole vectors, any number of vectors a group: magnitudes meet in shared memory by a maximum of integers, which no
// order changes.
template <int Format, typename T, int K>
SO_DEVICE void find_magnitudes(const Quantise& p, const Tile<T, K>& tile, u32* amax, const float (&v)[kValues]) {
  using Q = Quantiser<Format>;
  constexpr int N = Tile<T, K>::vector;
  const int elements = p.rows.block_rows << tile.k, groups = elements / p.group;
  u32 most = 0;
  SO_UNROLL
  for (int slot = 0; slot < Tile<T, K>::slots; ++slot) {
    const int element = tile.element(slot);
    if (element >= elements) continue;
    SO_UNROLL
    for (int e = 0; e < N; ++e) {
      const u32 m = Q::magnitude(v[slot * N + e]);
      most = m > most ? m : most;
    }
    if (groups == 1) continue;
    atomicMax(amax + element / p.group, most);
    most = 0;
  }
  if (groups == 1) {
    most = __reduce_max_sync(0xffffffffu, most);
    if ((threadIdx.x & 31u) == 0) atomicMax(amax, most);
  }
}

template <int Format, typename T, int K>
SO_DEVICE void quantise_vectors(const Quantise& p, const Tile<T, K>& tile, i64 first_row, const u32* amax,
                                const float (&v)[kValues]) {
  using Q = Quantiser<Format>;
  constexpr int N = Tile<T, K>::vector;
  SO_UNROLL
  for (int slot = 0; slot < Tile<T, K>::slots; ++slot) {
    const int element = tile.element(slot);
    if (!inside(p.rows, first_row, element >> tile.k)) continue;
    const Q group = Q::of(amax[element / p.group]);
    u8 code[N];
    SO_UNROLL
    for (int e = 0; e < N; ++e) code[e] = group.code(v[slot * N + e]);
    store_codes<Q, N>(p.q, (first_row << tile.k) + element, code);
  }
}

// Groups and blocks of any size: the values themselves go through shared memory.
template <int Format, typename T, int K>
SO_DEVICE void quantise_each(const Quantise& p, const Tile<T, K>& tile, i64 first_row, float* shared, u32* amax,
                             const float (&v)[kValues]) {
  using Q = Quantiser<Format>;
  const i64 start = first_row << tile.k, left = (p.rows.rows << tile.k) - start;
  const int size = p.rows.block_rows << tile.k, elements = left < size ? int(left) : size;
  tile.put(shared, v);
  __syncthreads();
  for (int i = int(threadIdx.x); i < elements; i += int(blockDim.x))
    atomicMax(amax + i / p.group, Q::magnitude(shared[pad<T>(i)]));
  __syncthreads();
  constexpr int codes = Q::packed ? 2 : 1;  // of a byte; blocks start, and dim ends, on an even element
  for (int i = int(threadIdx.x) * codes; i < elements; i += int(blockDim.x) * codes) {
    const u8 low = Q::of(amax[i / p.group]).code(shared[pad<T>(i)]);
    u8* q = static_cast<u8*>(p.q);
    if (Q::packed)
      q[(start + i) / 2] = u8(low | (Q::of(amax[(i + 1) / p.group]).code(shared[pad<T>(i + 1)]) << 4));
    else
      q[start + i] = low;
  }
}

template <int Format, typename T, int K>
SO_DEVICE void quantise_shared(const Quantise& p, const Tile<T, K>& tile, i64 first_row, float* shared, u32* amax,
                               const float (&v)[kValues]) {
  const int groups = (p.rows.block_rows << tile.k) / p.group;
  for (int i = int(threadIdx.x); i < groups; i += int(blockDim.x)) amax[i] = 0;
  __syncthreads();
  if (p.whole_vectors) {
    find_magnitudes<Format>(p, tile, amax, v);
    __syncthreads();
    quantise_vectors<Format>(p, tile, first_row, amax, v);
  } else {
    quantise_each<Format>(p, tile, first_row, shared, amax, v);
  }
  const i64 first_group = quotient(first_row << tile.k, p.group), last_group = quotient(p.rows.rows << tile.k, p.group);
  for (int i = int(threadIdx.x); i < groups && first_group + i < last_group; i += int(blockDim.x))
    Quantiser<Format>::of(amax[i]).store_scale(p.scales, first_group + i);
  __syncthreads();
}

}  // namespace hadamard

template <typename T, int Format, bool Base>
SO_KERNEL((hadamard::threads_of<T, -1>::value), 1)
hadamard_quantize_rows(const hadamard::Quantise p) {
  float* shared = dynamic_shared<float>();
  u32* amax = reinterpret_cast<u32*>(shared + hadamard::pad<T>(int(blockDim.x) * hadamard::kValues));
  float v[hadamard::kValues];
  const i64 step = i64(gridDim.x) * p.rows.block_rows;
  for (i64 row = i64(blockIdx.x) * p.rows.block_rows; row < p.rows.rows; row += step) {
    hadamard::rotate<Base, T, -1>(p.rows, row, shared, v);
    const hadamard::Tile<T, -1> tile(p.rows.k);
    if (p.round_rotation) {
      SO_UNROLL
      for (int r = 0; r < hadamard::kValues; ++r) v[r] = widen(narrow<T>(v[r]));
    }
    if (p.team_bits >= 0)
      hadamard::quantise_teams<Format>(p, tile, row, v);
    else
      hadamard::quantise_shared<Format>(p, tile, row, shared, amax, v);
    if (Base) return;  // as in hadamard_rows
  }
}

}  // namespace spectralops

// The sparse Walsh-Hadamard decoder on a GPU (ops/sparse_wht_reference.py has the formulas): what a problem
// consists of, its transform, the signs of a key, and what a warp does with them.
//
// A slot is a bin of a group, c 2^b + j; its P samples lie next to each other, p = q (checks + 1) + i, and a
// warp of 32 lanes handles it, lane i the samples i, i + 32, ..  A key that a slot found in a round is known
// by that slot until the next one: `there` has the round in which a slot last found a key, so that nothing is
// cleared between rounds.  What is to be subtracted from a bin is a list over the slots that found it, linked
// by exchanges in any order and read in rising order, so that sums do not depend on it.
#pragma once

#include "spectralops/bch.h"
#include "spectralops/reduce.h"

namespace spectralops {

enum { kSparseExact = 0, kSparseNso = 1, kSparseBch = 2 };

// Byte offsets of the arrays of one problem, in shared memory or in the workspace; u of all problems stands
// apart in the workspace.
struct SparseLayout {
  i64 found, scratch, u, energy, rho, mean, there, place, bins, next, head, dictionary, link, state, bytes;
};

struct SparseParams {
  const void* values;
  const int* index;
  const i64 *to_bin_rows, *to_bin_columns, *to_key_columns, *base, *check_columns;
  const int* field;
  i64* keys;
  void* coefficients;
  int* counts;
  void *energy, *noise, *u;
  unsigned char* work;
  SparseLayout at;
  i64 queries, problems;
  double tau_try, tau, tau_one, theta, refuse, given;
  int groups, b, n, words, check_words, repeats, checks, samples, scheme, hard, degree, chase, capacity, rounds;
  int scratch;                   // of a warp, in 8-byte words
  int chunk;                     // slots that a warp looks at in one go
  int blocks;                    // of a problem
  int round, phase;              // of this launch
  int step, stages;              // of a pass of the transform: 2^step rows apart, 2^stages of them
  int first, last;
};
enum { kSparseBegin = 0, kSparseRound = 1, kSparseFinish = 2 };

struct SparseState {
  int done, all, estimates;
};

template <typename T> struct SparseView {  // of one problem
  T *u, *energy, *rho, *mean, *values, *noise;
  int *there, *place, *bins, *next, *head, *dictionary, *link, *count;
  u64 *found, *keys;
  SparseState* state;
};

template <typename T>
SO_DEVICE SparseView<T> sparse_view(const SparseParams& p, unsigned char* base, bool inside, i64 problem) {
  const SparseLayout& at = p.at;
  const i64 slots = i64(p.groups) << p.b;
  SparseView<T> w;
  w.u = inside ? reinterpret_cast<T*>(base + at.u) : static_cast<T*>(p.u) + problem * slots * p.samples;
  w.energy = inside ? reinterpret_cast<T*>(base + at.energy) : static_cast<T*>(p.energy) + problem * slots;
  w.rho = reinterpret_cast<T*>(base + at.rho);
  w.mean = reinterpret_cast<T*>(base + at.mean);
  w.there = reinterpret_cast<int*>(base + at.there);
  w.place = reinterpret_cast<int*>(base + at.place);
  w.bins = reinterpret_cast<int*>(base + at.bins);
  w.next = reinterpret_cast<int*>(base + at.next);
  w.head = reinterpret_cast<int*>(base + at.head);
  w.dictionary = reinterpret_cast<int*>(base + at.dictionary);
  w.link = reinterpret_cast<int*>(base + at.link);
  w.found = reinterpret_cast<u64*>(base + at.found);
  w.state = reinterpret_cast<SparseState*>(base + at.state);
  w.values = static_cast<T*>(p.coefficients) + problem * p.capacity;
  w.noise = static_cast<T*>(p.noise) + problem * 2;
  w.keys = reinterpret_cast<u64*>(p.keys) + problem * p.capacity * p.words;
  w.count = p.counts + problem;
  return w;
}

namespace sparse {

constexpr u32 kAll = 0xffffffffu;

SO_DEVICE u32 lane() { return threadIdx.x & 31u; }
SO_DEVICE int bit_of(const u64* words, int at) { return int(words[at >> 6] >> (at & 63)) & 1; }
SO_DEVICE u64 both_halves(bool low, bool high) {
  const u32 first = __ballot_sync(kAll, low), second = __ballot_sync(kAll, high);
  return u64(second) << 32 | first;
}
SO_DEVICE int parity(const i64* row, const u64* key, int words) {
  u64 x = 0;
  for (int w = 0; w < words; ++w) x ^= u64(row[w]) & key[w];
  return __popcll(x) & 1;
}

// ---- transform over l, in place: 2^S rows in registers, neighbouring samples in neighbouring lanes --------

template <int S, typename T> SO_DEVICE void butterflies(T (&v)[1 << S]) {
  SO_UNROLL
  for (int h = 1; h < 1 << S; h *= 2)
    SO_UNROLL
    for (int i = 0; i < 1 << S; ++i)
      if (!(i & h)) {
        const T a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = a - b;
      }
}

template <int S, typename T> SO_DEVICE void transform_pass(T* u, u32 rows, u32 samples, int step) {
  const u32 items = (rows >> S) * samples;
  for (u32 item = threadIdx.x; item < items; item += blockDim.x) {
    const u32 q = item / samples, low = q & ((1u << step) - 1);
    T* at = u + ((((q >> step) << (step + S)) + low) * samples + (item - q * samples));
    const u32 apart = samples << step;
    T v[1 << S];
    SO_UNROLL
    for (int r = 0; r < 1 << S; ++r) v[r] = at[r * apart];
    butterflies<S>(v);
    SO_UNROLL
    for (int r = 0; r < 1 << S; ++r) at[r * apart] = v[r];
  }
}

// ---- the signs of a key -----------------------------------------------------------------------------------

template <typename T> struct Scratch {  // of a warp
  u64* key;    // words
  u64* row;    // bits from `lead` on: <row_i, k> at lead + i - 1; exact: all of t = A^T k
  u64* shift;  // repeats bits: <base_q, k>
  T* weight;   // repeats
  T* level;    // bch: checks + 1
};
template <typename T> SO_DEVICE Scratch<T> scratch_of(const SparseParams& p, u64* at) {
  const int bits = p.n > p.checks ? p.n : p.checks;
  Scratch<T> s;
  s.key = at;
  s.row = s.key + p.words;
  s.shift = s.row + bits / 64 + 1;
  s.weight = reinterpret_cast<T*>(s.shift + (p.repeats + 63) / 64);
  s.level = s.weight + p.repeats + (p.repeats & 1);
  return s;
}

SO_DEVICE int lead_of(const SparseParams& p) { return p.scheme == kSparseExact ? p.b : 0; }

// out: the sum over F_2 of the columns at the bits of `selected`, n columns of `words` words.  Lanes are
// parts of the columns times words.
SO_DEVICE void sum_of_columns(const i64* columns, int n, int words, const u64* selected, u64* out) {
  int width = 1;
  while (width < words && width < 32) width *= 2;
  const int me = int(lane()), parts = 32 / width, part = me / width;
  for (int first = 0; first < words; first += width) {
    const int w = first + me % width;
    u64 x = 0;
    if (w < words)
      for (int at = part; at < n; at += parts)
        if (bit_of(selected, at)) x ^= u64(columns[i64(at) * words + w]);
    for (int offset = width; offset < 32; offset *= 2) x ^= __shfl_xor_sync(kAll, x, offset);
    if (part == 0 && w < words) out[w] = x;
  }
  __syncwarp();
}

template <typename T> SO_DEVICE void shift_of(const SparseParams& p, const Scratch<T>& s, int c) {
  const i64* base = p.base + i64(c) * p.repeats * p.words;
  for (int first = 0; first < p.repeats; first += 64) {
    bool odd[2];
    for (int half = 0; half < 2; ++half) {
      const int q = first + 32 * half + int(lane());
      odd[half] = q < p.repeats && parity(base + i64(q) * p.words, s.key, p.words);
    }
    const u64 word = both_halves(odd[0], odd[1]);
    if (lane() == 0) s.shift[first / 64] = word;
  }
  __syncwarp();
}

// s.key -> s.row, s.shift in group c.
template <typename T> SO_DEVICE void signs_of(const SparseParams& p, const Scratch<T>& s, int c) {
  if (p.scheme == kSparseExact)
    sum_of_columns(p.to_bin_columns + i64(c) * p.n * p.words, p.n, p.words, s.key, s.row);
  else if (p.scheme == kSparseBch)
    sum_of_columns(p.check_columns, p.n, p.check_words, s.key, s.row);
  else
    for (int w = int(lane()); w < p.words; w += 32) s.row[w] = s.key[w];
  shift_of(p, s, c);
}

// Calls f(sample, whether s_p(k) = -1) for every sample of this lane.
template <typename T, typename F> SO_DEVICE void each_sign(const SparseParams& p, const Scratch<T>& s, const F& f) {
  const int lead = lead_of(p), width = p.checks + 1;
  for (int q = 0; q < p.repeats; ++q) {
    const int shift = bit_of(s.shift, q);
    for (int i = int(lane()); i < width; i += 32) f(q * width + i, (i ? bit_of(s.row, lead + i - 1) : 0) != shift);
  }
}

// M_c^T k, in every lane: b <= 30 parities.
SO_DEVICE int bin_of(const SparseParams& p, const u64* key, int c) {
  const int i = int(lane());
  return int(__ballot_sync(kAll, i < p.b && parity(p.to_bin_rows + (i64(c) * p.n + i) * p.words, key, p.words)));
}

// ---- subtraction of what was found, and energy ------------------------------------------------------------

template <typename T> SO_DEVICE void peel(const SparseParams& p, const SparseView<T>& w, const Scratch<T>& s, int slot) {
  const int c = slot >> p.b, none = 0x7fffffff;
  T* u = w.u + i64(slot) * p.samples;
  for (int last = -1;;) {
    int first = none;
    for (int k = w.head[slot]; k >= 0; k = w.next[i64(k) * p.groups + c])
      if (k > last && k < first) first = k;
    if (first == none) break;
    const u64* key = w.keys + i64(w.place[first]) * p.words;
    for (int i = int(lane()); i < p.words; i += 32) s.key[i] = key[i];
    __syncwarp();
    signs_of(p, s, c);
    const T r = w.mean[first];
    each_sign(p, s, [&](int at, bool minus) { u[at] -= minus ? -r : r; });
    last = first;
    __syncwarp();
  }
  __syncwarp();
  if (lane() == 0) w.head[slot] = -1;
}

template <typename T> SO_DEVICE T magnitude(T x) { return x < T(0) ? -x : x; }

// mean_p U_p^2, and mean_p |U_p| beside it.
template <typename T> SO_DEVICE T energy_of(const SparseParams& p, const T* u, T* mean) {
  T squares = T(0), sum = T(0);
  for (int at = int(lane()); at < p.samples; at += 32) {
    squares += u[at] * u[at];
    sum += magnitude(u[at]);
  }
  *mean = lanes_sum<32>(sum) / T(p.samples);
  return lanes_sum<32>(squares) / T(p.samples);
}

}  // namespace sparse
}  // namespace spectralops

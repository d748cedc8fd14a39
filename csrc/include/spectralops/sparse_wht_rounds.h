// The phases of a round, and the kernels that run them: one block a problem that fits shared memory, else one
// launch a phase.
//
//   bins    a warp a slot: what was found is subtracted, the energy noted, the bin tested
//   vote    a warp a slot that found a key: its bins in all groups, who else found it, is it refused or known;
//           step 6 is here, where all bins stand as the round's detection saw them
//   append  a block a problem: new keys in the order of slots, lists of what to subtract, the end of the round
#pragma once

#include "spectralops/sparse_wht_detect.h"

namespace spectralops {
namespace sparse {

// Calls f(slot), by a whole warp, for the slots of which a lane says that they are wanted.
template <typename W, typename F>
SO_DEVICE void each_slot(const SparseParams& p, i64 block, i64 blocks, const W& wanted, const F& f) {
  const i64 slots = i64(p.groups) << p.b, warps = blockDim.x / 32, step = p.chunk * warps * blocks;
  for (i64 first = (block * warps + threadIdx.x / 32) * p.chunk; first < slots; first += step) {
    const i64 own = first + lane();
    u32 those = __ballot_sync(kAll, int(lane()) < p.chunk && own < slots && wanted(int(own)));
    for (; those; those &= those - 1) f(int(first) + __ffs(int(those)) - 1);
  }
}

template <bool CODED, typename T>
SO_DEVICE void bins_phase(const SparseParams& p, const SparseView<T>& w, const Scratch<T>& s, i64 block, i64 blocks, int phase,
                          int round) {
  const bool every = phase == kSparseBegin || (phase == kSparseRound && w.state->all);
  const T v = phase == kSparseRound ? w.noise[0] : T(0);
  each_slot(
      p, block, blocks, [&](int slot) { return every || w.head[slot] >= 0; },
      [&](int slot) {
        T mean;
        if (phase == kSparseBegin) {
          if (lane() == 0) w.head[slot] = w.there[slot] = -1;
          if (lane() == 0 && slot >> p.b == 0) w.dictionary[slot] = -1;
        } else {
          peel(p, w, s, slot);
        }
        __syncwarp();
        const T e = energy_of(p, w.u + i64(slot) * p.samples, &mean);
        if (lane() == 0) w.energy[slot] = e;
        if (phase == kSparseRound) detect<CODED>(p, w, s, slot, round, e, mean, v);
        __syncwarp();
      });
}

// The place of a key among those found in earlier rounds, -1 if it is new: a chain for each bin of group 0.
template <typename T> SO_DEVICE int place_of(const SparseParams& p, const SparseView<T>& w, const u64* key, int bin) {
  for (int k = w.dictionary[bin]; k >= 0; k = w.link[k]) {
    const u64* other = w.keys + i64(k) * p.words;
    bool equal = true;
    for (int i = int(lane()); i < p.words; i += 32) equal = equal && key[i] == other[i];
    if (__all_sync(kAll, equal)) return k;
  }
  return -1;
}

// Step 6 of s.key, found in group g with lane g's rho: whether the key's bin in an empty group has nothing of it.
// Lane g says whether group g's bin, at `place`, is empty.
template <typename T>
SO_DEVICE bool refused_by(const SparseParams& p, const SparseView<T>& w, const Scratch<T>& s, bool empty, int place, T rho, T v) {
  bool refused = false;
  for (u32 those = __ballot_sync(kAll, empty); those; those &= those - 1) {
    const int group = __ffs(int(those)) - 1;
    signs_of(p, s, group);
    const T off = correlation(p, s, w.u + i64(__shfl_sync(kAll, place, group)) * p.samples) - rho;
    refused = refused || off * off > T(p.refuse) * v;
    __syncwarp();
  }
  return refused;
}

template <typename T>
SO_DEVICE void vote_phase(const SparseParams& p, const SparseView<T>& w, const Scratch<T>& s, i64 block, i64 blocks, int round) {
  const T v = w.noise[0];
  each_slot(
      p, block, blocks, [&](int slot) { return w.there[slot] == round; },
      [&](int slot) {
        const int c = slot >> p.b, g = int(lane());
        const u64* key = s.key;
        for (int i = g; i < p.words; i += 32) s.key[i] = w.found[i64(slot) * p.words + i];
        __syncwarp();
        int bin = 0;
        for (int group = 0; group < p.groups; ++group) {
          const int its = bin_of(p, key, group);
          if (g == group) bin = its;
        }
        const bool other = g < p.groups && g != c;
        const int place = other ? (g << p.b) + bin : slot;
        bool same = other && w.there[place] == round;
        for (int i = 0; same && i < p.words; ++i) same = w.found[i64(place) * p.words + i] == key[i];
        const bool finder = same || g == c, empty = other && w.energy[place] <= T(p.tau_try) * v;
        const T rho = w.rho[slot], own = finder ? w.rho[place] : T(0);
        const bool refused = refused_by(p, w, s, empty, place, own, v), kept = finder && !refused;
        const u32 voters = __ballot_sync(kAll, kept);
        const bool taken = (voters & ((2u << c) - 1)) == 1u << c;  // it is kept, and of no group before c
        const int count = __popc(voters | 1u << c);
        const T its = kept && g != c ? own : T(0);
        T total = rho;
        for (int group = 0; group < p.groups; ++group) total += __shfl_sync(kAll, its, group);
        const int known = place_of(p, w, key, __shfl_sync(kAll, bin, 0));
        if (g < p.groups) w.bins[i64(slot) * p.groups + g] = bin;
        if (g == 0) w.mean[slot] = total / T(count), w.place[slot] = taken ? known : -2;
        __syncwarp();
      });
}

// ---- a block's sums ---------------------------------------------------------------------------------------

// Two numbers at a time, in every thread; two buffers in turn take one barrier a sum.
template <typename T> struct BlockSums {
  T* sums;      // (2, 32)
  int* counts;  // (2, 32)
  int turn, warps;
  SO_DEVICE BlockSums(unsigned char* shared)
      : sums(reinterpret_cast<T*>(shared)), counts(reinterpret_cast<int*>(shared + 64 * sizeof(T))), turn(0),
        warps(int(blockDim.x / 32)) {}
  SO_DEVICE void operator()(T* sum, int* count) {
    const T own = lanes_sum<32>(*sum);
    const int mine = lanes_sum<32>(*count);
    if (lane() == 0) sums[turn + threadIdx.x / 32] = own, counts[turn + threadIdx.x / 32] = mine;
    __syncthreads();
    *sum = T(0), *count = 0;
    for (int i = 0; i < warps; ++i) *sum += sums[turn + i], *count += counts[turn + i];
    turn ^= 32;
  }
  // The sum of one number a warp, and the sum of those before this warp.
  SO_DEVICE int count(int of_warp, int* before) {
    if (lane() == 0) counts[turn + threadIdx.x / 32] = of_warp;
    __syncthreads();
    int total = 0;
    *before = 0;
    for (int i = 0; i < warps; ++i) {
      if (i == int(threadIdx.x / 32)) *before = total;
      total += counts[turn + i];
    }
    turn ^= 32;
    return total;
  }
};

SO_DEVICE u32 order_bits(float x) { return float_bits(x); }  // of numbers that are not negative, in their order
SO_DEVICE u64 order_bits(double x) { return u64(__double_as_longlong(x)); }
SO_DEVICE float number_of(u32 bits) { return bits_float(bits); }
SO_DEVICE double number_of(u64 bits) { return __longlong_as_double(i64(bits)); }

// The k-th smallest energy by bisection on its bits: the largest number below which there are fewer than k.
template <typename T> SO_DEVICE T smallest(const T* energy, int slots, int k, BlockSums<T>& sums) {
  using Bits = decltype(order_bits(T(0)));
  Bits found = 0;
  for (int bit = int(sizeof(T)) * 8 - 2; bit >= 0; --bit) {
    const Bits trial = found | Bits(1) << bit;
    int below = 0, before;
    for (i64 first = threadIdx.x & ~31u; first < slots; first += blockDim.x) {
      const i64 at = first + lane();
      below += __popc(__ballot_sync(kAll, at < slots && order_bits(energy[at < slots ? at : 0]) < trial));
    }
    if (sums.count(below, &before) < k) found = trial;
  }
  return number_of(found);
}

template <typename T> SO_DEVICE T noise_of(const SparseParams& p, const T* energy, T floor, BlockSums<T>& sums) {
  const int slots = p.groups << p.b;
  const T least = smallest(energy, slots, (slots + 15) / 16, sums);
  T v = least > floor ? least : floor;
  for (int pass = 0, before = -1; pass < 64; ++pass) {
    const T limit = T(p.tau) * v;
    T sum = T(0);
    int count = 0;
    for (i64 at = threadIdx.x; at < slots; at += blockDim.x)
      if (energy[at] <= limit) sum += energy[at], ++count;
    sums(&sum, &count);
    if (count == before) break;
    before = count;
    const T mean = sum / T(count > 0 ? count : 1);
    if (count > 0) v = mean > floor ? mean : floor;
  }
  return v;
}

// ---- the end of a round -----------------------------------------------------------------------------------

template <typename T> SO_DEVICE void begin(const SparseParams& p, const SparseView<T>& w, BlockSums<T>& sums) {
  const int slots = p.groups << p.b;
  const T eps = sizeof(T) == 4 ? T(0x1p-24) : T(0x1p-53);
  T total = T(0);
  int none = 0;
  for (i64 at = threadIdx.x; at < slots; at += blockDim.x) total += w.energy[at];
  sums(&total, &none);
  const T floor = (T(8) * eps) * (T(8) * eps) * (total / T(p.groups));
  const T v = p.given < 0 ? noise_of(p, w.energy, floor, sums) : T(p.given) > floor ? T(p.given) : floor;
  if (threadIdx.x == 0) {
    w.noise[0] = v, w.noise[1] = floor;
    *w.state = SparseState{0, 1, 1};
    *w.count = 0;
  }
}

// A slot's key is taken: `place` is its own among the keys, in the list of each of its bins.
template <typename T> SO_DEVICE void take(const SparseParams& p, const SparseView<T>& w, int slot, int place, bool fresh) {
  const int* bins = w.bins + i64(slot) * p.groups;
  if (fresh) {
    for (int i = 0; i < p.words; ++i) w.keys[i64(place) * p.words + i] = w.found[i64(slot) * p.words + i];
    w.values[place] = w.mean[slot];
    w.place[slot] = place;
    w.link[place] = atomicExch(&w.dictionary[bins[0]], place);
  } else {
    w.values[place] += w.mean[slot];
  }
  for (int g = 0; g < p.groups; ++g) w.next[i64(slot) * p.groups + g] = atomicExch(&w.head[(g << p.b) + bins[g]], slot);
}

// A group's keys are taken in the order of its bins up to the first new one beyond the capacity.
template <typename T>
SO_DEVICE int append(const SparseParams& p, const SparseView<T>& w, int round, BlockSums<T>& sums, bool* full) {
  const int size = 1 << p.b;
  int base = *w.count, taken = 0;
  for (int g = 0; g < p.groups; ++g) {
    for (i64 first = 0; first < size; first += blockDim.x) {
      const i64 j = first + threadIdx.x;
      const int slot = (g << p.b) + int(j < size ? j : 0);
      const int place = j < size && w.there[slot] == round ? w.place[slot] : -2;
      const u32 fresh = __ballot_sync(kAll, place == -1);
      int before;
      const int total = sums.count(__popc(fresh), &before), mine = base + before + __popc(fresh & ((1u << lane()) - 1));
      if (place == -1 ? mine < p.capacity : place >= 0 && mine <= p.capacity) {
        take(p, w, slot, place == -1 ? mine : place, place == -1);
        ++taken;
      }
      base += total;
    }
    *full = *full || base > p.capacity;
    base = base > p.capacity ? p.capacity : base;
  }
  T none = T(0);
  sums(&none, &taken);
  if (threadIdx.x == 0) *w.count = base;
  return taken;
}

template <typename T>
SO_DEVICE void append_phase(const SparseParams& p, const SparseView<T>& w, int round, BlockSums<T>& sums) {
  SparseState state = *w.state;
  const T v = w.noise[0];
  bool full = false;
  const int taken = append(p, w, round, sums, &full);
  T again = v;
  state.all = 0;
  if (full) {
    state.done = 1;
  } else if (taken == 0) {
    state.done = p.given >= 0 || state.estimates == 3;
    if (!state.done) {
      again = noise_of(p, w.energy, w.noise[1], sums);
      ++state.estimates;
      state.done = again == v;
      state.all = 1;
    }
  }
  if (threadIdx.x == 0) {
    *w.state = state;
    w.noise[0] = again;
  }
}

// What an index out of range reads; a NaN that no test passes.
template <typename T> SO_DEVICE T no_sample() { return T(bits_float(0x7fc00000u)); }

// The samples of a problem, scaled, eight of them on their way at a time: each is two reads of device memory,
// one after the other.
template <typename T> SO_DEVICE void gather(const SparseParams& p, const T* values, T* u, u32 total, T scale) {
  constexpr int kWay = 8;
  const u32 count = p.queries < 0x7fffffff ? u32(p.queries) : 0x80000000u;
  for (u32 first = threadIdx.x; first < total; first += kWay * blockDim.x) {
    u32 from[kWay];
    T v[kWay];
    SO_UNROLL
    for (int i = 0; i < kWay; ++i) {
      const u32 at = first + i * blockDim.x;
      from[i] = at < total && p.index ? u32(p.index[at]) : at;
    }
    SO_UNROLL
    for (int i = 0; i < kWay; ++i) v[i] = from[i] < count ? values[from[i]] : no_sample<T>();
    SO_UNROLL
    for (int i = 0; i < kWay; ++i)
      if (first + i * blockDim.x < total) u[first + i * blockDim.x] = v[i] * scale;
  }
}

// Keys and coefficients beyond the count are zero.
template <typename T> SO_DEVICE void clear(const SparseParams& p, const SparseView<T>& w, i64 thread, i64 threads) {
  const i64 count = *w.count;
  for (i64 at = count + thread; at < p.capacity; at += threads) w.values[at] = T(0);
  for (i64 at = count * p.words + thread; at < i64(p.capacity) * p.words; at += threads) w.keys[at] = 0;
}

}  // namespace sparse

// ---- kernels ----------------------------------------------------------------------------------------------

// CODED: the scheme is bch, whose decoding takes registers that the others do without.
template <typename T, bool CODED>
SO_KERNEL(384, CODED || sizeof(T) == 8 ? 1 : 2)
sparse_wht_block(const SparseParams p) {
  unsigned char* shared = dynamic_shared<unsigned char>();
  const SparseView<T> w = sparse_view<T>(p, shared, true, blockIdx.x);
  u64* scratch = reinterpret_cast<u64*>(shared + p.at.scratch);
  const sparse::Scratch<T> s = sparse::scratch_of<T>(p, scratch + (threadIdx.x / 32) * p.scratch);
  sparse::BlockSums<T> sums(shared);
  const u32 rows = u32(p.groups) << p.b, total = rows * u32(p.samples);
  const T* values = static_cast<const T*>(p.values) + i64(blockIdx.x) * p.queries;
  const T scale = T(1) / T(1 << p.b);
  sparse::gather(p, values, w.u, total, scale);
  for (int step = 0; step < p.b; step += 3) {
    __syncthreads();
    if (p.b - step >= 3) sparse::transform_pass<3>(w.u, rows, u32(p.samples), step);
    else if (p.b - step == 2) sparse::transform_pass<2>(w.u, rows, u32(p.samples), step);
    else sparse::transform_pass<1>(w.u, rows, u32(p.samples), step);
  }
  __syncthreads();
  // One place for each phase, so that each is compiled once: round -1 begins, round `rounds` or the one after
  // the end finishes.
  for (int round = -1, phase = kSparseBegin; phase != kSparseFinish; ++round) {
    if (round >= 0) phase = round == p.rounds || w.state->done ? kSparseFinish : kSparseRound;
    sparse::bins_phase<CODED>(p, w, s, 0, 1, phase, round);
    __syncthreads();
    if (phase == kSparseRound) {
      sparse::vote_phase(p, w, s, 0, 1, round);
      __syncthreads();
      sparse::append_phase(p, w, round, sums);
    } else if (phase == kSparseBegin) {
      sparse::begin(p, w, sums);
    }
    __syncthreads();
  }
  sparse::clear(p, w, threadIdx.x, blockDim.x);
  T* energy = static_cast<T*>(p.energy) + i64(blockIdx.x) * rows;
  for (u32 at = threadIdx.x; at < rows; at += blockDim.x) energy[at] = w.energy[at];
}

// One pass of the transform in device memory; the first reads the samples, the last scales by 1 / B.
template <typename T, int S>
SO_KERNEL(256, 1)
sparse_wht_transform(const SparseParams p) {
  const u64 slots = u64(p.groups) << p.b, samples = u64(p.samples), items = (u64(p.problems) * slots >> S) * samples;
  const T scale = p.last ? T(1) / T(1 << p.b) : T(1);
  T* u = static_cast<T*>(p.u);
  for (u64 item = u64(blockIdx.x) * blockDim.x + threadIdx.x; item < items; item += u64(gridDim.x) * blockDim.x) {
    const u64 q = item / samples, row = ((q >> p.step) << (p.step + S)) + (q & ((u64(1) << p.step) - 1));
    const u64 at = row * samples + (item - q * samples), apart = samples << p.step;
    T v[1 << S];
    if (p.first) {
      const u64 problem = row / slots, local = at - problem * slots * samples;
      const T* values = static_cast<const T*>(p.values) + problem * u64(p.queries);
      SO_UNROLL
      for (int r = 0; r < 1 << S; ++r) {
        const u64 from = p.index ? u64(i64(p.index[local + r * apart])) : local + r * apart;
        v[r] = from < u64(p.queries) ? values[from] : sparse::no_sample<T>();
      }
    } else {
      SO_UNROLL
      for (int r = 0; r < 1 << S; ++r) v[r] = u[at + r * apart];
    }
    sparse::butterflies<S>(v);
    SO_UNROLL
    for (int r = 0; r < 1 << S; ++r) u[at + r * apart] = v[r] * scale;
  }
}

template <typename T> SO_DEVICE SparseView<T> sparse_outside(const SparseParams& p, i64 problem) {
  return sparse_view<T>(p, p.work + problem * p.at.bytes, false, problem);
}

template <typename T, bool CODED>
SO_KERNEL(256, CODED ? 2 : 3)
sparse_wht_bins(const SparseParams p) {
  const i64 problem = blockIdx.x / p.blocks, block = blockIdx.x % p.blocks;
  const SparseView<T> w = sparse_outside<T>(p, problem);
  if (p.phase == kSparseRound && w.state->done) return;
  const sparse::Scratch<T> s = sparse::scratch_of<T>(p, dynamic_shared<u64>() + (threadIdx.x / 32) * p.scratch);
  if (p.phase == kSparseFinish) sparse::clear(p, w, block * blockDim.x + threadIdx.x, i64(p.blocks) * blockDim.x);
  sparse::bins_phase<CODED>(p, w, s, block, p.blocks, p.phase, p.round);
}

template <typename T>
SO_KERNEL(256, 4)
sparse_wht_vote(const SparseParams p) {
  const SparseView<T> w = sparse_outside<T>(p, blockIdx.x / p.blocks);
  if (w.state->done) return;
  const sparse::Scratch<T> s = sparse::scratch_of<T>(p, dynamic_shared<u64>() + (threadIdx.x / 32) * p.scratch);
  sparse::vote_phase(p, w, s, blockIdx.x % p.blocks, p.blocks, p.round);
}

template <typename T>
SO_KERNEL(1024, 1)
sparse_wht_append(const SparseParams p) {
  const SparseView<T> w = sparse_outside<T>(p, blockIdx.x);
  sparse::BlockSums<T> sums(dynamic_shared<unsigned char>());
  if (p.phase == kSparseBegin) sparse::begin(p, w, sums);
  else if (!w.state->done) sparse::append_phase(p, w, p.round, sums);
}

}  // namespace spectralops

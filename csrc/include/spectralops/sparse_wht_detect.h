// Detection in a bin by a warp: reliabilities, the key that the signs give, and whether it explains the
// samples.
#pragma once

#include "spectralops/sparse_wht.h"

namespace spectralops {
namespace sparse {

// L_i, positive where <row_i, k> = 0.
template <typename T> struct Level {
  const T* u;
  const T* weight;  // null: U_(q,0)
  int repeats, width, hard;
  bool flip;
  SO_DEVICE T operator()(int i) const {
    T soft = T(0);
    int votes = 0;
    for (int q = 0; q < repeats; ++q) {
      const T first = u[q * width], own = u[q * width + i];
      soft += (weight ? weight[q] : first) * own;
      votes += (first < T(0)) == (own < T(0)) ? 1 : -1;
    }
    if (hard) return votes == 0 ? soft : votes > 0 ? magnitude(soft) : -magnitude(soft);
    return flip ? -soft : soft;
  }
};

// soft with several repeats: w_q = sum_i sgn(L_i) U_(q,i) takes the place of U_(q,0).
template <typename T> SO_DEVICE Level<T> level_of(const SparseParams& p, const Scratch<T>& s, const T* u) {
  Level<T> level{u, nullptr, p.repeats, p.checks + 1, p.hard, false};
  if (p.hard || p.repeats == 1) return level;
  for (int first = 0; first < level.width; first += 64) {
    const int i = first + int(lane());
    const u64 word = both_halves(i < level.width && level(i) < T(0), i + 32 < level.width && level(i + 32) < T(0));
    if (lane() == 0) s.row[first / 64] = word;
  }
  __syncwarp();
  for (int q = 0; q < p.repeats; ++q) {
    T sum = T(0);
    for (int i = int(lane()); i < level.width; i += 32) {
      const T own = u[q * level.width + i];
      sum += bit_of(s.row, i) ? -own : own;
    }
    sum = lanes_sum<32>(sum);
    if (lane() == 0) s.weight[q] = sum;
  }
  __syncwarp();
  level.weight = s.weight;
  level.flip = level(0) < T(0);
  return level;
}

// s.row: the bin's bits (exact), then the signs.
template <typename T> SO_DEVICE void signs_from(const SparseParams& p, const Scratch<T>& s, const Level<T>& level, int bin) {
  const int lead = lead_of(p), bits = lead + p.checks;
  for (int first = 0; first < bits; first += 64) {
    bool odd[2];
    for (int half = 0; half < 2; ++half) {
      const int at = first + 32 * half + int(lane());
      odd[half] = at < bits && (at < lead ? (bin >> at & 1) != 0 : level(at - lead + 1) < T(0));
    }
    const u64 word = both_halves(odd[0], odd[1]);
    if (lane() == 0) s.row[first / 64] = word;
  }
  if (p.scheme == kSparseBch)
    for (int i = int(lane()); i < level.width; i += 32) s.level[i] = level(i);
  __syncwarp();
}

// ---- codes ------------------------------------------------------------------------------------------------

SO_DEVICE BchField field_of(const SparseParams& p) {
  const int size = 1 << (p.checks / p.degree);
  return BchField{p.field, p.field + size, size - 1};
}

// The power sums that the signs in `row` give.
SO_DEVICE void power_sums(const SparseParams& p, const u64* row, int* sums) {
  const int m = p.checks / p.degree;
  for (int d = 0; d < p.degree; ++d) {
    sums[d] = 0;
    for (int i = 0; i < m; ++i) sums[d] |= bit_of(row, d * m + i) << i;
  }
}

// The power sums after flips at the places of `pattern`: lane e has the place of bit e, and that of row 0
// flips all others.
SO_DEVICE void flipped_sums(const SparseParams& p, const int* sums, u32 pattern, int weak, int depth, int* out) {
  const int m = p.checks / p.degree;
  for (int d = 0; d < p.degree; ++d) out[d] = sums[d];
  for (int e = 0; e < depth; ++e) {
    const int at = __shfl_sync(kAll, weak, e);
    if (!(pattern >> e & 1)) continue;
    if (at > 0)
      out[(at - 1) / m] ^= 1 << (at - 1) % m;
    else
      for (int d = 0; d < p.degree; ++d) out[d] ^= (1 << m) - 1;
  }
}

// Whether there are positions with these power sums, by one lane.
SO_DEVICE bool has_positions(const SparseParams& p, const int* sums) {
  const BchField field = field_of(p);
  int locator[kBchDegree + 1];
  const int length = bch_locator(field, sums, p.degree, locator);
  if (length > p.degree) return false;
  int roots = 0;
  for (int at = 0; at < p.n && roots < length; ++at) roots += bch_vanishes(field, locator, length, at);
  return roots == length;
}

// s.key: these positions, the roots by all lanes; all lanes have the same sums.
template <typename T> SO_DEVICE bool positions_of(const SparseParams& p, const Scratch<T>& s, const int* sums) {
  const BchField field = field_of(p);
  int locator[kBchDegree + 1], roots = 0;
  const int length = bch_locator(field, sums, p.degree, locator);
  if (length > p.degree) return false;
  for (int first = 0; first < p.n; first += 64) {
    const int at = first + int(lane());
    const u64 word = both_halves(at < p.n && bch_vanishes(field, locator, length, at),
                                 at + 32 < p.n && bch_vanishes(field, locator, length, at + 32));
    roots += __popcll(word);
    if (lane() == 0) s.key[first / 64] = word;
  }
  __syncwarp();
  return roots == length;
}

// ---- the test of a key ------------------------------------------------------------------------------------

// mean_p U_p s_p(k), the signs in s.row and s.shift.
template <typename T> SO_DEVICE T correlation(const SparseParams& p, const Scratch<T>& s, const T* u) {
  T sum = T(0);
  each_sign(p, s, [&](int at, bool minus) { sum += minus ? -u[at] : u[at]; });
  return lanes_sum<32>(sum) / T(p.samples);
}

// s.key in the bin, its signs in s.row: rho, and whether it explains the samples.
template <typename T> SO_DEVICE bool fits(const SparseParams& p, const Scratch<T>& s, const T* u, T v, T* rho) {
  const T r = correlation(p, s, u), limit = T(p.tau_one) * v;
  T squares = T(0);
  bool near = true;
  each_sign(p, s, [&](int at, bool minus) {
    const T left = u[at] - (minus ? -r : r);
    squares += left * left;
    near = near && left * left <= limit;
  });
  *rho = r;
  const bool small = lanes_sum<32>(squares) / T(p.samples) <= T(p.tau) * v && __all_sync(kAll, near);
  return small && T(p.samples) * (r * r) >= T(p.theta) * v;
}

template <typename T>
SO_DEVICE bool positions_fit(const SparseParams& p, const Scratch<T>& s, const int* sums, int c, int bin, const T* u, T v,
                             T* rho) {
  if (!positions_of(p, s, sums) || bin_of(p, s.key, c) != bin) return false;
  signs_of(p, s, c);
  return fits(p, s, u, v, rho);
}

// Lane e: the place of the e-th least |L_i|, of equal ones the first.
template <typename T> SO_DEVICE int weakest(const SparseParams& p, const Scratch<T>& s, int depth) {
  T before = T(-1);
  int before_at = -1, mine = 0;
  for (int e = 0; e < depth; ++e) {
    T best = T(0);
    int at = -1;
    for (int i = int(lane()); i <= p.checks; i += 32) {
      const T size = magnitude(s.level[i]);
      if ((size > before || (size == before && i > before_at)) && (at < 0 || size < best)) best = size, at = i;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      const T other = __shfl_xor_sync(kAll, best, offset);
      const int other_at = __shfl_xor_sync(kAll, at, offset);
      if (other_at >= 0 && (at < 0 || other < best || (other == best && other_at < at))) best = other, at = other_at;
    }
    before = best, before_at = at;
    if (int(lane()) == e) mine = at < 0 ? 0 : at;
  }
  return mine;
}

// The key that the signs give, and if there is none, of those that patterns of flips give, one pattern a
// lane, the key with the largest |rho|, in `key`.  One loop, so that the decoding of a code is compiled once
// for a lane and once for a warp.
template <typename T>
SO_DEVICE bool coded(const SparseParams& p, const Scratch<T>& s, int c, int bin, const T* u, T v, T* rho, u64* key) {
  int sums[kBchDegree], own[kBchDegree], weak = 0, depth = 0;
  power_sums(p, s.row, sums);
  __syncwarp();
  bool found = false;
  u32 those = 1, first = 0;  // pattern 0, then all patterns but it
  for (;;) {
    for (; those; those &= those - 1) {
      T r = T(0);
      flipped_sums(p, sums, first + u32(__ffs(int(those)) - 1), weak, depth, own);
      if (positions_fit(p, s, own, c, bin, u, v, &r) && (!found || magnitude(r) > magnitude(*rho))) {
        found = true;
        *rho = r;
        for (int i = int(lane()); i < p.words; i += 32) key[i] = s.key[i];
      }
      __syncwarp();
    }
    if (depth > 0) {
      first += 32;
    } else {
      if (found || p.chase == 0) return found;
      depth = p.chase < p.checks + 1 ? p.chase : p.checks + 1;
      weak = weakest(p, s, depth);
    }
    if (first >> depth) return found;
    const u32 pattern = first + lane();
    flipped_sums(p, sums, pattern, weak, depth, own);
    those = __ballot_sync(kAll, pattern > 0 && pattern >> depth == 0 && has_positions(p, own));
  }
}

// The key of a bin that holds one.
template <bool CODED, typename T>
SO_DEVICE bool single(const SparseParams& p, const Scratch<T>& s, int slot, const T* u, T v, T* rho, u64* key) {
  const int c = slot >> p.b, bin = slot & ((1 << p.b) - 1);
  signs_from(p, s, level_of(p, s, u), bin);
  if constexpr (CODED) {
    return coded(p, s, c, bin, u, v, rho, key);
  } else {
    if (p.scheme == kSparseExact) {
      sum_of_columns(p.to_key_columns + i64(c) * p.n * p.words, p.n, p.words, s.row, s.key);
    } else {
      for (int w = int(lane()); w < p.words; w += 32) s.key[w] = s.row[w];
      __syncwarp();
      if (bin_of(p, s.key, c) != bin) return false;
    }
    shift_of(p, s, c);
    for (int i = int(lane()); i < p.words; i += 32) key[i] = s.key[i];
    return fits(p, s, u, v, rho);
  }
}

// Step 1 to 5 of a slot whose energy is e.
template <bool CODED, typename T>
SO_DEVICE void detect(const SparseParams& p, const SparseView<T>& w, const Scratch<T>& s, int slot, int round, T e, T mean, T v) {
  if (!(e > T(p.tau_try) * v)) return;
  const T* u = w.u + i64(slot) * p.samples;
  T spread = T(0), rho = T(0);
  for (int at = int(lane()); at < p.samples; at += 32) {
    const T off = magnitude(u[at]) - mean;
    spread += off * off;
  }
  if (!(lanes_sum<32>(spread) / T(p.samples) <= T(p.tau) * v)) return;
  const bool found = single<CODED>(p, s, slot, u, v, &rho, w.found + i64(slot) * p.words);
  if (found && lane() == 0) w.rho[slot] = rho, w.there[slot] = round;
}

}  // namespace sparse
}  // namespace spectralops

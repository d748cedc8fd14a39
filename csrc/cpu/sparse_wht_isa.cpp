// The steps of a round of the sparse Walsh-Hadamard decoder, for one instruction set.
#include "cpu/sparse_wht.h"
#include "cpu/sparse_wht_rows.h"
#include "spectralops/bch.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

constexpr i64 kSignatureWords = 5;  // of a BCH code's checks and row 0

template <typename C> struct Steps {
  const SparseWhtPlan& p;
  const SparseWhtState& s;
  const spectralops_sparse_wht_call& c;
  const Span<C> span, row_span;  // of a bin's samples, and of those at one base
  C* const levels;                               // (rows): L
  u64 *const signature, *const signs, *const key, *const sums;  // (rows), (P), (n), (n) bits
  const C v;

  Steps(const SparseWhtPlan& plan, const SparseWhtState& state, int slot)
      : p(plan), s(state), c(*plan.call), span(plan.samples), row_span(plan.rows), levels(scratch<C>(slot, plan.levels)),
        signature(scratch<u64>(slot, plan.signature)), signs(scratch<u64>(slot, plan.signs)), key(scratch<u64>(slot, plan.key)),
        sums(key + plan.words), v(C(state.v)) {}

  template <typename T> T* scratch(int slot, i64 at) const { return reinterpret_cast<T*>(s.scratch + slot * p.scratch_bytes + at); }
  C* samples(i64 bin) const { return static_cast<C*>(s.u) + bin * p.pitch; }
  static vec<C> get(const C* u, i64 line, int part) { return load<C>(u + line * line_lanes<C> + part * lanes<C>); }
  const u64* table(const int64_t* map, i64 group) const { return reinterpret_cast<const u64*>(map) + group * c.n * p.words; }
  C mean(C total) const { return total / C(p.samples); }

  // ---- U ----
  void transform(i64 group, i64 tile) const {
    const i64 first = tile * p.tile, width = least(p.tile, p.pitch - first), there = least(width, p.samples - first);
    const vec<C> scale = splat<C>(C(1) / C(p.bins));
    C* const to = samples(group << c.b) + first;
    for (i64 l = 0; l < p.bins; ++l) {
      const i64 from = (((group << c.b) + l) * p.samples) + first;
      C* const row = to + l * p.pitch;
      if (c.index)
        for (i64 i = 0; i < there; ++i) row[i] = static_cast<const C*>(s.values)[c.index[from + i]] * scale[0];
      for (i64 i = 0; i < width; i += lanes<C>) {
        const C* const x = c.index ? row + i : static_cast<const C*>(s.values) + from + i;
        if (c.index && there - i >= lanes<C>) continue;
        const vec<C> got = there <= i ? vec<C>{} : load_count<C>(x, there - i);
        store(row + i, c.index ? got : got * scale);
      }
    }
    const Scratch<C> rows{to, p.pitch};
    if (c.b) all_passes<C>(rows, rows, rows, Base{}, int(c.b), width);
  }

  C energy(i64 bin) const {
    const C* const u = samples(bin);
    return mean(sum(span, [&](i64 line, int part) { return get(u, line, part) * get(u, line, part); }));
  }

  // ---- step 2 ----
  bool one_magnitude(const C* u) const {
    const C middle = mean(sum(span, [&](i64 line, int part) { return absolute<C>(get(u, line, part)); }));
    const vec<C> all = splat<C>(middle);
    return mean(sum(span, [&](i64 line, int part) {
             const vec<C> d = absolute<C>(get(u, line, part)) - all;
             return d * d;
           })) <= C(c.tau) * v;
  }

  // ---- step 3 ----
  void read_signature() const {
    for (i64 w = 0; w <= p.rows / 64; ++w) signature[w] = 0;
    for (i64 i = 0; i < p.rows; i += lanes<C>) signature[i >> 6] |= u64(negatives<C>(load<C>(levels + i))) << (i & 63);
    signature[p.rows / 64] &= (1ull << (p.rows & 63)) - 1;
  }
  void find_levels(const C* u) const {
    const auto sign = [](auto x) { return x < decltype(x){} ? decltype(x){} - C(1) : decltype(x){} + C(1); };
    for (i64 i = 0; i < p.rows; i += lanes<C>) {
      vec<C> soft = {}, votes = {};
      for (const C* base = u; base < u + p.samples; base += p.rows) {
        const vec<C> there = load<C>(base + i);
        soft = soft + splat<C>(*base) * there;
        if (c.hard) votes = votes + sign(splat<C>(*base)) * sign(there);
      }
      const vec<C> size = absolute<C>(soft);
      if (c.hard) soft = votes == vec<C>{} ? soft : votes < vec<C>{} ? -size : size;
      store(levels + i, soft);
    }
    read_signature();
    if (c.hard || c.repeats == 1) return;
    for (const C* base = u; base < u + p.samples; base += p.rows) {
      const vec<C> weight = splat<C>(
          sum(row_span, [&](i64 line, int part) { return flip<C>(get(base, line, part), bits_of<C>(signature, line, part)); }));
      for (i64 i = 0; i < p.rows; i += lanes<C>) {
        const vec<C> term = weight * load<C>(base + i);
        store(levels + i, base == u ? term : load<C>(levels + i) + term);
      }
    }
    if (levels[0] < 0)
      for (i64 i = 0; i < p.rows; i += lanes<C>) store(levels + i, -load<C>(levels + i));
    read_signature();
  }

  // ---- step 4 ----
  bool find_key(i64 group, i64 j) const {
    for (i64 w = 0; w < p.words; ++w) key[w] = 0;
    const u64 bin = u64(j);
    if (c.scheme == SPECTRALOPS_EXACT) {
      add_columns(key, p.words, table(c.to_key_columns, group), &bin, 1, 0);
      add_columns(key, p.words, table(c.to_key_columns, group), signature, p.rows / 64 + 1, c.b - 1);
    } else if (c.scheme == SPECTRALOPS_NSO) {
      for (i64 w = 0; w < p.words; ++w) key[w] = word_at(signature, p.rows / 64 + 1, 64 * w + 1);
    } else if (!locate()) {
      return false;
    }
    return c.scheme == SPECTRALOPS_EXACT || bin_of(group, key) == j;
  }
  // The positions whose power sums the signature gives; L(alpha^-p), one exponent of a term a position on.
  bool locate() const {
    const int m = int(c.checks / c.degree);
    const BchField field{c.field, c.field + (1 << m), (1 << m) - 1};
    int power_sums[kBchDegree], locator[kBchDegree + 1], exponent[kBchDegree], step[kBchDegree], terms = 0;
    for (int d = 0; d < c.degree; ++d)
      power_sums[d] = int(word_at(signature, p.rows / 64 + 1, 1 + i64(d) * m) & u64(field.order));
    const int length = bch_locator(field, power_sums, int(c.degree), locator);
    if (length > c.degree) return false;
    for (int i = 1; i <= length; ++i)
      if (locator[i]) exponent[terms] = field.logarithms[locator[i]], step[terms++] = i;
    int found = 0;
    for (i64 at = 0; at < c.n && found < length; ++at) {
      int value = 1;
      for (int i = 0; i < terms; ++i) {
        value ^= field.powers[exponent[i]];
        exponent[i] -= step[i];
        exponent[i] += exponent[i] < 0 ? field.order : 0;
      }
      if (value == 0) key[at >> 6] |= 1ull << (at & 63), ++found;
    }
    return found == length;
  }
  i64 bin_of(i64 group, const u64* k) const {
    const u64* const rows = table(c.to_bin_rows, group);
    i64 bin = 0;
    for (i64 i = 0; i < c.b; ++i) bin |= i64(parity(rows + i * p.words, k, p.words)) << i;
    return bin;
  }

  // ---- step 5 ----
  // The signs of a key, from those of its checks and of the bases: opposite(q) for base q.
  template <typename F> void spread_signs(F&& opposite) const {
    for (i64 w = 0; w <= p.samples / 64; ++w) signs[w] = 0;
    for (i64 q = 0; q < c.repeats; ++q) append_bits(signs, q * p.rows, signature, p.rows, opposite(q));
  }
  bool at_base(i64 group, i64 q, const u64* k) const {
    return q && parity(reinterpret_cast<const u64*>(c.base) + (group * c.repeats + q) * p.words, k, p.words);
  }
  C correlation(const C* u) const {
    return mean(sum(span, [&](i64 line, int part) { return flip<C>(get(u, line, part), bits_of<C>(signs, line, part)); }));
  }
  C left_by(const C* u, C rho) const {
    const vec<C> all = splat<C>(rho);
    return mean(sum(span, [&](i64 line, int part) {
      const vec<C> d = get(u, line, part) - flip<C>(all, bits_of<C>(signs, line, part));
      return d * d;
    }));
  }
  bool fits(i64 group, const C* u, C* rho) const {
    spread_signs([&](i64 q) { return at_base(group, q, key); });
    *rho = correlation(u);
    return C(p.samples) * (*rho * *rho) >= C(c.theta) * v && left_by(u, *rho) <= C(c.tau) * v;
  }
  // Whether a key with this signature can pass step 5 with |rho| > best: no signs of the bases fit better than those that make each
  // base's sum positive.  With an eighth to spare for rounding; one base has no choice and the same sums.
  bool can_fit(const C* u, C best) const {
    const C slack = C(c.repeats == 1 ? 0 : 0.125);
    spread_signs([&](i64 q) {
      const C* const base = u + q * p.rows;
      return sum(row_span, [&](i64 line, int part) { return flip<C>(get(base, line, part), bits_of<C>(signature, line, part)); }) < 0;
    });
    const C rho = absolute_of(correlation(u));
    return rho * (1 + slack / 128) > best && C(p.samples) * (rho * rho) * (1 + slack) >= C(c.theta) * v &&
           left_by(u, rho) <= C(c.tau) * v * (1 + slack);
  }
  static C absolute_of(C x) { return x < 0 ? -x : x; }

  // ---- step 4 where the signs as they are gave no key ----
  bool chase(i64 group, i64 j, const C* u, u64* best_key, C* best) const {
    int weak[16], depth = 0;
    const int most = int(least(c.chase, p.rows));
    for (i64 i = 0; i < p.rows; ++i) {
      const C size = absolute_of(levels[i]);
      if (depth == most && !(size < absolute_of(levels[weak[depth - 1]]))) continue;
      int at = depth < most ? depth++ : depth - 1;
      for (; at > 0 && size < absolute_of(levels[weak[at - 1]]); --at) weak[at] = weak[at - 1];
      weak[at] = int(i);
    }
    u64 plain[kSignatureWords];
    const i64 words = p.rows / 64 + 1;
    for (i64 w = 0; w < words; ++w) plain[w] = signature[w];
    bool yes = false;
    for (int size = 1; size <= depth; ++size) {
      int place[16];
      for (int i = 0; i < size; ++i) place[i] = i;
      for (;;) {  // the subsets of `size` places in lexicographic order
        for (i64 w = 0; w < words; ++w) signature[w] = plain[w];
        for (int i = 0; i < size; ++i) signature[weak[place[i]] >> 6] ^= 1ull << (weak[place[i]] & 63);
        if (signature[0] & 1) {
          for (i64 w = 0; w < words; ++w) signature[w] = ~signature[w];
          signature[p.rows / 64] &= (1ull << (p.rows & 63)) - 1;
        }
        C rho;
        if (can_fit(u, yes ? absolute_of(*best) : C(-1)) && find_key(group, j) && fits(group, u, &rho) &&
            (!yes || absolute_of(rho) > absolute_of(*best))) {
          yes = true, *best = rho;
          for (i64 w = 0; w < p.words; ++w) best_key[w] = key[w];
        }
        int i = size - 1;
        while (i >= 0 && place[i] == depth - size + i) --i;
        if (i < 0) break;
        for (++place[i]; i + 1 < size; ++i) place[i + 1] = place[i] + 1;
      }
    }
    return yes;
  }

  void detect(i64 bin) const {
    if (!(static_cast<const C*>(s.energy)[bin] > C(c.tau_try) * v)) return;
    const C* const u = samples(bin);
    if (!one_magnitude(u)) return;
    const i64 group = bin >> c.b, j = bin & (p.bins - 1);
    find_levels(u);
    u64* const found = reinterpret_cast<u64*>(s.keys) + bin * p.words;
    C* const rho = static_cast<C*>(s.rho) + bin;
    const bool coded = c.scheme == SPECTRALOPS_BCH;
    if ((!coded || can_fit(u, C(-1))) && find_key(group, j) && fits(group, u, rho)) {
      for (i64 w = 0; w < p.words; ++w) found[w] = key[w];
      s.found[bin] = 1;
    } else if (coded && c.chase) {
      s.found[bin] = chase(group, j, u, found, rho);
    }
  }

  // ---- what the groups found together ----
  void match(i64 bin) const {
    const C *const energy = static_cast<const C*>(s.energy), *const rho = static_cast<const C*>(s.rho);
    const i64 group = bin >> c.b;
    const u64 *const keys = reinterpret_cast<const u64*>(s.keys), *const own = keys + bin * p.words;
    const bool large = rho[bin] * rho[bin] > C(4 * c.tau_try) * v;
    C total = rho[bin], count = 1;
    bool first = true, refused = false;
    for (i64 other = 0; other < c.groups; ++other) {
      const i64 j = other == group ? bin & (p.bins - 1) : bin_of(other, own), there = other << c.b | j;
      s.places[bin * c.groups + other] = int(j);
      if (other == group) continue;
      bool same = s.found[there];
      for (i64 w = 0; same && w < p.words; ++w) same = keys[there * p.words + w] == own[w];
      if (same) total += rho[there], count += 1, first &= other > group;
      else refused |= large && energy[there] <= C(c.tau_try) * v;
    }
    s.kept[bin] = first && !refused;
    static_cast<C*>(s.mean)[bin] = total / count;
  }

  // ---- peeling ----
  void signature_of(i64 group, const u64* k) const {
    const u64* from = k;
    i64 words = p.words, shift = -1;
    if (c.scheme != SPECTRALOPS_NSO) {
      const bool exact = c.scheme == SPECTRALOPS_EXACT;
      words = exact ? p.words : (c.checks + 63) / 64;
      for (i64 w = 0; w < words; ++w) sums[w] = 0;
      add_columns(sums, words, exact ? table(c.to_bin_columns, group) : reinterpret_cast<const u64*>(c.check_columns), k, p.words, 0);
      from = sums, shift = exact ? c.b - 1 : -1;
    }
    for (i64 w = 0; w <= p.rows / 64; ++w) signature[w] = word_at(from, words, 64 * w + shift);
    signature[0] &= ~1ull;  // row 0
  }
  void subtract(i64 bin, const u64* k, C value) const {
    const i64 group = bin >> c.b;
    signature_of(group, k);
    spread_signs([&](i64 q) { return at_base(group, q, k); });
    C* const u = samples(bin);
    const vec<C> all = splat<C>(value);
    for (i64 line = 0; line < span.lines; ++line)
      for (int part = 0; part < kParts; ++part) {
        const vec<C> term = span.keep(line, part, flip<C>(all, bits_of<C>(signs, line, part)));
        store(u + line * line_lanes<C> + part * lanes<C>, get(u, line, part) - term);
      }
  }
};

template <typename F> void with_type(const SparseWhtPlan& plan, F&& f) {
  if (plan.wide) f(double{});
  else f(float{});
}

}  // namespace

void sparse_wht_transform(const SparseWhtPlan& plan, const SparseWhtState& state, i64 task) {
  with_type(plan, [&](auto zero) { Steps<decltype(zero)>(plan, state, 0).transform(task / plan.tiles, task % plan.tiles); });
}

void sparse_wht_energies(const SparseWhtPlan& plan, const SparseWhtState& state, i64 begin, i64 end) {
  with_type(plan, [&](auto zero) {
    using C = decltype(zero);
    const Steps<C> steps(plan, state, 0);
    for (i64 i = begin; i < end; ++i) static_cast<C*>(state.energy)[state.list[i]] = steps.energy(state.list[i]);
  });
}

void sparse_wht_detect(const SparseWhtPlan& plan, const SparseWhtState& state, i64 begin, i64 end, int slot) {
  with_type(plan, [&](auto zero) {
    const Steps<decltype(zero)> steps(plan, state, slot);
    for (i64 i = begin; i < end; ++i) steps.detect(state.list[i]);
  });
}

void sparse_wht_match(const SparseWhtPlan& plan, const SparseWhtState& state, i64 begin, i64 end) {
  with_type(plan, [&](auto zero) {
    const Steps<decltype(zero)> steps(plan, state, 0);
    for (i64 i = begin; i < end; ++i) steps.match(state.candidates[i]);
  });
}

void sparse_wht_subtract(const SparseWhtPlan& plan, const SparseWhtState& state, i64 task, int slot) {
  with_type(plan, [&](auto zero) {
    using C = decltype(zero);
    const Steps<C> steps(plan, state, slot);
    const i64 group = task / plan.shares, share = task % plan.shares, groups = plan.call->groups;
    for (i64 i = 0; i < state.num_taken; ++i) {
      const i64 bin = state.taken[i], j = state.places[bin * groups + group];
      if ((j & (plan.shares - 1)) != share) continue;
      const u64* const key = reinterpret_cast<const u64*>(state.keys) + bin * plan.words;
      steps.subtract(group << plan.call->b | j, key, static_cast<const C*>(state.mean)[bin]);
    }
  });
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

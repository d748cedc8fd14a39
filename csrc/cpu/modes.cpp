#include "cpu/modes.h"

#include "capi/status.h"
#include "cpu/fft_conv_roots.h"
#include "cpu/parallel.h"

#include <algorithm>

namespace spectralops {
namespace cpu {
namespace {

using Call = spectralops_modes_call;

constexpr i64 kLeastLines = 24;     // transformed together: two tiles of the product
constexpr i64 kBackLines = 12;
constexpr i64 kTaskPoints = 8192;   // less work than this is not worth a second thread

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 padded(i64 count) { return ceil_div(count, kModeLanes) * kModeLanes; }
i64 modulo(i64 a, i64 n) { return (a % n + n) % n; }
i64 compute_bytes(const Call& c) { return c.dtype == SPECTRALOPS_F64 ? 8 : 4; }

// Cuts a region into pieces of whole cache lines.
struct Cut {
  i64 end = 0;
  i64 take(i64 count) {
    const i64 from = end;
    end += padded(count);
    return from;
  }
};

// Where the tables lie, in bytes from the workspace's first whole cache line.
struct Layout {
  i64 last[2], axis[2][2], pairs[2], roots, slots, bytes;
};

Layout plan_of(const Call& c, bool inverse, int threads, ModesPlan& p) {
  p.call = &c;
  for (int d = 0; d < 2; ++d) p.axis[d] = {c.n[d], c.m[d], c.n[d] / 2 + 1, 0, nullptr, nullptr, nullptr, nullptr};
  p.n = c.n[2], p.m = c.m[2], p.half = p.n / 2 + 1;
  p.columns = padded(inverse ? p.half : p.m);
  p.box = c.m[1] * p.m;
  p.row = padded(p.m + padded(p.m)), p.slab = padded(2 * p.box);
  const i64 total = c.rows * c.channels, all_lines = c.n[0] * c.n[1];
  p.planes = std::min(total, ceil_div(kLeastLines, all_lines));
  p.group = std::min(p.planes * c.n[0], ceil_div(kLeastLines, c.n[1]));
  p.units = ceil_div(total, p.planes);
  p.lines = std::min(inverse ? kBackLines : kLeastLines, p.group * c.n[1]);
  const double work = double(total) * double(all_lines) * double(p.n);
  p.threads = clamp_threads(work < 2 * kTaskPoints ? 1 : threads, p.units);

  Cut cut;  // of a slot
  p.buffer = cut.take(p.n + 4 * kModeLanes + 2 * (p.n + kModeLanes));
  p.rows = cut.take(p.group * c.n[1] * p.row);
  p.slabs = cut.take(c.n[0] > 1 ? p.planes * (c.n[0] + (inverse ? c.m[0] : 0)) * p.slab : 0);
  const i64 inner = c.n[1] > 1 ? p.axis[1].half * p.row : 0, outer = c.n[0] > 1 ? p.axis[0].half * p.slab : 0;
  const i64 line = p.lines * padded(p.half), folded = std::max({line, inner, outer});
  p.even = cut.take(folded), p.odd = cut.take(folded);
  p.first = cut.take(folded), p.second = cut.take(folded);
  p.slot = cut.end;

  Layout at;
  const i64 size = compute_bytes(c);
  Cut bytes;
  for (i64& place : at.last) place = bytes.take((inverse ? p.m : p.half) * p.columns * size);
  for (int d = 0; d < 2; ++d) {
    for (i64& place : at.axis[d]) place = bytes.take(c.n[d] > 1 ? c.m[d] * p.axis[d].half * size : 0);
    at.pairs[d] = bytes.take(c.n[d] > 1 ? (2 * c.m[d] + p.axis[d].half) * i64(sizeof(i64)) : 0);
  }
  at.roots = bytes.take(std::max({c.n[0], c.n[1], c.n[2]}) * i64(sizeof(Root)));
  at.slots = (bytes.end + 63) / 64 * 64;
  at.bytes = at.slots + p.threads * p.slot * size + 64;
  return at;
}

// exp(-2 pi i j / n) for j < n; the second half mirrors the first.
void make_roots(i64 n, Root* roots) {
  for (i64 j = 0; j <= n / 2; ++j) roots[j] = root_of(j, n);
  for (i64 j = n / 2 + 1; j < n; ++j) roots[j] = {roots[n - j].c, -roots[n - j].s};
}

i64 frequency(const Call& c, int d, i64 r) { return modulo(c.start[d] + (r + c.shift[d]) % c.m[d], c.n[d]); }

// out[j stride] = factor cos or sin (2 pi f j / n) for j < half.
template <typename C>
void fill(const Root* roots, i64 f, i64 n, i64 half, double cos_factor, double sin_factor, C* cosine, C* sine, i64 stride) {
  for (i64 j = 0, turn = 0; j < half; ++j) {
    cosine[j * stride] = C(cos_factor * roots[turn].c);
    sine[j * stride] = C(sin_factor * -roots[turn].s);
    turn += f;
    turn -= turn >= n ? n : 0;
  }
}

// The last dimension carries the scale and the doubling.  dft: x -> (s c cos, -s c sin); idft: (re, im) -> the same.
template <typename C>
void make_last(const Call& c, bool inverse, const Root* roots, const ModesPlan& p, C* cosine, C* sine) {
  const i64 count = (inverse ? p.m : p.half) * p.columns;
  std::fill(cosine, cosine + count, C(0)), std::fill(sine, sine + count, C(0));
  for (i64 r = 0; r < p.m; ++r) {
    const i64 f = frequency(c, 2, r), at = inverse ? r * p.columns : r;
    const double factor = c.scale * (c.doubled && 2 * f % p.n ? 2 : 1);
    fill(roots, f, p.n, p.half, factor, -factor, cosine + at, sine + at, inverse ? 1 : p.columns);
  }
}

template <typename C>
void make_axis(const Call& c, int d, bool inverse, const Root* roots, ModeAxis& a, i64* lists, C* cosine, C* sine) {
  i64 *const plus = lists, *const minus = plus + a.m, *const pair_of = minus + a.m;
  std::fill(plus, plus + 2 * a.m, -1), std::fill(pair_of, pair_of + a.half, -1);
  a.pairs = 0;
  for (i64 r = 0; r < a.m; ++r) {
    const i64 f = frequency(c, d, r), u = std::min(f, a.n - f);
    if (pair_of[u] < 0) pair_of[u] = a.pairs++;
    (u == f ? plus : minus)[pair_of[u]] = r;
  }
  for (i64 u = 0; u < a.half; ++u)
    if (const i64 p = pair_of[u]; p >= 0) {
      const i64 at = inverse ? p : p * a.half;
      fill(roots, u, a.n, a.half, 1, 1, cosine + at, sine + at, inverse ? a.pairs : 1);
    }
  a.plus = plus, a.minus = minus, a.cosine = cosine, a.sine = sine;
}

template <typename C> void make_tables(const Call& c, bool inverse, const Layout& at, char* work, ModesPlan& p) {
  Root* const roots = reinterpret_cast<Root*>(work + at.roots);
  const auto table = [&](i64 place) { return reinterpret_cast<C*>(work + place); };
  for (int d = 0; d < 2; ++d)
    if (c.n[d] > 1) {
      make_roots(c.n[d], roots);
      make_axis(c, d, inverse, roots, p.axis[d], reinterpret_cast<i64*>(work + at.pairs[d]), table(at.axis[d][0]),
                table(at.axis[d][1]));
    }
  make_roots(p.n, roots);
  make_last(c, inverse, roots, p, table(at.last[0]), table(at.last[1]));
  p.cosine = table(at.last[0]), p.sine = table(at.last[1]);
}

int prepare(const Call& c, bool inverse, int threads, ModesPlan& plan) {
  const Layout at = plan_of(c, inverse, threads, plan);
  if (c.workspace_bytes < at.bytes)
    return fail(SPECTRALOPS_INVALID, "workspace_bytes: got %lld, this call takes %lld", (long long)c.workspace_bytes,
                (long long)at.bytes);
  char* const work = static_cast<char*>(c.workspace) + (-reinterpret_cast<u64>(c.workspace) & 63u);
  if (c.dtype == SPECTRALOPS_F64) make_tables<double>(c, inverse, at, work, plan);
  else make_tables<float>(c, inverse, at, work, plan);
  plan.scratch = work + at.slots;
  return SPECTRALOPS_OK;
}

}  // namespace

i64 modes_workspace(const Call& c, bool inverse, int threads) {
  if (c.last) return modes_last_workspace(c, inverse, threads);
  ModesPlan plan;
  return plan_of(c, inverse, threads, plan).bytes;
}

int mode_dft(const Call& c, int threads) {
  if (c.last) return modes_last(c, false, threads);
  ModesPlan plan;
  if (const int status = prepare(c, false, threads, plan)) return status;
  SO_CPU_CALL(mode_dft_run)(plan);
  return SPECTRALOPS_OK;
}

int mode_idft(const Call& c, int threads) {
  if (c.last) return modes_last(c, true, threads);
  ModesPlan plan;
  if (const int status = prepare(c, true, threads, plan)) return status;
  SO_CPU_CALL(mode_idft_run)(plan);
  return SPECTRALOPS_OK;
}

int mode_mix(const spectralops_mix_call& c, int threads) {
  const double work = double(c.rows) * double(c.inputs) * double(c.outputs) * double(c.modes);
  SO_CPU_CALL(mode_mix_run)(c, work < 2 * kTaskPoints ? 1 : threads);
  return SPECTRALOPS_OK;
}

}  // namespace cpu
}  // namespace spectralops

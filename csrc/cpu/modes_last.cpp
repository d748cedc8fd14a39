#include "cpu/modes_last.h"

#include "capi/status.h"
#include "cpu/parallel.h"

#include <algorithm>

namespace spectralops {
namespace cpu {
namespace {

using Call = spectralops_modes_call;

constexpr i64 kTaskPoints = 8192;  // less work than this is not worth a second thread

i64 modulo(i64 a, i64 n) { return (a % n + n) % n; }
i64 frequency(const Call& c, int d, i64 r) { return modulo(c.start[d] + (r + c.shift[d]) % c.m[d], c.n[d]); }

// (row, channel, n1, n2, n3) -> (row, n1, n2, n3, channel).
void reorder(const int64_t (&from)[5], int64_t (&to)[5]) {
  to[0] = from[0], to[1] = from[2], to[2] = from[3], to[3] = from[4], to[4] = from[1];
}

spectralops_filter_call grid_of(const Call& c, bool inverse) {
  spectralops_filter_call g = {};
  g.x = c.x, g.y = c.y;
  g.rows = c.rows, g.n1 = c.n[0], g.n2 = c.n[1], g.n3 = c.n[2], g.channels = c.channels;
  g.samples = 1, g.groups = 0, g.dtype = c.dtype, g.eps = -1;
  const i64 points = c.n[0] * c.n[1] * c.n[2];
  const int64_t dense[5] = {points * c.channels, c.n[1] * c.n[2] * c.channels, c.n[2] * c.channels, c.channels, 1};
  std::copy(dense, dense + 5, g.y_stride);
  if (inverse) std::copy(dense, dense + 5, g.x_stride);
  else reorder(c.x_stride, g.x_stride);
  if (inverse) g.residual = c.skip ? c.skip : c.grad;  // room for a row of either
  reorder(c.skip_stride, g.residual_stride), reorder(c.grad_stride, g.grad_stride);
  return g;
}

i64 tables_bytes(const ModesLast& p, bool inverse) {
  const i64 entries = p.outer_modes + (inverse ? 2 * p.plan.inner : p.inner_modes);
  return (entries * i64(sizeof(i64)) + 63) / 64 * 64;
}

bool make_plan(const Call& c, bool inverse, int threads, ModesLast& p) {
  p.call = &c, p.grid = grid_of(c, inverse);
  const bool small = double(c.rows) * double(c.channels) * double(c.n[0] * c.n[1]) * double(c.n[2]) < 2 * kTaskPoints;
  p.outer_modes = c.n[0] > 1 ? c.m[0] : c.m[1], p.inner_modes = c.n[0] > 1 ? c.m[1] * c.m[2] : c.m[2];
  return make_filter_plan(p.grid, false, small ? 1 : threads, p.plan);
}

// Column (f2, f3), or that of -f.
i64 column_of(const Call& c, const FilterPlan& f, i64 r, bool& mirror) {
  const i64 f3 = frequency(c, 2, r % c.m[2]), f2 = c.n[0] > 1 ? frequency(c, 1, r / c.m[2]) : 0;
  mirror = f3 >= f.half;
  return mirror ? modulo(-f2, c.n[1]) * f.half + c.n[2] - f3 : f2 * f.half + f3;
}

void make_tables(const Call& c, bool inverse, i64* at, ModesLast& p) {
  p.outer = at;
  for (i64 r = 0; r < p.outer_modes; ++r) *at++ = frequency(c, c.n[0] > 1 ? 0 : 1, r);
  i64 *const plain = at, *const mirrored = at + p.plan.inner;
  if (inverse) std::fill(plain, plain + 2 * p.plan.inner, -1);
  for (i64 r = 0; r < p.inner_modes; ++r) {
    bool mirror;
    const i64 column = column_of(c, p.plan, r, mirror);
    if (inverse) (mirror ? mirrored : plain)[column] = r;
    else at[r] = mirror ? -1 - column : column;
  }
  p.column = at, p.plain = plain, p.mirrored = mirrored;
}

}  // namespace

i64 modes_last_workspace(const Call& c, bool inverse, int threads) {
  ModesLast p;
  return make_plan(c, inverse, threads, p) ? tables_bytes(p, inverse) + p.plan.bytes : 0;
}

int modes_last(const Call& c, bool inverse, int threads) {
  ModesLast p;
  if (!make_plan(c, inverse, threads, p)) return fail(SPECTRALOPS_INVALID, "modes: out of memory for the roots");
  const i64 bytes = tables_bytes(p, inverse);
  if (c.workspace_bytes < bytes + p.plan.bytes)
    return fail(SPECTRALOPS_INVALID, "workspace_bytes: got %lld, this call takes %lld", (long long)c.workspace_bytes,
                (long long)(bytes + p.plan.bytes));
  char* const work = static_cast<char*>(c.workspace) + (-reinterpret_cast<u64>(c.workspace) & 63u);
  make_tables(c, inverse, reinterpret_cast<i64*>(work), p);
  p.workspace = work + bytes;
  if (inverse) SO_CPU_CALL(mode_idft_last_run)(p);
  else SO_CPU_CALL(mode_dft_last_run)(p);
  return SPECTRALOPS_OK;
}

}  // namespace cpu
}  // namespace spectralops

#include "cuda/hadamard_plan.h"

namespace spectralops {
namespace cuda {
namespace {

using namespace plan;

template <typename T>
int run(const Where& where, const DeviceLimits& limits, Transform t, const void* rows, void* y, i64 num_rows) {
  if (fits<T>(t.k, t.m, false, limits)) {
    hadamard::Rows p = rows_of(t.outer, t.k, t.m, t.x_stride, t.signs_in ? t.m * t.sign_blocks : 1, t.scale, false);
    p.x = t.x;
    p.y = y;
    p.signs_in = t.signs_in;
    p.base = t.base;
    p.base_size = t.m;
    p.gather = static_cast<const i64*>(rows);
    p.gathered = num_rows;
    const i64 fill = kBlockElements / t.n, spread = ceil_div(t.outer, limits.sm_count);
    const i64 slices = fill < spread ? fill : spread;
    Block block = block_of<T>(t.m * (slices > 1 ? slices : 1), t.k, t.m, most_threads<T>(false), limits);
    if (block.threads == 0) block = block_of<T>(t.m, t.k, t.m, most_threads<T>(false), limits);
    p.block_rows = block.rows;
    set_vectors<T>(&p, true);
    const Grid grid = grid_of(ceil_div(p.rows, block.rows));
    if (t.m > 1) return launch<hadamard_gathered<T, true>>(where, grid, block.threads, block.shared, p);
    return launch<hadamard_gathered<T, false>>(where, grid, block.threads, block.shared, p);
  }
  const int status = hadamard_run<T, compute_t<T>>(where, limits, t);
  if (status != SPECTRALOPS_OK) return status;
  hadamard::Rows p{};
  p.x = t.y;
  p.y = y;
  p.gather = static_cast<const i64*>(rows);
  p.gathered = num_rows;
  p.rows = t.outer;
  p.parts = t.n;
  return launch<hadamard_pick<T>>(where, grid_of(ceil_div(t.outer * num_rows, 256)), 256, 0, p);
}

}  // namespace

i64 srht_workspace(i64 outer, i64 n, int base_size, int dtype, int device) {
  DeviceLimits limits;
  if (device_limits(device, &limits) != SPECTRALOPS_OK) return 0;
  const int m = base_size > 1 ? base_size : 1, k = log2_floor(n / m);
  i64 bytes = 0;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    bytes = fits<T>(k, m, false, limits) ? 0 : outer * n * i64(sizeof(compute_t<T>));
    return SPECTRALOPS_OK;
  });
  return bytes;
}

int srht(const void* x, i64 x_stride, const void* signs, const void* rows, void* y, const void* base, i64 outer, i64 n,
         i64 num_rows, int base_size, double scale, void* workspace, i64 workspace_bytes, int dtype,
         const Where& where) {
  if (outer == 0 || num_rows == 0) return SPECTRALOPS_OK;
  DeviceLimits limits;
  const int status = device_limits(where.device, &limits);
  if (status != SPECTRALOPS_OK) return status;
  Transform t{};
  t.m = base_size > 1 ? base_size : 1;
  t.k = log2_floor(n / t.m);
  const i64 needed = srht_workspace(outer, n, t.m, dtype, where.device);
  if (needed > workspace_bytes) return no_workspace(needed, workspace_bytes);
  t.x = x, t.y = workspace, t.between = workspace;
  t.signs_in = signs, t.base = base;
  t.x_stride = x_stride, t.sign_blocks = 1, t.outer = outer, t.n = n, t.inner = 1;
  t.scale = scale;
  return with_type(dtype, [&](auto type) { return run<decltype(type)>(where, limits, t, rows, y, num_rows); });
}

}  // namespace cuda
}  // namespace spectralops

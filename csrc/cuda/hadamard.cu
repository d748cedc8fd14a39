#include "cuda/hadamard_plan.h"

namespace spectralops {
namespace cuda {
namespace {

using namespace plan;

template <typename T, typename Out, int K>
int launch_fixed(const Where& where, const Block& block, const Grid& grid, const hadamard::Rows& p) {
  if constexpr (K < kLastFixed)
    if (p.k > K) return launch_fixed<T, Out, K + 1>(where, block, grid, p);
  return launch<hadamard_rows<T, Out, K, false>>(where, grid, block.threads, block.shared, p);
}

// Rows of 2^k, base factor included when base_size > 1.
template <typename T, typename Out, bool Base>
int run_rows(const Where& where, const DeviceLimits& limits, hadamard::Rows p) {
  const int m = Base ? p.base_size : 1, bits = hadamard::tile_bits(p.k);
  const i64 tile_rows = i64(1) << (bits - p.k);
  i64 rows = m;
  if (Base) {
    const i64 fill = kBlockElements / (i64(m) << p.k);
    rows = m * (fill > 1 ? fill : 1);
  } else if (p.k <= hadamard::kWarpTileBits) {
    // Small problems spread over all multiprocessors.
    const i64 share = ceil_div(ceil_div(p.rows, tile_rows), limits.sm_count);
    rows = tile_rows * (share < 1 ? 1 : share < kWarpTiles ? share : kWarpTiles);
  }
  constexpr bool fixable = !Base && same_type<T, Out>::value;
  const int most = most_threads<T>(fixable && has_fixed<T>(p.k));
  Block block = block_of<T>(rows, p.k, m, most, limits);
  if (block.threads == 0) block = block_of<T>(rows = Base ? m : tile_rows, p.k, m, most, limits);
  if (block.threads == 0) return fail(SPECTRALOPS_UNSUPPORTED, "rows of %d x 2^%d do not fit one block", m, p.k);
  p.block_rows = block.rows;
  set_vectors<T>(&p, aligned(p.y));
  if (!Base && without_shared<T>(p.k) && p.vector_in && p.vector_out) block.shared = 0;
  const Grid grid = grid_of(ceil_div(p.rows, rows));
  if constexpr (fixable && same_type<compute_t<T>, float>::value)
    if (has_fixed<T>(p.k)) return launch_fixed<T, Out, kFirstFixed>(where, block, grid, p);
  return launch<hadamard_rows<T, Out, -1, Base>>(where, grid, block.threads, block.shared, p);
}

template <typename In, typename Out>
int run_strided(const Where& where, const DeviceLimits& limits, const hadamard::Strided& p) {
  if (p.base) {
    const i64 shared = i64(p.length) * hadamard::kColumns * i64(sizeof(compute_t<In>));
    return launch<hadamard_strided_base<In, Out>>(where, grid_of(ceil_div(p.columns, hadamard::kColumns)),
                                                  hadamard::kBaseThreads, shared, p);
  }
  if (p.bits <= hadamard::kValueBits)
    return launch<hadamard_columns<In, Out>>(where, grid_of(ceil_div(p.columns, hadamard::kColumnThreads)),
                                             hadamard::kColumnThreads, 0, p);
  const i64 shared = (i64(hadamard::kColumns) << p.bits) * i64(sizeof(compute_t<In>));
  if (shared > limits.shared_limit)
    return fail(SPECTRALOPS_UNSUPPORTED, "a factor of 2^%d along a strided axis does not fit one block", p.bits);
  const int most = hadamard::strided_threads<In>(), threads = 1 << p.bits;
  return launch<hadamard_strided<In, Out>>(where, grid_of(ceil_div(p.columns, hadamard::kColumns)),
                                           threads < most ? threads : most, shared, p);
}

// One factor of several: the first reads x in T, the last writes y in Out, between them it is the compute type.
template <typename T, typename Out>
int run_factor(const Where& where, const DeviceLimits& limits, const Transform& t, hadamard::Strided p, bool first,
               bool last) {
  using C = compute_t<T>;
  p.x = first ? t.x : t.between;
  p.y = last ? t.y : t.between;
  p.x_stride = first ? t.x_stride : t.n * t.inner;
  p.signs_in = first ? t.signs_in : nullptr;
  p.signs_out = last ? t.signs_out : nullptr;
  p.scale = last ? t.scale : 1.0;
  if (first && last) return run_strided<T, Out>(where, limits, p);
  if (first) return run_strided<T, C>(where, limits, p);
  return last ? run_strided<C, Out>(where, limits, p) : run_strided<C, C>(where, limits, p);
}

}  // namespace

template <typename T, typename Out>
int hadamard_run(const Where& where, const DeviceLimits& limits, const Transform& t) {
  using C = compute_t<T>;
  const bool fused = t.inner == 1 && fits<T>(t.k, t.m, same_type<T, Out>::value, limits),
             ordered = t.order_in || t.order_out;
  const Passes passes = passes_of<T>(t.k, t.m, t.inner, limits);
  const int count = fused ? 1 : passes.count();
  const i64 sign_period_rows = t.signs_in || t.signs_out ? t.sign_blocks : 0;
  int done = 0, low = 0;
  if (fused || passes.rows) {
    const int k = fused ? t.k : passes.row_bits;
    const i64 parts = t.n >> k;
    const bool last = count == 1;
    hadamard::Rows p = rows_of(t.outer, k, parts, t.x_stride, sign_period_rows ? parts * sign_period_rows : 1,
                               last ? t.scale : 1.0, ordered);
    p.x = t.x;
    p.y = last ? t.y : t.between;
    p.signs_in = t.signs_in;
    p.signs_out = last ? t.signs_out : nullptr;
    p.base = t.base;
    p.base_size = t.m;
    p.order_in = t.order_in;
    p.order_out = t.order_out;
    p.order_bits = t.order_in || (ordered && !last) ? t.k : 0;
    // Another type out: rows of srht that do not fit, which are never the last pass.
    if constexpr (same_type<T, Out>::value)
      if (last) return t.m > 1 ? run_rows<T, T, true>(where, limits, p) : run_rows<T, T, false>(where, limits, p);
    const int status = run_rows<T, C, false>(where, limits, p);
    if (status != SPECTRALOPS_OK) return status;
    done = 1;
    low = k;
  }
  for (int i = 0; i < passes.strided + passes.base; ++i, ++done) {
    const bool base = i == passes.strided;
    hadamard::Strided p{};
    p.bits = base ? 0 : passes.strided_bits[i];
    p.length = base ? t.m : 1 << p.bits;
    p.base = base ? t.base : nullptr;
    p.inner = t.inner;
    p.after = t.inner << low;
    low += p.bits;
    p.before = base ? 1 : t.n >> low;
    p.columns = t.outer * p.before * p.after;
    p.sign_blocks = t.sign_blocks;
    const bool first = done == 0, last = done + 1 == count;
    if (first && ordered) {
      p.order_in = t.order_in;
      p.order_out = t.order_out;
      p.order_bits = t.k;
      p.order_at_store = last;
    }
    const int status = run_factor<T, Out>(where, limits, t, p, first, last);
    if (status != SPECTRALOPS_OK) return status;
  }
  return SPECTRALOPS_OK;
}

// The forms that srht.cu uses: into the compute type.
template int hadamard_run<half_t, float>(const Where&, const DeviceLimits&, const Transform&);
template int hadamard_run<bf16_t, float>(const Where&, const DeviceLimits&, const Transform&);
template int hadamard_run<float, float>(const Where&, const DeviceLimits&, const Transform&);
template int hadamard_run<double, double>(const Where&, const DeviceLimits&, const Transform&);
template int hadamard_run<u32, u32>(const Where&, const DeviceLimits&, const Transform&);
template int hadamard_run<u64, u64>(const Where&, const DeviceLimits&, const Transform&);

i64 hadamard_workspace(i64 outer, i64 n, i64 inner, int base_size, int dtype, int device) {
  DeviceLimits limits;
  if (device_limits(device, &limits) != SPECTRALOPS_OK || (dtype != SPECTRALOPS_F16 && dtype != SPECTRALOPS_BF16))
    return 0;
  const int m = base_size > 1 ? base_size : 1, k = log2_floor(n / m);
  if (inner == 1 && fits<half_t>(k, m, true, limits)) return 0;
  return passes_of<half_t>(k, m, inner, limits).count() > 1 ? outer * n * inner * i64(sizeof(float)) : 0;
}

int hadamard(const void* x, i64 x_stride, void* y, const void* signs_in, const void* signs_out, i64 sign_blocks,
             const void* base, i64 outer, i64 n, i64 inner, int base_size, double scale, int order_in, int order_out,
             void* workspace, i64 workspace_bytes, int dtype, const Where& where) {
  if (outer == 0 || inner == 0) return SPECTRALOPS_OK;
  DeviceLimits limits;
  const int status = device_limits(where.device, &limits);
  if (status != SPECTRALOPS_OK) return status;
  Transform t{};
  t.m = base_size > 1 ? base_size : 1;
  t.k = log2_floor(n / t.m);
  const i64 needed = hadamard_workspace(outer, n, inner, t.m, dtype, where.device);
  if (needed > workspace_bytes) return no_workspace(needed, workspace_bytes);
  t.x = x, t.y = y, t.between = needed ? workspace : y;
  t.signs_in = signs_in, t.signs_out = signs_out, t.base = base;
  t.x_stride = x_stride, t.sign_blocks = sign_blocks, t.outer = outer, t.n = n, t.inner = inner;
  t.scale = scale, t.order_in = order_in, t.order_out = order_out;
  return with_type(dtype, [&](auto type) { return hadamard_run<decltype(type), decltype(type)>(where, limits, t); });
}

}  // namespace cuda
}  // namespace spectralops

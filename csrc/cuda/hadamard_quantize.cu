#include "cuda/hadamard_plan.h"

namespace spectralops {
namespace cuda {
namespace {

using namespace plan;

i64 gcd(i64 a, i64 b) {
  while (b != 0) {
    const i64 r = a % b;
    a = b;
    b = r;
  }
  return a;
}

template <typename T, int Format>
int run(const Where& where, const DeviceLimits& limits, hadamard::Quantise p, i64 unit_rows, int m) {
  const i64 unit = unit_rows << p.rows.k, fill = kBlockElements / unit;
  i64 units = fill > 1 ? fill : 1;
  const i64 total = p.rows.rows / unit_rows;
  while (units > 1 && ceil_div(total, units) < limits.sm_count) units = ceil_div(units, 2);
  if (Quantiser<Format>::packed && (unit * units) % 2 != 0) ++units;  // blocks start on a whole byte
  const auto shape = [&](i64 count) {
    Block block = block_of<T>(unit_rows * count, p.rows.k, m, most_threads<T>(false), limits);
    const i64 groups = (unit * count) / p.group;
    block.shared += groups * i64(sizeof(u32));
    if (block.shared > limits.shared_limit) block.threads = 0;
    return block;
  };
  Block block = shape(units);
  if (block.threads == 0) block = shape(units = Quantiser<Format>::packed && unit % 2 != 0 ? 2 : 1);
  if (block.threads == 0)
    return fail(
        SPECTRALOPS_UNSUPPORTED,
        "blocks and groups that meet every %lld elements do not fit one thread block; rotate and quantise apart", unit);
  p.rows.block_rows = block.rows;
  constexpr int g = hadamard::edge_bits<T>::value, vector = 1 << g;
  set_vectors<T>(&p.rows, true);
  const bool whole = p.group % vector == 0 && aligned(p.q);
  const bool team = whole && (p.group & (p.group - 1)) == 0 && p.group <= 32 * vector;
  p.whole_vectors = whole;
  p.team_bits = team ? log2_floor(p.group) - g : -1;
  const Grid grid = grid_of(ceil_div(p.rows.rows, block.rows));
  if (m > 1) return launch<hadamard_quantize_rows<T, Format, true>>(where, grid, block.threads, block.shared, p);
  return launch<hadamard_quantize_rows<T, Format, false>>(where, grid, block.threads, block.shared, p);
}

template <typename T>
int run_format(const Where& where, const DeviceLimits& limits, const hadamard::Quantise& p, i64 unit_rows, int m,
               int format) {
  switch (format) {
    case SPECTRALOPS_INT8: return run<T, 0>(where, limits, p, unit_rows, m);
    case SPECTRALOPS_FP8_E4M3: return run<T, 1>(where, limits, p, unit_rows, m);
    case SPECTRALOPS_MXFP4: return run<T, 2>(where, limits, p, unit_rows, m);
    case SPECTRALOPS_NVFP4: return run<T, 3>(where, limits, p, unit_rows, m);
  }
  return fail(SPECTRALOPS_INVALID, "format code %d is not one of 0 .. 3", format);
}

}  // namespace

i64 hadamard_quantize_workspace(i64, i64, i64, int, int, int) { return 0; }

int hadamard_quantize(const void* x, i64 x_stride, void* q, void* scales, const void* signs, i64 sign_blocks,
                      const void* base, i64 rows, i64 dim, i64 block, i64 group, int base_size, double scale,
                      int format, int round_rotation, void*, i64, int dtype, const Where& where) {
  if (rows == 0 || dim == 0) return SPECTRALOPS_OK;
  DeviceLimits limits;
  const int status = device_limits(where.device, &limits);
  if (status != SPECTRALOPS_OK) return status;
  if (group > (i64(1) << 20))
    return fail(SPECTRALOPS_UNSUPPORTED, "groups of %lld elements do not fit one thread block", group);
  const int m = base_size > 1 ? base_size : 1, k = log2_floor(block / m);
  hadamard::Quantise p{};
  p.rows = rows_of(rows, k, dim >> k, x_stride, signs ? m * sign_blocks : 1, scale, signs && sign_blocks > 1);
  p.rows.x = x;
  p.rows.signs_in = signs;
  p.rows.sign_by_part = signs && sign_blocks > 1;
  p.rows.base = base;
  p.rows.base_size = m;
  p.q = q;
  p.scales = scales;
  p.group = int(group);
  p.round_rotation = round_rotation;
  const i64 unit_rows = block / gcd(block, group) * group >> k;  // the least common multiple
  switch (dtype) {
    case SPECTRALOPS_F32: return run_format<float>(where, limits, p, unit_rows, m, format);
    case SPECTRALOPS_F16: return run_format<half_t>(where, limits, p, unit_rows, m, format);
    case SPECTRALOPS_BF16: return run_format<bf16_t>(where, limits, p, unit_rows, m, format);
  }
  return fail(SPECTRALOPS_INVALID, "hadamard_quantize takes float32, float16 and bfloat16, not dtype code %d", dtype);
}

}  // namespace cuda
}  // namespace spectralops

#include "cpu/hadamard.h"

#include "capi/spectralops.h"
#include "capi/status.h"
#include "cpu/hadamard_plan.h"
#include "cpu/parallel.h"

namespace spectralops {
namespace cpu {
namespace {

i64 compute_bytes(int dtype) { return dtype == SPECTRALOPS_F64 || dtype == SPECTRALOPS_I64 ? 8 : 4; }
bool is_16_bit(int dtype) { return dtype == SPECTRALOPS_F16 || dtype == SPECTRALOPS_BF16; }

// Threads beyond one for each kTaskBytes cost more than they bring.
int useful_threads(int threads, i64 bytes) { return clamp_threads(threads, (bytes + kTaskBytes - 1) / kTaskBytes); }

struct Index {
  u8 of[256 * 64];
};

// The packed signs of H_m, four columns to an index of Base.
HadamardAxis axis_of(i64 n, i64 inner, int m, const void* base, int order_in, int order_out, Index& index) {
  HadamardAxis axis{n, inner, m, 0, nullptr, order_in, order_out};
  while (i64(m) << axis.bits < n) ++axis.bits;
  if (m == 1) return axis;
  const u64* words = static_cast<const u64*>(base);
  const int per_row = (m + 63) / 64, groups = (m + 3) / 4;
  for (int j = 0; j < m; ++j)
    for (int g = 0; g < groups; ++g) index.of[j * groups + g] = u8(words[j * per_row + g / 16] >> (g % 16 * 4) & 15u);
  axis.index = index.of;
  return axis;
}

// `needed` bytes and the slack to align them.
i64 with_slack(i64 needed) { return needed ? needed + 64 : 0; }

int require(i64 given, i64 needed) {
  if (given >= needed) return SPECTRALOPS_OK;
  return fail(SPECTRALOPS_INVALID, "workspace_bytes: got %lld, this call takes %lld", given, needed);
}

i64 transform_bytes(i64 outer, i64 n, i64 inner, int m, i64 bytes, bool in_place, int threads) {
  const Rowwise how = rowwise(outer, n, inner, bytes, threads);
  const i64 slot = slot_bytes(how, n, inner, m, bytes), whole = intermediate_bytes(how, in_place, n, inner, bytes);
  if (how == Rowwise::alone && slot <= kStackBytes) return 0;
  return how == Rowwise::shared ? whole + threads * slot : threads * (whole + slot);
}

}  // namespace

i64 hadamard_workspace(i64 outer, i64 n, i64 inner, int base_size, int dtype, int threads) {
  if (outer < 1 || n < 1 || inner < 1) return 0;
  const i64 bytes = compute_bytes(dtype);
  const int used = useful_threads(threads, outer * n * inner * bytes);
  // Other orders, which take the row elsewhere before its last pass, need a power of two.
  return with_slack(transform_bytes(outer, n, inner, base_size, bytes, !is_16_bit(dtype) && base_size > 1, used));
}

int hadamard(const void* x, i64 x_stride, void* y, const void* signs_in, const void* signs_out, i64 sign_blocks,
             const void* base, i64 outer, i64 n, i64 inner, int base_size, double scale, int order_in, int order_out,
             void* workspace, i64 workspace_bytes, int dtype, int threads) {
  if (outer == 0 || inner == 0) return SPECTRALOPS_OK;
  const i64 bytes = compute_bytes(dtype);
  const int used = useful_threads(threads, outer * n * inner * bytes);
  const bool natural = order_in == order_out && order_in != SPECTRALOPS_SEQUENCY;
  const i64 needed = with_slack(transform_bytes(outer, n, inner, base_size, bytes, !is_16_bit(dtype) && natural, used));
  if (const int status = require(workspace_bytes, needed)) return status;
  Index index;
  const HadamardAxis axis = axis_of(n, inner, base_size, base, order_in, order_out, index);
  const HadamardJob job{x, x_stride, y, signs_in, signs_out, sign_blocks, outer, axis, scale, workspace, used};
  SO_CPU_CALL(hadamard_run)(job, dtype);
  return SPECTRALOPS_OK;
}

i64 hadamard_quantize_workspace(i64 rows, i64 dim, i64 block, int base_size, int, int threads) {
  if (rows < 1 || dim < 1) return 0;
  const int used = useful_threads(threads, rows * dim * 4);
  const i64 alone = block * 4 <= kQuantizeAlone ? used * quantize_slot_bytes(dim, block) : 0;
  if (quantize_alone(dim, block)) return with_slack(alone);
  const i64 whole = row_result_bytes(dim, 1, 4) + transform_bytes(dim / block, block, 1, base_size, 4, true, used);
  return with_slack(larger(alone, whole));
}

int hadamard_quantize(const void* x, i64 x_stride, void* q, void* scales, const void* signs, i64 sign_blocks,
                      const void* base, i64 rows, i64 dim, i64 block, i64 group, int base_size, double scale,
                      int format, int round_rotation, void* workspace, i64 workspace_bytes, int dtype, int threads) {
  if (rows == 0 || dim == 0) return SPECTRALOPS_OK;
  const i64 needed = hadamard_quantize_workspace(rows, dim, block, base_size, dtype, threads);
  if (const int status = require(workspace_bytes, needed)) return status;
  Index index;
  const HadamardAxis axis = axis_of(block, 1, base_size, base, SPECTRALOPS_NATURAL, SPECTRALOPS_NATURAL, index);
  const int used = useful_threads(threads, rows * dim * 4);
  const HadamardJob rotation{x, 0, nullptr, signs, nullptr, sign_blocks, 0, axis, scale, workspace, used};
  const QuantizeJob job{rotation, x_stride, rows, dim, group, q, scales, format, round_rotation != 0};
  SO_CPU_CALL(hadamard_quantize_run)(job, dtype);
  return SPECTRALOPS_OK;
}

i64 srht_workspace(i64 outer, i64 n, int base_size, int dtype, int threads) {
  if (outer < 1 || n < 1) return 0;
  const i64 bytes = compute_bytes(dtype), result = row_result_bytes(n, 1, bytes);
  const int used = useful_threads(threads, outer * n * bytes);
  const bool alone = rowwise(outer, n, 1, bytes, used) == Rowwise::alone;
  if (alone) return with_slack(used * (result + slot_bytes(Rowwise::alone, n, 1, base_size, bytes)));
  return with_slack(result + used * slot_bytes(Rowwise::shared, n, 1, base_size, bytes));
}

int srht(const void* x, i64 x_stride, const void* signs, const void* rows, void* y, const void* base, i64 outer, i64 n,
         i64 num_rows, int base_size, double scale, void* workspace, i64 workspace_bytes, int dtype, int threads) {
  if (outer == 0 || num_rows == 0) return SPECTRALOPS_OK;
  const i64 needed = srht_workspace(outer, n, base_size, dtype, threads);
  if (const int status = require(workspace_bytes, needed)) return status;
  Index index;
  const HadamardAxis axis = axis_of(n, 1, base_size, base, SPECTRALOPS_NATURAL, SPECTRALOPS_NATURAL, index);
  const int used = useful_threads(threads, outer * n * compute_bytes(dtype));
  const HadamardJob rotation{x, x_stride, y, signs, nullptr, 1, outer, axis, scale, workspace, used};
  SO_CPU_CALL(srht_run)({rotation, static_cast<const i64*>(rows), num_rows}, dtype);
  return SPECTRALOPS_OK;
}

}  // namespace cpu
}  // namespace spectralops

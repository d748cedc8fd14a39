// What the drivers and the workspace functions must agree on: which rows one thread takes whole, and how much memory
// that needs.  Nothing here depends on the instruction set.
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

#define SO_PLAN static inline __attribute__((always_inline))

// H = H_m (x) H_{2^bits} along the middle axis of (outer, n, inner).
struct HadamardAxis {
  i64 n;
  i64 inner;
  int m;
  int bits;
  const u8* index;  // of H_m, see Base; nullptr for m = 1
  int order_in, order_out;
};

struct HadamardJob {
  const void* x;
  i64 x_stride;
  void* y;
  const void* signs_in;
  const void* signs_out;
  i64 sign_blocks;
  i64 outer;
  HadamardAxis axis;
  double scale;
  void* workspace;
  int threads;
};

struct SrhtJob {
  HadamardJob rotation;
  const i64* rows;
  i64 num_rows;
};

struct QuantizeJob {
  HadamardJob rotation;  // x_stride and y unused: blocks of `rows` rows
  i64 x_stride;
  i64 rows, dim, group;
  void* q;
  void* scales;
  int format;
  bool round_rotation;
};

// dtype: the codes of spectralops_dtype.
SO_CPU_DECLARE(void hadamard_run(const HadamardJob&, int dtype); void srht_run(const SrhtJob&, int dtype);
               void hadamard_quantize_run(const QuantizeJob&, int dtype);)

constexpr i64 kSliceBytes = 256 * 1024;  // the largest row one thread transforms whole, in its second-level cache
constexpr i64 kSharedBytes = 64 * 1024;  // from here on, a few rows are shared by all threads
constexpr i64 kOwnBytes = 8 * 1024 * 1024;  // up to here, many rows are not
constexpr i64 kLeafBytes = 16 * 1024;  // contiguous pieces of rows, in a first-level cache
constexpr i64 kSegmentBytes = 128 * 1024;  // and of long rows, in a second-level one
constexpr i64 kTileBytes = 256 * 1024;  // strips of columns of long rows
constexpr int kTileBits = 13;  // of the row index at a time
constexpr i64 kTileColumns = 256;  // whole lines enough for the hardware to fetch ahead
constexpr i64 kStreamBytes = 16 * 1024 * 1024;  // an output that no cache near the core can hold
constexpr i64 kStackBytes = 64 * 1024;  // scratch up to this size needs no workspace
constexpr i64 kTaskBytes = 64 * 1024;  // what one thread takes at a time

SO_PLAN i64 round_up_64(i64 bytes) { return (bytes + 63) / 64 * 64; }
SO_PLAN i64 larger(i64 a, i64 b) { return a > b ? a : b; }
SO_PLAN i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// Bytes one thread needs for rows of (n, inner); `bytes` is the size of the compute type.
SO_PLAN i64 row_scratch_bytes(i64 n, i64 inner, i64 bytes) {
  const i64 strips = 2 * kLeafBytes + n * 384;  // a vector or more of columns; rows side by side, too
  if (inner >= 8) return round_up_64(strips);
  const i64 contiguous = n * bytes + (n * bytes / 1024 + 1) * 64;  // a row and its padding
  const i64 apart = inner > 1 ? n * inner * bytes : 0;             // a small inner axis taken apart
  return round_up_64(larger(contiguous + apart, inner > 1 || n <= 4096 ? strips : 0));
}
// And for a row in natural order, where the output takes it in another.
SO_PLAN i64 row_result_bytes(i64 n, i64 inner, i64 bytes) { return round_up_64(n * inner * bytes); }

// alone: a thread transforms its rows whole.  own: a thread takes its rows through memory twice.  shared: all threads
// work on one row after another.
enum class Rowwise { alone, own, shared };

SO_PLAN Rowwise rowwise(i64 outer, i64 n, i64 inner, i64 bytes, int threads) {
  const i64 row = n * inner * bytes;
  const bool columns = inner >= 8 && n <= i64(1) << kTileBits;  // whole strips of columns fit
  const bool whole = columns || row <= kSliceBytes;
  const bool divides = outer >= 4 * threads || outer % threads == 0;
  if (threads == 1 || (whole && (row < kSharedBytes || divides))) return whole ? Rowwise::alone : Rowwise::own;
  return !whole && divides && row <= kOwnBytes ? Rowwise::own : Rowwise::shared;
}

// Bits of the contiguous segments that a row, not alone, begins with; 0: strips of columns from the start.
SO_PLAN int segment_bits(int m, int bits, i64 inner, i64 bytes) {
  if (inner >= 8) return 0;
  int low = 0, least = 0;
  while ((inner * bytes) << (low + 1) <= kSegmentBytes) ++low;
  while (bytes << (least + 1) <= kLeafBytes) ++least;
  const int left = 5, most = m > 1 ? bits : bits - 1;
  if (low > bits - left) low = bits - left > least ? bits - left : least < low ? least : low;
  return low < most ? low : most;
}

// Scratch of a thread.  If not alone: a segment, or a tile and a number for each of its columns.
SO_PLAN i64 slot_bytes(Rowwise how, i64 n, i64 inner, int m, i64 bytes) {
  if (how == Rowwise::alone) return row_result_bytes(n, inner, bytes) + row_scratch_bytes(n, inner, bytes);
  int bits = 0;
  while (i64(m) << bits < n) ++bits;
  const int low = segment_bits(m, bits, inner, bytes);
  const i64 segment = low ? row_scratch_bytes(i64(1) << low, inner, bytes) : 0;
  const i64 rows = smaller(larger(m, n >> low), i64(1) << kTileBits);
  const i64 tile = smaller(rows * kTileColumns * bytes, larger(kTileBytes, rows * 256));  // see strip_width
  return larger(segment, tile + rows * 128 + kTileColumns * 4);
}

// A whole row in the compute type before its last pass, where the output cannot hold it (16 bits) or takes it in
// another order.
SO_PLAN i64 intermediate_bytes(Rowwise how, bool in_place, i64 n, i64 inner, i64 bytes) {
  return how == Rowwise::alone || in_place ? 0 : row_result_bytes(n, inner, bytes);
}

// ---- quantisation ----
// A unit is what whole blocks and whole groups both divide.
constexpr i64 kQuantizeAlone = 256 * 1024;  // bytes of a unit one thread takes
constexpr i64 kQuantizeNear = 16 * 1024;  // and of the units it takes at a time

SO_PLAN bool quantize_alone(i64 unit, i64 block) { return larger(unit, block) * 4 <= kQuantizeAlone; }
SO_PLAN i64 quantize_unit_bytes(i64 dim) { return smaller(kQuantizeAlone, round_up_64(dim * 4)); }
SO_PLAN i64 quantize_slot_bytes(i64 dim, i64 block) {
  return quantize_unit_bytes(dim) + row_scratch_bytes(block, 1, 4);
}

}  // namespace cpu
}  // namespace spectralops

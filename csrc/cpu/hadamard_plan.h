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

constexpr i64 kSliceBytes = 256 * 1024;    // the largest row one thread transforms whole, in its second-level cache
constexpr i64 kSharedBytes = 64 * 1024;    // from here on, a few rows are shared by all threads
constexpr i64 kSegmentBytes = 128 * 1024;  // contiguous pieces of longer rows
constexpr i64 kTileBytes = 256 * 1024;     // and their strips of columns
constexpr int kTileBits = 13;              // of the row index at a time
constexpr i64 kTileColumns = 16 * 1024;
constexpr i64 kStackBytes = 64 * 1024;     // scratch up to this size needs no workspace
constexpr i64 kTaskBytes = 64 * 1024;      // what one thread takes at a time

SO_PLAN i64 round_up_64(i64 bytes) { return (bytes + 63) / 64 * 64; }
SO_PLAN i64 larger(i64 a, i64 b) { return a > b ? a : b; }
SO_PLAN i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// Bytes one thread needs for rows of (n, inner): `bytes` is the size of the compute type.  The result of a row, for what reads
// it in another order, comes first.
SO_PLAN i64 row_result_bytes(i64 n, i64 inner, i64 bytes) { return round_up_64(n * inner * bytes); }
SO_PLAN i64 row_scratch_bytes(i64 n, i64 inner, i64 bytes) {
  const i64 contiguous = n * bytes + (n * bytes / 1024 + 1) * 64;          // a row and its padding
  const i64 packed = 16 * 1024 + n * 128;                                  // see side_by_side
  const i64 apart = inner > 1 && inner < 8 ? n * inner * bytes : 0;        // a small inner axis taken apart
  return row_result_bytes(n, inner, bytes) + round_up_64(larger(contiguous + apart, inner > 1 || n <= 4096 ? packed : 0));
}

// Do all threads work on one row after another?
SO_PLAN bool shared_rows(i64 outer, i64 n, i64 inner, i64 bytes, int threads) {
  const i64 row = n * inner * bytes;
  if (row > kSliceBytes) return true;
  return threads > 1 && row >= kSharedBytes && outer < 4 * threads && outer % threads != 0;
}

// Scratch of a thread that shares a row: a segment of whole runs of `inner`, or a tile of kTileBytes (at least 2^kTileBits rows of
// one vector) and a number for each of its columns.
SO_PLAN i64 shared_scratch_bytes(i64 n, i64 inner, i64 bytes) {
  const i64 positions = kSegmentBytes / (inner * bytes);
  const i64 segment = positions < 2 ? 0 : row_scratch_bytes(smaller(n, positions), inner, bytes);
  return larger(segment, larger(kTileBytes, (i64(1) << kTileBits) * 64) + kTileColumns * 4);
}

SO_PLAN i64 scratch_bytes(bool shared, i64 n, i64 inner, i64 bytes) {
  return shared ? shared_scratch_bytes(n, inner, bytes) : row_scratch_bytes(n, inner, bytes);
}

// A whole row in the compute type, before its last pass: where the output cannot hold it (16 bits) or takes it in another order.
SO_PLAN i64 shared_result_bytes(i64 n, i64 inner, i64 bytes) { return round_up_64(n * inner * bytes); }

// ---- quantisation ----
// A unit is what whole blocks and whole groups both divide.
constexpr i64 kQuantizeAlone = 256 * 1024;  // bytes of a unit one thread takes
constexpr i64 kQuantizeNear = 16 * 1024;    // and of the units it takes at a time

SO_PLAN bool quantize_alone(i64 unit, i64 block) { return larger(unit, block) * 4 <= kQuantizeAlone; }
SO_PLAN i64 quantize_unit_bytes(i64 dim) { return smaller(kQuantizeAlone, round_up_64(dim * 4)); }
SO_PLAN i64 quantize_slot_bytes(i64 dim, i64 block) { return quantize_unit_bytes(dim) + row_scratch_bytes(block, 1, 4); }

}  // namespace cpu
}  // namespace spectralops

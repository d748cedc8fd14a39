// How a transform is cut into launches: what the launchers of hadamard.cu, hadamard_quantize.cu and srht.cu share.
#pragma once

#include "cuda/hadamard.h"
#include "spectralops/hadamard.h"

namespace spectralops {
namespace cuda {
namespace plan {

// ---- launch choices -----------------------------------------------------------------------------------------
constexpr int kWarpTiles = 4;         // warps of a block of short rows (n <= 1024): threads_of's 128
constexpr int kBlockElements = 4096;  // aimed at by blocks of several short rows of another kind
constexpr int kStreamBits = 5;        // a strided factor of up to 2^5 needs no exchange: the cheapest second pass
constexpr i64 kGridLimit = 0x7fffffff;

// Rows of 2^kFirstFixed .. 2^kLastFixed have a kernel each, every shift and address a constant, for data of at most
// 32 bits in floating point.
constexpr int kFirstFixed = 7, kLastFixed = 15;
template <typename T> constexpr bool has_fixed(int k) {
  return same_type<compute_t<T>, float>::value && k >= kFirstFixed && k <= kLastFixed;
}
template <typename T> constexpr int most_threads(bool fixed) {
  return fixed ? 1024 : hadamard::threads_of<T, -1>::value;
}
template <typename T> constexpr int most_strided_bits() {
  return sizeof(compute_t<T>) == 8 ? 9 : 10;  // 128 KB of 32 columns
}
// --------------------------------------------------------------------------------------------------------------

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
inline int log2_floor(i64 n) {
  int k = 0;
  while ((n >> (k + 1)) != 0) ++k;
  return k;
}
inline bool aligned(const void* pointer) { return (reinterpret_cast<u64>(pointer) & 15u) == 0; }
inline Grid grid_of(i64 blocks) { return Grid{blocks < kGridLimit ? blocks : kGridLimit}; }

// A block's share: `rows` rows of 2^k, its threads, and its shared memory when the rows go through it.
struct Block {
  int rows = 0, threads = 0;
  i64 shared = 0;
};

// A block of `rows` rows, combined m at a time when m > 1.  threads 0: it does not fit.
template <typename T> Block block_of(i64 rows, int k, int m, int most_threads, const DeviceLimits& limits) {
  Block block;
  const int bits = hadamard::tile_bits(k);
  if (k > 20 || rows > (i64(1) << 20)) return block;
  const i64 tile = i64(1) << (bits - hadamard::kValueBits);
  i64 threads = ceil_div(rows << k, i64(1) << bits) * tile;
  if (m > 1) {  // a thread keeps few sums, so these may need more threads than the elements do
    const i64 places = (i64(1) << k) / hadamard::base_places<compute_t<T>>(k);
    const i64 total = rows / m * ceil_div(m, hadamard::kBaseOutputs) * places;
    const i64 needed = ceil_div(ceil_div(total, hadamard::kBaseItems), tile) * tile;
    if (needed > threads) threads = needed;
  }
  if (threads > most_threads) return block;
  const i64 shared = i64(hadamard::pad<T>(int(threads) * hadamard::kValues)) * i64(sizeof(compute_t<T>));
  if (shared > limits.shared_limit) return block;
  block.rows = int(rows);
  block.threads = int(threads);
  block.shared = shared;
  return block;
}
// True when rows of 2^k stay inside the registers and shuffles of a warp.
template <typename T> bool without_shared(int k) {
  const int g = hadamard::edge_bits<T>::value;
  return k <= g + hadamard::kShuffleBits;
}

// One block holds m rows of 2^k.  fixed: kernels with a constant k may be used.
template <typename T> bool fits(int k, int m, bool fixed, const DeviceLimits& limits) {
  return block_of<T>(m, k, m, most_threads<T>(fixed && m == 1 && has_fixed<T>(k)), limits).threads != 0;
}

// The factors of a transform along (outer, m 2^k, inner): rows of 2^row_bits first (inner == 1 only), then strided
// factors from low to high bits, then the base.
struct Passes {
  int row_bits = 0, strided = 0, strided_bits[8] = {}, base = 0;
  bool rows = false;
  int count() const { return int(rows) + strided + base; }
};

template <typename T> Passes passes_of(int k, int m, i64 inner, const DeviceLimits& limits) {
  Passes p;
  p.base = m > 1;
  int most = most_strided_bits<T>();
  while (most > kStreamBits && (i64(hadamard::kColumns) << most) * i64(sizeof(compute_t<T>)) > limits.shared_limit)
    --most;
  int rest = k;
  if (inner == 1) {
    int fit = k;
    while (fit > 1 && !fits<T>(fit, 1, same_type<T, compute_t<T>>::value, limits))
      --fit;  // 16-bit data widen on the way: no fixed kernel
    p.rows = k > 0 || m == 1;
    rest = k - fit;
    const i64 wanted = ceil_div(rest, most) * kStreamBits;
    if (rest > 0 && rest < wanted) rest = int(wanted < k - 1 ? wanted : k - 1);
    p.row_bits = k - rest;
  }
  p.strided = int(ceil_div(rest, most));
  for (int i = 0; i < p.strided; ++i) {
    p.strided_bits[i] = int(ceil_div(rest, p.strided - i));
    rest -= p.strided_bits[i];
  }
  if (p.count() == 0) p.strided = 1;  // n = 1 beside inner > 1: a factor of length 1
  return p;
}

// The parts of Rows that follow from the sizes.
inline hadamard::Rows rows_of(i64 outer, int k, i64 parts, i64 x_stride, i64 sign_period, double scale, bool ordered) {
  hadamard::Rows p{};
  p.k = k;
  p.rows = outer * parts;
  p.parts = parts;
  p.x_stride = outer == 1 ? parts << k : x_stride;
  p.sign_period = sign_period;
  p.scale = scale;
  if (p.x_stride == parts << k && !ordered) p.parts = 1, p.x_stride = i64(1) << k;  // one run of rows: no divisions
  return p;
}

template <typename T> void set_vectors(hadamard::Rows* p, bool out_aligned) {
  const int g = hadamard::edge_bits<T>::value;
  const bool lines = p->k >= g && p->x_stride % (1 << g) == 0;
  const bool flat = p->k < g && p->x_stride == p->parts << p->k && ((p->rows << p->k) & ((1 << g) - 1)) == 0 &&
                    ((i64(p->block_rows) << p->k) & ((1 << g) - 1)) == 0;
  const bool fit = lines || flat;
  p->vector_in = fit && aligned(p->x) && !p->order_bits && (!p->signs_in || (lines && aligned(p->signs_in)));
  p->vector_out = !(p->order_out && p->order_bits <= p->k) && (flat || p->k >= g) && out_aligned &&
                  (!p->signs_out || (p->k >= g && aligned(p->signs_out)));
}

inline int no_workspace(i64 needed, i64 have) {
  return fail(SPECTRALOPS_INVALID, "workspace of %lld bytes, %lld needed", have, needed);
}

// Calls f(T{}) with the storage type of a dtype; integers are carried as unsigned words, which wrap.
template <typename F> int with_type(int dtype, const F& f) {
  switch (dtype) {
    case SPECTRALOPS_F32: return f(float{});
    case SPECTRALOPS_F64: return f(double{});
    case SPECTRALOPS_F16: return f(half_t{});
    case SPECTRALOPS_BF16: return f(bf16_t{});
    case SPECTRALOPS_I32: return f(u32{});
    case SPECTRALOPS_I64: return f(u64{});
  }
  return fail(SPECTRALOPS_INVALID, "dtype code %d is not one of 0 .. 5", dtype);
}

}  // namespace plan

// One call's operands.
struct Transform {
  const void* x;
  void* y;
  void* between;  // compute type: what lies between the passes
  const void* signs_in;
  const void* signs_out;
  const void* base;
  i64 x_stride, sign_blocks, outer, n, inner;
  int m, k;
  double scale;
  int order_in, order_out;
};

// All launches of a transform; the result in T, or in the compute type with y == between.
template <typename T, typename Out>
int hadamard_run(const Where& where, const DeviceLimits& limits, const Transform& t);

}  // namespace cuda
}  // namespace spectralops

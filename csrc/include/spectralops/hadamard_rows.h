// Hadamard kernels on whole rows: transform, subsampled transform, and the parts that the quantising kernel shares.
//
// One outer slice of x is `parts` consecutive rows of 2^k elements (parts = n / 2^k: 1, the base size, or what later
// passes combine). A block takes `block_rows` consecutive rows, numbered through all outer slices; blocks stride over
// them so that any number fits the grid.
#pragma once

#include "spectralops/hadamard_base.h"
#include "spectralops/hadamard_tile.h"

namespace spectralops {
namespace hadamard {

struct Rows {
  const void* x;
  void* y;
  const void* signs_in;
  const void* signs_out;
  const void* base;   // packed H_m, or null: rows are combined m at a time when set
  const i64* gather;  // subsampled transform: the rows of H to keep
  i64 gathered;       // how many
  i64 rows, parts, x_stride;
  i64 sign_period;  // sign rows of 2^k elements before they repeat
  double scale;
  int k, block_rows, base_size;
  // order_out is applied at the store while order_bits <= k, else folded into the gather at the load.
  int order_in, order_out, order_bits;
  int sign_by_part;  // sign rows follow the row number inside its outer slice, not the running number
  int vector_in, vector_out;  // 16-byte accesses fit: alignment, whole vectors, natural order
};

SO_HOST_DEVICE i64 modulo(i64 a, i64 b) { return u64(a | b) <= 0xffffffffu ? i64(u32(a) % u32(b)) : a % b; }
SO_HOST_DEVICE i64 quotient(i64 a, i64 b) { return u64(a | b) <= 0xffffffffu ? i64(u32(a) / u32(b)) : a / b; }

// A product that no compiler contracts into a later addition: the kernels must agree bit for bit.
SO_DEVICE float times(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
SO_DEVICE double times(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
SO_DEVICE u32 times(u32 a, u32 b) { return a * b; }
SO_DEVICE u64 times(u64 a, u64 b) { return a * b; }
// Integers are carried as unsigned words, which wrap.
template <typename C> SO_DEVICE C scale_as(double s) { return C(s); }
template <> SO_DEVICE u32 scale_as<u32>(double s) { return u32(i64(s)); }
template <> SO_DEVICE u64 scale_as<u64>(double s) { return u64(i64(s)); }

// Where a block's first row lies.  64-bit division happens here, once; the rows after it are found with 32 bits.
struct Chunk {
  i64 row, outer, sign;  // its running number, outer slice and sign row
  u32 part;              // its number in the slice
};
SO_DEVICE Chunk chunk_of(const Rows& p, i64 row) {
  Chunk c;
  c.row = row;
  c.outer = p.parts == 1 ? row : quotient(row, p.parts);
  c.part = u32(row - c.outer * p.parts);
  c.sign = p.sign_period == 1 ? 0 : modulo(row, p.sign_period);
  return c;
}

struct Place {
  i64 outer;
  u32 part;
  i64 x, sign;  // the row's first element and first sign
};
SO_DEVICE Place place(const Rows& p, const Chunk& c, int local) {
  Place at;
  const u32 parts = u32(p.parts), steps = c.part + u32(local), slices = parts == 1 ? steps : steps / parts;
  at.outer = c.outer + slices;
  at.part = steps - slices * parts;
  at.x = at.outer * p.x_stride + (i64(at.part) << p.k);
  i64 sign = p.sign_by_part ? i64(at.part) : c.sign + local;
  if (p.sign_period < 0x40000000)
    sign = u32(sign) % u32(p.sign_period);
  else if (sign >= p.sign_period)
    sign -= p.sign_period;
  at.sign = sign << p.k;
  return at;
}
SO_DEVICE bool inside(const Rows& p, i64 first_row, int local) {
  return local < p.block_rows && first_row + local < p.rows;
}

// N contiguous numbers as 16-byte accesses.
template <typename C, int N> SO_DEVICE void read_vector(const C* from, C (&out)[N]) {
  constexpr int width = 16 / int(sizeof(C)) < N ? 16 / int(sizeof(C)) : N;
  SO_UNROLL
  for (int i = 0; i < N; i += width) {
    const Pack<C, width> pack = *reinterpret_cast<const Pack<C, width>*>(from + i);
    SO_UNROLL
    for (int e = 0; e < width; ++e) out[i + e] = pack.v[e];
  }
}

// Element `element` of a block, wherever it lies: short rows, ragged or unaligned data, or a reordered input.
template <typename T> SO_DEVICE compute_t<T> load_one(const Rows& p, const Chunk& chunk, int element) {
  using C = compute_t<T>;
  const int local = element >> p.k;
  i64 at = element & ((1 << p.k) - 1);
  if (!inside(p, chunk.row, local)) return C(0);
  Place from = place(p, chunk, local);
  if (p.order_bits) {  // the place depends on the index in the whole outer slice
    const u32 index = u32((i64(from.part) << p.k) | at);
    at = position_of(p.order_bits == p.k ? index : adjoint_of(index, p.order_out, p.order_bits), p.order_in,
                     p.order_bits);
    from.x = from.outer * p.x_stride;
    from.sign -= i64(from.part) << p.k;
  }
  const C value = C(widen(static_cast<const T*>(p.x)[from.x + at]));
  return p.signs_in ? times(value, static_cast<const C*>(p.signs_in)[from.sign + at]) : value;
}

template <typename T, int K>
SO_DEVICE void load(const Rows& p, const Tile<T, K>& tile, i64 first_row, compute_t<T>* shared,
                    compute_t<T> (&v)[kValues]) {
  using C = compute_t<T>;
  constexpr int N = Tile<T, K>::vector, slots = Tile<T, K>::slots;
  const Chunk chunk = chunk_of(p, first_row);
  const int mask = (1 << tile.k) - 1;
  if (!p.vector_in) {  // one element a thread at a time, neighbours together, through shared memory
    __syncthreads();   // the block's previous rows have left it
    for (int i = int(threadIdx.x); i < int(blockDim.x) * kValues; i += int(blockDim.x))
      shared[pad<T>(i)] = load_one<T>(p, chunk, i);
    __syncthreads();
    tile.get(shared, v);
    return;
  }
  Pack<T, N> packs[slots];  // every load is under way before the first is used
  SO_UNROLL
  for (int slot = 0; slot < slots; ++slot) {
    const int element = tile.element(slot), local = element >> tile.k;
    packs[slot] = Pack<T, N>{};
    if (inside(p, first_row, local))
      packs[slot] = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(p.x) + place(p, chunk, local).x +
                                                         (element & mask));
  }
  SO_UNROLL
  for (int r = 0; r < kValues; ++r) v[r] = C(widen(packs[r / N].v[r % N]));
  if (p.signs_in == nullptr) return;
  const Tile<T, K> again(p.k);
  SO_UNROLL
  for (int slot = 0; slot < slots; ++slot) {
    const int element = again.element(slot), local = element >> tile.k;
    C sign[N];
    read_vector(static_cast<const C*>(p.signs_in) + place(p, chunk, local).sign + (element & mask), sign);
    SO_UNROLL
    for (int e = 0; e < N; ++e) v[slot * N + e] = times(v[slot * N + e], sign[e]);
  }
}

// Outputs one by one, in any order, through shared memory.
template <typename Out, typename T, int K>
SO_DEVICE void store_each(const Rows& p, const Tile<T, K>& tile, i64 first_row, compute_t<T>* shared,
                          const compute_t<T> (&v)[kValues]) {
  using C = compute_t<T>;
  const int mask = (1 << tile.k) - 1, order = p.order_bits <= tile.k ? p.order_out : 0;
  const Chunk chunk = chunk_of(p, first_row);
  tile.put(shared, v);
  __syncthreads();
  for (int i = int(threadIdx.x); i < int(blockDim.x) * kValues; i += int(blockDim.x)) {
    const int local = i >> tile.k, at = i & mask;
    if (!inside(p, first_row, local)) break;
    C value = shared[pad<T>((i & ~mask) | int(natural_of(u32(at), order, tile.k)))];
    if (p.signs_out) value = times(value, static_cast<const C*>(p.signs_out)[place(p, chunk, local).sign + at]);
    static_cast<Out*>(p.y)[(first_row << tile.k) + i] = narrow<Out>(value);
  }
  __syncthreads();
}

template <typename Out, typename T, int K>
SO_DEVICE void store(const Rows& p, const Tile<T, K>& tile, i64 first_row, compute_t<T>* shared,
                     compute_t<T> (&v)[kValues]) {
  using C = compute_t<T>;
  constexpr int N = Tile<T, K>::vector, width = 16 / int(sizeof(Out)) < N ? 16 / int(sizeof(Out)) : N;
  if (!p.vector_out) {
    store_each<Out>(p, tile, first_row, shared, v);
    return;
  }
  Chunk chunk{};
  if (p.signs_out) chunk = chunk_of(p, first_row);
  SO_UNROLL
  for (int slot = 0; slot < Tile<T, K>::slots; ++slot) {
    const int element = tile.element(slot), local = element >> tile.k;
    if (!inside(p, first_row, local)) continue;
    C part[N];
    SO_UNROLL
    for (int e = 0; e < N; ++e) part[e] = v[slot * N + e];
    if (p.signs_out) {
      C sign[N];
      read_vector(static_cast<const C*>(p.signs_out) + place(p, chunk, local).sign + (element & ((1 << tile.k) - 1)),
                  sign);
      SO_UNROLL
      for (int e = 0; e < N; ++e) part[e] = times(part[e], sign[e]);
    }
    Out* to = static_cast<Out*>(p.y) + (first_row << tile.k) + element;
    SO_UNROLL
    for (int i = 0; i < N; i += width) {
      Pack<Out, width> pack;
      SO_UNROLL
      for (int e = 0; e < width; ++e) pack.v[e] = narrow<Out>(part[i + e]);
      *reinterpret_cast<Pack<Out, width>*>(to + i) = pack;
    }
  }
}

// Load, transform, base factor, scale: the rotated values of a block's rows in the edge layout, as every kernel below
// uses them.
template <bool Base, typename T, int K>
SO_DEVICE void rotate(const Rows& p, i64 first_row, compute_t<T>* shared, compute_t<T> (&v)[kValues]) {
  load(p, Tile<T, K>(p.k), first_row, shared, v);
  Tile<T, K>(p.k).transform(shared, v);
  if (Base) combine_base(p.base, p.base_size, p.block_rows, Tile<T, K>(p.k), shared, v);
  SO_UNROLL
  for (int r = 0; r < kValues; ++r) v[r] = times(v[r], scale_as<compute_t<T>>(p.scale));
}

// Most threads of a block and fewest blocks of a multiprocessor, and with them the registers of a thread: 64 to 72
// where k is a constant, 128 where it is not, 255 for 8-byte values.
template <typename T, int K> struct threads_of {
  static constexpr int value = K > kWarpTileBits           ? 1 << (K - kValueBits)
                               : K >= 0                    ? 128
                               : sizeof(compute_t<T>) == 8 ? 256
                                                           : 512;
  static constexpr int blocks = K > kWarpTileBits ? 1024 / value : K >= 0 ? 7 : 1;
};

}  // namespace hadamard

template <typename T, typename Out, int K, bool Base>
SO_KERNEL((hadamard::threads_of<T, K>::value), (hadamard::threads_of<T, K>::blocks))
hadamard_rows(const hadamard::Rows p) {
  using C = compute_t<T>;
  C* shared = dynamic_shared<C>();
  C v[hadamard::kValues];
  const i64 step = i64(gridDim.x) * p.block_rows;
  for (i64 row = i64(blockIdx.x) * p.block_rows; row < p.rows; row += step) {
    hadamard::rotate<Base, T, K>(p, row, shared, v);
    hadamard::store<Out>(p, hadamard::Tile<T, K>(p.k), row, shared, v);
    if (Base) return;  // blocks of 4096 elements and more: the grid always reaches
  }
}

// y (outer, gathered) = the chosen rows of the transform, one or more outer slices (of 2^k, or base_size 2^k,
// elements) a block.  A row that does not exist gives NaN: the host cannot check the list without waiting for it.
template <typename T, bool Base>
SO_KERNEL((hadamard::threads_of<T, -1>::value), 1)
hadamard_gathered(const hadamard::Rows p) {
  using C = compute_t<T>;
  C* shared = dynamic_shared<C>();
  C v[hadamard::kValues];
  const i64 step = i64(gridDim.x) * p.block_rows;
  const int m = Base ? p.base_size : 1, slices = p.block_rows / m;
  for (i64 row = i64(blockIdx.x) * p.block_rows; row < p.rows; row += step) {
    hadamard::rotate<Base, T, -1>(p, row, shared, v);
    hadamard::Tile<T, -1>(p.k).put(shared, v);
    __syncthreads();
    const i64 first = row / m, left = p.rows / m - first;
    for (int slice = 0; slice < slices && slice < left; ++slice)
      for (i64 j = threadIdx.x; j < p.gathered; j += blockDim.x) {
        const i64 chosen = p.gather[j];
        const bool exists = u64(chosen) < u64(i64(m) << p.k);
        const int at = ((slice * m) << p.k) + (exists ? int(chosen) : 0);
        const C value = exists ? shared[hadamard::pad<T>(at)] : C(bits_float(0x7fc00000u));
        static_cast<T*>(p.y)[(first + slice) * p.gathered + j] = narrow<T>(value);
      }
    if (Base) return;
    __syncthreads();
  }
}

// The same choice from transforms that lie in memory: x (outer, n) in the compute type, parts = n.
template <typename T> SO_KERNEL(256, 1) hadamard_pick(const hadamard::Rows p) {
  const i64 count = p.rows * p.gathered, step = i64(gridDim.x) * blockDim.x;
  for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const i64 outer = hadamard::quotient(i, p.gathered), j = i - outer * p.gathered;
    const compute_t<T>* transform = static_cast<const compute_t<T>*>(p.x) + outer * p.parts;
    const i64 row = p.gather[j];
    const bool exists = u64(row) < u64(p.parts);
    static_cast<T*>(p.y)[i] = narrow<T>(exists ? transform[row] : compute_t<T>(bits_float(0x7fc00000u)));
  }
}

}  // namespace spectralops

// The on-chip Walsh-Hadamard transform: rows of n = 2^k elements spread over the registers of a tile of threads.
//
// A thread holds 32 values. A tile is 32 threads and 1024 elements (several rows) for k <= 10, else n / 32 threads
// and one row. The bits of the element number are split between register and thread; a butterfly on a register bit
// costs nothing but its additions, so the tile moves bits into the registers five at a time:
//
//   edge layout    registers: the low g bits (one 16-byte vector of the I/O type), then t high bits of the row, then
//                  high bits of the tile;  threads: all other bits, in order
//   middle layout  registers: bits [low, low + b), then high bits of the tile;  threads: all other bits, in order
//
// Loads and stores happen in the edge layout (coalesced 16-byte vectors), with bits 0 .. g-1 before and bits k-t ..
// k-1 after the middle layouts. Every element so meets its bits from low to high, whatever g is: the sums are the
// same for every I/O type of one compute type.
#pragma once

#include "spectralops/types.h"

namespace spectralops {
namespace hadamard {

constexpr int kValueBits = 5, kValues = 1 << kValueBits;  // values a thread holds
constexpr int kWarpTileBits = 10;                         // 32 lanes x 32 values
constexpr int kShuffleBits = 3;  // up to 3 middle bits by shuffles: 3 words a value, against 4 through shared memory

template <typename T> struct edge_bits {
  static constexpr int value = sizeof(T) == 2 ? 3 : sizeof(T) == 4 ? 2 : 1;
};

constexpr SO_HOST_DEVICE int tile_bits(int k) { return k < kWarpTileBits ? kWarpTileBits : k; }

// Where element i lies in shared memory. Both layouts then reach 32 different banks: bits 5, 6, 7 move by 4, 8, 16
// words and the pattern repeats from bit 8, starting where the next layout's lanes need it (64-bit words: 2, 4, 8
// from bit 4 on). Multiples of 16 bytes keep vectors aligned. pad(i | j) = pad(i) + pad(j) for bit fields i, j
// without a common bit.
template <typename T> constexpr SO_HOST_DEVICE int pad(int i) {
  return sizeof(T) == 8 ? i + 2 * (i >> 4) + 2 * (i >> 7)
                        : i + 4 * (i >> 5) + (edge_bits<T>::value == 3 ? 8 : 4) * (i >> 8);
}

// The same number, but the compiler does not know: addresses derived from it are computed again instead of being kept
// in registers.
SO_DEVICE int opaque(int i) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(i));
#endif
  return i;
}

template <typename C, int N> struct alignas(sizeof(C) * N) Pack {
  C v[N];
};

// Unrolled bit loops rely on `bit` being a constant after unrolling.
template <typename C> SO_DEVICE void butterfly(C (&v)[kValues], int bit) {
  SO_UNROLL
  for (int pair = 0; pair < kValues / 2; ++pair) {
    const int low = ((pair >> bit) << (bit + 1)) | (pair & ((1 << bit) - 1)), high = low | (1 << bit);
    const C a = v[low], b = v[high];
    v[low] = a + b;
    v[high] = a - b;
  }
}

// Geometry of one thread. Element numbers are relative to the block: tile number * tile size + number in the tile.
// K >= 0 fixes k at compile time.
template <typename T, int K> struct Tile {
  using C = compute_t<T>;
  static constexpr int g = edge_bits<T>::value, vector = 1 << g, slots = kValues >> g;

  int k, bits, top;  // row bits, tile bits, t
  int unit;          // thread number in the tile
  int origin;        // first element of the tile
  int base;          // first element of the thread in the edge layout
  SO_DEVICE explicit Tile(int runtime_k) {
    k = K >= 0 ? K : runtime_k;
    bits = tile_bits(k);
    const int excess = k - g - kValueBits;
    top = excess < 0 ? 0 : excess < kValueBits - g ? excess : kValueBits - g;
    const int thread = K >= 0 ? int(threadIdx.x) : opaque(int(threadIdx.x));
    unit = thread & ((1 << (bits - kValueBits)) - 1);
    origin = (thread >> (bits - kValueBits)) << bits;
    const int split = k - top - g;  // thread bits below the row's top bits
    base = origin | (top > 0 ? ((unit & ((1 << split) - 1)) << g) | ((unit >> split) << k) : unit << g);
  }
  // First element of vector `slot`: the low t bits of the slot are the row's top bits, the others the tile's.
  SO_DEVICE int element(int slot) const {
    return base | ((slot & ((1 << top) - 1)) << (k - top)) | ((slot >> top) << (bits - (kValueBits - g - top)));
  }
  // Rows of one warp need no more than the warp's own order.
  SO_DEVICE void barrier() const {
    if (bits == kWarpTileBits)
      __syncwarp();
    else
      __syncthreads();
  }

  SO_DEVICE void put(C* shared, const C (&v)[kValues]) const {
    constexpr int width = 16 / sizeof(C) < vector ? 16 / sizeof(C) : vector;
    SO_UNROLL
    for (int r = 0; r < kValues; r += width) {
      Pack<C, width> pack;
      SO_UNROLL
      for (int e = 0; e < width; ++e) pack.v[e] = v[r + e];
      *reinterpret_cast<Pack<C, width>*>(shared + pad<T>(element(r >> g)) + (r & (vector - 1))) = pack;
    }
  }
  SO_DEVICE void get(const C* shared, C (&v)[kValues]) const {
    constexpr int width = 16 / sizeof(C) < vector ? 16 / sizeof(C) : vector;
    SO_UNROLL
    for (int r = 0; r < kValues; r += width) {
      const Pack<C, width> pack =
          *reinterpret_cast<const Pack<C, width>*>(shared + pad<T>(element(r >> g)) + (r & (vector - 1)));
      SO_UNROLL
      for (int e = 0; e < width; ++e) v[r + e] = pack.v[e];
    }
  }

  // Bits [low, low + b): every thread reads and writes back the same places, so one barrier before suffices.
  SO_DEVICE void middle(C* shared, C (&v)[kValues], int low, int b) const {
    int first = pad<T>(origin | (unit & ((1 << low) - 1)) | ((unit >> low) << (low + b)));
    int step[kValueBits];  // how far each register bit moves
    SO_UNROLL
    for (int bit = 0; bit < kValueBits; ++bit) step[bit] = pad<T>(1 << (bit < b ? low + bit : bits - kValueBits + bit));
    SO_UNROLL
    for (int r = 0; r < kValues; ++r) v[r] = shared[first + offset(step, r)];
    SO_UNROLL
    for (int bit = 0; bit < kValueBits; ++bit)
      if (bit < b) butterfly(v, bit);
    if (K < 0) {
      first = opaque(first);
      SO_UNROLL
      for (int bit = 0; bit < kValueBits; ++bit) step[bit] = opaque(step[bit]);
    }
    SO_UNROLL
    for (int r = 0; r < kValues; ++r) shared[first + offset(step, r)] = v[r];
  }
  static SO_DEVICE int offset(const int (&step)[kValueBits], int r) {
    return (r & 1 ? step[0] : 0) + (r & 2 ? step[1] : 0) + (r & 4 ? step[2] : 0) + (r & 8 ? step[3] : 0) +
           (r & 16 ? step[4] : 0);
  }

  SO_DEVICE void shuffled(C (&v)[kValues], int end) const {
    for (int bit = g; bit < end; ++bit) {
      const bool upper = (unit >> (bit - g)) & 1;
      SO_UNROLL
      for (int r = 0; r < kValues; ++r) {
        const C other = __shfl_xor_sync(0xffffffffu, v[r], 1 << (bit - g));
        v[r] = upper ? other - v[r] : v[r] + other;
      }
    }
  }

  SO_DEVICE void exchanged(C* shared, C (&v)[kValues], int end) const {
    put(shared, v);
    // Equal shares: more than 3 bits in one, or at least 3 in each of several, so never fewer than g, and the
    // registers' other bits lie above.
    const int phases = (end - g + kValueBits - 1) / kValueBits;
    int low = g;
    // Unrolled where k is a constant: so is every shift then.
    SO_UNROLL_BY(K >= 0 ? 3 : 1)
    for (int phase = 0; phase < 3; ++phase) {
      if (phase >= phases) break;
      const int b = (end - low + phases - phase - 1) / (phases - phase);
      barrier();
      middle(shared, v, low, b);
      low += b;
    }
    barrier();
    Tile(k).get(shared, v);  // a tile anew: its addresses need not live through the middle layouts
  }

  // The whole transform: v in the edge layout before and after. shared is written and read only at the thread's own
  // edge places at the end, so a following put() needs no barrier.
  SO_DEVICE void transform(C* shared, C (&v)[kValues]) const {
    SO_UNROLL
    for (int bit = 0; bit < g; ++bit)
      if (bit < k) butterfly(v, bit);
    const int end = k - top;
    if (end > g + kShuffleBits)
      exchanged(shared, v, end);
    else
      shuffled(v, end);
    SO_UNROLL
    for (int bit = 0; bit < kValueBits - g; ++bit)
      if (bit < top) butterfly(v, g + bit);
  }
};

// The natural index of position p in an order (0 natural, 1 dyadic, 2 sequency) over `bits` bits, and back. Row k of
// the sequency order is the natural row bit-reverse(k ^ k >> 1).
SO_HOST_DEVICE u32 reverse_bits(u32 i, int bits) {
  if (bits == 0) return 0u;
#if defined(__CUDA_ARCH__)
  return __brev(i) >> (32 - bits);
#else
  i = ((i >> 1) & 0x55555555u) | ((i & 0x55555555u) << 1);
  i = ((i >> 2) & 0x33333333u) | ((i & 0x33333333u) << 2);
  i = ((i >> 4) & 0x0f0f0f0fu) | ((i & 0x0f0f0f0fu) << 4);
  i = ((i >> 8) & 0x00ff00ffu) | ((i & 0x00ff00ffu) << 8);
  return ((i >> 16) | (i << 16)) >> (32 - bits);
#endif
}
SO_HOST_DEVICE u32 natural_of(u32 p, int order, int bits) {
  return order == 0 ? p : reverse_bits(order == 2 ? p ^ (p >> 1) : p, bits);
}
SO_HOST_DEVICE u32 position_of(u32 i, int order, int bits) {
  if (order == 0) return i;
  u32 p = reverse_bits(i, bits);
  if (order == 2)
    for (int s = 1; s < 32; s <<= 1) p ^= p >> s;
  return p;
}
// Both orders are linear maps over the field of two elements and H[i][j] = (-1)^<i, j>, so reading the output at
// natural_of(p) is the same as reading the input through the inverse transpose of that map. Transforms of several
// passes reorder their output so, while they read.
SO_HOST_DEVICE u32 adjoint_of(u32 i, int order, int bits) {
  if (order == 0) return i;
  if (order == 2) {
    for (int s = 1; s < 32; s <<= 1) i ^= i << s;
    i &= u32((u64(1) << bits) - 1);
  }
  return reverse_bits(i, bits);
}

}  // namespace hadamard
}  // namespace spectralops

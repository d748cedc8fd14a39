// walsh_sum for one instruction set.
#include "cpu/walsh_sum.h"

#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

constexpr i64 kWords = 16;  // turned at a time: 1024 planes, 64 KiB of a stack at most
constexpr i64 kTile = 256;  // keys whose parities are kept
constexpr i64 kChain = 32;  // terms in a row of one sum

template <typename C> struct Walsh {
  using U = std::conditional_t<sizeof(C) == 4, u32, u64>;
  using V = typename sized_vector<U, lanes<C>>::type;
  static constexpr int L = lanes<C>, Bits = 8 * sizeof(C), Parts = 8 / sizeof(U);
  static constexpr i64 Block = i64(L) * Bits;
  static constexpr U Sign = U(1) << (Bits - 1);

  // Bit c of row r changes places with bit r of row c, in every lane.
  static void turn(V* row) {
    U low = U(-1) >> (Bits / 2);
    for (int s = Bits / 2; s; s >>= 1, low ^= low << s)
      for (int k = 0; k < Bits; k = ((k | s) + 1) & ~s) {
        const V t = ((row[k] >> s) ^ row[k + s]) & (V{} + low);
        row[k] ^= t << s, row[k + s] ^= t;
      }
  }

  // Planes of the bits of `words` words of `rows` <= Block vectors, `stride` words apart; zeros beyond.
  static void planes(const i64* from, i64 stride, i64 rows, i64 words, V* plane) {
    const i64 parts = words * Parts;
    if (rows < Block)
      for (i64 p = 0; p < parts * Bits; ++p) plane[p] = V{};
    char* const to = reinterpret_cast<char*>(plane);
    for (i64 i = 0; i < rows; ++i) {
      const char* const vector = reinterpret_cast<const char*>(from + i * stride);
      for (i64 j = 0; j < parts; ++j) __builtin_memcpy(to + (j * Block + i) * sizeof(U), vector + j * sizeof(U), sizeof(U));
    }
    for (i64 j = 0; j < parts; ++j) turn(plane + j * Bits);
  }

  // The parities of the block with one key.
  static V parity(const V* plane, const i64* key, i64 words) {
    V sum{};
    for (i64 w = 0; w < words; ++w, plane += 64)
      for (u64 ones = u64(key[w]); ones; ones &= ones - 1) sum ^= plane[__builtin_ctzll(ones)];
    return sum;
  }

  // (rows <= Block, W) and (count, W) -> (count,) of V.  `turned` tells that plane is of these rows already.
  static void parities(const i64* rows_of, i64 rows, const i64* keys, i64 count, i64 words, V* plane, bool& turned, V* out) {
    for (i64 w = 0; w < words; w += kWords) {
      const i64 part = least(kWords, words - w);
      if (!turned) planes(rows_of + w, words, rows, part, plane);
      for (i64 k = 0; k < count; ++k) {
        const V x = parity(plane, keys + k * words + w, part);
        out[k] = w ? out[k] ^ x : x;
      }
    }
    turned = words <= kWords;
  }

  // sum[point] += sum_k values[k] (-1)^parity
  static void add(const V* parity, const C* values, i64 count, C* sum) {
    for (int b = 0; b < Bits; b += 4) {
      vec<C> total[4] = {};
      for (i64 k0 = 0; k0 < count; k0 += kChain) {
        vec<C> chain[4] = {};
        const i64 end = least(count, k0 + kChain);
        for (i64 k = k0; k < end; ++k) {
          const V v = (V)splat<C>(values[k]), at = parity[k] << (Bits - 4 - b);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) chain[i] += (vec<C>)(v ^ ((at << (3 - i)) & (V{} + Sign)));
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) total[i] += chain[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store(sum + (b + i) * L, load<C>(sum + (b + i) * L) + total[i]);
    }
  }

  // sum over the block's rows of values (-1)^parity, a lane each
  static vec<C> across(V parity, const C* values) {
    vec<C> chain[4] = {};
    for (int b = 0; b < Bits; b += 4) {
      const V at = parity << (Bits - 4 - b);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        chain[i] += (vec<C>)((V)load<C>(values + (b + i) * L) ^ ((at << (3 - i)) & (V{} + Sign)));
    }
    return (chain[0] + chain[1]) + (chain[2] + chain[3]);
  }

  static void many(const WalshSum& call) {
    const C* const values = static_cast<const C*>(call.values);
    C* const y = static_cast<C*>(call.y);
    parallel_for(call.threads, (call.count + Block - 1) / Block, [&](i64 block) {
      V plane[kWords * 64], tile[kTile];
      C sum[Block] = {};
      const i64 first = block * Block, rows = least(Block, call.count - first);
      bool turned = false;
      for (i64 k = 0; k < call.terms; k += kTile) {
        const i64 some = least(kTile, call.terms - k);
        parities(call.points + first * call.words, rows, call.keys + k * call.words, some, call.words, plane, turned, tile);
        add(tile, values + k, some, sum);
      }
      for (i64 i = 0; i < rows; i += L) store_count<C>(y + first + i, load<C>(sum + i), rows - i);
    });
  }

  static void few(const WalshSum& call) {
    const C* const values = static_cast<const C*>(call.values);
    C* const y = static_cast<C*>(call.y);
    const i64 blocks = (call.terms + Block - 1) / Block, slices = least(kWalshSlices, blocks);
    C part[kWalshSlices][kWalshFew];
    parallel_for(call.threads, slices, [&](i64 slice) {
      V plane[kWords * 64], tile[kWalshFew];
      vec<C> sum[kWalshFew] = {};
      for (i64 block = blocks * slice / slices; block < blocks * (slice + 1) / slices; ++block) {
        const i64 first = block * Block, rows = least(Block, call.terms - first);
        C some[Block] = {};
        __builtin_memcpy(some, values + first, u64(rows) * sizeof(C));
        bool turned = false;
        parities(call.keys + first * call.words, rows, call.points, call.count, call.words, plane, turned, tile);
        for (i64 m = 0; m < call.count; ++m) sum[m] += across(tile[m], some);
      }
      for (i64 m = 0; m < call.count; ++m) {
        C total = sum[m][0];
        for (int l = 1; l < L; ++l) total += sum[m][l];
        part[slice][m] = total;
      }
    });
    for (i64 m = 0; m < call.count; ++m) {
      C total = part[0][m];
      for (i64 s = 1; s < slices; ++s) total += part[s][m];
      y[m] = total;
    }
  }

  static void run(const WalshSum& call) {
    if (call.few) few(call);
    else many(call);
  }
};

}  // namespace

void walsh_sum_f32(const WalshSum& call) { Walsh<float>::run(call); }
void walsh_sum_f64(const WalshSum& call) { Walsh<double>::run(call); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

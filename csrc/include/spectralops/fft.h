// Complex transforms of N = ODD 2^bits points, spread over the registers of 2^(bits - LOG) lanes, on the
// quarter-shifted grid of the right-angle convolution:  X_k = sum_j z_j exp(-2 pi i j (k + 1/4) / N).
//
// Decimation in frequency: first ODD points that lie 2^bits apart, which leaves ODD transforms of 2^bits; of
// those the bits of the index j from the top down, LOG at a time. In a pass over the bits [low, low + LOG) a
// lane holds the places
//
//   (lane >> low) << (low + LOG) | r << low | (lane & (2^low - 1)),   r = 0 .. 2^LOG - 1,
//
// so it begins with j = r lanes + lane and ends with places lane 2^LOG + r; bin ODD k + s stands in part s at
// place bit-reverse(k). The inverse runs the same passes transposed, from the last to the first: nothing is
// ever reordered, a spectrum is kept as the lanes hold it. The quarter shift costs one constant rotation a
// point; the part of it that depends on the lane goes into the factors of the first pass.
#pragma once

#include "spectralops/fft_butterfly.h"

namespace spectralops {
namespace fft {

// How the threads of a block share its transforms, the same in all of them.
struct Layout {
  int bits;      // of a part: N = ODD 2^bits
  int slots;     // transforms of a block at a time
  int beside;    // log2 of those whose lanes are interleaved: 0, one after the other, or of all slots
};

// ---- launch table --------------------------------------------------------------------------------------------
// Most threads of a block, by type, odd factor and points of a lane in a part; `backward`: of the gradients'
// kernels. A transform fits where its lanes do. Data take 2 ODD 2^LOG registers (twice that in double) of the
// 65536 / threads.
// 64 numbers of data and all else in 128 registers: the compiler manages that for Hopper alone.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ / 10 != 90
constexpr int kThreadsOfMany = 256;
#else
constexpr int kThreadsOfMany = 512;
#endif
constexpr SO_HOST_DEVICE bool has_many(int sm) { return sm == 90; }
template <typename C, int ODD, int LOG> struct Threads;
template <> struct Threads<float, 1, 4> { static constexpr int forward = 256, backward = 256; };   // N = 16 .. 4096
template <> struct Threads<float, 1, 5> {  // 1024, 8192, 16384: an exchange less
  static constexpr int forward = kThreadsOfMany, backward = 256;
};
template <> struct Threads<float, 3, 3> { static constexpr int forward = 512, backward = 256; };   // 24 .. 12288
template <> struct Threads<float, 5, 2> { static constexpr int forward = 512, backward = 256; };   // 20 .. 10240
template <> struct Threads<double, 1, 3> { static constexpr int forward = 512, backward = 512; };  // 8 .. 4096
template <> struct Threads<double, 3, 2> { static constexpr int forward = 512, backward = 256; };  // 12 .. 6144
template <> struct Threads<double, 5, 2> { static constexpr int forward = 256, backward = 256; };  // 20 .. 5120
constexpr int kBlockThreads = 128;   // of a block of short transforms
constexpr int kColumnThreads = 128;  // of a block of columns of transforms that no block holds
// ------------------------------------------------------------------------------------------------------------------

template <typename C_, int ODD_, int LOG_> struct Engine {
  using C = C_;
  static constexpr int ODD = ODD_, LOG = LOG_, EACH = 1 << LOG, POINTS = ODD * EACH,
                       FORWARD_THREADS = Threads<C_, ODD_, LOG_>::forward,
                       BACKWARD_THREADS = Threads<C_, ODD_, LOG_>::backward, REST = LOG == 5 ? 3 : 1;  // least bits % LOG but 0

  C x[ODD][EACH], y[ODD][EACH];
  int bits, lanes, lane, slot;
  C* cells;  // N a slot
  const Pair<C>* tables;

  SO_DEVICE Engine(const Layout& layout, C* shared, const void* factors) {
    bits = layout.bits, lanes = 1 << (bits - LOG), cells = shared, beside = layout.beside;
    const int thread = int(threadIdx.x);
    lane = beside ? thread >> beside : thread & (lanes - 1);
    slot = beside ? thread & ((1 << beside) - 1) : thread >> (bits - LOG);
    origin = beside ? slot : (slot * ODD) << bits;
    tables = static_cast<const Pair<C>*>(factors);
  }

  // Point n of a lane, n = s EACH + r: j = n lanes + lane before the transform.
  SO_DEVICE C& re(int n) { return x[n / EACH][n % EACH]; }
  SO_DEVICE C& im(int n) { return y[n / EACH][n % EACH]; }
  // The bin that point n holds after it.
  SO_DEVICE int bin(int n) const {
    const int place = lane << LOG | (n % EACH);
#if defined(__CUDA_ARCH__)
    const int k = int(__brev(u32(place)) >> (32 - bits));
#else
    const int k = reversed(place, bits);
#endif
    return ODD * k + n / EACH;
  }
  // A cell of the lane's own, among those that no other warp's transform uses between barriers.
  SO_DEVICE int own(int n) const { return int(threadIdx.x & ~31u) * POINTS + n * 32 + int(threadIdx.x & 31u); }
  SO_DEVICE static constexpr int apart() { return 32; }  // of real numbers that a lane sets aside
  SO_DEVICE int size() const { return ODD << bits; }

  SO_DEVICE void barrier() const {
    if (lanes <= 32 && beside == 0)
      __syncwarp();
    else
      __syncthreads();
  }

  SO_DEVICE void forward() {
    barrier();  // cells may still be read
    SO_UNROLL
    for (int r = 0; r < EACH; ++r) {
      SO_UNROLL
      for (int s = 1; s < ODD; ++s) rotate<4 * ODD>(x[s][r], y[s][r], s);
      odd_points<EACH>(x, y, r);
      SO_UNROLL
      for (int s = 0; s < ODD; ++s) rotate<4 * POINTS>(x[s][r], y[s][r], r * (4 * s + 1));
    }
    int low = bits;
    do {
      if (low < bits) exchange(x, y, low, low - LOG);
      SO_UNROLL
      for (int s = 0; s < ODD; ++s) decimate<LOG>(x[s], y[s], LOG);
      if (low > LOG) twiddle(x, y, low - LOG, low == bits);
      low -= LOG;
    } while (low >= LOG);
    if (low == 0) return;
    exchange(x, y, low, 0);
    SO_UNROLL
    for (int s = 0; s < ODD; ++s) decimate<LOG, REST, LOG - 1>(x[s], y[s], low);
  }

  // Without the factor 1 / N.
  SO_DEVICE void inverse() {
    barrier();
    int low = bits % LOG;
    if (low > 0) {
      SO_UNROLL
      for (int s = 0; s < ODD; ++s) collect<LOG, REST, LOG - 1>(y[s], x[s], low);
      exchange(y, x, 0, low);
    }
    while (true) {
      if (low > 0) twiddle(y, x, low, low + LOG == bits);
      SO_UNROLL
      for (int s = 0; s < ODD; ++s) collect<LOG>(y[s], x[s], LOG);
      if (low + LOG == bits) break;
      exchange(y, x, low, low + LOG);
      low += LOG;
    }
    SO_UNROLL
    for (int r = 0; r < EACH; ++r) {
      SO_UNROLL
      for (int s = 0; s < ODD; ++s) rotate<4 * POINTS>(y[s][r], x[s][r], r * (4 * s + 1));
      odd_points<EACH>(y, x, r);
      SO_UNROLL
      for (int s = 1; s < ODD; ++s) rotate<4 * ODD>(y[s][r], x[s][r], s);
    }
  }

 private:
  int beside, origin;

  // Where place j of a part lies: 32 lanes reach 32 banks in every pass. A linear map over the field of two
  // elements.
  static SO_DEVICE int swizzle(int j) { return j ^ (j >> LOG); }
  SO_DEVICE int first(int low) const {
    return origin + (swizzle(((lane >> low) << (low + LOG)) | (lane & ((1 << low) - 1))) << beside);
  }
  SO_DEVICE C& cell(int first, int low, int s, int r) const {
    return cells[(first ^ (swizzle(r << low) << beside)) + ((s << bits) << beside)];
  }
  // The pass is hidden from the compiler, which would keep the addresses of all points from one use to the
  // next.
  SO_DEVICE void put(const C (&v)[ODD][EACH], int pass) const {
    const int low = hidden(pass), at = first(low);
    SO_UNROLL
    for (int s = 0; s < ODD; ++s)
      SO_UNROLL
      for (int r = 0; r < EACH; ++r) cell(at, low, s, r) = v[s][r];
  }
  SO_DEVICE void get(C (&v)[ODD][EACH], int pass) const {
    const int low = hidden(pass), at = first(low);
    SO_UNROLL
    for (int s = 0; s < ODD; ++s)
      SO_UNROLL
      for (int r = 0; r < EACH; ++r) v[s][r] = cell(at, low, s, r);
  }
  // One buffer for both parts, one after the other: half the shared memory.
  SO_DEVICE void exchange(C (&a)[ODD][EACH], C (&b)[ODD][EACH], int from, int to) const {
    put(a, from);
    barrier();
    get(a, to);
    barrier();
    put(b, from);
    barrier();
    get(b, to);
    barrier();
  }

  // Factors of the pass whose bits begin at `low`: w^q, w = exp(-2 pi i (lane mod 2^low) / 2^(low + LOG)),
  // from tables of w, w^2, w^4 ..; of the first pass times exp(-2 pi i lane (s + 1/4) / N).
  SO_DEVICE void twiddle(C (&a)[ODD][EACH], C (&b)[ODD][EACH], int low, bool first_pass) const {
    const Pair<C>* table = tables + (LOG << low) + (lane & ((1 << low) - 1));
    constexpr Orders<LOG> order;
    Pair<C> root[LOG];
    SO_UNROLL
    for (int i = 0; i < LOG; ++i) root[i] = table[i << low];
    SO_UNROLL
    for (int s = 0; s < ODD; ++s) {
      Pair<C> power[EACH];
      power[0] = first_pass ? tables[((2 * LOG + s) << (bits - LOG)) + lane] : Pair<C>{C(1), C(0)};
      multiply(a[s][0], b[s][0], power[0]);
      SO_UNROLL
      for (int q = 1; q < EACH; ++q) {  // in this order few powers live at a time
        power[q] = product(power[q & (q - 1)], root[order.lowest[q]]);
        multiply(a[s][order.reversed_of[q]], b[s][order.reversed_of[q]], power[q]);
      }
    }
  }
};

// What twiddle() reads.
template <int ODD, int LOG> constexpr SO_HOST_DEVICE i64 table_size(int bits) {
  return i64(2 * LOG + ODD) << (bits - LOG);
}
struct TableParams {
  void* tables;
  int odd, log, bits;
};
template <typename C>
SO_KERNEL(128, 1)
fft_tables(const TableParams p) {
  const int lanes_bits = p.bits - p.log, shifted = (2 * p.log) << lanes_bits;
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= shifted + (p.odd << lanes_bits)) return;
  i64 a = 0, b = 1;
  if (i >= shifted) {
    const int s = (i - shifted) >> lanes_bits, lane = (i - shifted) & ((1 << lanes_bits) - 1);
    a = i64(lane) * (4 * s + 1), b = i64(4 * p.odd) << p.bits;
  } else if (i >= p.log) {
    int low = 0;
    while (p.log << (low + 1) <= i) ++low;
    const int within = i - (p.log << low);
    a = i64(within & ((1 << low) - 1)) << (within >> low), b = i64(1) << (low + p.log);
  }
  static_cast<Pair<C>*>(p.tables)[i] = Pair<C>{C(cosine(a, b)), C(-sine(a, b))};
}

}  // namespace fft
}  // namespace spectralops

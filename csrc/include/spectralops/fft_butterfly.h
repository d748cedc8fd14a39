// Small transforms in a thread's registers. Signs are those of a forward transform; with real and imaginary
// parts exchanged the same code is the inverse one, since conj(F conj(z)) = swap(F swap(z)).
#pragma once

#include "spectralops/types.h"

namespace spectralops {
namespace fft {

template <typename C> struct alignas(2 * sizeof(C)) Pair {
  C x, y;
};

// cos and sin of 2 pi a / b by their series, for 8 a <= b: 2 pi in two parts, of which the first times a / b
// is exact where b is a power of two, and all but the largest term summed first.
constexpr SO_HOST_DEVICE double series(i64 a, i64 b, bool sine) {
  const double part = double(a) / double(b), high = part * 6.283185303211212, low = part * 3.968374318722162e-09, t = high + low;
  double rest = 0.0;  // of sin t / t or cos t, after the 1
  for (int i = sine ? 23 : 22; i > 1; i -= 2) rest = -t * t / double(i * (i - 1)) * (1.0 + rest);
  return sine ? high + (low + t * rest) : 1.0 + rest;
}
// cos(2 pi a / b), b > 0, brought to the first eighth of a turn exactly.
constexpr SO_HOST_DEVICE double cosine(i64 a, i64 b) {
  a = (a < 0 ? -a : a) % b;
  if (2 * a > b) a = b - a;
  double sign = 1.0;
  if (4 * a > b) sign = -1.0, a = b - 2 * a, b = 2 * b;
  return sign * (8 * a > b ? series(b - 4 * a, 4 * b, true) : series(a, b, false));
}
constexpr SO_HOST_DEVICE double sine(i64 a, i64 b) { return cosine(4 * a - b, 4 * b); }

// exp(-2 pi i k / TURN).
template <typename C, int TURN> struct Roots {
  C x[TURN], y[TURN];
  constexpr SO_HOST_DEVICE Roots() : x{}, y{} {
    for (int k = 0; k < TURN; ++k) x[k] = C(cosine(k, TURN)), y[k] = C(-sine(k, TURN));
  }
};

constexpr SO_HOST_DEVICE int reversed(int i, int bits) {
  int r = 0;
  for (int b = 0; b < bits; ++b) r |= ((i >> b) & 1) << (bits - 1 - b);
  return r;
}

constexpr SO_HOST_DEVICE int lowest_bit(int i) {
  int b = 0;
  while (((i >> b) & 1) == 0) ++b;
  return b;
}

template <int LOG> struct Orders {  // as tables, which unrolled loops fold
  int reversed_of[1 << LOG], lowest[1 << LOG];
  constexpr SO_HOST_DEVICE Orders() : reversed_of{}, lowest{} {
    for (int q = 1; q < 1 << LOG; ++q) reversed_of[q] = reversed(q, LOG), lowest[q] = lowest_bit(q);
  }
};

SO_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
SO_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

template <typename C> SO_DEVICE Pair<C> product(const Pair<C>& a, const Pair<C>& b) {
  return Pair<C>{fused(a.x, b.x, -(a.y * b.y)), fused(a.x, b.y, a.y * b.x)};
}
template <typename C> SO_DEVICE void multiply(C& x, C& y, const Pair<C>& w) {
  const Pair<C> p = product(Pair<C>{x, y}, w);
  x = p.x, y = p.y;
}

// The same number, but the compiler does not know: addresses made from it are made again instead of being
// kept in registers.
SO_DEVICE int hidden(int i) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(i));
#endif
  return i;
}

// (x + i y) exp(-2 pi i k / TURN); k is a constant after unrolling.
template <int TURN, typename C> SO_DEVICE void rotate(C& x, C& y, int k) {
  constexpr Roots<C, TURN> root;
  if (k == 0) return;
  const C a = x, b = y;
  if (4 * k == TURN) {
    x = b, y = -a;
  } else if (8 * k == TURN) {
    x = root.x[TURN / 8] * (a + b), y = root.x[TURN / 8] * (b - a);
  } else if (8 * k == 3 * TURN) {
    x = root.x[TURN / 8] * (b - a), y = -root.x[TURN / 8] * (a + b);
  } else {
    multiply(x, y, Pair<C>{root.x[k], root.y[k]});
  }
}

// Points of 2^LOG in radix-2 layers: X_q at reversed(q). Over the low `count` bits of the place alone, LEAST
// <= count <= MOST.
template <int LOG, int LEAST = LOG, int MOST = LOG, typename C> SO_DEVICE void decimate(C (&x)[1 << LOG], C (&y)[1 << LOG], int count) {
  SO_UNROLL
  for (int bit = MOST - 1; bit >= 0; --bit) {
    if (bit >= LEAST && bit >= count) continue;
    SO_UNROLL
    for (int pair = 0; pair < 1 << (LOG - 1); ++pair) {
      const int k = pair & ((1 << bit) - 1), low = ((pair >> bit) << (bit + 1)) | k, high = low | (1 << bit);
      const C a = x[low] - x[high], b = y[low] - y[high];
      x[low] += x[high], y[low] += y[high];
      x[high] = a, y[high] = b;
      rotate<1 << LOG>(x[high], y[high], k << (LOG - 1 - bit));
    }
  }
}
// The transposed of it: from reversed places to natural ones.
template <int LOG, int LEAST = LOG, int MOST = LOG, typename C> SO_DEVICE void collect(C (&x)[1 << LOG], C (&y)[1 << LOG], int count) {
  SO_UNROLL
  for (int bit = 0; bit < MOST; ++bit) {
    if (bit >= LEAST && bit >= count) continue;
    SO_UNROLL
    for (int pair = 0; pair < 1 << (LOG - 1); ++pair) {
      const int k = pair & ((1 << bit) - 1), low = ((pair >> bit) << (bit + 1)) | k, high = low | (1 << bit);
      rotate<1 << LOG>(x[high], y[high], k << (LOG - 1 - bit));
      const C a = x[low] - x[high], b = y[low] - y[high];
      x[low] += x[high], y[low] += y[high];
      x[high] = a, y[high] = b;
    }
  }
}

// A transform of ODD points, natural order in and out: a symmetric matrix.
template <int EACH, typename C> SO_DEVICE void odd_points(C (&)[1][EACH], C (&)[1][EACH], int) {}

template <int EACH, typename C> SO_DEVICE void odd_points(C (&x)[3][EACH], C (&y)[3][EACH], int r) {
  constexpr Roots<C, 3> root;
  const C s = root.y[2];  // sin 60
  const C tx = x[1][r] + x[2][r], ty = y[1][r] + y[2][r];
  const C dx = s * (x[1][r] - x[2][r]), dy = s * (y[1][r] - y[2][r]);
  const C mx = x[0][r] - C(0.5) * tx, my = y[0][r] - C(0.5) * ty;
  x[0][r] += tx, y[0][r] += ty;
  x[1][r] = mx + dy, y[1][r] = my - dx;
  x[2][r] = mx - dy, y[2][r] = my + dx;
}

template <int EACH, typename C> SO_DEVICE void odd_points(C (&x)[5][EACH], C (&y)[5][EACH], int r) {
  constexpr Roots<C, 5> root;
  const C c1 = root.x[1], c2 = root.x[2], s1 = -root.y[1], s2 = -root.y[2];
  const C ax = x[1][r] + x[4][r], ay = y[1][r] + y[4][r], bx = x[2][r] + x[3][r], by = y[2][r] + y[3][r];
  const C ex = x[1][r] - x[4][r], ey = y[1][r] - y[4][r], fx = x[2][r] - x[3][r], fy = y[2][r] - y[3][r];
  const C px = x[0][r] + c1 * ax + c2 * bx, py = y[0][r] + c1 * ay + c2 * by;
  const C qx = x[0][r] + c2 * ax + c1 * bx, qy = y[0][r] + c2 * ay + c1 * by;
  const C ux = s1 * ex + s2 * fx, uy = s1 * ey + s2 * fy, vx = s2 * ex - s1 * fx, vy = s2 * ey - s1 * fy;
  x[0][r] += ax + bx, y[0][r] += ay + by;
  x[1][r] = px + uy, y[1][r] = py - ux;
  x[4][r] = px - uy, y[4][r] = py + ux;
  x[2][r] = qx + vy, y[2][r] = qy - vx;
  x[3][r] = qx - vy, y[3][r] = qy + vx;
}

}  // namespace fft
}  // namespace spectralops

// Discrete Fourier transforms of 2, 3, 4, 5, 8 and 16 vectors in registers.
//
// Dft<C, R>::run(x, y): X_k = sum_q (x_q + i y_q) exp(-2 pi i q k / R), in place and in order.  With x and y exchanged it is the
// inverse one, unscaled.
#pragma once

#include "cpu/simd.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// f(0), ..., f(N - 1), each with a constant: only then does an array of vectors become registers.
template <int I> struct Index {
  constexpr operator int() const { return I; }
};
template <int N, int I = 0, typename F> SO_SIMD void repeat(F f) {
  if constexpr (I < N) {
    f(Index<I>{});
    repeat<N, I + 1>(f);
  }
}
#define SO_INLINE_LAMBDA __attribute__((always_inline))

template <typename V> SO_SIMD void dft2(V& ax, V& ay, V& bx, V& by) {
  const V x = ax - bx, y = ay - by;
  ax = ax + bx, ay = ay + by;
  bx = x, by = y;
}

template <typename V>
SO_SIMD void dft4(V& ax, V& ay, V& bx, V& by, V& cx, V& cy, V& dx, V& dy) {
  dft2(ax, ay, cx, cy);
  dft2(bx, by, dx, dy);
  dft2(ax, ay, bx, by);  // a = X0, b = X2
  const V px = cx + dy, py = cy - dx, mx = cx - dy, my = cy + dx;
  cx = bx, cy = by;
  bx = px, by = py;
  dx = mx, dy = my;
}

template <typename C, int R> struct Dft;

template <typename C> struct Dft<C, 2> {
  using V = vec<C>;
  SO_HOST_DEVICE static void run(V* x, V* y) { dft2(x[0], y[0], x[1], y[1]); }
};
template <typename C> struct Dft<C, 3> {
  using V = vec<C>;
  SO_HOST_DEVICE static void run(V* x, V* y) {
    const V h = splat<C>(C(-0.5)), s = splat<C>(C(0.86602540378443864676));
    const V tx = x[1] + x[2], ty = y[1] + y[2], dx = (x[1] - x[2]) * s, dy = (y[1] - y[2]) * s;
    const V mx = mul_add(tx, h, x[0]), my = mul_add(ty, h, y[0]);
    x[0] = x[0] + tx, y[0] = y[0] + ty;
    x[1] = mx + dy, y[1] = my - dx;
    x[2] = mx - dy, y[2] = my + dx;
  }
};
template <typename C> struct Dft<C, 4> {
  using V = vec<C>;
  SO_HOST_DEVICE static void run(V* x, V* y) { dft4(x[0], y[0], x[1], y[1], x[2], y[2], x[3], y[3]); }
};
template <typename C> struct Dft<C, 5> {
  using V = vec<C>;
  SO_HOST_DEVICE static void run(V* x, V* y) {
    const V c1 = splat<C>(C(0.30901699437494742410)), c2 = splat<C>(C(-0.80901699437494742410));
    const V s1 = splat<C>(C(0.95105651629515357212)), s2 = splat<C>(C(0.58778525229247312917));
    const V ax = x[1] + x[4], ay = y[1] + y[4], bx = x[2] + x[3], by = y[2] + y[3];
    const V cx = x[1] - x[4], cy = y[1] - y[4], dx = x[2] - x[3], dy = y[2] - y[3];
    const V px = mul_add(c1, ax, mul_add(c2, bx, x[0])), py = mul_add(c1, ay, mul_add(c2, by, y[0]));
    const V qx = mul_add(c2, ax, mul_add(c1, bx, x[0])), qy = mul_add(c2, ay, mul_add(c1, by, y[0]));
    const V ux = mul_add(s1, cx, s2 * dx), uy = mul_add(s1, cy, s2 * dy);
    const V vx = mul_add(s2, cx, -(s1 * dx)), vy = mul_add(s2, cy, -(s1 * dy));
    x[0] = x[0] + (ax + bx), y[0] = y[0] + (ay + by);
    x[1] = px + uy, y[1] = py - ux;
    x[4] = px - uy, y[4] = py + ux;
    x[2] = qx + vy, y[2] = qy - vx;
    x[3] = qx - vy, y[3] = qy + vx;
  }
};
template <typename C> struct Dft<C, 8> {
  using V = vec<C>;
  SO_HOST_DEVICE static void run(V* x, V* y) {
    const V h = splat<C>(C(0.70710678118654752440));
    repeat<4>([&](auto q) SO_INLINE_LAMBDA { dft2(x[q], y[q], x[q + 4], y[q + 4]); });
    const V x5 = (x[5] + y[5]) * h, y5 = (y[5] - x[5]) * h;
    const V x7 = (y[7] - x[7]) * h, y7 = (x[7] + y[7]) * -h;
    V ox[4] = {x[4], x5, y[6], x7}, oy[4] = {y[4], y5, -x[6], y7};
    Dft<C, 4>::run(x, y);
    Dft<C, 4>::run(ox, oy);
    const V ex[4] = {x[0], x[1], x[2], x[3]}, ey[4] = {y[0], y[1], y[2], y[3]};
    repeat<4>([&](auto k) SO_INLINE_LAMBDA {
      x[2 * k] = ex[k], y[2 * k] = ey[k];
      x[2 * k + 1] = ox[k], y[2 * k + 1] = oy[k];
    });
  }
};
template <typename C> struct Dft<C, 16> {
  using V = vec<C>;
  // cos and sin of pi j / 8
  static constexpr double kCos[] = {1, 0.92387953251128675613, 0.70710678118654752440, 0.38268343236508977173, 0,
                                    -0.38268343236508977173, -0.70710678118654752440, -0.92387953251128675613, -1,
                                    -0.92387953251128675613};
  static constexpr double kSin[] = {0, 0.38268343236508977173, 0.70710678118654752440, 0.92387953251128675613, 1,
                                    0.92387953251128675613, 0.70710678118654752440, 0.38268343236508977173, 0,
                                    -0.38268343236508977173};
  template <int J> SO_HOST_DEVICE static void turn(V& x, V& y) {
    V a = x, b = y;
    if constexpr (J == 4) {
      a = y, b = -x;
    } else if constexpr (J == 2) {
      const V h = splat<C>(C(kCos[2]));
      a = (x + y) * h, b = (y - x) * h;
    } else if constexpr (J == 6) {
      const V h = splat<C>(C(kCos[2]));
      a = (y - x) * h, b = (x + y) * -h;
    } else if constexpr (J != 0) {
      const V c = splat<C>(C(kCos[J])), s = splat<C>(C(kSin[J]));
      a = mul_add(x, c, y * s), b = mul_add(y, c, -(x * s));
    }
    x = a, y = b;
  }
  // q = 4 a + b, k = c + 4 d.
  SO_HOST_DEVICE static void run(V* x, V* y) {
    repeat<4>([&](auto b) SO_INLINE_LAMBDA {
      dft4(x[b], y[b], x[b + 4], y[b + 4], x[b + 8], y[b + 8], x[b + 12], y[b + 12]);
      repeat<4>([&](auto c) SO_INLINE_LAMBDA { turn<int(b) * int(c)>(x[b + 4 * c], y[b + 4 * c]); });
    });
    V ox[16], oy[16];
    repeat<4>([&](auto c) SO_INLINE_LAMBDA {
      Dft<C, 4>::run(x + 4 * c, y + 4 * c);
      repeat<4>([&](auto d) SO_INLINE_LAMBDA { ox[c + 4 * d] = x[4 * c + d], oy[c + 4 * d] = y[4 * c + d]; });
    });
    repeat<16>([&](auto k) SO_INLINE_LAMBDA { x[k] = ox[k], y[k] = oy[k]; });
  }
};

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

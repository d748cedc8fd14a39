// Transforms of a few points, natural order in and out, in a thread's registers: N = 2, 3, 4, 5, 7, 8 at
// once, products of two of them by the theorem of Good and Thomas where they have no common factor (no
// twiddles: 14 = 2 x 7, 56 = 8 x 7), else by that of Cooley and Tukey. The sign is that of a forward
// transform; see fft_butterfly.h for the inverse.
#pragma once

#include "spectralops/fft_butterfly.h"

namespace spectralops {
namespace fft {

constexpr SO_HOST_DEVICE int common_factor(int a, int b) { return b == 0 ? a : common_factor(b, a % b); }

// What is split off N points: the smaller of a power of two and the odd rest, or 4 of a power of two. Fewest
// registers so.
constexpr SO_HOST_DEVICE int first_factor(int n) {
  int power = 1;
  while (n % (2 * power) == 0) power *= 2;
  if (power == n) return 4;
  if (power == 1) return n % 3 == 0 ? 3 : n % 5 == 0 ? 5 : 7;
  return power < n / power ? power : n / power;
}
// The inverse of a modulo m.
constexpr SO_HOST_DEVICE int inverse_of(int a, int m) {
  for (int i = 1; i < m; ++i)
    if (i64(a % m) * i % m == 1) return i;
  return 0;
}

// Where point (i, j) of N = A B stands: exp(-2 pi i k n / N) is then w_A^{q i} w_B^{m j}, times w_N^{q j}
// where A and B are not coprime.
template <int A, int B> struct Split {
  static constexpr bool coprime = common_factor(A, B) == 1;
  static constexpr SO_HOST_DEVICE int in(int i, int j) { return coprime ? (i * B + j * A) % (A * B) : j + B * i; }
  static constexpr SO_HOST_DEVICE int out(int q, int m) {
    return coprime ? (q * B * inverse_of(B, A) + m * A * inverse_of(A, B)) % (A * B) : q + A * m;
  }
};
template <int A, int B> struct SplitTable {  // as tables, which unrolled loops fold
  int in[A][B], out[A][B];
  constexpr SO_HOST_DEVICE SplitTable() : in{}, out{} {
    for (int i = 0; i < A; ++i)
      for (int j = 0; j < B; ++j) in[i][j] = Split<A, B>::in(i, j), out[i][j] = Split<A, B>::out(i, j);
  }
};

// An odd number of points: X_k, X_{N-k} = x_0 + sum_i cos(2 pi i k / N) t_i -+ i sin(2 pi i k / N) d_i with
// the sums t_i and differences d_i of x_i and x_{N-i}.
template <int N, typename C> SO_DEVICE void odd_line(C (&x)[N], C (&y)[N]) {
  constexpr Roots<C, N> root;
  constexpr int HALF = N / 2;
  C tx[HALF], ty[HALF], dx[HALF], dy[HALF];
  const C x0 = x[0], y0 = y[0];
  SO_UNROLL
  for (int i = 0; i < HALF; ++i) {
    tx[i] = x[i + 1] + x[N - 1 - i], ty[i] = y[i + 1] + y[N - 1 - i];
    dx[i] = x[i + 1] - x[N - 1 - i], dy[i] = y[i + 1] - y[N - 1 - i];
    x[0] += tx[i], y[0] += ty[i];
  }
  SO_UNROLL
  for (int k = 1; k <= HALF; ++k) {
    C px = x0, py = y0, ux = C(0), uy = C(0);
    SO_UNROLL
    for (int i = 0; i < HALF; ++i) {
      const C cosine_ = root.x[(i + 1) * k % N], sine_ = -root.y[(i + 1) * k % N];
      px = fused(cosine_, tx[i], px), py = fused(cosine_, ty[i], py);
      ux = fused(sine_, dx[i], ux), uy = fused(sine_, dy[i], uy);
    }
    x[k] = px + uy, y[k] = py - ux;
    x[N - k] = px - uy, y[N - k] = py + ux;
  }
}

template <int N, typename C> SO_DEVICE void line(C (&x)[N], C (&y)[N]) {
  if constexpr (N == 2 || N == 4 || N == 8) {
    constexpr int LOG = N == 2 ? 1 : N == 4 ? 2 : 3;
    constexpr Orders<LOG> order;
    decimate<LOG>(x, y, LOG);
    SO_UNROLL
    for (int i = 0; i < N; ++i) {
      const int r = order.reversed_of[i];
      if (r <= i) continue;
      const C a = x[i], b = y[i];
      x[i] = x[r], y[i] = y[r], x[r] = a, y[r] = b;
    }
  } else if constexpr (N == 3 || N == 5 || N == 7) {
    odd_line<N>(x, y);
  } else if constexpr (N > 1) {
    constexpr int A = first_factor(N), B = N / A;
    constexpr SplitTable<A, B> at;
    C u[A][B], v[A][B];
    SO_UNROLL
    for (int j = 0; j < B; ++j) {
      C a[A], b[A];
      SO_UNROLL
      for (int i = 0; i < A; ++i) a[i] = x[at.in[i][j]], b[i] = y[at.in[i][j]];
      line<A>(a, b);
      SO_UNROLL
      for (int q = 0; q < A; ++q) {
        if constexpr (!Split<A, B>::coprime) rotate<N>(a[q], b[q], q * j);
        u[q][j] = a[q], v[q][j] = b[q];
      }
    }
    SO_UNROLL
    for (int q = 0; q < A; ++q) {
      line<B>(u[q], v[q]);
      SO_UNROLL
      for (int m = 0; m < B; ++m) x[at.out[q][m]] = u[q][m], y[at.out[q][m]] = v[q][m];
    }
  }
}

}  // namespace fft
}  // namespace spectralops

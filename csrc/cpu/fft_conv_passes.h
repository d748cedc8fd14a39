// The transform of one row, there, through a product, and back.  Notation: fft_conv.h.
#pragma once

#include "cpu/fft_conv_butterfly.h"
#include "cpu/fft_conv_plan.h"
#include "cpu/lanes.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

constexpr i64 kNearBytes = 32 * 1024;  // blocks up to here go through all their levels together

// ---- one level -------------------------------------------------------------------------------------------------------

// (x + i y) (c + i s), or times the conjugate.
template <typename V> SO_SIMD void turn(V& x, V& y, V c, V s) {
  const V a = mul_add(x, c, -(y * s)), b = mul_add(x, s, y * c);
  x = a, y = b;
}
template <typename V> SO_SIMD void turn_back(V& x, V& y, V c, V s) {
  const V a = mul_add(x, c, y * s), b = mul_add(y, c, -(x * s));
  x = a, y = b;
}

// v: n or, unless Real, 2 n numbers x; z_j = x_j - i x_{j + n}.
template <typename C, int R, bool Real>
static __attribute__((noinline)) void first_pass(const C* v, C* re, C* im, i64 n, const C* root) {
  constexpr int W = lanes<C>;
  using V = vec<C>;
  const i64 s = n / R;
  for (i64 i = 0; i < s; i += W) {
    V x[R], y[R];
    repeat<R>([&](auto q) SO_INLINE_LAMBDA {
      x[q] = load(v + i + q * s);
      y[q] = Real ? V{} : -load(v + n + i + q * s);
      if constexpr (int(q) > 0) {
        const V c = splat(root[2 * q - 2]), d = splat(root[2 * q - 1]);
        if constexpr (Real) y[q] = x[q] * d, x[q] = x[q] * c;
        else turn(x[q], y[q], c, d);
      }
    });
    Dft<C, R>::run(x, y);
    repeat<R>([&](auto k) SO_INLINE_LAMBDA { store(re + i + k * s, x[k]), store(im + i + k * s, y[k]); });
  }
}

template <typename C, int R, bool Real>
static __attribute__((noinline)) void last_pass(const C* re, const C* im, C* out, i64 n, const C* root) {
  constexpr int W = lanes<C>;
  using V = vec<C>;
  const i64 s = n / R;
  for (i64 i = 0; i < s; i += W) {
    V x[R], y[R];
    repeat<R>([&](auto k) SO_INLINE_LAMBDA { x[k] = load(re + i + k * s), y[k] = load(im + i + k * s); });
    Dft<C, R>::run(y, x);
    repeat<R>([&](auto q) SO_INLINE_LAMBDA {
      if constexpr (int(q) > 0) turn_back(x[q], y[q], splat(root[2 * q - 2]), splat(root[2 * q - 1]));
      store(out + i + q * s, x[q]);
      if constexpr (!Real) store(out + n + i + q * s, -y[q]);
    });
  }
}

template <typename C, int R>
static __attribute__((noinline)) void split(C* re, C* im, i64 s, i64 blocks, const C* root) {
  constexpr int W = lanes<C>;
  using V = vec<C>;
  for (i64 b = 0; b < blocks; ++b, re += R * s, im += R * s, root += 2 * (R - 1))
    for (i64 i = 0; i < s; i += W) {
      V x[R], y[R];
      repeat<R>([&](auto q) SO_INLINE_LAMBDA {
        x[q] = load(re + i + q * s), y[q] = load(im + i + q * s);
        if constexpr (int(q) > 0) turn(x[q], y[q], splat(root[2 * q - 2]), splat(root[2 * q - 1]));
      });
      Dft<C, R>::run(x, y);
      repeat<R>([&](auto k) SO_INLINE_LAMBDA { store(re + i + k * s, x[k]), store(im + i + k * s, y[k]); });
    }
}

template <typename C, int R>
static __attribute__((noinline)) void join(C* re, C* im, i64 s, i64 blocks, const C* root) {
  constexpr int W = lanes<C>;
  using V = vec<C>;
  for (i64 b = 0; b < blocks; ++b, re += R * s, im += R * s, root += 2 * (R - 1))
    for (i64 i = 0; i < s; i += W) {
      V x[R], y[R];
      repeat<R>([&](auto k) SO_INLINE_LAMBDA { x[k] = load(re + i + k * s), y[k] = load(im + i + k * s); });
      Dft<C, R>::run(y, x);
      repeat<R>([&](auto q) SO_INLINE_LAMBDA {
        if constexpr (int(q) > 0) turn_back(x[q], y[q], splat(root[2 * q - 2]), splat(root[2 * q - 1]));
        store(re + i + q * s, x[q]), store(im + i + q * s, y[q]);
      });
    }
}

// f(R) with the radix as a constant.
template <typename F> SO_SIMD void with_radix(int radix, F f) {
  if (radix == 8) f(Index<8>{});
  else if (radix == 4) f(Index<4>{});
  else if (radix == 2) f(Index<2>{});
  else if (radix == 3) f(Index<3>{});
  else f(Index<5>{});
}

// ---- the last level, a square of vectors, and what is done with the spectrum --------------------------------------------

// In this order, each where it is asked for:
enum : unsigned {
  kFromTime = 1,     // X = the spectrum of the time points; without it X = source
  kKeep = 2,         // keep = scale X
  kGradient = 4,     // sum += conj(source) X
  kTimes = 8,        // X = X kernel
  kTimesConj = 16,   // X = X conj(kernel)
  kAdd = 32,         // keep += X
  kToTime = 64,      // back to the time points
};

// Spectra are [tile][point][2][lane], 2 pitch numbers; re and im have pitch each.
template <typename C> struct Line {
  C *re, *im;
  const C *source, *kernel;
  C *keep, *sum;
  C scale;
};

template <typename C, unsigned Do>
static __attribute__((noinline)) void tile(C* re, C* im, const C* root, const Line<C>& line, i64 at) {
  constexpr int W = lanes<C>;
  using V = vec<C>;
  V x[W], y[W];
  if constexpr (Do & kFromTime) {
    repeat<W>([&](auto i) SO_INLINE_LAMBDA { x[i] = load(re + i * W), y[i] = load(im + i * W); });
    transpose_lanes<C>(x);
    transpose_lanes<C>(y);
    repeat<W - 1>([&](auto i) SO_INLINE_LAMBDA {
      turn(x[i + 1], y[i + 1], load(root + 2 * i * W), load(root + (2 * i + 1) * W));
    });
    Dft<C, W>::run(x, y);
  } else {
    repeat<W>([&](auto k) SO_INLINE_LAMBDA {
      x[k] = load(line.source + at + 2 * k * W), y[k] = load(line.source + at + (2 * k + 1) * W);
    });
  }
  repeat<W>([&](auto k) SO_INLINE_LAMBDA {
    const i64 r = at + 2 * k * W, i = r + W;
    if constexpr (Do & kKeep) store(line.keep + r, x[k] * line.scale), store(line.keep + i, y[k] * line.scale);
    if constexpr (Do & kGradient) {
      const V a = load(line.source + r), b = load(line.source + i);
      store(line.sum + r, mul_add(a, x[k], mul_add(b, y[k], load(line.sum + r))));
      store(line.sum + i, mul_add(a, y[k], mul_add(-b, x[k], load(line.sum + i))));
    }
    if constexpr (Do & kTimes) turn(x[k], y[k], load(line.kernel + r), load(line.kernel + i));
    if constexpr (Do & kTimesConj) turn_back(x[k], y[k], load(line.kernel + r), load(line.kernel + i));
    if constexpr (Do & kAdd) {
      store(line.keep + r, load(line.keep + r) + x[k]);
      store(line.keep + i, load(line.keep + i) + y[k]);
    }
  });
  if constexpr (Do & kToTime) {
    Dft<C, W>::run(y, x);
    repeat<W - 1>([&](auto i) SO_INLINE_LAMBDA {
      turn_back(x[i + 1], y[i + 1], load(root + 2 * i * W), load(root + (2 * i + 1) * W));
    });
    transpose_lanes<C>(x);
    transpose_lanes<C>(y);
    repeat<W>([&](auto i) SO_INLINE_LAMBDA { store(re + i * W, x[i]), store(im + i * W, y[i]); });
  }
}

// The roots of a tile where they are not kept.
template <typename C> static __attribute__((noinline)) void make_roots(const FftRoots& roots, i64 t, C* out) {
  constexpr int W = lanes<C>;
  const C* first = static_cast<const C*>(roots.tile_first) + t * 2 * (W - 1);
  const C* rest = static_cast<const C*>(roots.tile_rest);
  for (int i = 0; i < W - 1; ++i) {
    vec<C> x = load(rest + 2 * i * W), y = load(rest + (2 * i + 1) * W);
    turn(x, y, splat(first[2 * i]), splat(first[2 * i + 1]));
    store(out + 2 * i * W, x), store(out + (2 * i + 1) * W, y);
  }
}

template <typename C, unsigned Do> static void tiles(const FftRoots& roots, const Line<C>& line, i64 from, i64 to) {
  constexpr int W = lanes<C>;
  constexpr i64 S = W * W;
  alignas(64) C made[2 * S];
  for (i64 j = from; j < to; j += S) {
    const C* root = static_cast<const C*>(roots.tile) + 2 * (j / W) * (W - 1);
    if (!roots.tile) make_roots<C>(roots, j / S, made), root = made;
    const i64 count = to - j;
    if (count >= S) {
      tile<C, Do>(line.re + j, line.im + j, root, line, 2 * j);
      continue;
    }
    alignas(64) C x[2 * S] = {};
    for (i64 i = 0; i < count; ++i) x[i] = line.re[j + i], x[S + i] = line.im[j + i];
    tile<C, Do>(x, x + S, root, line, 2 * j);
    for (i64 i = 0; i < count; ++i) line.re[j + i] = x[i], line.im[j + i] = x[S + i];
  }
}

// ---- all levels ------------------------------------------------------------------------------------------------------

// One level on the points [from, to), which are whole blocks of `size`.
template <typename C, bool Back>
static void level(const FftRoots& roots, const Line<C>& line, int l, i64 from, i64 to, i64 size) {
  const C* root = static_cast<const C*>(roots.pass[l]) + 2 * (from / size) * (roots.radix[l] - 1);
  with_radix(roots.radix[l], [&](auto r) SO_INLINE_LAMBDA {
    constexpr int R = int(r);
    if constexpr (Back) join<C, R>(line.re + from, line.im + from, size / R, (to - from) / size, root);
    else split<C, R>(line.re + from, line.im + from, size / R, (to - from) / size, root);
  });
}

// Blocks of `size` in [from, to) from level l down and up again.
template <typename C, unsigned Do>
static void down(const FftRoots& roots, const Line<C>& line, int l, i64 from, i64 to, i64 size) {
  if (size * i64(2 * sizeof(C)) > kNearBytes && l < roots.levels) {
    for (i64 j = from; j < to; j += size) {
      if (Do & kFromTime) level<C, false>(roots, line, l, j, j + size, size);
      down<C, Do>(roots, line, l + 1, j, j + size, size / roots.radix[l]);
      if (Do & kToTime) level<C, true>(roots, line, l, j, j + size, size);
    }
    return;
  }
  const i64 step = (to - from) * i64(2 * sizeof(C)) > kNearBytes ? size : to - from;
  for (i64 j = from; j < to; j += step) {
    i64 points = size;
    int m = l;
    for (; m < roots.levels; points /= roots.radix[m++])
      if (Do & kFromTime) level<C, false>(roots, line, m, j, j + step, points);
    tiles<C, Do>(roots, line, j, j + step);
    while (m-- > l) {
      points *= roots.radix[m];
      if (Do & kToTime) level<C, true>(roots, line, m, j, j + step, points);
    }
  }
}

// From the numbers of v (kFromTime), through Do, to the numbers of out (kToTime). Real: only the first n
// numbers of either are there, and out may be line.re.
template <typename C, unsigned Do, bool Real>
static __attribute__((noinline)) void transform(const FftRoots& roots, const Line<C>& line, const C* v, C* out) {
  const C* root = static_cast<const C*>(roots.pass[0]);
  if (Do & kFromTime)
    with_radix(roots.radix[0], [&](auto r) SO_INLINE_LAMBDA {
      first_pass<C, int(r), Real>(v, line.re, line.im, roots.n, root);
    });
  down<C, Do>(roots, line, 1, 0, roots.n, roots.n / roots.radix[0]);
  if (Do & kToTime)
    with_radix(roots.radix[0], [&](auto r) SO_INLINE_LAMBDA {
      last_pass<C, int(r), Real>(line.re, line.im, out, roots.n, root);
    });
}

template <unsigned Do, typename C>
static void transform(const FftRoots& roots, const Line<C>& line, bool real, const C* v, C* out) {
  if (real) transform<C, Do, true>(roots, line, v, out);
  else transform<C, Do, false>(roots, line, v, out);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

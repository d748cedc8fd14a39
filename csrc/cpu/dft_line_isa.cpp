// dft_line.h for one instruction set.
#include "cpu/dft_butterfly.h"
#include "cpu/dft_line.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

constexpr int kChain = 16;  // terms of a direct sum that are added one after another

template <int R, bool kRoots, typename C> void pass(Points<const C> in, Points<C> out, i64 m, i64 s, const C* w) {
  for (i64 p = 0; p < m; ++p, w += 2 * (R - 1))
    for (i64 q = 0; q < s; ++q) {
      Complex<C> a[R];
      const i64 from = (q + s * p) * in.stride, to = (q + s * R * p) * out.stride;
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) a[j] = get<C>(in.re, in.im, from + j * (s * m * in.stride));
      butterfly<R, C>(a);
#pragma GCC unroll 8
      for (int k = 0; k < R; ++k) {
        if (kRoots && k) a[k] = times<C>(a[k], w + 2 * k - 2);
        put<C>(out.re, out.im, to + k * (s * out.stride), a[k]);
      }
    }
}

// even[k] = base + sum_j sum[j] cos, odd[k] = sum_j dif[j] sin of 2 pi (j + 1)(k + 1) / r; whole blocks of k are written.
template <typename C> void half_sums(const C* table, int h, vec<C> base, const C* sum, const C* dif, C* even, C* odd) {
  constexpr int K = kVectorBytes == 64 ? kDirectBlock : kDirectBlock / 2, W = lanes<C>;
  for (int k = 0; k < h; k += K) {
    const C* const t = table + i64(k / kDirectBlock) * h * 2 * kDirectBlock + k % kDirectBlock;
    for (int j = 0; j < h; j += kChain) {
      vec<C> e[K], o[K];
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) e[i] = o[i] = vec<C>{};
      for (int l = j; l < h && l < j + kChain; ++l) {
        const vec<C> a = load<C>(sum + l * W), b = load<C>(dif + l * W);
        const C* const w = t + i64(l) * 2 * kDirectBlock;
#pragma GCC unroll 8
        for (int i = 0; i < K; ++i) {
          e[i] = mul_add(a, splat<C>(w[i]), e[i]);
          o[i] = mul_add(b, splat<C>(w[kDirectBlock + i]), o[i]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) {
        C *const ek = even + (k + i) * W, *const ok = odd + (k + i) * W;
        store(ek, (j ? load<C>(ek) : base) + e[i]);
        store(ok, j ? load<C>(ok) + o[i] : o[i]);
      }
    }
  }
}

template <typename C> vec<C> total(vec<C> base, const C* v, int h) {
  for (int j = 0; j < h; j += kChain) {
    vec<C> sum{};
    for (int l = j; l < h && l < j + kChain; ++l) sum += load<C>(v + l * lanes<C>);
    base += sum;
  }
  return base;
}

// Sums and differences of points j and r - j.
template <typename C> vec<C> fold(const C* v, i64 stride, int h, C* sum, C* dif) {
  for (int j = 1; j <= h; ++j) {
    const vec<C> a = load<C>(v + j * stride), b = load<C>(v + (2 * h + 1 - j) * stride);
    store(sum + (j - 1) * lanes<C>, a + b), store(dif + (j - 1) * lanes<C>, a - b);
  }
  return load<C>(v);
}

// One transform of an odd prime r; re, im or both of the result.
template <typename C> void direct(const C* table, int h, Points<const C> in, Points<C> out, const C* w, C* scratch) {
  constexpr int W = lanes<C>;
  const i64 room = i64(h + kDirectBlock) * W;
  C *const sum_re = scratch, *const dif_re = sum_re + room, *const sum_im = dif_re + room, *const dif_im = sum_im + room;
  C *const re_even = dif_im + room, *const re_odd = re_even + room;
  C *const im_even = re_odd + room, *const im_odd = im_even + room;
  const vec<C> re = fold<C>(in.re, in.stride, h, sum_re, dif_re);
  const vec<C> im = in.im ? fold<C>(in.im, in.stride, h, sum_im, dif_im) : vec<C>{};
  if (!in.im) {  // the real part is even, the imaginary odd
    half_sums<C>(table, h, re, sum_re, dif_re, re_even, im_odd);
    for (i64 i = 0; i < h * W; i += W) store(im_even + i, vec<C>{}), store(re_odd + i, vec<C>{});
  } else {
    if (out.re) half_sums<C>(table, h, re, sum_re, dif_im, re_even, re_odd);
    half_sums<C>(table, h, im, sum_im, dif_re, im_even, im_odd);
  }
  if (!out.re) {
    store(out.im, total<C>(im, sum_im, h));
    for (int k = 1; k <= h; ++k) {
      const vec<C> even = load<C>(im_even + (k - 1) * W), odd = load<C>(im_odd + (k - 1) * W);
      store(out.im + k * out.stride, even - odd), store(out.im + (2 * h + 1 - k) * out.stride, even + odd);
    }
    return;
  }
  put<C>(out.re, out.im, 0, {total<C>(re, sum_re, h), in.im ? total<C>(im, sum_im, h) : vec<C>{}});
  for (int k = 1; k <= h; ++k) {
    const i64 at = (k - 1) * W, mirror = 2 * h + 1 - k;
    const Complex<C> even = get<C>(re_even, im_even, at), odd = get<C>(re_odd, im_odd, at);
    const Complex<C> low = {even.re + odd.re, even.im - odd.im}, high = {even.re - odd.re, even.im + odd.im};
    put<C>(out.re, out.im, k * out.stride, w ? times<C>(low, w + 2 * k - 2) : low);
    put<C>(out.re, out.im, mirror * out.stride, w ? times<C>(high, w + 2 * mirror - 2) : high);
  }
}

template <typename C>
void direct_pass(const C* table, int r, Points<const C> in, Points<C> out, i64 m, i64 s, const C* w, C* scratch) {
  const auto moved = [](auto* p, i64 by) { return p ? p + by : p; };
  for (i64 p = 0; p < m; ++p, w += 2 * (r - 1))
    for (i64 q = 0; q < s; ++q) {
      const i64 from = (q + s * p) * in.stride, to = (q + s * r * p) * out.stride;
      direct<C>(table, (r - 1) / 2, {in.re + from, moved(in.im, from), s * m * in.stride},
                {moved(out.re, to), out.im + to, s * out.stride}, m > 1 ? w : nullptr, scratch);
    }
}

template <int R, typename C> void pass(Points<const C> in, Points<C> out, i64 m, i64 s, const C* w) {
  if (m > 1) pass<R, true, C>(in, out, m, s, w);
  else pass<R, false, C>(in, out, m, s, w);
}

template <typename C> void levels(const LinePlan& plan, Points<const C> in, Points<C> out, C* scratch) {
  constexpr int W = lanes<C>;
  const i64 line = 2 * W * plan.n;
  i64 m = plan.n, s = 1;
  for (int l = 0; l < plan.levels; ++l) {
    const int r = plan.radix[l];
    const C* const w = static_cast<const C*>(plan.roots[l]);
    C* const spare = scratch + (l & 1) * line;
    const Points<C> to = l + 1 == plan.levels ? out : Points<C>{spare, spare + W, 2 * W};
    m /= r;
    switch (r) {
      case 2: pass<2, C>(in, to, m, s, w); break;
      case 3: pass<3, C>(in, to, m, s, w); break;
      case 4: pass<4, C>(in, to, m, s, w); break;
      case 5: pass<5, C>(in, to, m, s, w); break;
      case 7: pass<7, C>(in, to, m, s, w); break;
      case 8: pass<8, C>(in, to, m, s, w); break;
      default: direct_pass<C>(static_cast<const C*>(plan.direct[l]), r, in, to, m, s, w, scratch + 2 * line);
    }
    in = {to.re, to.im, to.stride};
    s *= r;
  }
}

template <typename C> void convolved(const LinePlan& plan, Points<const C> in, Points<C> out, C* scratch) {
  constexpr int W = lanes<C>;
  const i64 n = plan.n, size = plan.padded->n;
  const C *const chirp = static_cast<const C*>(plan.chirp), *const kernel = static_cast<const C*>(plan.kernel);
  C *const a = scratch, *const rest = a + 2 * W * size;
  for (i64 j = 0; j < n; ++j) put<C>(a + 2 * W * j, times<C>(get<C>(in.re, in.im, j * in.stride), chirp + 2 * j));
  for (i64 j = n; j < size; ++j) put<C>(a + 2 * W * j, {vec<C>{}, vec<C>{}});
  levels<C>(*plan.padded, {a, a + W, 2 * W}, {a, a + W, 2 * W}, rest);
  for (i64 k = 0; k < size; ++k) put<C>(a + 2 * W * k, times<C>(get<C>(a + 2 * W * k), kernel + 2 * k));
  levels<C>(*plan.padded, {a + W, a, 2 * W}, {a + W, a, 2 * W}, rest);
  for (i64 k = 0; k < n; ++k) put<C>(out.re, out.im, k * out.stride, times<C>(get<C>(a + 2 * W * k), chirp + 2 * k));
}

template <typename C> void transform(const LinePlan& plan, Points<const C> in, Points<C> out, C* scratch) {
  if (plan.padded) return convolved<C>(plan, in, out, scratch);
  if (plan.n == 1) return put<C>(out.re, out.im, 0, get<C>(in.re, in.im, 0));
  levels<C>(plan, in, out, scratch);
}

}  // namespace

void line_transform(const LinePlan& plan, Points<const float> in, Points<float> out, float* scratch) {
  transform<float>(plan, in, out, scratch);
}
void line_transform(const LinePlan& plan, Points<const double> in, Points<double> out, double* scratch) {
  transform<double>(plan, in, out, scratch);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

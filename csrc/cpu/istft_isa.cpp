// istft_head and its gradient for one instruction set.
#include "cpu/istft.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename C> struct Complex {
  vec<C> re, im;
};
template <typename C> SO_SIMD Complex<C> operator+(Complex<C> a, Complex<C> b) { return {a.re + b.re, a.im + b.im}; }
template <typename C> SO_SIMD Complex<C> operator-(Complex<C> a, Complex<C> b) { return {a.re - b.re, a.im - b.im}; }
template <typename C> SO_SIMD Complex<C> operator*(Complex<C> a, C t) { return {a.re * t, a.im * t}; }
template <typename C> SO_SIMD Complex<C> times_i(Complex<C> a) { return {-a.im, a.re}; }
template <typename C> SO_SIMD Complex<C> times(Complex<C> a, vec<C> cos, vec<C> sin) {
  return {mul_add(a.re, cos, -(a.im * sin)), mul_add(a.re, sin, a.im * cos)};
}

// b_j = sum_i a_i exp(2 pi i (i j) / R)
template <int R, typename C> SO_SIMD void butterfly(const Complex<C>* a, Complex<C>* b) {
  if constexpr (R == 2) {
    b[0] = a[0] + a[1], b[1] = a[0] - a[1];
  } else if constexpr (R == 3) {
    const Complex<C> sum = a[1] + a[2], mean = a[0] - sum * C(0.5), turn = times_i<C>((a[1] - a[2]) * C(0.86602540378443864676));
    b[0] = a[0] + sum, b[1] = mean + turn, b[2] = mean - turn;
  } else if constexpr (R == 4) {
    const Complex<C> even = a[0] + a[2], less = a[0] - a[2], odd = a[1] + a[3], turn = times_i<C>(a[1] - a[3]);
    b[0] = even + odd, b[1] = less + turn, b[2] = even - odd, b[3] = less - turn;
  } else {
    constexpr C c1 = C(0.30901699437494742410), c2 = C(-0.80901699437494742410), s1 = C(0.95105651629515357212),
                s2 = C(0.58778525229247312917);
    const Complex<C> p = a[1] + a[4], q = a[2] + a[3], d = a[1] - a[4], e = a[2] - a[3];
    const Complex<C> one = a[0] + p * c1 + q * c2, two = a[0] + p * c2 + q * c1;
    const Complex<C> first = times_i<C>(d * s1 + e * s2), second = times_i<C>(d * s2 - e * s1);
    b[0] = a[0] + p + q, b[1] = one + first, b[2] = two + second, b[3] = two - second, b[4] = one - first;
  }
}

// Lanes are frames.  An array of complex numbers holds a vector of real and one of imaginary parts in turn.
template <typename C> struct Frames {
  static constexpr int L = lanes<C>;
  const IstftPlan& p;
  const spectralops_istft_call& c;
  C* const own;
  const C* const roots;
  const C *const window, *const scale;
  Frames(const IstftPlan& plan, int index)
      : p(plan), c(*plan.call), own(reinterpret_cast<C*>(plan.scratch) + index * plan.slot),
        roots(static_cast<const C*>(plan.roots)), window(static_cast<const C*>(c.window)), scale(static_cast<const C*>(c.scale)) {}

  static Complex<C> get(const C* x, i64 k) { return {load<C>(x + 2 * k * L), load<C>(x + (2 * k + 1) * L)}; }

  // One level of a transform of which `size` points remain and `step` are done.
  template <int R> void level(const C* x, C* y, i64 size, i64 step, i64 re, i64 im) const {
    const i64 m = size / R, turn = c.n / size;
    for (i64 i = 0; i < m; ++i)
      for (i64 q = 0; q < step; ++q) {
        Complex<C> a[R], b[R];
        for (int j = 0; j < R; ++j) {
          const C* const from = x + 2 * (q + step * (i + m * j)) * L;
          a[j] = {load<C>(from + re), load<C>(from + im)};
        }
        butterfly<R, C>(a, b);
        for (int j = 0; j < R; ++j) {
          const C* const w = roots + 2 * i * j * turn;
          const Complex<C> out = j ? times<C>(b[j], splat<C>(w[0]), splat<C>(w[1])) : b[0];
          C* const to = y + 2 * (q + step * (R * i + j)) * L;
          store(to + re, out.re), store(to + im, out.im);
        }
      }
  }
  // sum_k x_k exp(+-2 pi i k m / half): the forward one is the other with real and imaginary parts exchanged.  Uses both.
  const C* transform(C* x, C* y, bool forward) const {
    const i64 re = forward ? L : 0, im = L - re;
    for (i64 l = 0, size = p.half, step = 1; l < p.levels; ++l) {
      const int r = p.radix[l];
      if (r == 4) level<4>(x, y, size, step, re, im);
      else if (r == 2) level<2>(x, y, size, step, re, im);
      else if (r == 3) level<3>(x, y, size, step, re, im);
      else level<5>(x, y, size, step, re, im);
      size /= r, step *= r;
      C* const other = x;
      x = y, y = other;
    }
    return x;
  }

  // H -> Z.  Imaginary parts at both ends are left out.
  void join(const C* h, C* z) const {
    for (i64 k = 0; k < p.half; ++k) {
      Complex<C> a = get(h, k), b = get(h, p.half - k);
      if (k == 0) a.im = b.im = vec<C>{};
      const Complex<C> sum = {a.re + b.re, a.im - b.im}, less = {a.re - b.re, a.im + b.im};
      const Complex<C> turned = times<C>(less, splat<C>(roots[2 * k]), splat<C>(roots[2 * k + 1]));
      store(z + 2 * k * L, sum.re - turned.im), store(z + (2 * k + 1) * L, sum.im + turned.re);
    }
  }
  // The transform of pairs of samples -> c_k / n times that of the samples.
  void part(const C* z, C* h) const {
    for (i64 k = 0; k <= p.half; ++k) {
      const i64 low = k == p.half ? 0 : k, high = k ? p.half - k : 0;
      const Complex<C> a = get(z, low), b = get(z, high);
      const vec<C> cos = splat<C>(roots[2 * k]), sin = splat<C>(roots[2 * k + 1]);
      const vec<C> factor = splat<C>(C(k == 0 || k == p.half ? 0.5 : 1.0) / C(c.n));
      const vec<C> dr = a.re - b.re, di = a.im + b.im;
      store(h + 2 * k * L, (a.re + b.re + mul_add(cos, di, -(sin * dr))) * factor);
      store(h + (2 * k + 1) * L, (a.im - b.im - mul_add(cos, dr, sin * di)) * factor);
    }
  }

  struct Polar {
    vec<C> re, im;
    mask<C> inside;
    vec<C> slope;  // of the phase in b
  };
  Polar polar(vec<C> a, vec<C> b) const {
    const vec<C> e = exp_of<C>(a), limit = splat<C>(C(c.limit)), size = e > limit ? limit : e;
    const bool sine = c.variant == 1;
    const SinCos<C> inner = sine ? sin_cos<C>(b) : SinCos<C>{b, splat<C>(1)};
    const SinCos<C> phase = sin_cos<C>(inner.sin);
    return {size * phase.cos, size * phase.sin, e <= limit, inner.cos};
  }

  // Rows a and b of `count` frames -> real and imaginary part, in place.
  void to_spectrum(i64 count) const {
    C *const a = own + p.a, *const b = own + p.b;
    for (i64 i = 0; i < count && c.variant != 2; ++i)
      for (i64 k = i * p.pitch; k < i * p.pitch + p.bins; k += L) {
        const Polar x = polar(load<C>(a + k), load<C>(b + k));
        store(a + k, x.re), store(b + k, x.im);
      }
  }
  // The gradients of real and imaginary part -> those of a and b, in place.
  void through_spectrum(i64 count, C* re, C* im) const {
    const C *const a = own + p.a, *const b = own + p.b;
    for (i64 i = 0; i < count && c.variant != 2; ++i)
      for (i64 k = i * p.pitch; k < i * p.pitch + p.bins; k += L) {
        const Polar x = polar(load<C>(a + k), load<C>(b + k));
        const vec<C> fr = load<C>(re + k), fi = load<C>(im + k), kept = x.inside ? splat<C>(1) : vec<C>{};
        store(re + k, mul_add(fr, x.re, fi * x.im) * kept), store(im + k, mul_add(fi, x.re, -(fr * x.im)) * x.slope);
      }
  }
};

template <typename T> struct Istft : Frames<compute_t<T>> {
  using C = compute_t<T>;
  using Base = Frames<C>;
  using Base::c, Base::own, Base::p, Base::L;
  Istft(const IstftPlan& plan, int index) : Base(plan, index) {}

  // x of `count` frames -> rows of numbers a and b.
  void stage(i64 row, i64 from, i64 count) const {
    const T* const x = static_cast<const T*>(c.x) + row * c.x_stride[0] + from * c.x_stride[1];
    const i64 by_frame = c.x_stride[1], by_bin = c.x_stride[2];
    const auto half = [&](const T* in, C* out) {
      if (by_bin != 1 && by_frame == 1) return transpose<C, T>(in, by_bin, p.bins, count, out, p.pitch);
      for (i64 i = 0; i < count; ++i)
        if (by_bin == 1)
          for (i64 k = 0; k < p.bins; k += L) store(out + i * p.pitch + k, load_count<C>(in + i * by_frame + k, p.bins - k));
        else
          for (i64 k = 0; k < p.bins; ++k) out[i * p.pitch + k] = widen(in[i * by_frame + k * by_bin]);
    };
    half(x, own + p.a), half(x + p.bins * by_bin, own + p.b);
  }

  // Samples of `count` frames added to the sum, which begins with frame `first`.
  void add_frames(i64 row, i64 from, i64 count, i64 first) const {
    C *const a = own + p.a, *const b = own + p.b, *const h = own + p.h, *const samples = own + p.samples;
    stage(row, from, count);
    this->to_spectrum(count);
    transpose<C, C>(a, p.pitch, count, p.bins, h, 2 * L);
    transpose<C, C>(b, p.pitch, count, p.bins, h + L, 2 * L);
    this->join(h, own + p.first);
    const C* const f = this->transform(own + p.first, own + p.second, false);
    transpose<C, C>(f, L, c.n, count, samples, p.span);
    const C inverse = C(1) / C(c.n);
    for (i64 i = 0; i < count; ++i) {
      C* const sum = own + p.sum + (from + i - first) * c.hop;
      for (i64 m = 0; m < c.n; m += L) {
        const vec<C> w = load_count<C>(this->window + m, c.n - m) * inverse;
        store(sum + m, mul_add(load<C>(samples + i * p.span + m), w, load<C>(sum + m)));
      }
    }
  }

  void head(i64 row, i64 chunk) const {
    const i64 begin = chunk * p.frames, end = least(c.frames, begin + p.frames), first = begin < p.before ? 0 : begin - p.before;
    C* const sum = own + p.sum;
    for (i64 t = 0; t < p.region + kIstftFrames; ++t) sum[t] = 0;
    for (i64 from = first; from < end; from += L) add_frames(row, from, least(L, end - from), first);
    const i64 last = end == c.frames ? c.start + c.length : least(end * c.hop, c.start + c.length);
    T* const y = static_cast<T*>(c.y) + row * c.length - c.start;
    for (i64 t = begin * c.hop > c.start ? begin * c.hop : c.start; t < last; t += L) {
      vec<C> v = load<C>(sum + t - first * c.hop);
      if (this->scale) v *= load_count<C>(this->scale + t - c.start, last - t);
      store_count<C>(y + t, v, last - t);
    }
  }

  // ---- the gradient ----
  void frames_back(i64 row, i64 from, i64 count, i64 first) const {
    C *const h = own + p.h, *const samples = own + p.samples;
    for (i64 i = 0; i < count; ++i) {
      const C* const g = own + p.sum + (from + i - first) * c.hop;
      for (i64 m = 0; m < c.n; m += L) store(samples + i * p.span + m, load<C>(g + m) * load_count<C>(this->window + m, c.n - m));
    }
    transpose<C, C>(samples, p.span, count, c.n, own + p.first, L);
    const C* const z = this->transform(own + p.first, own + p.second, true);
    this->part(z, h);
    C *const re = own + p.first, *const im = own + p.second;
    transpose<C, C>(h, 2 * L, p.bins, count, re, p.pitch);
    transpose<C, C>(h + L, 2 * L, p.bins, count, im, p.pitch);
    if (c.variant != 2) stage(row, from, count);
    this->through_spectrum(count, re, im);
    for (i64 i = 0; i < count; ++i) {
      T* const out = static_cast<T*>(c.y) + (row * c.frames + from + i) * 2 * p.bins;
      for (i64 k = 0; k < p.bins; k += L) {
        store_count<C>(out + k, load<C>(re + i * p.pitch + k), p.bins - k);
        store_count<C>(out + p.bins + k, load<C>(im + i * p.pitch + k), p.bins - k);
      }
    }
  }

  void back(i64 row, i64 chunk) const {
    const i64 begin = chunk * p.frames, end = least(c.frames, begin + p.frames), first = begin * c.hop;
    C* const g = own + p.sum;
    const T* const grad = static_cast<const T*>(c.grad) + row * c.grad_stride[0];
    for (i64 t = 0; t < p.region + kIstftFrames; ++t) {
      const i64 at = first + t - c.start;
      const bool there = at >= 0 && at < c.length;
      const C v = there ? C(widen(grad[at * c.grad_stride[1]])) : C(0);
      g[t] = there && this->scale ? v * this->scale[at] : v;
    }
    for (i64 from = begin; from < end; from += L) frames_back(row, from, least(L, end - from), begin);
  }
};

template <typename T, bool Back> void run(const IstftPlan& plan) {
  parallel_for(plan.threads, plan.call->rows * plan.chunks, [&](i64 task, int index) {
    const Istft<T> istft(plan, index);
    if constexpr (Back) istft.back(task / plan.chunks, task % plan.chunks);
    else istft.head(task / plan.chunks, task % plan.chunks);
  });
}
template <bool Back> void run_any(const IstftPlan& plan) {
  switch (plan.call->dtype) {
    case SPECTRALOPS_F32: return run<float, Back>(plan);
    case SPECTRALOPS_F64: return run<double, Back>(plan);
    case SPECTRALOPS_F16: return run<half_t, Back>(plan);
    default: return run<bf16_t, Back>(plan);
  }
}

}  // namespace

void istft_head_run(const IstftPlan& plan) { run_any<false>(plan); }
void istft_head_backward_run(const IstftPlan& plan) { run_any<true>(plan); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

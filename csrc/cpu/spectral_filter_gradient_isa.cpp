// The gradient of spectral_filter for one instruction set: c_k / N sum_b conj(X) G.
#include "cpu/spectral_filter_grid.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename T> struct Gradient : Grid<T> {
  using Base = Grid<T>;
  using C = typename Base::C;
  using Base::at, Base::c, Base::count, Base::first, Base::L, Base::p, Base::vectors, Base::W;

  Gradient(const FilterJob& job, int index) : Base(job, index) {}

  C* sums(int v, i64 level) const { return held + (v * p.levels + level) * p.slab_size; }
  C* second(int v) const { return at(p.second) + v * p.slab_size; }

  // sums(v, 0) += conj(X) G of a sample, column after column.
  void add_sample(int v, bool begin) const {
    C* const room = at(p.column);
    C* sum = sums(v, 0);
    for (i64 i = 0; i < p.inner; ++i) {
      const C *const a = this->column_to(this->slab(v), i, room), *const b = this->column_to(second(v), i, room + p.outer * W);
      for (i64 o = 0; o < p.outer; ++o, sum += W) {
        const Complex<C> x = get<C>(a + o * W), g = get<C>(b + o * W);
        const Complex<C> s = begin ? Complex<C>{vec<C>{}, vec<C>{}} : get<C>(sum);
        put<C>(sum, {mul_add(x.re, g.re, mul_add(x.im, g.im, s.re)), mul_add(x.re, g.im, s.im - x.im * g.re)});
      }
    }
  }
  // Level + 1 gets level, which begins anew.
  void fold(int v, i64 level, bool begin) const {
    const C* const from = sums(v, level);
    C* const to = sums(v, level + 1);
    for (i64 i = 0; i < p.bins * W; i += L) store(to + i, begin ? load<C>(from + i) : load<C>(to + i) + load<C>(from + i));
  }

  // c_k / (4 N) times the sums of each weight's channels, to dweight or to a partial result.
  void emit(int v, const C* sum, C* out, i64 bin_stride) const {
    const int weights = int((count[v] + p.channels_each - 1) / p.channels_each);
    const int each = int(least(p.channels_each, count[v]));
    const C once = C(0.25 / double(p.rows) / double(c.n3));
    for (i64 i = 0; i < p.inner; ++i) {
      const i64 k3 = i % p.half;
      const vec<C> scale = splat<C>(k3 == 0 || 2 * k3 == c.n3 ? once : 2 * once);
      for (i64 o = 0; o < p.outer; ++o, sum += W) {
        C* const to = out + (o * p.inner + i) * bin_stride;
        const Complex<C> s = {load<C>(sum) * scale, load<C>(sum + L) * scale};
        if (each == 1 && weights == L) {
          store_pairs<C>(to, s);
          continue;
        }
        C re[L], im[L];
        put<C>(re, im, 0, s);
        for (int w = 0; w < weights; ++w) to[2 * w] = halves(re + w * each, each), to[2 * w + 1] = halves(im + w * each, each);
      }
    }
  }
  // a[0] + .. + a[n - 1], n <= L, by halves; a is used up.
  static C halves(C* a, int n) {
    for (; n > 1; n = (n + 1) / 2)
      for (int l = 0; l < n / 2; ++l) a[l] += a[l + (n + 1) / 2];
    return a[0];
  }

  void write(i64 unit, i64 entry, i64 sample) const {
    for (int v = 0; v < vectors; ++v) {
      const C* const sum = sums(v, p.levels - 1);
      if (p.direct)
        emit(v, sum, static_cast<C*>(c.dweight) + (sample * p.bins * c.groups + first[v] / p.channels_each) * 2, c.groups * 2);
      else
        emit(v, sum, this->workspace + p.partial + (entry * p.vectors + unit * p.unit + v) * p.entry, p.weights * 2);
    }
  }

  void run_unit(i64 b) const {
    const i64 done = b - this->begin;
    this->to_spectra(c.x, c.x_stride, c.eps >= 0, b, at(p.slab));
    this->to_spectra(c.grad, c.grad_stride, false, b, at(p.second));
    for (int v = 0; v < vectors; ++v) {
      add_sample(v, c.samples > 1 || done % kChainSamples == 0);
      i64 size = kChainSamples;
      for (i64 level = 0; level + 1 < p.levels; ++level, size *= kChainSamples)
        if ((done + 1) % size == 0 || b + 1 == this->end) fold(v, level, done / size % kChainSamples == 0);
    }
  }

  void run(i64 task) {
    this->open_task(task);
    for (i64 b = this->begin; b < this->end; ++b)
      for (i64 u = this->first_unit; u < this->end_unit; ++u) {
        this->open(u);
        held = at(p.sums) + (c.samples > 1 ? 0 : (u - this->first_unit) * p.unit * p.levels * p.slab_size);
        run_unit(b);
        if (c.samples > 1) write(u, b, b);
        else if (b + 1 == this->end) write(u, task % p.parts, 0);
      }
  }

  C* held;  // the unit's sums, a slab a vector and level
};

// dweight from the partial results of parts of the samples and blocks of channels, in chains.
template <typename T> void gather(const FilterJob& job) {
  using C = compute_t<T>;
  constexpr int L = lanes<C>;
  const spectralops_filter_call& c = *job.call;
  const FilterPlan& p = *job.plan;
  const i64 sets = p.vectors / p.blocks, parts = c.samples > 1 ? 1 : p.parts, terms = parts * p.blocks;
  parallel_for(p.threads, c.samples * sets, [&](i64 task) {
    const i64 sample = task / sets, set = task % sets, weights = least(p.weights, c.groups - set * p.weights);
    const C* const from = reinterpret_cast<const C*>(job.workspace) + p.partial + (sample * p.vectors + set * p.blocks) * p.entry;
    C* const to = static_cast<C*>(c.dweight) + (sample * p.bins * c.groups + set * p.weights) * 2;
    for (i64 i = 0; i < p.bins * p.weights * 2; i += L) {
      vec<C> total{};
      for (i64 t = 0; t < terms; t += kChainSamples) {
        vec<C> sum{};
        for (i64 u = t; u < terms && u < t + kChainSamples; ++u)
          sum += load<C>(from + (u / p.blocks * p.vectors + u % p.blocks) * p.entry + i);
        total += sum;
      }
      C v[L];
      store(v, total);
      for (i64 j = i; j < i + L && j < p.bins * p.weights * 2; ++j)
        if (j % (p.weights * 2) < weights * 2) to[j / (p.weights * 2) * c.groups * 2 + j % (p.weights * 2)] = v[j - i];
    }
  });
}

template <typename T> void run(const FilterJob& job) {
  statistics<T>(job);
  const FilterPlan& p = *job.plan;
  parallel_for(p.threads, p.packs * p.parts, [&](i64 task, int index) { Gradient<T>(job, index).run(task); });
  if (!p.direct) gather<T>(job);
}

}  // namespace

void filter_gradient_run(const FilterJob& job) {
  switch (job.call->dtype) {
    case SPECTRALOPS_F32: return run<float>(job);
    case SPECTRALOPS_F64: return run<double>(job);
    case SPECTRALOPS_F16: return run<half_t>(job);
    default: return run<bf16_t>(job);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

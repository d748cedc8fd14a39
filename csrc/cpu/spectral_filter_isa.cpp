// spectral_filter for one instruction set.
#include "cpu/parallel.h"
#include "cpu/spectral_filter_grid.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename T> struct Filter : Grid<T> {
  using Base = Grid<T>;
  using C = typename Base::C;
  using Base::at, Base::c, Base::count, Base::first, Base::L, Base::p, Base::vectors, Base::W;

  Filter(const FilterJob& job, int index) : Base(job, index) {}

  // W / (2 N) or its conjugate, column after column, for the unit's channels.
  void load_weight(i64 sample) const {
    const C* const weight = static_cast<const C*>(c.weight) + sample * p.bins * c.groups * 2;
    const C re = C(0.5 / double(p.rows) / double(c.n3)), im = c.conj ? -re : re;
    for (int v = 0; v < vectors; ++v)
      for (i64 i = 0; i < p.inner; ++i)
        for (i64 o = 0; o < p.outer; ++o) {
          const Complex<C> w = weights(weight + (o * p.inner + i) * c.groups * 2, v);
          put<C>(held + v * p.slab_size + (i * p.outer + o) * W, {w.re * splat<C>(re), w.im * splat<C>(im)});
        }
  }
  Complex<C> weights(const C* w, int v) const {
    if (p.channels_each == 1 && count[v] == L) return load_pairs<C>(w + 2 * first[v]);
    const C* from = w + first[v] / p.channels_each * 2;
    i64 left = p.channels_each - first[v] % p.channels_each;  // channels of this weight
    if (left >= count[v]) return {splat<C>(from[0]), splat<C>(from[1])};
    C re[L] = {}, im[L] = {};
    for (int l = 0; l < count[v]; ++l, --left) {
      if (left == 0) from += 2, left = p.channels_each;
      re[l] = from[0], im[l] = from[1];
    }
    return get<C>(re, im, 0);
  }

  void filter_columns(int v) const {
    C* const spectrum = this->slab(v);
    const C* w = held + v * p.slab_size;
    for (i64 i = 0; i < p.inner; ++i) {
      C* const line = this->column_to(spectrum, i, at(p.column));
      for (i64 o = 0; o < p.outer; ++o, w += W) {
        const Complex<C> b = get<C>(w);
        put<C>(line + o * W, times<C>(get<C>(line + o * W), b.re, b.im));
      }
      this->column_from(line, i, spectrum);
    }
    if (p.middle) this->middle(spectrum, 1);
  }

  void store_row(i64 b, i64 r, int which) const {
    T* const to = static_cast<T*>(c.y) + this->place(c.y_stride, b, r);
    const T* const residual = static_cast<const T*>(c.residual);
    for (int v = 0; v < vectors; ++v) {
      C *const a = this->row(v, which), *const more = at(p.residual);
      if (residual) {
        const T* const from = residual + this->place(c.residual_stride, b, r) + first[v] * c.residual_stride[4];
        stage<C, T>(from, c.residual_stride[3], c.residual_stride[4], c.n3, count[v], more);
        for (i64 i = 0; i < c.n3 * L; i += L) store(a + i, load<C>(a + i) + load<C>(more + i));
      }
      unstage<C, T>(a, c.n3, count[v], to + first[v] * c.y_stride[4], c.y_stride[3], c.y_stride[4]);
    }
  }

  void run_unit(i64 b) const {
    this->to_spectra(c.x, c.x_stride, c.eps >= 0, b, at(p.slab));
    for (int v = 0; v < vectors; ++v) filter_columns(v);
    for (i64 r = 0; r < p.rows; r += 2) {
      const bool pair = r + 1 < p.rows;
      this->template prefetch_rows<1>(c.y, c.y_stride, b, r);
      for (int v = 0; v < vectors; ++v) this->spectra_to_rows(v, r, pair);
      store_row(b, r, 0);
      if (pair) store_row(b, r + 1, 1);
    }
  }

  void run(i64 task) {
    this->open_task(task);
    for (i64 b = this->begin; b < this->end; ++b)
      for (i64 u = this->first_unit; u < this->end_unit; ++u) {
        this->open(u);
        held = at(p.second) + (c.samples > 1 ? 0 : (u - this->first_unit) * p.unit * p.slab_size);
        if (b == this->begin || c.samples > 1) load_weight(c.samples > 1 ? b : 0);
        run_unit(b);
      }
  }

  C* held;  // the unit's weights, a slab a vector
};

template <typename T> void run(const FilterJob& job) {
  statistics<T>(job);
  const FilterPlan& p = *job.plan;
  parallel_for(p.threads, p.packs * p.parts, [&](i64 task, int index) { Filter<T>(job, index).run(task); });
}

}  // namespace

void filter_run(const FilterJob& job) {
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

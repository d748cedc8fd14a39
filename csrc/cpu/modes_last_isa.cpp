// modes_last.h for one instruction set.
#include "cpu/modes_end.h"
#include "cpu/modes_last.h"
#include "cpu/spectral_filter_grid.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

// NaN in both parts where one is NaN or infinite, as products with every root leave it.
template <typename C> SO_SIMD Complex<C> both_or_neither(Complex<C> v) {
  const vec<C> zero = (v.re - v.re) + (v.im - v.im);
  return {v.re + zero, v.im + zero};
}

template <typename T> struct Modes : Grid<T> {
  using Base = Grid<T>;
  using C = typename Base::C;
  using Base::at, Base::c, Base::count, Base::first, Base::L, Base::p, Base::vectors, Base::W;
  const ModesLast& m;
  const spectralops_modes_call& call;

  Modes(const FilterJob& job, const ModesLast& modes, int index) : Base(job, index), m(modes), call(*modes.call) {}

  bool at_end(i64 column) const { return column % p.half == 0 || 2 * (column % p.half) == c.n3; }
  i64 bin(i64 outer_mode, bool mirror) const {
    const i64 f = m.outer[outer_mode];
    return mirror && f ? p.outer - f : f;
  }
  // Mode (outer, inner) of the channels of vector v.
  C* mode(i64 b, i64 outer, i64 inner, int v) const {
    return static_cast<C*>(call.spectrum) + (((b * m.outer_modes + outer) * m.inner_modes + inner) * c.channels + first[v]) * 2;
  }
  Complex<C> load_mode(const C* from, int v) const {
    if (count[v] == L) return load_pairs<C>(from);
    C re[L] = {}, im[L] = {};
    for (int l = 0; l < count[v]; ++l) re[l] = from[2 * l], im[l] = from[2 * l + 1];
    return get<C>(re, im, 0);
  }
  void store_mode(C* to, int v, Complex<C> x) const {
    if (count[v] == L) return store_pairs<C>(to, x);
    C re[L], im[L];
    put<C>(re, im, 0, x);
    for (int l = 0; l < count[v]; ++l) to[2 * l] = re[l], to[2 * l + 1] = im[l];
  }

  void dft(i64 b) const {
    this->to_spectra(c.x, c.x_stride, false, b, at(p.slab));
    for (i64 r = 0; r < m.inner_modes; ++r) {
      const bool mirror = m.column[r] < 0;
      const i64 column = mirror ? -1 - m.column[r] : m.column[r];
      const C scale = C(call.doubled && !at_end(column) ? call.scale : 0.5 * call.scale);
      const vec<C> re = splat<C>(scale), im = splat<C>(mirror ? -scale : scale);
      for (int v = 0; v < vectors; ++v) {
        const C* const line = this->column_to(this->slab(v), column, at(p.column));
        for (i64 o = 0; o < m.outer_modes; ++o) {
          const Complex<C> x = both_or_neither<C>(get<C>(line + bin(o, mirror) * W));
          store_mode(mode(b, o, r, v), v, {x.re * re, x.im * im});
        }
      }
    }
  }

  // Adds the inner mode r to a column.
  void add_mode(i64 b, i64 r, int v, bool mirror, C scale, C* line, i64 step) const {
    const vec<C> re = splat<C>(scale), im = splat<C>(mirror ? -scale : scale);
    for (i64 o = 0; o < m.outer_modes; ++o) {
      const Complex<C> x = both_or_neither<C>(load_mode(mode(b, o, r, v), v));
      C* const to = line + bin(o, mirror) * step;
      put<C>(to, get<C>(to) + Complex<C>{x.re * re, x.im * im});
    }
  }
  void columns(i64 b, int v) const {
    const vec<C> zero{};
    for (i64 i = 0; i < p.inner; ++i) {
      const i64 plain = m.plain[i], mirrored = m.mirrored[i];
      const bool empty = plain < 0 && mirrored < 0, direct = empty || p.outer == 1;
      C* const line = direct ? this->slab(v) + i * W : at(p.column);
      const i64 step = direct ? p.inner * W : W;
      for (i64 o = 0; o < p.outer; ++o) put<C>(line + o * step, {zero, zero});
      const C scale = C(call.doubled || at_end(i) ? call.scale : 0.5 * call.scale);
      if (plain >= 0) add_mode(b, plain, v, false, scale, line, step);
      if (mirrored >= 0) add_mode(b, mirrored, v, true, scale, line, step);
      if (!empty) this->column_from(line, i, this->slab(v));
    }
    if (p.middle) this->middle(this->slab(v), 1);
  }

  const C* beside(const void* from, const int64_t* stride, i64 b, i64 r, int v) const {
    if (!from) return nullptr;
    const T* const x = static_cast<const T*>(from) + this->place(stride, b, r) + first[v] * stride[4];
    stage<C, T>(x, stride[3], stride[4], c.n3, count[v], at(p.residual));
    return at(p.residual);
  }
  template <bool Gelu, bool Grad> void end_row(C* z, vec<C> bias, const C* grad) const {
    for (i64 i = 0; i < c.n3 * L; i += L) {
      const vec<C> v = load<C>(z + i) + bias;
      store(z + i, ended<Gelu, Grad, C>(v, Grad ? load<C>(grad + i) : v));
    }
  }
  void store_row(i64 b, i64 r, int which) const {
    T* const to = static_cast<T*>(c.y) + this->place(c.y_stride, b, r);
    const bool gelu = call.activation == SPECTRALOPS_GELU;
    for (int v = 0; v < vectors; ++v) {
      C* const z = this->row(v, which);
      if (const C* const skip = beside(call.skip, c.residual_stride, b, r, v))
        for (i64 i = 0; i < c.n3 * L; i += L) store(z + i, load<C>(z + i) + load<C>(skip + i));
      const vec<C> bias = call.bias ? this->channel_vector(static_cast<const C*>(call.bias) + first[v], v) : vec<C>{};
      const C* const grad = beside(call.grad, c.grad_stride, b, r, v);
      if (gelu) grad ? end_row<true, true>(z, bias, grad) : end_row<true, false>(z, bias, grad);
      else if (grad) end_row<false, true>(z, bias, grad);
      else if (call.bias) end_row<false, false>(z, bias, grad);
      unstage<C, T>(z, c.n3, count[v], to + first[v] * c.y_stride[4], c.y_stride[3], c.y_stride[4]);
    }
  }
  void idft(i64 b) const {
    for (int v = 0; v < vectors; ++v) columns(b, v);
    for (i64 r = 0; r < p.rows; r += 2) {
      const bool pair = r + 1 < p.rows;
      this->template prefetch_rows<1>(c.y, c.y_stride, b, r);
      for (int v = 0; v < vectors; ++v) this->spectra_to_rows(v, r, pair);
      store_row(b, r, 0);
      if (pair) store_row(b, r + 1, 1);
    }
  }
};

template <bool Inverse, typename T> void run(const ModesLast& modes) {
  const FilterPlan& p = modes.plan;
  const FilterJob job{&modes.grid, &p, modes.workspace};
  parallel_for(p.threads, p.packs * p.parts, [&](i64 task, int index) {
    Modes<T> grid(job, modes, index);
    grid.open_task(task);
    for (i64 b = grid.begin; b < grid.end; ++b)
      for (i64 u = grid.first_unit; u < grid.end_unit; ++u) {
        grid.open(u);
        if constexpr (Inverse) grid.idft(b);
        else grid.dft(b);
      }
  });
}

template <bool Inverse> void run(const ModesLast& modes) {
  switch (modes.call->dtype) {
    case SPECTRALOPS_F32: return run<Inverse, float>(modes);
    case SPECTRALOPS_F64: return run<Inverse, double>(modes);
    case SPECTRALOPS_F16: return run<Inverse, half_t>(modes);
    default: return run<Inverse, bf16_t>(modes);
  }
}

}  // namespace

void mode_dft_last_run(const ModesLast& modes) { run<false>(modes); }
void mode_idft_last_run(const ModesLast& modes) { run<true>(modes); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

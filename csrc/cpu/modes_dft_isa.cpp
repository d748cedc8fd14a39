// mode_dft for one instruction set: lines, then the two outer dimensions, each folded and multiplied.
#include "cpu/modes_product.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename T> struct Dft : ModesSlot<compute_t<T>> {
  using C = compute_t<T>;
  static constexpr int L = lanes<C>;
  using Base = ModesSlot<C>;
  using Base::c, Base::own, Base::p;
  Dft(const Base& slot) : Base(slot) {}

  // E and O of a line.  0 = x - x at the ends, so that NaN and infinity reach both products.
  void fold_line(const T* x, C* even, C* odd) const {
    const i64 n = p.n, pairs = (n - 1) / 2;
    if (n <= L) {
      for (i64 j = 1; j <= pairs; ++j) even[j] = widen(x[j]) + widen(x[n - j]), odd[j] = widen(x[j]) - widen(x[n - j]);
    } else {
      for (i64 j = 1; j <= pairs; j += L) {
        const i64 from = pairs < L ? j : least(j, pairs - L + 1);  // the last vector overlaps the one before
        const vec<C> low = load<C>(x + from), high = reverse<C>(load<C>(x + n - from - L + 1));
        store_count<C>(even + from, low + high, pairs), store_count<C>(odd + from, low - high, pairs);
      }
    }
    even[0] = C(widen(x[0])), odd[0] = even[0] - even[0];
    if (n % 2 == 0) even[n / 2] = C(widen(x[n / 2])), odd[n / 2] = even[n / 2] - even[n / 2];
  }

  // The next `count` lines -> rows [re | im].
  void lines(ModesWalk& walk, i64 count, C* rows) const {
    const i64 pitch = round_up(p.half, kModeLanes);
    T* const buffer = reinterpret_cast<T*>(own + p.buffer);
    for (i64 l = 0; l < count; l += p.lines) {
      const i64 high = least(p.lines, count - l);
      for (i64 i = 0; i < high; ++i, walk.next()) {
        const T* const x = beside(walk.line<T>(c.x, c.x_stride), c.x_stride[4], p.n, buffer);
        fold_line(x, own + p.even + i * pitch, own + p.odd + i * pitch);
      }
      C* const to = rows + l * p.row;  // the first product's padding is the second's place
      product(own + p.even, pitch, high, static_cast<const C*>(p.cosine), p.columns, p.m, p.half, to, p.row);
      product(own + p.odd, pitch, high, static_cast<const C*>(p.sine), p.columns, p.m, p.half, to + p.m, p.row);
    }
    const i64 written = p.m + round_up(p.m, L), read = round_up(2 * p.m, L);
    for (i64 l = 0; l < count && written < read; ++l)
      for (i64 k = written; k < read; ++k) rows[l * p.row + k] = 0;
  }

  // n rows [re (box) | im (box)] -> modes; Step 1: planar, re and im apart; 2: complex pairs.
  template <int Step> void outer(const ModeAxis& a, const C* rows, i64 pitch, i64 box, C* re, C* im) const {
    const i64 width = round_up(2 * box, L);
    C *const even = own + p.even, *const odd = own + p.odd, *const first = own + p.first, *const second = own + p.second;
    for (i64 j = 0; j < a.half; ++j) {
      const C *low = rows + j * pitch, *high = rows + (a.n - j) % a.n * pitch;
      const bool alone = low == high;
      for (i64 k = 0; k < width; k += L) {
        const vec<C> x = load<C>(low + k), y = load<C>(high + k);
        store(even + j * pitch + k, alone ? x : x + y), store(odd + j * pitch + k, x - y);
      }
    }
    product(static_cast<const C*>(a.cosine), a.half, a.pairs, even, pitch, width, a.half, first, pitch);
    product(static_cast<const C*>(a.sine), a.half, a.pairs, odd, pitch, width, a.half, second, pitch);
    for (i64 u = 0; u < a.pairs; ++u) {
      const C *const even_sum = first + u * pitch, *const odd_sum = second + u * pitch;
      const i64 plus = a.plus[u] * box * Step, minus = a.minus[u] * box * Step;
      if (plus >= 0) turn<Step>(even_sum, odd_sum, box, C(1), re + plus, im + plus);
      if (minus >= 0) turn<Step>(even_sum, odd_sum, box, C(-1), re + minus, im + minus);
    }
  }
  // first - i sign second.
  template <int Step>
  static void turn(const C* first, const C* second, i64 box, C sign, C* re, C* im) {
#pragma GCC ivdep
    for (i64 k = 0; k < box; ++k) {
      const C x = first[k] + sign * second[box + k], y = first[box + k] - sign * second[k];
      re[k * Step] = x, im[k * Step] = y;
    }
  }

  // What is left of a slab of lines: to the result, where there is no outermost dimension, or to a row of slabs.
  void slab(const C* rows, C* spectrum, C* slabs) const {
    C* const out = spectrum ? spectrum : slabs;
    if (c.n[1] > 1) {
      if (spectrum) outer<2>(p.axis[1], rows, p.row, p.m, out, out + 1);
      else outer<1>(p.axis[1], rows, p.row, p.m, out, out + p.box);
    } else {
      for (i64 k = 0; k < p.m; ++k) out[spectrum ? 2 * k : k] = rows[k], out[spectrum ? 2 * k + 1 : p.box + k] = rows[p.m + k];
    }
    for (i64 k = 2 * p.box; slabs && k < p.slab; ++k) slabs[k] = 0;
  }

  void run(i64 plane, i64 planes) const {
    const i64 all = planes * c.n[0];
    C *const rows = own + p.rows, *const slabs = own + p.slabs;
    ModesWalk walk(c, plane);
    for (i64 s = 0; s < all; s += p.group) {
      const i64 count = least(p.group, all - s);
      lines(walk, count * c.n[1], rows);
      for (i64 i = 0; i < count; ++i) {
        const bool done = c.n[0] == 1;
        slab(rows + i * c.n[1] * p.row, done ? this->spectrum(plane + s + i) : nullptr,
             done ? nullptr : slabs + (s + i) * p.slab);
      }
    }
    for (i64 i = 0; i < planes && c.n[0] > 1; ++i) {
      C* const out = this->spectrum(plane + i);
      outer<2>(p.axis[0], slabs + i * c.n[0] * p.slab, p.slab, p.box, out, out + 1);
    }
  }
};

template <typename T> void dft(const ModesPlan& plan) {
  using Slot = ModesSlot<compute_t<T>>;
  Slot::each_unit(plan, [](const Slot& slot, i64 plane, i64 planes) { Dft<T>(slot).run(plane, planes); });
}

}  // namespace

void mode_dft_run(const ModesPlan& plan) {
  switch (plan.call->dtype) {
    case SPECTRALOPS_F32: return dft<float>(plan);
    case SPECTRALOPS_F64: return dft<double>(plan);
    case SPECTRALOPS_F16: return dft<half_t>(plan);
    default: return dft<bf16_t>(plan);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

// mode_idft for one instruction set: the two outer dimensions, then lines, and what ends a layer.
#include "cpu/modes_end.h"
#include "cpu/modes_product.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename C> struct Idft : ModesSlot<C> {
  static constexpr int L = lanes<C>;
  using Base = ModesSlot<C>;
  using Base::c, Base::own, Base::p;
  Idft(const Base& slot) : Base(slot) {}

  // E = X_f + X_-f and i O = i (X_f - X_-f) of a pair, each [re (box) | im (box)].  With one of them missing, 0 in its place.
  template <int Step>
  static void fold(const C* __restrict re, const C* __restrict im, i64 plus, i64 minus, i64 box, i64 width, C* __restrict even,
                   C* __restrict turned) {
    const C *re_one = re + (plus < 0 ? minus : plus) * box * Step, *im_one = im + (plus < 0 ? minus : plus) * box * Step;
    if (plus < 0 || minus < 0) {
      const C sign = plus < 0 ? C(-1) : C(1);
      for (i64 k = 0; k < box; ++k) {
        const C x = re_one[k * Step], y = im_one[k * Step];
        even[k] = x, even[box + k] = y, turned[k] = -sign * y, turned[box + k] = sign * x;
      }
    } else {
      const C *re_two = re + minus * box * Step, *im_two = im + minus * box * Step;
      for (i64 k = 0; k < box; ++k) {
        const C x = re_one[k * Step], y = im_one[k * Step], a = re_two[k * Step], b = im_two[k * Step];
        even[k] = x + a, even[box + k] = y + b, turned[k] = b - y, turned[box + k] = x - a;
      }
    }
    for (i64 k = 2 * box; k < width; ++k) even[k] = turned[k] = 0;
  }

  // m modes (re and im, Step apart) of a dimension -> n rows [re (box) | im (box)].
  template <int Step> void outer(const ModeAxis& a, const C* re, const C* im, i64 box, C* rows, i64 pitch) const {
    const i64 width = round_up(2 * box, L);
    C *const even = own + p.even, *const turned = own + p.odd, *const first = own + p.first, *const second = own + p.second;
    for (i64 u = 0; u < a.pairs; ++u) fold<Step>(re, im, a.plus[u], a.minus[u], box, width, even + u * pitch, turned + u * pitch);
    product(static_cast<const C*>(a.cosine), a.pairs, a.half, even, pitch, width, a.pairs, first, pitch);
    product(static_cast<const C*>(a.sine), a.pairs, a.half, turned, pitch, width, a.pairs, second, pitch);
    for (i64 j = 0; j < a.half; ++j) {
      C *const low = rows + j * pitch, *const high = rows + (a.n - j) % a.n * pitch;
      for (i64 k = 0; k < width; k += L) {
        const vec<C> x = load<C>(first + j * pitch + k), y = load<C>(second + j * pitch + k);
        store(high + k, x - y), store(low + k, x + y);
      }
    }
  }

  // z_j = P_j + Q_j, z_(n-j) = P_j - Q_j of a line; z has a vector of slack at both ends.
  void unfold(const C* first, const C* second, C* z) const {
    for (i64 j = (p.half - 1) / L * L; j >= 0; j -= L)  // what runs over the middle is overwritten below
      store(z + p.n - j - L + 1, reverse<C>(load<C>(first + j) - load<C>(second + j)));
    for (i64 j = 0; j < p.half; j += L) {
      if (p.half < L) return store_partial(z, load<C>(first) + load<C>(second), int(p.half));
      const i64 from = least(j, p.half - L);
      store(z + from, load<C>(first + from) + load<C>(second + from));
    }
  }

  // take(z) for each of `count` lines at rows [re | im].
  template <typename F> void lines(const C* rows, i64 count, F& take) const {
    C *const first = own + p.first, *const second = own + p.second, *const z = own + p.buffer + kModeLanes;
    const i64 pitch = p.columns;
    for (i64 l = 0; l < count; l += p.lines) {
      const i64 high = least(p.lines, count - l);
      const C* const from = rows + l * p.row;
      product(from, p.row, high, static_cast<const C*>(p.cosine), pitch, p.half, p.m, first, pitch);
      product(from + p.m, p.row, high, static_cast<const C*>(p.sine), pitch, p.half, p.m, second, pitch);
      for (i64 i = 0; i < high; ++i) {
        unfold(first + i * pitch, second + i * pitch, z);
        take(z);
      }
    }
  }

  // A slab's row of modes -> n2 rows [re | im].
  void slab(const C* spectrum, const C* slabs, C* rows) const {
    const int step = spectrum ? 2 : 1;
    const C *const re = spectrum ? spectrum : slabs, *const im = spectrum ? spectrum + 1 : slabs + p.box;
    if (c.n[1] > 1 && spectrum) outer<2>(p.axis[1], re, im, p.m, rows, p.row);
    else if (c.n[1] > 1) outer<1>(p.axis[1], re, im, p.m, rows, p.row);
    else
      for (i64 k = 0; k < p.m; ++k) rows[k] = re[k * step], rows[p.m + k] = im[k * step];
  }

  // take(z) for each line of the unit.
  template <typename F> void run(i64 plane, i64 planes, F take) const {
    const i64 all = planes * c.n[0];
    C *const rows = own + p.rows, *const slabs = own + p.slabs;
    for (i64 i = 0; i < planes && c.n[0] > 1; ++i) {
      const C* const from = this->spectrum(plane + i);
      outer<2>(p.axis[0], from, from + 1, p.box, slabs + i * c.n[0] * p.slab, p.slab);
    }
    for (i64 s = 0; s < all; s += p.group) {
      const i64 count = least(p.group, all - s);
      for (i64 i = 0; i < count; ++i)
        slab(c.n[0] > 1 ? nullptr : this->spectrum(plane + s + i), slabs + (s + i) * p.slab, rows + i * c.n[1] * p.row);
      lines(rows, count * c.n[1], take);
    }
  }
};

// y of a line, z in the compute type; rounded once.
template <typename T, bool Gelu, bool Grad>
void finish(const compute_t<T>* z, const T* skip, compute_t<T> bias, const T* grad, i64 count, T* y) {
  using C = compute_t<T>;
  for (i64 j = 0; j < count; j += lanes<C>) {
    const i64 left = count - j;
    vec<C> v = load<C>(z + j);
    if (skip) v += load_count<C>(skip + j, left);
    v += splat<C>(bias);
    store_count<C>(y + j, ended<Gelu, Grad, C>(v, Grad ? load_count<C>(grad + j, left) : v), left);
  }
}

template <typename T> void idft(const ModesPlan& plan) {
  using C = compute_t<T>;
  using Slot = ModesSlot<C>;
  const spectralops_modes_call& c = *plan.call;
  const auto end = [&](auto&&... given) {
    if (c.activation == SPECTRALOPS_GELU) c.grad ? finish<T, true, true>(given...) : finish<T, true, false>(given...);
    else c.grad ? finish<T, false, true>(given...) : finish<T, false, false>(given...);
  };
  const auto side = [&](const void* base, const int64_t(&stride)[5], const ModesWalk& walk, T* to) -> const T* {
    return base ? beside(walk.line<T>(base, stride), stride[4], plan.n, to) : nullptr;
  };
  Slot::each_unit(plan, [&](const Slot& slot, i64 plane, i64 planes) {
    T* const buffer = reinterpret_cast<T*>(slot.own + plan.buffer + plan.n + 4 * kModeLanes);
    T* y = static_cast<T*>(c.y) + plane * c.n[0] * c.n[1] * plan.n;
    ModesWalk walk(c, plane);
    Idft<C>(slot).run(plane, planes, [&](const C* z) {
      const C bias = c.bias ? static_cast<const C*>(c.bias)[walk.channel] : C(0);
      const T* const skip = side(c.skip, c.skip_stride, walk, buffer);
      const T* const grad = side(c.grad, c.grad_stride, walk, buffer + plan.n);
      end(z, skip, bias, grad, plan.n, y);
      y += plan.n, walk.next();
    });
  });
}

}  // namespace

void mode_idft_run(const ModesPlan& plan) {
  switch (plan.call->dtype) {
    case SPECTRALOPS_F32: return idft<float>(plan);
    case SPECTRALOPS_F64: return idft<double>(plan);
    case SPECTRALOPS_F16: return idft<half_t>(plan);
    default: return idft<bf16_t>(plan);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

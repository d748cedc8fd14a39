// How a task walks its rectangle.  A pass Op<S, F> (storage, function) has what a vector of points does: from `inputs`
// vectors (x, grad, ggx) it makes `outputs` vectors and the terms of the parameters' sums.
//   wide     a vector lies in one channel: parameters are broadcast, and the lanes' sums are added up when they have
//            taken run_terms terms each;
//   narrow   a vector of columns spans channels: parameters and lane sums lie in tables, a column each.
// Lanes sum in the compute type over at most run_terms elements, everything above that in double, all in an order given
// by the sizes.
#pragma once

#include "cpu/activation_more_math.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// Terms of a lane's sum.  Above it float sums go on in double; a double has nothing wider, so its lanes stay shorter.
constexpr int kTerms = 32;
template <typename C> constexpr int run_terms = sizeof(C) == 4 ? kTerms : 8;

SO_SIMD i64 least(i64 a, i64 b) { return a < b ? a : b; }

#define SO_PAIRS(...) __builtin_shufflevector(a, b, __VA_ARGS__)
// Every other lane of a and b together, from lane Odd; and the lanes of a and b in turn, their first or last half.
template <int Odd, typename V> SO_SIMD V every_other(V a, V b) {
  constexpr int L = sizeof(V) / sizeof(a[0]), o = Odd;
  if constexpr (L == 2) return SO_PAIRS(o, o + 2);
  else if constexpr (L == 4) return SO_PAIRS(o, o + 2, o + 4, o + 6);
  else if constexpr (L == 8) return SO_PAIRS(o, o + 2, o + 4, o + 6, o + 8, o + 10, o + 12, o + 14);
  else
    return SO_PAIRS(o, o + 2, o + 4, o + 6, o + 8, o + 10, o + 12, o + 14, o + 16, o + 18, o + 20, o + 22, o + 24,
                    o + 26, o + 28, o + 30);
}
template <int Half, typename V> SO_SIMD V in_turn(V a, V b) {
  constexpr int L = sizeof(V) / sizeof(a[0]), o = Half * L / 2, p = o + L;
  if constexpr (L == 2) return SO_PAIRS(o, p);
  else if constexpr (L == 4) return SO_PAIRS(o, p, o + 1, p + 1);
  else if constexpr (L == 8) return SO_PAIRS(o, p, o + 1, p + 1, o + 2, p + 2, o + 3, p + 3);
  else
    return SO_PAIRS(o, p, o + 1, p + 1, o + 2, p + 2, o + 3, p + 3, o + 4, p + 4, o + 5, p + 5, o + 6, p + 6, o + 7,
                    p + 7);
}
#undef SO_PAIRS

template <typename S> SO_SIMD vec<compute_t<S>> load_count(const S* p, int count) {
  using C = compute_t<S>;
  return count >= lanes<C> ? load<C>(p) : count > 0 ? load_partial<C>(p, count) : vec<C>{};
}
template <typename S> SO_SIMD void store_count(S* p, vec<compute_t<S>> v, int count) {
  using C = compute_t<S>;
  if (count >= lanes<C>) store(p, v);
  else if (count > 0) store_partial(p, v, count);
}

// `count` numbers, or complex ones: real parts, then imaginary parts.
template <int Width, typename S> SO_SIMD void load_numbers(const S* p, int count, vec<compute_t<S>>* v) {
  constexpr int L = lanes<compute_t<S>>;
  if constexpr (Width == 1) v[0] = load_count(p, count);
  else {
    const auto a = load_count(p, 2 * count), b = load_count(p + L, 2 * count - L);
    v[0] = every_other<0>(a, b);
    v[1] = every_other<1>(a, b);
  }
}
template <int Width, typename S> SO_SIMD void store_numbers(S* p, int count, const vec<compute_t<S>>* v) {
  constexpr int L = lanes<compute_t<S>>;
  if constexpr (Width == 1) store_count(p, v[0], count);
  else {
    store_count(p, in_turn<0>(v[0], v[1]), 2 * count);
    store_count(p + L, in_turn<1>(v[0], v[1]), 2 * count - L);
  }
}

// One vector of points, the first at index `at` of every tensor.  Left to itself the processor fetches too few lines
// ahead of so much arithmetic.
template <typename Op, typename Sum>
SO_SIMD void point(const Op& op, const typename Op::Known& known, i64 at, int count, Sum sum) {
  using C = typename Op::C;
  vec<C> in[Op::kInputs][2], out[Op::kOutputs][2];
  each<Op::kInputs>([&](auto k) SO_LAMBDA {
    constexpr int width = Op::in_width(k);
    const auto* p = op.in[k] + at * width;
    for (int line = 0; line < width; ++line) __builtin_prefetch(reinterpret_cast<const char*>(p) + 768 + 64 * line);
    load_numbers<width>(p, count, in[k]);
  });
  op.evaluate(known, in, out, sum);
  each<Op::kOutputs>([&](auto k) SO_LAMBDA {
    constexpr int width = Op::out_width(k);
    store_numbers<width>(op.out[k] + at * width, count, out[k]);
  });
}

// Lanes beyond `count` hold nothing.
template <typename C> SO_SIMD vec<C> first_lanes(vec<C> v, int count) {
  typename lane_int<sizeof(C)>::type numbers[lanes<C>];
  for (int l = 0; l < lanes<C>; ++l) numbers[l] = l;
  return load_bytes<mask<C>>(numbers) < (mask<C>{} + count) ? v : vec<C>{};
}

// The sum of the lanes, by halves.
template <typename C> static __attribute__((noinline)) void add_lanes(const C* spilled, i64 count, double* out) {
  constexpr int L = lanes<C>;
  for (i64 i = 0; i < count; ++i, spilled += L) {
    double s[L];
    for (int l = 0; l < L; ++l) s[l] = double(spilled[l]);
    for (int half = L / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) s[l] += s[l + half];
    out[i] += s[0];
  }
}

template <typename Op> static void walk_wide(const ActivationJob& job, const ActivationTile& tile) {
  using C = typename Op::C;
  constexpr int L = lanes<C>, kRun = run_terms<C> * L;
  const Op op(job);
  typename Op::Known known;
  C values[Op::Known::kSize];
  vec<C> sums[Op::F::kParams + 1];
  alignas(64) C spilled[(Op::F::kParams + 1) * L];
  const i64 width = least(job.inner, tile.col_end - tile.col), count = op.f.params.value();
  const i64 step = width >= kRun ? 1 : kRun / ((width + L - 1) / L * L);
  for (i64 row = tile.row; row < tile.row_end; row += step) {
    const i64 row_end = least(row + step, tile.row_end);
    for (i64 begin = tile.col; begin < tile.col_end;) {
      const i64 channel = begin / job.inner, start = channel * job.inner;
      const i64 end = least(start + job.inner, tile.col_end), part = (begin - start) / job.col_block;
      op.set_up(job, channel, values, 1);
      known.each(op.f, [&](vec<C>& v, int i) SO_LAMBDA { v = splat<C>(values[i]); });
      for (i64 col = begin; col < end; col += kRun) {
        const i64 size = least(end - col, kRun);
        op.f.params.each([&](auto i) SO_LAMBDA { sums[i] = vec<C>{}; });
        for (i64 r = row; r < row_end; ++r) {
          const i64 at = r * job.dim + col;
          i64 i = 0;
          for (; i + L <= size; i += L)
            point(op, known, at + i, L, [&](auto k, vec<C> term) SO_LAMBDA { sums[k] += term; });
          if (const int rest = int(size - i); rest > 0)
            point(op, known, at + i, rest,
                  [&](auto k, vec<C> term) SO_LAMBDA { sums[k] += first_lanes<C>(term, rest); });
        }
        if (Op::kSums && job.partial) {
          op.f.params.each([&](auto i) SO_LAMBDA { store(spilled + i * L, sums[i]); });
          add_lanes(spilled, count, job.partial + ((tile.chunk * job.channels + channel) * job.parts + part) * count);
        }
      }
      begin = end;
    }
  }
}

// f(c, channel) for the columns of a tile, from 0.
template <typename F> SO_SIMD void columns_of(const ActivationJob& job, const ActivationTile& tile, F f) {
  i64 channel = tile.col / job.inner % job.channels, within = 0;  // a tile begins with a channel
  for (i64 c = 0; c < tile.col_end - tile.col; ++c) {
    f(c, channel);
    if (++within < job.inner) continue;
    within = 0;
    if (++channel == job.channels) channel = 0;
  }
}

// The sums of a block of rows, a column each, into those of the columns' channels.
template <typename C>
static __attribute__((noinline)) void add_columns(const ActivationJob& job, const ActivationTile& tile, C* sums,
                                                  i64 pitch) {
  double* partial = job.partial + tile.chunk * job.channels * job.count;
  columns_of(job, tile, [&](i64 c, i64 channel) SO_LAMBDA {
    for (i64 i = 0; i < job.count; ++i) {
      partial[channel * job.count + i] += double(sums[i * pitch + c]);
      sums[i * pitch + c] = 0;
    }
  });
}

template <typename Op> static void walk_narrow(const ActivationJob& job, const ActivationTile& tile) {
  using C = typename Op::C;
  constexpr int L = lanes<C>, kPitch = int(activation_narrow_columns(Op::F::kParams));
  const Op op(job);
  alignas(64) C table[Op::Known::kSize * kPitch];
  alignas(64) C sums[(Op::kSums ? Op::F::kParams : 0) * kPitch + 1] = {};
  i64 filled = 0;
  columns_of(job, tile, [&](i64 c, i64 channel) SO_LAMBDA { op.set_up(job, channel, table + (filled = c), kPitch); });
  for (i64 c = filled + 1; c % L; ++c)  // lanes beyond the last column repeat it
    for (int k = 0; k < Op::Known::kSize - 1; ++k) table[k * kPitch + c] = table[k * kPitch + filled];
  typename Op::Known known;
  for (i64 row = tile.row; row < tile.row_end; row += run_terms<C>) {
    for (i64 r = row; r < least(row + run_terms<C>, tile.row_end); ++r) {
      const i64 size = least(tile.col_end, r == job.rows - 1 ? job.tail : job.dim) - tile.col;
      for (i64 i = 0; i < size; i += L) {
        known.each(op.f, [&](vec<C>& v, int k) SO_LAMBDA { v = load<C>(table + k * kPitch + i); });
        const int count = int(least(L, size - i));
        point(op, known, r * job.dim + tile.col + i, count, [&](auto k, vec<C> term) SO_LAMBDA {
          C* sum = sums + k * kPitch + i;
          store(sum, load<C>(sum) + (__builtin_expect(count == L, 1) ? term : first_lanes<C>(term, count)));
        });
      }
    }
    if (Op::kSums && job.partial) add_columns(job, tile, sums, kPitch);
  }
}

template <typename Op> static void walk(const ActivationJob& job, const ActivationTile& tile) {
  if (job.narrow) walk_narrow<Op>(job, tile);
  else walk_wide<Op>(job, tile);
}

// What every pass has: the function, where the tensors are, and the set-up of a channel.
template <typename Storage, typename Function, bool Tangents, int Inputs, int Outputs> struct Pass {
  using S = Storage;
  using F = Function;
  using C = typename F::C;
  using Known = SO_CPU_ISA::Known<F, Tangents>;
  static constexpr int kInputs = Inputs, kOutputs = Outputs;
  F f;
  const S* in[Inputs];
  S* out[Outputs];

  SO_HOST_DEVICE explicit Pass(const ActivationJob& job) : f(job.count) {
    for (int k = 0; k < Inputs; ++k) in[k] = static_cast<const S*>(job.in[k]);
    for (int k = 0; k < Outputs; ++k) out[k] = static_cast<S*>(job.out[k]);
  }
  // x, grad, ggx have the components of x, y, x.
  SO_HOST_DEVICE static constexpr int in_width(int k) { return k == 1 ? F::kY : F::kX; }
  // Known number i to out[i * pitch].
  SO_HOST_DEVICE void set_up(const ActivationJob& job, i64 channel, C* out, i64 pitch) const {
    C p[F::kParams + 1];
    const C* from = static_cast<const C*>(job.params) + channel;
    for (int i = 0; i < f.params.value(); ++i) p[i] = from[i * job.channels];
    f.derive(p, out, pitch);
    if (!Tangents) return;
    const C* along = static_cast<const C*>(job.tangents) + channel;
    for (int i = 0; i < f.params.value(); ++i)
      out[(F::kDerived + i) * pitch] = job.tangents ? along[i * job.channels] : C(0);
  }
};

// Function and dtype codes as in spectralops.h.
template <template <typename, typename> class Op, typename S>
static void walk_functions(const ActivationJob& job, const ActivationTile& tile) {
  using C = compute_t<S>;
  switch (job.function) {
    case 0: return walk<Op<S, Snake<C>>>(job, tile);
    case 1: return walk<Op<S, Sine<C>>>(job, tile);
    case 2: return walk<Op<S, Spder<C>>>(job, tile);
    case 3: return walk<Op<S, Cauchy<C>>>(job, tile);
    case kPolyRelu:
      if (job.count == 4) return walk<Op<S, PolyRelu<C, FixedCount<4>, 4>>>(job, tile);
      return walk<Op<S, PolyRelu<C, AnyCount, kMaxActivationParams>>>(job, tile);
    case 5: return walk<Op<S, SquareWave<C>>>(job, tile);
    case 6: return walk<Op<S, Wire<C, 1>>>(job, tile);
    default: return walk<Op<S, Wire<C, 2>>>(job, tile);
  }
}
template <template <typename, typename> class Op>
static void walk_types(const ActivationJob& job, const ActivationTile& tile) {
  if (job.dtype == 0) return walk_functions<Op, float>(job, tile);
  if (job.dtype == 1) return walk_functions<Op, double>(job, tile);
  if (job.dtype == 2) return walk_functions<Op, half_t>(job, tile);
  walk_functions<Op, bf16_t>(job, tile);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

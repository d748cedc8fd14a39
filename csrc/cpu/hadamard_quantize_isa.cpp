// hadamard_quantize for one instruction set: rotate into scratch, then the quantiser of formats.h, vectorised.
#include "cpu/hadamard_shared.h"

// The quantiser's functions must not leave this object under a name that the other instruction sets share
// (capability.h).
#undef SO_HOST_DEVICE
#define SO_HOST_DEVICE inline __attribute__((always_inline))
#include "spectralops/formats.h"

#include "capi/spectralops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

// Any bits give the largest magnitude: as integers, magnitudes order like the values, infinities and NaNs on top.
SO_SIMD u32 largest_magnitude(const float* r, i64 count) {
  using I = mask<float>;
  I most = {};
  i64 i = 0;
  for (; i + lanes<float> <= count; i += lanes<float>) {
    const I bits = (I)absolute<float>(load<float>(r + i));
    most = bits > most ? bits : most;
  }
  const auto fold = [&most](I other) { most = other > most ? other : most; };
  fold((I)partner<float, 0>((vec<float>)most));
  fold((I)partner<float, 1>((vec<float>)most));
  if constexpr (lanes<float> > 4) fold((I)partner<float, 2>((vec<float>)most));
  if constexpr (lanes<float> > 8) fold((I)partner<float, 3>((vec<float>)most));
  u32 result = u32(most[0]);
  for (; i < count; ++i) {
    const u32 bits = float_bits(r[i]) & 0x7fffffffu;
    result = bits > result ? bits : result;
  }
  return result;
}

// Quantiser::code for a vector of finite values: the formulas of formats.h, with selects for branches.
template <int Format>
SO_SIMD vec_u32 codes_of(vec<float> v) {
  if constexpr (Format == SPECTRALOPS_INT8) {
    v = v < splat(-127.0f) ? splat(-127.0f) : v;
    v = v > splat(127.0f) ? splat(127.0f) : v;
    return (vec_u32)(v + splat(0x1.8p23f)) - 0x4b400000u;
  } else {
    constexpr bool wide = Format == SPECTRALOPS_FP8_E4M3;
    constexpr int drop = wide ? 20 : 22, sign_at = wide ? 24 : 28;
    constexpr float adder = wide ? 0x1p14f : 0x1p22f;  // rounds what lies below the least normal code
    constexpr u32 least = wide ? 0x3c800000u : 0x3f800000u, bias = wide ? 0x3c000000u : 0x3f000000u;
    constexpr u32 half = (1u << (drop - 1)) - 1u, most = wide ? 0x7eu : 7u;
    const vec_u32 bits = (vec_u32)v, magnitude = bits & 0x7fffffffu;
    const vec_u32 small = (vec_u32)((vec<float>)magnitude + splat(adder)) - (wide ? 0x46800000u : 0x4a800000u);
    const vec_u32 large = (magnitude - bias + half + ((magnitude >> drop) & 1u)) >> drop;
    vec_u32 code = magnitude < least ? small : large;
    code = code < most ? code : (code & 0u) | most;
    return code | ((bits >> sign_at) & (wide ? 0x80u : 8u));
  }
}

template <int Format>
SO_SIMD void put_codes(const Quantiser<Format>& group, const float* r, u8* q, i64 count) {
  constexpr bool packed = Quantiser<Format>::packed;
  if (group.dead) {
    __builtin_memset(q, 0, u64(packed ? count / 2 : count));
    return;
  }
  constexpr int L = lanes<float>;
  const vec<float> scale = splat(group.scale);
  i64 i = 0;
  for (; i + L <= count; i += L) {
    const vec<float> v = load<float>(r + i);
    const vec_u32 codes = codes_of<Format>(Quantiser<Format>::power_of_two ? v * scale : v / scale);
    if constexpr (packed) {  // two codes to each 64-bit lane, low nibble first
      using V = typename sized_vector<u64, L / 2>::type;
      const auto bytes = __builtin_convertvector((V)codes | (V)codes >> 28, typename sized_vector<u8, L / 2>::type);
      __builtin_memcpy(q + i / 2, &bytes, sizeof bytes);
    } else {
      const auto bytes = __builtin_convertvector(codes, typename sized_vector<u8, L>::type);
      __builtin_memcpy(q + i, &bytes, sizeof bytes);
    }
  }
  for (; i < count; i += packed ? 2 : 1) {
    if constexpr (packed) q[i / 2] = u8(group.code(r[i]) | group.code(r[i + 1]) << 4);
    else q[i] = group.code(r[i]);
  }
}

// Groups of r, codes at q, scales from `first_scale`.
template <int Format>
__attribute__((noinline)) void quantize_groups(const float* r, i64 groups, i64 group, u8* q, void* scales,
                                               i64 first_scale) {
  for (i64 g = 0; g < groups; ++g) {
    const Quantiser<Format> quantiser = Quantiser<Format>::of(largest_magnitude(r + g * group, group));
    quantiser.store_scale(scales, first_scale + g);
    put_codes(quantiser, r + g * group, q + (Quantiser<Format>::packed ? g * group / 2 : g * group), group);
  }
}

template <typename T>
__attribute__((noinline)) void round_to(float* r, i64 count) {
  if constexpr (!same_type<T, float>::value) {
    for (i64 i = 0; i < count; i += lanes<float>) {
      const int now = int(count - i < lanes<float> ? count - i : lanes<float>);
      const vec<float> v = now == lanes<float> ? load<float>(r + i) : load_partial<float>(r + i, now);
      T narrow[lanes<float>];
      store(narrow, v);
      const vec<float> back = load<float>(narrow);
      if (now == lanes<float>) store(r + i, back);
      else store_partial(r + i, back, now);
    }
  }
}

i64 common_multiple(i64 a, i64 b) {
  i64 x = a, y = b;
  while (y) {
    const i64 t = x % y;
    x = y;
    y = t;
  }
  return a / x * b;
}

template <typename T, int Format>
void quantize(const QuantizeJob& job) {
  constexpr bool packed = Quantiser<Format>::packed;
  const HadamardJob& j = job.rotation;
  const i64 block = j.axis.n, unit = common_multiple(block, job.group), units = job.dim / unit, blocks = unit / block;
  u8* const aligned = static_cast<u8*>(j.workspace) + (-reinterpret_cast<u64>(j.workspace) & 63u);
  const auto rows_at = [&](i64 row, i64 first_block, i64 count, float* y) -> Rows<T, float> {
    const T* x = static_cast<const T*>(j.x) + row * job.x_stride + first_block * block;
    return {x,           block,          count, y, static_cast<const float*>(j.signs_in), nullptr, j.sign_blocks,
            first_block, float(j.scale), false};
  };
  const auto finish = [&](float* r, i64 row, i64 first, i64 count) {  // whole groups, from element `first` of the row
    if (job.round_rotation) round_to<T>(r, count);
    u8* const q = static_cast<u8*>(job.q) + (row * job.dim + first) / (packed ? 2 : 1);
    quantize_groups<Format>(r, count / job.group, job.group, q, job.scales, (row * job.dim + first) / job.group);
  };
  if (quantize_alone(unit, block)) {
    // Short units go several at a time, and short rows several to a task.
    const i64 together = larger(1, smaller(units, kQuantizeNear / (unit * 4)));
    const i64 pieces = (units + together - 1) / together, rows = larger(1, kTaskBytes / (job.dim * 4));
    const i64 own = quantize_slot_bytes(job.dim, block);
    parallel_for(j.threads, (job.rows + rows - 1) / rows * pieces, [&](i64 task, int slot) {
      const i64 first = task % pieces * together, count = smaller(together, units - first);
      float* const r = reinterpret_cast<float*>(aligned + slot * own);
      float* const work = r + quantize_unit_bytes(job.dim) / 4;
      for (i64 row = task / pieces * rows; row < smaller(job.rows, (task / pieces + 1) * rows); ++row) {
        transform_rows(rows_at(row, first * blocks, count * blocks, r), j.axis, work);
        finish(r, row, first * unit, count * unit);
      }
    });
    return;
  }
  // A unit beyond the cache: rotate a whole row into the workspace, then quantise it there.
  float* const whole = reinterpret_cast<float*>(aligned);
  u8* const rest = aligned + row_result_bytes(job.dim, 1, 4);
  for (i64 row = 0; row < job.rows; ++row) {
    transform(rows_at(row, 0, job.dim / block, whole), j.axis, rest, j.threads);
    const i64 groups = job.dim / job.group, at_once = larger(1, 16 * 1024 / job.group);
    if (groups >= 2 * j.threads) {
      parallel_for(j.threads, (groups + at_once - 1) / at_once, [&](i64 task) {
        const i64 first = task * at_once, count = smaller(at_once, groups - first);
        finish(whole + first * job.group, row, first * job.group, count * job.group);
      });
      continue;
    }
    for (i64 g = 0; g < groups; ++g) {  // few long groups: each by all threads
      float* const r = whole + g * job.group;
      constexpr i64 piece = 16 * 1024;
      const i64 pieces = (job.group + piece - 1) / piece;
      std::atomic<u32> most{0};  // a maximum has no order
      parallel_for(j.threads, pieces, [&](i64 task) {
        const i64 first = task * piece, count = smaller(piece, job.group - first);
        if (job.round_rotation) round_to<T>(r + first, count);
        const u32 here = largest_magnitude(r + first, count);
        u32 seen = most.load(std::memory_order_relaxed);
        while (seen < here && !most.compare_exchange_weak(seen, here, std::memory_order_relaxed)) {}
      });
      const Quantiser<Format> quantiser = Quantiser<Format>::of(most.load(std::memory_order_relaxed));
      quantiser.store_scale(job.scales, row * groups + g);
      u8* const q = static_cast<u8*>(job.q) + (row * job.dim + g * job.group) / (packed ? 2 : 1);
      parallel_for(j.threads, pieces, [&](i64 task) {
        const i64 first = task * piece, count = smaller(piece, job.group - first);
        put_codes(quantiser, r + first, q + first / (packed ? 2 : 1), count);
      });
    }
  }
}

template <typename T>
void quantize(const QuantizeJob& job) {
  switch (job.format) {
    case SPECTRALOPS_INT8: return quantize<T, SPECTRALOPS_INT8>(job);
    case SPECTRALOPS_FP8_E4M3: return quantize<T, SPECTRALOPS_FP8_E4M3>(job);
    case SPECTRALOPS_MXFP4: return quantize<T, SPECTRALOPS_MXFP4>(job);
    default: return quantize<T, SPECTRALOPS_NVFP4>(job);
  }
}

}  // namespace

void hadamard_quantize_run(const QuantizeJob& job, int dtype) {
  switch (dtype) {
    case SPECTRALOPS_F32: return quantize<float>(job);
    case SPECTRALOPS_F16: return quantize<half_t>(job);
    default: return quantize<bf16_t>(job);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

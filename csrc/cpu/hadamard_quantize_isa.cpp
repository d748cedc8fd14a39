// hadamard_quantize for one instruction set: rotate into scratch, then the quantiser of formats.h, vectorised.
#include "cpu/hadamard_shared.h"

// The quantiser's functions must not leave this object under a name that the other instruction sets share (capability.h).
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
  u32 result = 0;
  for (int l = 0; l < lanes<float>; ++l) result = u32(most[l]) > result ? u32(most[l]) : result;
  for (; i < count; ++i) {
    const u32 bits = float_bits(r[i]) & 0x7fffffffu;
    result = bits > result ? bits : result;
  }
  return result;
}

// Plain loops of selects and integer arithmetic, which the compiler vectorises.
template <int Format>
SO_SIMD void put_codes(const Quantiser<Format>& group, const float* __restrict r, u8* __restrict q, i64 count) {
  if (group.dead) {
    __builtin_memset(q, 0, u64(Quantiser<Format>::packed ? count / 2 : count));
    return;
  }
  const Quantiser<Format> g = group;
  if constexpr (!Quantiser<Format>::packed) {
    for (i64 i = 0; i < count; ++i) q[i] = g.code(r[i]);
  } else {
    for (i64 i = 0; i < count; i += 2) q[i / 2] = u8(g.code(r[i]) | g.code(r[i + 1]) << 4);
  }
}

// Groups of r, codes at q, scales from `first_scale`.
template <int Format>
__attribute__((noinline)) void quantize_groups(const float* r, i64 groups, i64 group, u8* q, void* scales, i64 first_scale) {
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
    return {x, block, count, y, static_cast<const float*>(j.signs_in), nullptr, j.sign_blocks, first_block, float(j.scale), false};
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

// hadamard and srht for one instruction set.
#include "cpu/hadamard_shared.h"

#include "capi/spectralops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

// Integers wrap, which only unsigned arithmetic may.
template <typename T, typename U>
Rows<T, U> rows_of(const HadamardJob& job, void* y) {
  using C = compute_t<T>;
  C scale;
  if constexpr (same_type<C, u32>::value || same_type<C, u64>::value) scale = C(i64(job.scale));
  else scale = C(job.scale);
  return {static_cast<const T*>(job.x),
          job.x_stride,
          job.outer,
          static_cast<U*>(y),
          static_cast<const C*>(job.signs_in),
          static_cast<const C*>(job.signs_out),
          job.sign_blocks,
          0,
          scale,
          false};
}

template <typename T>
void hadamard(const HadamardJob& job) {
  transform(rows_of<T, T>(job, job.y), job.axis, job.workspace, job.threads);
}

// A whole rotation in the compute type, then the chosen rows of it, rounded once.
template <typename T>
void srht(const SrhtJob& job) {
  using C = compute_t<T>;
  const HadamardJob& j = job.rotation;
  const i64 n = j.axis.n, count = job.num_rows;
  T* const y = static_cast<T*>(j.y);
  const auto choose = [&](const C* rotated, i64 o, i64 first, i64 last) {
    const Sink<T, C> out{y + o * count, count, C(1), {}};
    put_fetched(out, first, last - first, [&](i64 i) { return rotated[job.rows[first + i]]; });
  };
  u8* const aligned = static_cast<u8*>(j.workspace) + (-reinterpret_cast<u64>(j.workspace) & 63u);
  const i64 result = row_result_bytes(n, 1, sizeof(C));
  if (rowwise(j.outer, n, 1, sizeof(C), j.threads) != Rowwise::alone) {
    C* const rotated = reinterpret_cast<C*>(aligned);
    for (i64 o = 0; o < j.outer; ++o) {
      HadamardJob one = j;
      one.outer = 1;
      one.x = static_cast<const T*>(j.x) + o * j.x_stride;
      Rows<T, C> rows = rows_of<T, C>(one, rotated);
      rows.sign_first = o;
      const Slots slots{aligned + result, slot_bytes(Rowwise::shared, n, 1, j.axis.m, sizeof(C))};
      shared_row(rows, j.axis, 0, rotated, slots, j.threads);
      constexpr i64 piece = 16 * 1024;
      parallel_for(j.threads, (count + piece - 1) / piece,
                   [&](i64 task) { choose(rotated, o, task * piece, smaller(count, (task + 1) * piece)); });
    }
    return;
  }
  const Rows<T, C> all = rows_of<T, C>(j, nullptr);
  parallel_for(j.threads, j.outer, [&](i64 o, int slot) {
    u8* const own = aligned + slot * (result + slot_bytes(Rowwise::alone, n, 1, j.axis.m, sizeof(C)));
    Rows<T, C> row = all;
    row.x += o * all.x_stride;
    row.sign_first = o;
    row.count = 1;
    row.y = reinterpret_cast<C*>(own);
    transform_rows(row, j.axis, reinterpret_cast<C*>(own + result));
    choose(row.y, o, 0, count);
  });
}

}  // namespace

void hadamard_run(const HadamardJob& job, int dtype) {
  switch (dtype) {
    case SPECTRALOPS_F32: return hadamard<float>(job);
    case SPECTRALOPS_F64: return hadamard<double>(job);
    case SPECTRALOPS_F16: return hadamard<half_t>(job);
    case SPECTRALOPS_BF16: return hadamard<bf16_t>(job);
    case SPECTRALOPS_I32: return hadamard<u32>(job);
    default: return hadamard<u64>(job);
  }
}

void srht_run(const SrhtJob& job, int dtype) {
  switch (dtype) {
    case SPECTRALOPS_F32: return srht<float>(job);
    case SPECTRALOPS_F64: return srht<double>(job);
    case SPECTRALOPS_F16: return srht<half_t>(job);
    case SPECTRALOPS_BF16: return srht<bf16_t>(job);
    case SPECTRALOPS_I32: return srht<u32>(job);
    default: return srht<u64>(job);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

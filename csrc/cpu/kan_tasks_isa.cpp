// Tasks of kan_linear: a block of features after the other, through the product of the job's form; packing coefficients
// before, and putting sums where they belong after.
#include "cpu/kan_dense.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

// ---- coefficients: (outputs, inputs, size) and (outputs, inputs), to and from rows of outputs ----
// f(r, rows, o, count): up to lanes of consecutive (input, slot < size) pairs r = input size + slot, up to lanes of outputs.
template <typename C, typename F> SO_SIMD void each_square(i64 first, i64 last, i64 outputs, F f) {
  constexpr int L = lanes<C>;
  for (i64 o = 0; o < outputs; o += L)
    for (i64 r = first; r < last; r += L) f(r, int(least(L, last - r)), o, int(least(L, outputs - o)));
}

// The rows of outputs that a packed block of coefficients is made of; `size` slots of an input, of job.slots.
template <typename C>
void pack_rows(const KanJob& job, const C* from, i64 size, i64 slot, i64 first, i64 last) {
  constexpr int L = lanes<C>;
  const i64 vectors = job.padded / L, stride = job.inputs * size;
  each_square<C>(first * size, last * size, job.outputs, [&](i64 r, int rows, i64 o, int count) SO_LAMBDA {
    vec<C> v[L];
    for (int i = 0; i < L; ++i) v[i] = i < count ? load_count<C>(from + (o + i) * stride + r, rows) : vec<C>{};
    transpose_lanes<C>(v);
    const i64 block = o / L / job.width, width = least(job.width, vectors - block * job.width);
    i64 input = r / size, k = r % size;
    for (int i = 0; i < rows; ++i) {
      store(packed_row<C>(job, block, width, input, slot + k) + (o / L - block * job.width) * L, v[i]);
      if (++k == size) k = 0, ++input;
    }
  });
}

// dcoeff of some inputs from rows of sums.
template <typename C>
void unpack_rows(const KanJob& job, const C* sums, i64 size, i64 slot, i64 first, i64 last, C* to) {
  constexpr int L = lanes<C>;
  const i64 stride = job.inputs * size;
  each_square<C>(first * size, last * size, job.outputs, [&](i64 r, int rows, i64 o, int count) SO_LAMBDA {
    vec<C> v[L];
    i64 input = r / size - first, k = r % size;
    for (int i = 0; i < L; ++i) {
      v[i] = i < rows ? load(sums + (input * job.slots + slot + k) * job.padded + o) : vec<C>{};
      if (++k == size && i + 1 < rows) k = 0, ++input;
    }
    transpose_lanes<C>(v);
    for (int i = 0; i < count; ++i) store_count<C>(to + (o + i) * stride + r, v[i], rows);
  });
}

template <typename C> void unpack(const KanJob& job, const C* sums, i64 first, i64 last) {
  unpack_rows(job, sums, job.size, 0, first, last, static_cast<C*>(job.dcoeff));
  if (job.base) unpack_rows(job, sums, 1, job.size, first, last, static_cast<C*>(job.dbase));
}

template <typename C> void pack_panels(const KanJob& job, i64 first, i64 last) {
  constexpr int P = kPanelSlots<C>;
  const C *coeff = static_cast<const C*>(job.coeff), *base = static_cast<const C*>(job.base_weight);
  for (i64 input = first; input < last; input += job.input_block) {
    const i64 slots = least(job.input_block, job.inputs - input) * job.slots;
    C* to = dx_panel<C>(job, input);
    for (i64 slot = 0; slot < slots; slot += P) {
      const C* from[P];
      i64 step[P];
      for (int p = 0; p < P; ++p) {
        const i64 s = least(slot + p, slots - 1), i = input + s / job.slots, k = s % job.slots;
        from[p] = k < job.size ? coeff + i * job.size + k : base + i;
        step[p] = k < job.size ? job.inputs * job.size : job.inputs;
      }
      for (i64 o = 0; o < job.outputs; ++o)
        for (int p = 0; p < P; ++p) *to++ = from[p][o * step[p]];
    }
  }
}

template <typename C> void pack(const KanJob& job, i64 task, i64 tasks) {
  const i64 blocks = (job.inputs + job.input_block - 1) / job.input_block;
  const i64 first = blocks * task / tasks * job.input_block;
  const i64 last = least(blocks * (task + 1) / tasks * job.input_block, job.inputs);
  if (job.operation == kKanDx && !job.sparse) return pack_panels<C>(job, first, last);
  pack_rows(job, static_cast<const C*>(job.coeff), job.size, 0, first, last);
  if (job.base) pack_rows(job, static_cast<const C*>(job.base_weight), 1, job.size, first, last);
}

// ---- the three operations ----
template <typename C> void forward_task(const KanJob& job, i64 task, KanScratch scratch) {
  constexpr int L = lanes<C>;
  KanBlock block = take_block<C>(job, scratch);
  C* sums = scratch.take<C>(job.row_block * job.padded);
  block.row = task / job.column_tasks * job.row_span;
  block.count = least(job.row_span, job.rows - block.row);
  const i64 blocks = (job.padded / L + job.width - 1) / job.width;
  const i64 first = task % job.column_tasks * job.column_span, last = least(first + job.column_span, blocks);
  const i64 o_first = first * job.width * L, o_last = least(last * job.width * L, job.outputs);
  const C* bias = static_cast<const C*>(job.bias);
  const i64 rows = round_up(block.count, L);
  for (i64 o = o_first; o < o_last; o += L) {
    const vec<C> v = bias ? load_count<C>(bias + o, o_last - o) : vec<C>{};
    for (i64 r = 0; r < rows; ++r) store(sums + r * job.padded + o, v);
  }
  for (i64 i = 0; i < job.inputs; i += job.input_block) {
    block.input = i, block.inputs = least(job.input_block, job.inputs - i);
    kan_features(job, block);
    if (job.sparse) kan_sparse_forward(job, block, first, last, sums);
    else kan_dense_forward(job, block, first, last, sums);
  }
  storage_of(C(), job.dtype, job.out, [&](auto* y) {
    for (i64 r = 0; r < block.count; ++r)
      for (i64 o = o_first; o < o_last; o += L)
        store_count<C>(y + (block.row + r) * job.outputs + o, load(sums + r * job.padded + o), o_last - o);
  });
}

template <typename C> void dx_task(const KanJob& job, i64 task, KanScratch scratch) {
  constexpr int L = lanes<C>;
  KanBlock block = take_block<C>(job, scratch);
  C* sums = scratch.take<C>(job.input_block * job.row_block);
  C* buffer = scratch.take<C>(job.row_block * job.padded);
  C* work = scratch.take<C>(job.sparse ? 2 * job.row_block * L : job.row_block * job.padded);
  block.row = task / job.column_tasks * job.row_span;
  block.count = least(job.row_span, job.rows - block.row);
  const i64 first = task % job.column_tasks * job.column_span, last = least(first + job.column_span, job.inputs);
  const Rows<C> grad = grad_rows<C>(job, block.row, block.count, buffer);
  if (!job.sparse) transpose<C>(grad.at, grad.stride, block.count, job.outputs, work, job.row_block);
  for (i64 i = first; i < last; i += job.input_block) {
    block.input = i, block.inputs = least(job.input_block, last - i);
    kan_features(job, block);
    if (job.sparse) {
      kan_sparse_dx(job, block, grad.at, grad.stride, sums, work);
    } else {
      for (i64 at = 0; at < block.inputs * job.row_block; at += L) store(sums + at, vec<C>{});
      kan_dense_dx(job, block, work, sums);
    }
    storage_of(C(), job.dtype, job.out, [&](auto* d) {
      for (i64 r = 0; r < block.count; r += L)
        for (i64 c = 0; c < block.inputs; c += L) {
          vec<C> v[L];
          for (int l = 0; l < L; ++l) v[l] = load(sums + least(c + l, block.inputs - 1) * job.row_block + r);
          transpose_lanes<C>(v);
          for (int l = 0; l < least(L, block.count - r); ++l)
            store_count<C>(d + (block.row + r + l) * job.inputs + i + c, v[l], block.inputs - c);
        }
    });
  }
}

template <typename C> void dcoeff_task(const KanJob& job, i64 task, KanScratch scratch) {
  constexpr int L = lanes<C>;
  KanBlock block = take_block<C>(job, scratch);
  C* buffer = scratch.take<C>(job.row_block * job.padded);
  const i64 part = task / job.column_tasks, first = task % job.column_tasks * job.column_span;
  const i64 last = least(first + job.column_span, job.inputs), each = job.slots * job.padded;
  C* partial = job.row_tasks > 1 ? reinterpret_cast<C*>(job.partial) + (part * job.inputs + first) * each
                                 : scratch.take<C>(job.column_span * each);
  unsigned char* spoiled = scratch.take<unsigned char>(job.column_span);
  for (i64 at = 0; at < (last - first) * each; at += L) store(partial + at, vec<C>{});
  for (i64 i = 0; i < last - first; ++i) spoiled[i] = 0;
  const i64 end = least((part + 1) * job.row_span, job.rows);
  for (block.row = part * job.row_span; block.row < end; block.row += job.row_block) {
    block.count = least(job.row_block, end - block.row);
    const Rows<C> grad = grad_rows<C>(job, block.row, block.count, buffer);
    for (i64 i = first; i < last; i += job.input_block) {
      block.input = i, block.inputs = least(job.input_block, last - i);
      kan_features(job, block);
      C* to = partial + (i - first) * each;
      if (!job.sparse) {
        kan_dense_dcoeff(job, block, grad.at, grad.stride, to);
        continue;
      }
      kan_sparse_dcoeff(job, block, grad.at, grad.stride, to, scratch.at);
      for (i64 n = 0; n < block.inputs; ++n) spoiled[i - first + n] |= block.spoiled[n];
    }
  }
  for (i64 i = 0; i < last - first; ++i)  // NaN times what is zero elsewhere
    if (job.sparse && spoiled[i])
      for (i64 at = 0; at < job.size * job.padded; at += L)
        store(partial + i * each + at, splat<C>(C(__builtin_nan(""))));
  if (job.row_tasks == 1) unpack(job, partial, first, last);
}

template <typename C> void reduce(const KanJob& job, i64 task, i64 tasks) {
  const i64 first = job.inputs * task / tasks, last = job.inputs * (task + 1) / tasks, each = job.slots * job.padded;
  C* sums = reinterpret_cast<C*>(job.partial) + first * each;
  for (i64 part = 1; part < job.row_tasks; ++part)
    for (i64 at = 0; at < (last - first) * each; at += lanes<C>)
      store(sums + at, load(sums + at) + load(sums + part * job.inputs * each + at));
  unpack(job, sums, first, last);
}

}  // namespace

void kan_pack(const KanJob& job, i64 task, i64 tasks) {
  job.element == 8 ? pack<double>(job, task, tasks) : pack<float>(job, task, tasks);
}
void kan_forward_task(const KanJob& job, i64 task, char* scratch) {
  job.element == 8 ? forward_task<double>(job, task, {scratch}) : forward_task<float>(job, task, {scratch});
}
void kan_dx_task(const KanJob& job, i64 task, char* scratch) {
  job.element == 8 ? dx_task<double>(job, task, {scratch}) : dx_task<float>(job, task, {scratch});
}
void kan_dcoeff_task(const KanJob& job, i64 task, char* scratch) {
  job.element == 8 ? dcoeff_task<double>(job, task, {scratch}) : dcoeff_task<float>(job, task, {scratch});
}
void kan_dcoeff_reduce(const KanJob& job, i64 task, i64 tasks) {
  job.element == 8 ? reduce<double>(job, task, tasks) : reduce<float>(job, task, tasks);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

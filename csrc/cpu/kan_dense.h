// How the coefficients of kan_linear are packed, and how much of a product fits the registers.
#pragma once

#include "cpu/kan_loops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {



// Rows, or slots, and vectors of a tile of sums: 24 of 32 registers, or 12 of 16 (8 where a product needs one of its own).
template <typename C> constexpr int kPanelSlots = kVectorBytes == 64 ? 8 : 4;
template <typename C> constexpr int kRegisterRows = lanes<C> < kPanelSlots<C> ? lanes<C> : kPanelSlots<C>;
constexpr int kPanelVectors = kVectorBytes == 16 ? 2 : 3;

// Forward, and both sparse products: blocks of `width` vectors of outputs, and in a block for each input slots rows of them.
// The last block may be narrower.
template <typename C>
SO_SIMD C* packed_row(const KanJob& job, i64 block, i64 block_width, i64 input, i64 slot) {
  const i64 all = job.inputs * job.slots;
  return reinterpret_cast<C*>(job.packed) + (block * job.width * all + (input * job.slots + slot) * block_width) * lanes<C>;
}

// Dense dx: for each block of inputs, panels of kPanelSlots slots x outputs.
template <typename C> SO_SIMD C* dx_panel(const KanJob& job, i64 input) {
  constexpr int P = kPanelSlots<C>;
  const i64 panels = round_up(job.input_block * job.slots, P);
  return reinterpret_cast<C*>(job.packed) + input / job.input_block * panels * job.outputs;
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

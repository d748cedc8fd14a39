#include "cpu/activation_loops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename S, typename F> struct DoubleBackward : Pass<S, F, true, 3, 2> {
  using Base = Pass<S, F, true, 3, 2>;
  using Base::Base, Base::f;
  static constexpr bool kSums = F::kParams > 0;
  SO_HOST_DEVICE static constexpr int out_width(int k) { return k == 0 ? F::kX : F::kY; }
  template <typename K, typename V, typename Sum>
  SO_HOST_DEVICE void evaluate(const K& known, const V (*in)[2], V (*out)[2], Sum sum) const {
    f.second(known, in[0], in[1], in[2], out[0], out[1], sum);
  }
};

}  // namespace

void activation_double_backward(const ActivationJob& job, const ActivationTile& tile) {
  walk_types<DoubleBackward>(job, tile);
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

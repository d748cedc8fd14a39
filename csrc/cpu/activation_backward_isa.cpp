#include "cpu/activation_loops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename S, typename F> struct Backward : Pass<S, F, false, 2, 1> {
  using Base = Pass<S, F, false, 2, 1>;
  using Base::Base, Base::f;
  static constexpr bool kSums = F::kParams > 0;
  SO_HOST_DEVICE static constexpr int out_width(int) { return F::kX; }
  template <typename K, typename V, typename Sum>
  SO_HOST_DEVICE void evaluate(const K& known, const V (*in)[2], V (*out)[2], Sum sum) const {
    f.gradient(known, in[0], in[1], out[0], sum);
  }
};

}  // namespace

void activation_backward(const ActivationJob& job, const ActivationTile& tile) { walk_types<Backward>(job, tile); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

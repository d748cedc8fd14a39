#include "cpu/activation_loops.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename S, typename F> struct Forward : Pass<S, F, false, 1, 1> {
  using Base = Pass<S, F, false, 1, 1>;
  using Base::Base, Base::f;
  static constexpr bool kSums = false;
  SO_HOST_DEVICE static constexpr int out_width(int) { return F::kY; }
  template <typename K, typename V, typename Sum>
  SO_HOST_DEVICE void evaluate(const K& known, const V (*in)[2], V (*out)[2], Sum) const {
    f.value(known, in[0], out[0]);
  }
};

}  // namespace

void activation_forward(const ActivationJob& job, const ActivationTile& tile) { walk_types<Forward>(job, tile); }

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops

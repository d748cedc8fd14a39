// One source, three instruction sets, chosen at run time.
//
// How the build must compile csrc/cpu:
//   * csrc/cpu/*_isa.cpp once for each instruction set, into three object libraries:
//       avx512    -DSO_CPU_ISA=avx512   -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
//                                       -mprefer-vector-width=512
//       avx2      -DSO_CPU_ISA=avx2     -mavx2 -mfma -mf16c
//       portable  -DSO_CPU_ISA=portable
//     each with  -O3 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math
//     (never -march=native, never -ffast-math).  avx512 and avx2 only where the target is x86-64; elsewhere portable
//     alone.
//   * every other .cpp of csrc/cpu and csrc/capi once, with -O2 -std=c++17 -fPIC -fvisibility=hidden
//     -ffp-contract=off and no instruction-set flag.
//   Include path: csrc and csrc/include.  Link with -pthread -static-libstdc++ -static-libgcc -Wl,-z,nodelete (the
//   pool's threads outlive a dlclose) and -Wl,--version-script=csrc/capi/exports.map.
//
// Everything a *_isa.cpp defines is in namespace spectralops::cpu::SO_CPU_ISA or always inlined.  An ordinary inline
// function would be emitted three times under one name, the linker would keep one, and a machine without AVX-512 might
// run the AVX-512 copy.  So such a file includes no standard C++ header but <type_traits> and <atomic> (through
// parallel.h) and calls no std:: function; tests/test_packaging.py looks at the objects.
#pragma once

#if defined(__x86_64__)
#define SO_CPU_X86 1
#else
#define SO_CPU_X86 0
#endif

namespace spectralops {
namespace cpu {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2 };

Isa best_isa();           // of this machine
Isa active_isa();         // best_isa() unless set
const char* isa_name(Isa isa);
int set_isa(const char* name);  // nullptr: the best; a status

}  // namespace cpu
}  // namespace spectralops

// Declares a function of every instruction set; SO_CPU_CALL picks the active one.
//   SO_CPU_DECLARE(void f(int);)      then      SO_CPU_CALL(f)(3);
#if SO_CPU_X86
#define SO_CPU_DECLARE(...)               \
  namespace portable { __VA_ARGS__ }      \
  namespace avx2 { __VA_ARGS__ }          \
  namespace avx512 { __VA_ARGS__ }
#define SO_CPU_CALL(function)                                                                              \
  (::spectralops::cpu::active_isa() == ::spectralops::cpu::Isa::avx512 ? &::spectralops::cpu::avx512::function \
   : ::spectralops::cpu::active_isa() == ::spectralops::cpu::Isa::avx2 ? &::spectralops::cpu::avx2::function   \
                                                                       : &::spectralops::cpu::portable::function)
#else
#define SO_CPU_DECLARE(...) namespace portable { __VA_ARGS__ }
#define SO_CPU_CALL(function) (&::spectralops::cpu::portable::function)
#endif

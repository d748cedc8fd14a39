#include "capi/spectralops.h"
#include "cpu/capability.h"
#include "cpu/parallel.h"

#if !defined(SPECTRALOPS_BUILD_INFO)
#define SPECTRALOPS_BUILD_INFO R"({"version": "0", "cuda": false, "archs": "", "compiler": "unknown", "cpu": []})"
#endif

extern "C" {

int spectralops_abi_version(void) { return SPECTRALOPS_ABI_VERSION; }

const char* spectralops_build_info(void) { return SPECTRALOPS_BUILD_INFO; }

const char* spectralops_cpu_capability(void) { return spectralops::cpu::isa_name(spectralops::cpu::active_isa()); }

int spectralops_set_cpu_capability(const char* name) { return spectralops::cpu::set_isa(name); }

int spectralops_set_openmp(void* gomp_parallel, void* omp_get_thread_num) {
  return spectralops::cpu::set_openmp(gomp_parallel, omp_get_thread_num);
}

}  // extern "C"

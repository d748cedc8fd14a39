#include "cpu/sparse_wht.h"

#include "capi/status.h"
#include "cuda/sparse_wht.h"

namespace {

using spectralops::fail;
using spectralops::i64;

int check(const char* entry, const spectralops_sparse_wht_call* call, int device, int threads) {
  SO_REQUIRE(device >= SPECTRALOPS_CPU, "%s: device must be -1 (CPU) or a CUDA ordinal, got %d", entry, device);
  SO_REQUIRE(device >= 0 || threads >= 1, "%s: threads must be at least 1, got %d", entry, threads);
  SO_REQUIRE(call, "%s: call is NULL", entry);
  const spectralops_sparse_wht_call& c = *call;
  const long long n = c.n, b = c.b, scheme = c.scheme, checks = c.checks, dtype = c.dtype;
  SO_REQUIRE(dtype == SPECTRALOPS_F32 || dtype == SPECTRALOPS_F64,
             "%s: dtype must be 0 (float32) or 1 (float64), got %lld", entry, dtype);
  SO_REQUIRE(n >= 1 && n <= 65535 && b >= 0 && b <= 30 && b <= n,
             "%s: n must be 1 to 65535 and b 0 to min(n, 30), got %lld, %lld", entry, n, b);
  SO_REQUIRE(c.problems >= 0 && c.queries >= 1 && c.groups >= 1 && c.groups <= 16 && c.repeats >= 1 && c.capacity >= 1 &&
                 c.rounds >= 1,
             "%s: problems must not be negative; queries, groups (at most 16), repeats, capacity and rounds at least 1", entry);
  SO_REQUIRE(scheme >= SPECTRALOPS_EXACT && scheme <= SPECTRALOPS_BCH, "%s: scheme must be 0, 1 or 2, got %lld", entry, scheme);
  SO_REQUIRE(scheme != SPECTRALOPS_EXACT || checks == n - b, "%s: exact has n - b checks, got %lld", entry, checks);
  SO_REQUIRE(scheme != SPECTRALOPS_NSO || checks == n, "%s: nso has n checks, got %lld", entry, checks);
  if (scheme == SPECTRALOPS_BCH) {
    SO_REQUIRE(c.degree >= 1 && c.degree <= 16 && c.chase >= 0 && c.chase <= 16,
               "%s: degree must be 1 to 16 and chase 0 to 16, got %lld, %lld", entry, (long long)c.degree, (long long)c.chase);
    const i64 m = checks / c.degree;
    SO_REQUIRE(checks == m * c.degree && m >= 1 && m <= 16 && n < i64(1) << m,
               "%s: bch has degree m checks, n < 2^m <= 2^16, got %lld", entry, checks);
  }
  SO_REQUIRE((c.index || c.queries == ((c.groups << b) * c.repeats * (checks + 1))) && c.workspace_bytes >= 0 &&
                 (c.workspace || c.workspace_bytes == 0),
             "%s: index is NULL although queries are not samples, or workspace is NULL", entry);
  return SPECTRALOPS_OK;
}

}  // namespace

extern "C" {

int64_t spectralops_sparse_wht_workspace(const spectralops_sparse_wht_call* call, int32_t device, int32_t threads) {
  if (check("sparse_wht_workspace", call, device, threads)) return -1;
  if (call->problems == 0) return 0;
  return device < 0 ? spectralops::cpu::sparse_wht_workspace(*call, threads)
                    : spectralops::cuda::sparse_wht_workspace(*call, device);
}

int spectralops_sparse_wht_decode(const spectralops_sparse_wht_call* call, int32_t device, int32_t threads, void* stream) {
  if (const int status = check("sparse_wht_decode", call, device, threads)) return status;
  const spectralops_sparse_wht_call& c = *call;
  if (c.problems == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(c.values && c.to_bin_rows && c.to_bin_columns && c.to_key_rows && c.to_key_columns && c.base && c.keys &&
                 c.coefficients && c.counts && c.energy && c.noise,
             "sparse_wht_decode: values, the tables and the outputs must not be NULL");
  SO_REQUIRE(c.scheme != SPECTRALOPS_BCH || (c.check_rows && c.check_columns && c.field),
             "sparse_wht_decode: bch takes check_rows, check_columns and field");
  return device < 0 ? spectralops::cpu::sparse_wht_decode(c, threads) : spectralops::cuda::sparse_wht_decode(c, device, stream);
}

int spectralops_walsh_sum(const int64_t* points, const int64_t* keys, const void* values, void* y, int64_t count, int64_t terms,
                          int64_t words, int32_t dtype, int32_t device, int32_t threads, void* stream) {
  SO_REQUIRE(device >= SPECTRALOPS_CPU && (device >= 0 || threads >= 1),
             "walsh_sum: device must be -1 or a CUDA ordinal, threads at least 1");
  SO_REQUIRE(count >= 0 && terms >= 0 && words >= 1, "walsh_sum: count and terms must not be negative, words at least 1");
  SO_REQUIRE(dtype == SPECTRALOPS_F32 || dtype == SPECTRALOPS_F64,
             "walsh_sum: dtype must be 0 (float32) or 1 (float64), got %d", dtype);
  if (count == 0) return SPECTRALOPS_OK;
  SO_REQUIRE(points && y && (terms == 0 || (keys && values)), "walsh_sum: points, keys, values and y must not be NULL");
  return device < 0 ? spectralops::cpu::walsh_sum(points, keys, values, y, count, terms, words, dtype, threads)
                    : spectralops::cuda::walsh_sum(points, keys, values, y, count, terms, words, dtype, device, stream);
}

}  // extern "C"

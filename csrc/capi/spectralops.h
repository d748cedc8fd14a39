/* The flat C interface of libspectralops.
 *
 * Plain pointers, sizes, element strides and codes: no torch, no Python, no C++ in the signatures, so that one
 * binary serves every framework.  No function here allocates device memory or synchronises; outputs and
 * workspaces belong to the caller.  Every function returns a spectralops_status; the text of the last failure in
 * the calling thread is spectralops_last_error().
 *
 * Where a call runs.  `device` = SPECTRALOPS_CPU runs on `threads` CPU threads and ignores `stream`; `device` >= 0 is a CUDA
 * ordinal, `stream` a cudaStream_t (0 is the legacy default stream), and `threads` is ignored.
 *
 * Arithmetic is float for 16-bit and float data, double for double data; integers wrap.  "compute type" below means that type.
 */
#ifndef SPECTRALOPS_H
#define SPECTRALOPS_H

#include <stdint.h>

#if defined(__GNUC__)
#define SPECTRALOPS_API __attribute__((visibility("default")))
#else
#define SPECTRALOPS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SPECTRALOPS_ABI_VERSION 1
#define SPECTRALOPS_CPU (-1)

enum spectralops_status {
  SPECTRALOPS_OK = 0,
  SPECTRALOPS_INVALID = 1,     /* an argument is wrong; the text names it */
  SPECTRALOPS_UNSUPPORTED = 2, /* right, but no kernel here handles it */
  SPECTRALOPS_NO_CUDA = 3,     /* this library was built without its CUDA part */
  SPECTRALOPS_CUDA = 4         /* the CUDA runtime reported an error */
};

enum spectralops_dtype {
  SPECTRALOPS_F32 = 0,
  SPECTRALOPS_F64 = 1,
  SPECTRALOPS_F16 = 2,
  SPECTRALOPS_BF16 = 3,
  SPECTRALOPS_I32 = 4,
  SPECTRALOPS_I64 = 5
};

enum spectralops_rational_version {
  SPECTRALOPS_RATIONAL_A = 0,     /* Q = 1 + sum_{i>=1} |b_i| |x|^i        */
  SPECTRALOPS_RATIONAL_B = 1,     /* Q = 1 + |sum_{i>=1} b_i x^i|          */
  SPECTRALOPS_RATIONAL_C = 2,     /* Q = 0.1 + |sum_{i>=0} b_i x^i|        */
  SPECTRALOPS_RATIONAL_SMOOTH = 3 /* Q = 1 + (sum_{i>=1} b_i x^i)^2        */
};

enum spectralops_activation {
  SPECTRALOPS_SNAKE = 0,       /* x + sin^2(a x) / a                                                           */
  SPECTRALOPS_SINE = 1,        /* sin(w x)                                                                     */
  SPECTRALOPS_SPDER = 2,       /* sin(x) |x|^(1/2), no parameters                                              */
  SPECTRALOPS_CAUCHY = 3,      /* (l1 x + l2) / (x^2 + d^2)                                                    */
  SPECTRALOPS_POLY_RELU = 4,   /* sum_i a_i max(x, 0)^i, as many parameters as `count` says                    */
  SPECTRALOPS_SQUARE_WAVE = 5, /* sgn sin(w x), with the derivatives of SINE                                   */
  SPECTRALOPS_WIRE = 6,        /* exp(i w x - k^2 |x|^2), x real, y complex: (..., 2), real part first         */
  SPECTRALOPS_WIRE_COMPLEX = 7 /* the same of a complex x                                                      */
};

enum spectralops_wavelet { /* c = 2 / (sqrt 3 pi^(1/4)) */
  SPECTRALOPS_MEXICAN_HAT = 0, /* c (z^2 - 1) e^(-z^2/2) */
  SPECTRALOPS_MORLET = 1,      /* cos(5 z) e^(-z^2/2)    */
  SPECTRALOPS_DOG = 2          /* -z e^(-z^2/2)          */
};

enum spectralops_order { SPECTRALOPS_NATURAL = 0, SPECTRALOPS_DYADIC = 1, SPECTRALOPS_SEQUENCY = 2 };

enum spectralops_format { SPECTRALOPS_INT8 = 0, SPECTRALOPS_FP8_E4M3 = 1, SPECTRALOPS_MXFP4 = 2, SPECTRALOPS_NVFP4 = 3 };

/* ---- the library itself ------------------------------------------------------------------------------------ */
SPECTRALOPS_API int spectralops_abi_version(void);
SPECTRALOPS_API const char* spectralops_build_info(void); /* JSON: version, cuda (bool), archs, compiler, cpu (list) */
SPECTRALOPS_API const char* spectralops_last_error(void);

/* The CPU instruction set in use: "avx512", "avx2" or "portable".  set: NULL chooses the best this machine has. */
SPECTRALOPS_API const char* spectralops_cpu_capability(void);
SPECTRALOPS_API int spectralops_set_cpu_capability(const char* name);

/* Run CPU kernels on an OpenMP runtime that is already in the process (torch's), so that two thread pools never
 * fight over the cores: the addresses of its GOMP_parallel and omp_get_thread_num.  NULL, NULL returns to the library's own pool. */
SPECTRALOPS_API int spectralops_set_openmp(void* gomp_parallel, void* omp_get_thread_num);

/* ---- rational: y = P(x) / Q(x), P = sum_{i<=m} a_i x^i ----------------------------------------------------------
 * x, grad, ...: (rows, dim) with unit stride in dim and the given row stride in elements (0 broadcasts one row).
 * The groups are contiguous slices of dim, dim % groups == 0.  Coefficients are in the compute type, the row of group g at
 * numerator + g * numerator_stride; stride 0 shares one row.  nb = n coefficients in the denominator, n + 1 for version C
 * (den_degree is n).  sign_at_zero (0 or 1) is the value of sign(0) in every derivative of |.|; 0 is torch's. */
SPECTRALOPS_API int spectralops_rational_forward(
    const void* x, int64_t x_stride, const void* numerator, int64_t numerator_stride, const void* denominator,
    int64_t denominator_stride, void* y, int64_t rows, int64_t dim, int64_t groups, int32_t num_degree, int32_t den_degree,
    int32_t version, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* Bytes of workspace for the two functions below. */
SPECTRALOPS_API int64_t spectralops_rational_workspace(int64_t rows, int64_t dim, int64_t groups, int32_t num_degree,
                                                       int32_t den_degree, int32_t version, int32_t dtype, int32_t device);

/* dx (rows, dim) contiguous; dnumerator (groups, m+1), ddenominator (groups, nb) contiguous in the compute type, summed in an
 * order that depends on the sizes alone, never on the number of threads. */
SPECTRALOPS_API int spectralops_rational_backward(
    const void* grad, int64_t grad_stride, const void* x, int64_t x_stride, const void* numerator, int64_t numerator_stride,
    const void* denominator, int64_t denominator_stride, void* dx, void* dnumerator, void* ddenominator, void* workspace,
    int64_t workspace_bytes, int64_t rows, int64_t dim, int64_t groups, int32_t num_degree, int32_t den_degree, int32_t version,
    int32_t sign_at_zero, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* The gradient of  sum(ggx * dx) + sum(ggnumerator * dnumerator) + sum(ggdenominator * ddenominator)  with respect to grad, x and the
 * coefficients.  ggnumerator (groups, m+1) and ggdenominator (groups, nb) contiguous in the compute type. */
SPECTRALOPS_API int spectralops_rational_double_backward(
    const void* ggx, int64_t ggx_stride, const void* ggnumerator, const void* ggdenominator, const void* grad, int64_t grad_stride,
    const void* x, int64_t x_stride, const void* numerator, int64_t numerator_stride, const void* denominator,
    int64_t denominator_stride, void* dgrad, void* dx, void* dnumerator, void* ddenominator, void* workspace,
    int64_t workspace_bytes, int64_t rows, int64_t dim, int64_t groups, int32_t num_degree, int32_t den_degree, int32_t version,
    int32_t sign_at_zero, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* ---- Walsh-Hadamard: y = scale * signs_out * (H (signs_in * x)), H = H_m (x) H_{2^log2} along n = m 2^log2 -------------------------
 * x: (outer, n, inner), contiguous but for the stride between outer slices (x_stride, in elements); y contiguous.  The Sylvester factor runs
 * over the fast bits of the index along n.  base: H_m packed, row i in words base[i*ceil(m/64)...], bit j of the row set where the entry is -1;
 * NULL for m = 1; a host pointer on a CPU, a device pointer on a GPU; pass the transposed table for H^T.
 * signs: compute type (the data's own type for integers), (sign_blocks, n), the row of outer slice o being o % sign_blocks; NULL for all ones; indexed by
 * the position in memory of the input (signs_in) and the output (signs_out).  order_in, order_out: how the input and the output
 * index along n are ordered; other than natural needs m = 1.  scale must be an integer for integer data.
 * Bits are combined in an order that depends on n alone, not on the data type: 16-bit input gives the bits that the same values in float give, before the store. */
SPECTRALOPS_API int64_t spectralops_hadamard_workspace(int64_t outer, int64_t n, int64_t inner, int32_t base_size, int32_t dtype,
                                                       int32_t device, int32_t threads);
SPECTRALOPS_API int spectralops_hadamard(const void* x, int64_t x_stride, void* y, const void* signs_in, const void* signs_out,
                                         int64_t sign_blocks, const void* base, int64_t outer, int64_t n, int64_t inner,
                                         int32_t base_size, double scale, int32_t order_in, int32_t order_out, void* workspace,
                                         int64_t workspace_bytes, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* Rotate rows of x (rows, dim) in blocks of `block` (block divides dim, block = base_size 2^k) and quantise groups of `group` contiguous
 * elements (group divides dim).  signs: (sign_blocks, block), block j of a row using signs row j % sign_blocks.  With amax over the group, r the rotated values in float:
 *   int8      scale = amax / 127  (float),               q = clamp(rint(r / scale), -127, 127)          int8
 *   fp8_e4m3  scale = amax / 448  (float),               q = e4m3fn(clamp(r / scale, -448, 448))        1 byte
 *   mxfp4     scale = 2^clamp(floor(log2 amax) - 2, -127, 127)  (e8m0, 1 byte), q = e2m1(r / scale) saturating   two a byte, low nibble first
 *   nvfp4     scale = e4m3fn(clamp(amax / 6, 2^-9, 448)) (1 byte),              q = e2m1(r / scale) saturating   two a byte, low nibble first
 * All rounding is to nearest, ties to even; division is IEEE division.  An int8 or fp8 scale that underflows to 0 is 1.  A group whose amax is 0 has scale 1 (mxfp4: 2^-127; nvfp4: 2^-9) and q = 0.
 * A NaN or Inf in a group gives scale NaN (mxfp4: byte 255; nvfp4: 0x7f) and q = 0.
 * round_rotation != 0 rounds r to the data type first.  dtype F32, F16 or BF16.
 * scales: (rows, dim / group).  group need not divide block nor block group. */
SPECTRALOPS_API int64_t spectralops_hadamard_quantize_workspace(int64_t rows, int64_t dim, int64_t block, int32_t base_size,
                                                                int32_t dtype, int32_t device, int32_t threads);
SPECTRALOPS_API int spectralops_hadamard_quantize(const void* x, int64_t x_stride, void* q, void* scales, const void* signs,
                                                  int64_t sign_blocks, const void* base, int64_t rows, int64_t dim, int64_t block,
                                                  int64_t group, int32_t base_size, double scale, int32_t format,
                                                  int32_t round_rotation, void* workspace, int64_t workspace_bytes, int32_t dtype,
                                                  int32_t device, int32_t threads, void* stream);

/* y (outer, num_rows) = scale * (H (signs * x))[rows]: x (outer, n) with outer stride x_stride, rows int64 in [0, n). */
SPECTRALOPS_API int64_t spectralops_srht_workspace(int64_t outer, int64_t n, int32_t base_size, int32_t dtype, int32_t device,
                                                   int32_t threads);
SPECTRALOPS_API int spectralops_srht(const void* x, int64_t x_stride, const void* signs, const void* rows, void* y,
                                     const void* base, int64_t outer, int64_t n, int64_t num_rows, int32_t base_size, double scale,
                                     void* workspace, int64_t workspace_bytes, int32_t dtype, int32_t device, int32_t threads,
                                     void* stream);

/* ---- learnable activations: y = f(x; p_1, ..., p_count), elementwise --------------------------------------------------
 * x, grad, ...: (outer, channels, inner), and a trailing 2 where complex, all contiguous.  params, ggparams, dparams: (count, channels) in
 * the compute type; parameters shared by all channels are one channel with a longer inner.  CPU only: another device is
 * SPECTRALOPS_UNSUPPORTED. */
SPECTRALOPS_API int spectralops_activation_forward(const void* x, const void* params, void* y, int64_t outer, int64_t channels,
                                                   int64_t inner, int32_t count, int32_t function, int32_t dtype, int32_t device,
                                                   int32_t threads, void* stream);

/* Bytes of workspace for the two functions below; none where dparams is NULL. */
SPECTRALOPS_API int64_t spectralops_activation_workspace(int64_t outer, int64_t channels, int64_t inner, int32_t count,
                                                         int32_t function, int32_t dtype, int32_t device);

/* dparams NULL: not wanted.  Its sums are made in an order that depends on the sizes alone. */
SPECTRALOPS_API int spectralops_activation_backward(const void* grad, const void* x, const void* params, void* dx, void* dparams,
                                                    void* workspace, int64_t workspace_bytes, int64_t outer, int64_t channels,
                                                    int64_t inner, int32_t count, int32_t function, int32_t dtype, int32_t device,
                                                    int32_t threads, void* stream);

/* The gradient of  sum(ggx * dx) + sum(ggparams * dparams)  with respect to grad, x and the parameters.  ggparams NULL: zero. */
SPECTRALOPS_API int spectralops_activation_double_backward(const void* ggx, const void* ggparams, const void* grad, const void* x,
                                                           const void* params, void* dgrad, void* dx, void* dparams,
                                                           void* workspace, int64_t workspace_bytes, int64_t outer,
                                                           int64_t channels, int64_t inner, int32_t count, int32_t function,
                                                           int32_t dtype, int32_t device, int32_t threads, void* stream);

/* ---- poly_norm: y = sum_{i=1..degree} w_i norm(x^i) + b over rows, norm(u) = u / sqrt(mean u^2 + eps) ----------------
 * x, grad, ...: (rows, dim) contiguous.  weight, dweight, ggweight: (degree,), bias and the like (1,), in the compute type.  CPU only. */
SPECTRALOPS_API int spectralops_poly_norm_forward(const void* x, const void* weight, const void* bias, void* y, int64_t rows,
                                                  int64_t dim, int32_t degree, double eps, int32_t dtype, int32_t device,
                                                  int32_t threads, void* stream);
SPECTRALOPS_API int64_t spectralops_poly_norm_workspace(int64_t rows, int64_t dim, int32_t degree, int32_t dtype, int32_t device);
SPECTRALOPS_API int spectralops_poly_norm_backward(const void* grad, const void* x, const void* weight, void* dx, void* dweight,
                                                   void* dbias, void* workspace, int64_t workspace_bytes, int64_t rows, int64_t dim,
                                                   int32_t degree, double eps, int32_t dtype, int32_t device, int32_t threads,
                                                   void* stream);
/* The gradient of  sum(ggx * dx) + sum(ggweight * dweight) + ggbias dbias  with respect to grad, x and weight. */
SPECTRALOPS_API int spectralops_poly_norm_double_backward(const void* ggx, const void* ggweight, const void* ggbias, const void* grad,
                                                          const void* x, const void* weight, void* dgrad, void* dx, void* dweight,
                                                          void* workspace, int64_t workspace_bytes, int64_t rows, int64_t dim,
                                                          int32_t degree, double eps, int32_t dtype, int32_t device,
                                                          int32_t threads, void* stream);

/* ---- fan: y = [cos h, sin h, gelu(e)], h (rows, p), e (rows, q), y and grad (rows, 2 p + q), all contiguous; p or q may be 0.  CPU only. */
SPECTRALOPS_API int spectralops_fan_forward(const void* h, const void* e, void* y, int64_t rows, int64_t p, int64_t q, int32_t dtype,
                                            int32_t device, int32_t threads, void* stream);
SPECTRALOPS_API int spectralops_fan_backward(const void* grad, const void* h, const void* e, void* dh, void* de, int64_t rows,
                                             int64_t p, int64_t q, int32_t dtype, int32_t device, int32_t threads, void* stream);
/* The gradient of  sum(ggh * dh) + sum(gge * de)  with respect to grad, h and e. */
SPECTRALOPS_API int spectralops_fan_double_backward(const void* ggh, const void* gge, const void* grad, const void* h, const void* e,
                                                    void* dgrad, void* dh, void* de, int64_t rows, int64_t p, int64_t q,
                                                    int32_t dtype, int32_t device, int32_t threads, void* stream);

/* ---- kan_linear: y_no = sum_{i,k} c_oik B_k(x_ni) u_ni + sum_i w_oi sigma(x_ni) u_ni + bias_o ---------------------------
 * B_k and sigma stand for their m-th derivatives, m <= 4.  x, u (rows, inputs), grad (rows, outputs): unit stride in a row, row strides in
 * elements (0 broadcasts one row); u may be NULL (all ones).  coeff (outputs, inputs, size), base_weight (outputs, inputs) and bias (outputs)
 * are contiguous in the compute type; base 0 is no base branch, its weight NULL then, and bias may be NULL.
 * The basis is given by family, size, a, b, c, scalars and table (compute type, contiguous):
 *   0 uniform      B-splines of order a <= 7 on knots scalar0 + j scalar1, j = 0 ... size + a
 *   1 spline       the same on any knots: table (table_rows = 1 or inputs, size + a + 1), not decreasing
 *                  both: b beyond the knots 0 zero, 1 clamp, 2 linear; c beyond begins at 0 the outermost knots, 1 those of the grid, t_a, t_size
 *   2 radial       a: 0 gaussian, 1 rswaf, 2 sech, 3 mexican hat, 4 morlet, 5 dog, 6 haar of (x - g_k) w_k; table (2, size): g, w
 *   3 polynomial   p_(k+1) = (A_k z + B_k) p_k - C_k p_(k-1), z = x (a 0) or tanh x (a 1); table (3, size)
 *   4 fourier      cos(k scalar0 x), k = 1 ... size / 2, then the sines
 *   5 relu power   (r_k combine(relu(x - s_k), relu(e_k - x)))^b, a: 0 and 1 product, 2 sum, 3 both added; table (3, size): s, e, r
 * base: 1 silu, 2 gelu (erf form), 3 relu, 4 identity, 5 tanh.
 * There is no CUDA kernel: device >= 0 is SPECTRALOPS_UNSUPPORTED, as is m > 4. */

/* Bytes of workspace; operation: 0 forward, 1 dx, 2 dcoeff. */
SPECTRALOPS_API int64_t spectralops_kan_workspace(int32_t operation, int64_t rows, int64_t inputs, int64_t outputs, int32_t family,
                                                  int32_t size, int32_t a, int32_t b, int32_t c, int32_t base, int32_t dtype,
                                                  int32_t device, int32_t threads);
SPECTRALOPS_API int spectralops_kan_forward(
    const void* x, int64_t x_stride, const void* u, int64_t u_stride, const void* coeff, const void* base_weight, const void* bias,
    const void* table, int64_t table_rows, void* y, void* workspace, int64_t workspace_bytes, int64_t rows, int64_t inputs,
    int64_t outputs, int32_t family, int32_t size, int32_t a, int32_t b, int32_t c, double scalar0, double scalar1, int32_t base,
    int32_t m, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* d_ni = u_ni (sum_{o,k} grad_no c_oik B_k(x_ni) + sum_o grad_no w_oi sigma(x_ni)), (rows, inputs) contiguous. */
SPECTRALOPS_API int spectralops_kan_dx(
    const void* grad, int64_t grad_stride, const void* x, int64_t x_stride, const void* u, int64_t u_stride, const void* coeff,
    const void* base_weight, const void* table, int64_t table_rows, void* d, void* workspace, int64_t workspace_bytes, int64_t rows,
    int64_t inputs, int64_t outputs, int32_t family, int32_t size, int32_t a, int32_t b, int32_t c, double scalar0, double scalar1,
    int32_t base, int32_t m, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* dcoeff_oik = sum_n grad_no B_k(x_ni) u_ni, dbase_oi = sum_n grad_no sigma(x_ni) u_ni, contiguous in the compute type, summed in
 * an order that depends on the sizes alone, never on the number of threads.  dbase is ignored where base is 0. */
SPECTRALOPS_API int spectralops_kan_dcoeff(
    const void* grad, int64_t grad_stride, const void* x, int64_t x_stride, const void* u, int64_t u_stride, const void* table,
    int64_t table_rows, void* dcoeff, void* dbase, void* workspace, int64_t workspace_bytes, int64_t rows, int64_t inputs,
    int64_t outputs, int32_t family, int32_t size, int32_t a, int32_t b, int32_t c, double scalar0, double scalar1, int32_t base,
    int32_t m, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* ---- Wav-KAN's layer: y[n][o] = sum_i weight[o][i] psi((x[n][i] - translation[o][i]) / scale[o][i]) ------------------------------
 * x, ggx, dx: (rows, inputs); grad, y, dgrad: (rows, outputs); inputs with unit stride in the row and a row stride in elements, outputs
 * contiguous.  Parameters and their gradients: (outputs, inputs), contiguous, compute type.  `kind` is a spectralops_wavelet.  A CPU only:
 * another device is UNSUPPORTED.  Gradients of parameters are summed in an order that depends on the sizes alone. */
SPECTRALOPS_API int spectralops_wavelet_forward(const void* x, int64_t x_stride, const void* weight, const void* scale,
                                                const void* translation, void* y, int64_t rows, int64_t inputs, int64_t outputs,
                                                int32_t kind, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* Bytes of workspace for the two functions below. */
SPECTRALOPS_API int64_t spectralops_wavelet_workspace(int64_t rows, int64_t inputs, int64_t outputs, int32_t dtype, int32_t device);

SPECTRALOPS_API int spectralops_wavelet_backward(const void* grad, int64_t grad_stride, const void* x, int64_t x_stride,
                                                 const void* weight, const void* scale, const void* translation, void* dx,
                                                 void* dweight, void* dscale, void* dtranslation, void* workspace,
                                                 int64_t workspace_bytes, int64_t rows, int64_t inputs, int64_t outputs,
                                                 int32_t kind, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* The gradient of  sum(ggx * dx) + sum(ggweight * dweight) + sum(ggscale * dscale) + sum(ggtranslation * dtranslation)  with respect to
 * grad, x and the parameters. */
SPECTRALOPS_API int spectralops_wavelet_double_backward(
    const void* ggx, int64_t ggx_stride, const void* ggweight, const void* ggscale, const void* ggtranslation, const void* grad,
    int64_t grad_stride, const void* x, int64_t x_stride, const void* weight, const void* scale, const void* translation, void* dgrad,
    void* dx, void* dweight, void* dscale, void* dtranslation, void* workspace, int64_t workspace_bytes, int64_t rows, int64_t inputs,
    int64_t outputs, int32_t kind, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* ---- fft_conv: y = act(gate_out (conv(gate_in u, k) + skip gate_in u)) mask -----------------------------------------
 * One struct of 8-byte fields for the forward and the backward pass; a pointer that is not there, or not wanted, is NULL.
 * R rows of up to `length`: row r of a batch, or, with cu_seqlens (R + 1 int64), the stretch cu_seqlens[r] .. cu_seqlens[r+1]
 * of the one row of u, the gates, y and grad (whose batch strides then do not count).  Strides in elements, any, 0 allowed.
 * kernel (samples, filters, groups, size) in the compute type: taps, tap j at lag j - lag0; or with grid > 0 and size = grid
 * its spectrum, complex pairs (.., grid, 2): Q_m = sum_j h_j exp(-2 pi i j (m + 1/4) / grid), h_j the tap at lag j.
 * Channel h takes kernel h / (channels / groups), row r sample r (0 if samples == 1).  skip, dskip (filters, channels); mask, dmask
 * (R, channels); kernel, dkernel as given: all contiguous, in the compute type.  y, dgate_out have the strides y_*; du, dgate_in
 * the strides du_*; these are dense. dkernel and dskip are summed in an order that depends on the sizes alone. */
enum spectralops_fft_conv_activation { SPECTRALOPS_IDENTITY = 0, SPECTRALOPS_SILU = 1, SPECTRALOPS_GELU = 2 /* erf form */ };

typedef struct {
  const void *u, *kernel, *skip, *gate_in, *gate_out, *mask;
  const int64_t* cu_seqlens;
  const void* grad;                                                  /* backward only, and what follows to dmask */
  void *y;                                                           /* forward only */
  void *du, *dkernel, *dskip, *dgate_in, *dgate_out, *dmask;
  void* workspace;
  int64_t workspace_bytes;
  int64_t rows, filters, channels, length;                           /* R, F, H, the longest row */
  int64_t samples, groups, size, lag0, grid;
  int64_t activation, dtype, high;                                   /* high: one-pass tf32 is allowed for float32 */
  int64_t u_batch, u_channel, u_time;
  int64_t gate_in_batch, gate_in_channel, gate_in_time;
  int64_t gate_out_batch, gate_out_filter, gate_out_channel, gate_out_time;
  int64_t grad_batch, grad_filter, grad_channel, grad_time;
  int64_t y_batch, y_filter, y_channel, y_time;
  int64_t du_batch, du_channel, du_time;
} spectralops_fft_conv_call;

/* Bytes of workspace for the call; `backward` 0 or 1. Only sizes, codes and which pointers are NULL are read. */
SPECTRALOPS_API int64_t spectralops_fft_conv_workspace(const spectralops_fft_conv_call* call, int32_t backward, int32_t device,
                                                       int32_t threads);
SPECTRALOPS_API int spectralops_fft_conv_forward(const spectralops_fft_conv_call* call, int32_t device, int32_t threads, void* stream);
/* Which of du .. dmask are not NULL says what is wanted. Without u (or kernel) only what does not need it may be wanted. */
SPECTRALOPS_API int spectralops_fft_conv_backward(const spectralops_fft_conv_call* call, int32_t device, int32_t threads, void* stream);

/* ---- spectral_filter: y = F(x, W) = irfftn(rfftn(x) W) on grids of n1 n2 n3 points, channels beside them ------------------------
 * weight, dweight (samples, n1, n2, n3 / 2 + 1, groups, 2) in the compute type, contiguous; samples is 1 or rows, channel c takes
 * weight c / (channels / groups).  Strides in elements, any, 0 allowed: of rows, n1, n2, n3, channels.  conj: the adjoint, F(x, conj W).
 * eps >= 0: the filter acts on the layer norm of x over its channels, norm_weight and norm_bias (channels,) in the compute type or NULL.
 * residual (or NULL) is added.  The gradient is dweight = c_k / N sum_rows conj(X) G; dweight is summed in an order that depends on the
 * sizes alone.  Formulas: ops/spectral_filter_reference.py. */
typedef struct {
  const void *x, *grad, *weight, *norm_weight, *norm_bias, *residual; /* grad: gradient only; weight, residual: filter only */
  void *y, *dweight;                                                  /* of the filter; of the gradient */
  void* workspace;
  int64_t workspace_bytes;
  int64_t rows, n1, n2, n3, channels;
  int64_t samples, groups, conj, dtype;
  double eps;
  int64_t x_stride[5], grad_stride[5], residual_stride[5], y_stride[5];
} spectralops_filter_call;

/* Bytes of workspace for the call, or -1 where the GPU has no kernel for it; `gradient` 0 or 1. Only sizes, codes and strides are
 * read. */
SPECTRALOPS_API int64_t spectralops_filter_workspace(const spectralops_filter_call* call, int32_t gradient, int32_t device,
                                                     int32_t threads);
SPECTRALOPS_API int spectralops_filter(const spectralops_filter_call* call, int32_t device, int32_t threads, void* stream);
SPECTRALOPS_API int spectralops_filter_gradient(const spectralops_filter_call* call, int32_t device, int32_t threads, void* stream);

/* ---- truncated transforms between a grid and a box of modes, and the mixing of channels in each mode ---------------------------
 * Frequencies of mode r along dimension d: start[d] + (r + shift[d]) mod m[d].  grids (rows, channels, n1, n2, n3), spectra (rows,
 * channels, m1, m2, m3, 2); with `last` (rows, n1, n2, n3, channels) and (rows, m1, m2, m3, channels, 2).  x, skip and grad have any
 * strides, always given in the order rows, channels, n1, n2, n3; spectra, y and bias (channels,) are contiguous.  dtype is that of the
 * grids, spectra and bias are of the compute type.  dft: x -> spectrum.  idft: spectrum -> y = act(idft + skip + bias), or, where
 * grad is not NULL, grad act'(idft + skip + bias).  activation is SPECTRALOPS_IDENTITY or SPECTRALOPS_GELU.
 * Formulas: ops/modes_reference.py. */
typedef struct {
  const void *x, *skip, *bias, *grad;
  void *spectrum; /* read by idft */
  void *y;
  void* workspace;
  int64_t workspace_bytes;
  int64_t rows, channels, n[3], m[3], start[3], shift[3];
  int64_t last, doubled, activation, dtype;
  double scale;
  int64_t x_stride[5], skip_stride[5], grad_stride[5];
} spectralops_modes_call;

SPECTRALOPS_API int64_t spectralops_modes_workspace(const spectralops_modes_call* call, int32_t inverse, int32_t device, int32_t threads);
SPECTRALOPS_API int spectralops_mode_dft(const spectralops_modes_call* call, int32_t device, int32_t threads, void* stream);
SPECTRALOPS_API int spectralops_mode_idft(const spectralops_modes_call* call, int32_t device, int32_t threads, void* stream);

/* out_bop = sum_i a_bip weight_iop (kind 0); out_bip = sum_o a_bop conj(weight_iop) (kind 1); out_iop = sum_b conj(a_bip) grad_bop
 * (kind 2). Complex pairs, contiguous: a, grad, out in the compute type dtype (float32 or float64), weight of weight_dtype. */
typedef struct {
  const void *a, *weight, *grad;
  void* out;
  int64_t rows, inputs, outputs, modes;
  int64_t kind, weight_dtype, dtype;
} spectralops_mix_call;

SPECTRALOPS_API int spectralops_mode_mix(const spectralops_mix_call* call, int32_t device, int32_t threads, void* stream);

/* ---- the head of a vocoder: magnitude and phase of L frames to audio --------------------------------------------------------
 * x (rows, frames, 2 (n/2 + 1)) and grad (rows, length) of any strides; window (n,) and scale (length,) or NULL contiguous, in the
 * compute type; y, of length samples a row, or the gradient of x, contiguous.  variant: 0 vocos, 1 istftnet, 2 cartesian.  n is even
 * and 2^a 3^b 5^c.  Formulas: ops/istft_head_reference.py. */
typedef struct {
  const void *x, *grad, *window, *scale;
  void* y; /* istft_head: y; istft_head_backward: the gradient of x */
  void* workspace;
  int64_t workspace_bytes;
  int64_t rows, frames, n, hop, start, length;
  int64_t variant, dtype;
  double limit;
  int64_t x_stride[3], grad_stride[2];
} spectralops_istft_call;

SPECTRALOPS_API int64_t spectralops_istft_workspace(const spectralops_istft_call* call, int32_t backward, int32_t device, int32_t threads);
SPECTRALOPS_API int spectralops_istft_head(const spectralops_istft_call* call, int32_t device, int32_t threads, void* stream);
SPECTRALOPS_API int spectralops_istft_head_backward(const spectralops_istft_call* call, int32_t device, int32_t threads, void* stream);

/* ---- sparse Walsh-Hadamard transform ----------------------------------------------------------------------------------------
 * The decoder of `problems` functions (ops/sparse_wht_reference.py) from their values (problems, queries), at samples (groups, 2^b bins,
 * repeats (checks + 1) offsets), offsets fastest, that `index` maps to queries; NULL is the identity.  Values, energies and
 * coefficients in `dtype`, float or double.  A vector of F_2^n takes words = ceil(n / 64) words, bit p at bit p % 64 of word p / 64.  Tables
 * (ops/sparse_wht_groups.py): the maps to a bin and back, of each group, as n rows and as n columns of `words` words; base (groups, repeats,
 * words); of BCH checks the rows (checks, words), the columns (n, ceil(checks / 64)) and the field (2, 2^m).
 * keys (problems, capacity, words), coefficients (problems, capacity) and counts (problems,) are in the order found; energy (problems, groups,
 * bins); noise (problems, 2). */
enum spectralops_sparse_wht_scheme { SPECTRALOPS_EXACT = 0, SPECTRALOPS_NSO = 1, SPECTRALOPS_BCH = 2 };

typedef struct {
  const void* values;
  const int32_t* index;
  const int64_t *to_bin_rows, *to_bin_columns, *to_key_rows, *to_key_columns, *base, *check_rows, *check_columns;
  const int32_t* field;
  int64_t* keys;
  void* coefficients;
  int32_t* counts;
  void *energy, *noise;
  void* workspace;
  int64_t workspace_bytes;
  int64_t problems, queries, groups, dtype;
  int64_t n, b, repeats, checks, scheme, hard, degree, chase, capacity, rounds;
  double tau_try, tau, tau_one, theta, refuse, noise_given; /* negative: to be estimated */
} spectralops_sparse_wht_call;

SPECTRALOPS_API int64_t spectralops_sparse_wht_workspace(const spectralops_sparse_wht_call* call, int32_t device, int32_t threads);
SPECTRALOPS_API int spectralops_sparse_wht_decode(const spectralops_sparse_wht_call* call, int32_t device, int32_t threads, void* stream);
/* y[m] = sum_k values[k] (-1)^<points[m], keys[k]>, points (count, words), keys (terms, words). */
SPECTRALOPS_API int spectralops_walsh_sum(const int64_t* points, const int64_t* keys, const void* values, void* y, int64_t count,
                                          int64_t terms, int64_t words, int32_t dtype, int32_t device, int32_t threads, void* stream);

/* ---- kernels without a launch -----------------------------------------------------------------------------------
 * While recording is on in the calling thread, a call with device >= 0 validates and plans as usual but appends its launches to a list instead
 * of running them; another runtime (CuPy's NVRTC) then compiles the same headers and launches them.  `sm` is the compute capability to plan for (90 for
 * 9.0), `sm_count` its multiprocessors, `shared_limit` the opt-in shared memory of a block. */
SPECTRALOPS_API int spectralops_record_begin(int32_t sm, int32_t sm_count, int64_t shared_limit);
SPECTRALOPS_API int spectralops_record_end(void); /* the number of launches recorded */
/* name: the kernel's C++ name with template arguments; params: the bytes of its single by-value argument. */
SPECTRALOPS_API int spectralops_record_get(int32_t index, const char** name, int64_t grid[3], int64_t block[3],
                                           int64_t* shared_bytes, const void** params, int64_t* params_bytes);

#ifdef __cplusplus
}
#endif
#endif

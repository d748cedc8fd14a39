"""Which implementation runs a call, and why.

Every backend is a module with the functions of one list, on tensors whose shapes the op layer has already
normalised, and `supports(name, *args) -> (bool, reason)` for the same arguments:

    rational_forward(x (rows, dim), num (Gn, m+1), den (Gd, nb), version)                          -> y
    rational_backward(grad, x, num, den, version, sign_at_zero)                                    -> dx, dnum (G, m+1), dden (G, nb)
    rational_double_backward(ggx, ggnum, ggden, grad, x, num, den, version, sign_at_zero)          -> dgrad, dx, dnum, dden
    hadamard(x (outer, n, inner), signs_in, signs_out, base, scale, order_in, order_out)           -> y
    hadamard_quantize(x (rows, dim), signs, base, scale, block, group, format, round_rotation)     -> q, scales
    srht(x (outer, n), signs, rows, base, scale)                                                   -> y (outer, num_rows)
    kan_forward(x (N, I), u (N, I) or None, coeff (O, I, K), base_weight (O, I) or None, bias (O,) or None, code, base, m, precision) -> y (N, O)
    kan_dx(grad (N, O), x, u, coeff, base_weight, code, base, m, precision)                        -> d (N, I)
    kan_dcoeff(grad (N, O), x, u, code, base, m, precision)                                        -> dcoeff (O, I, K), dbase (O, I) or None
    wavelet_forward(x (N, I), weight, scale, translation (O, I), kind)                             -> y (N, O)
    wavelet_backward(grad (N, O), x, weight, scale, translation, kind)                             -> dx, dw, ds, dt
    wavelet_double_backward(ggx, ggw, ggs, ggt, grad, x, weight, scale, translation, kind)         -> dgrad, dx, dw, ds, dt
    activation_forward(x (outer, C, inner), params (P, C or 1), function)                          -> y
    activation_backward(grad, x, params, function, need_params)                                    -> dx, dparams (P, C or 1) or None
    activation_double_backward(ggx, ggparams or None, grad, x, params, function, need_params)      -> dgrad, dx, dparams or None
    poly_norm_forward(x (rows, n), weight (r,), bias (1,), eps)                                    -> y
    poly_norm_backward(grad, x, weight, eps)                                                       -> dx, dweight (r,), dbias (1,)
    poly_norm_double_backward(ggx, ggweight, ggbias, grad, x, weight, eps)                         -> dgrad, dx, dweight
    fan_forward(h (N, p), e (N, q))                                                                -> y (N, 2 p + q)
    fan_backward(grad, h, e)                                                                       -> dh, de
    fan_double_backward(ggh, gge, grad, h, e)                                                      -> dgrad, dh, de
    fft_conv(u (B, H, L), kernel (S, F, G, K) or spectrum, skip, gate_in, gate_out, mask, cu_seqlens, call)   -> y (B, F, H, L)
    fft_conv_backward(grad (B, F, H, L), u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, call, needs)
                                                            -> du, dkernel, dskip, dgate_in, dgate_out, dmask, None where not needed
    spectral_filter(x (B, N1, N2, N3, C), weight (S, N1, N2, bins, G, 2), norm_weight, norm_bias, residual, eps, conj)  -> y like x
    spectral_filter_gradient(x, grad, norm_weight, norm_bias, eps, samples, groups)                -> dweight (S, N1, N2, bins, G, 2)
    mode_dft(x, modes, last, scale, doubled)                                                       -> spectrum
    mode_idft(spectrum, modes, last, scale, doubled, skip, bias, grad, activation, dtype)          -> y
    mode_mix(spectrum (B, Ci or Co, P, 2), weight (Ci, Co, P, 2), adjoint)                         -> (B, Co or Ci, P, 2)
    mode_mix_gradient(spectrum (B, Ci, P, 2), grad (B, Co, P, 2))                                  -> (Ci, Co, P, 2)
    fourier_mix(x (B, S, H))                                                                       -> y
    spectral_mlp_core(x (M, nb, bs, 2), w1, b1, w2, b2, threshold, activation, mask)               -> y
    spectral_mlp_core_backward(grad, x, w1, b1, w2, b2, threshold, activation, mask, needs)        -> dx, dw1, db1, dw2, db2 or None
    dct(x (outer, N, inner), power, transposed)                                                    -> y, contiguous like x (ops/dct_reference.py)
    dct_resample(x (outer, N, inner), points)                                                      -> y (outer, points, inner)
    haar(x (outer, N, inner), levels, inverse)                                                     -> y, contiguous like x (ops/haar.py)
    istft_head(x (B, L, 2 K), window (n,), scale (length,) or None, hop, start, length, variant, limit)                 -> y (B, length)
    istft_head_backward(grad (B, length), x or None, window, scale, frames, hop, start, variant, limit)                 -> dx (B, frames, 2 K)
    fourier_linear(x (T, I), spectrum (n,), indices (2, n), weight (O, I), bias (O,), outputs, inputs, scaling, transposed) -> y (T, O)
    fourier_linear_backward(grad (T, O), x, spectrum, indices, weight, outputs, inputs, scaling)   -> dx, dspectrum
    fourier_linear_gradient(x, grad, indices, outputs, inputs, scaling)                            -> dspectrum
    circulant_linear(x (T, n b), weight (m, n, b), scaling, transposed)                            -> y (T, m b)
    circulant_linear_gradient(x, grad (T, m b), block, scaling)                                    -> dweight
    sparse_wht_decode(values (R, Q), index (C, B, P) int32 or None, tables, call)                  -> keys, values, counts, energy, noise
    walsh_sum(points (M, W) int64, keys (K, W) int64, values (K,))                                 -> (M,)

Of the functions from spectral_filter on the shapes, strides and formulas are in ops/<..>_reference.py, those of fourier_mix and
haar in their own files.
Of fft_conv (shapes and formulas in ops/fft_conv_reference.py) u, the gates and grad may have any strides; kernel, skip and mask are
contiguous and in the compute dtype; y, du and the gates' gradients are contiguous in the layout call.blh says (new_like_y, new_like_u).
Of the activations (codes and formulas in ops/activations_reference.py) everything is contiguous; x of WIRE_COMPLEX, and y and
grad of both WIRE functions, have a trailing 2; params, ggparams and dparams are in the compute dtype. need_params False, or
ggparams None, spares the sums, or the terms, of the parameters. poly_norm (ops/poly_norm.py) and fan (ops/fan.py, p or q may be 0)
are contiguous too, weight, bias and their gradients in the compute dtype.

Automatic choice takes the first that supports the call and is quiet about it; `explain` tells. A backend
named by hand raises if it cannot.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
from types import ModuleType
from typing import Callable

import torch
from torch import Tensor

from .. import envs

NAMES = ("cuda", "triton", "cupy", "cpu", "reference")
AUTOMATIC = {"cuda": ("cuda", "triton", "cupy", "reference"), "cpu": ("cpu", "reference")}

_modules: dict[str, ModuleType] = {}
_explaining: contextvars.ContextVar[list | None] = contextvars.ContextVar("explaining", default=None)


class _Explained(Exception):
    """Leaves a call once its backend has been decided."""


def backend(name: str) -> ModuleType:
    module = _modules.get(name)
    if module is None:
        if name not in NAMES:
            raise ValueError(f"backend must be None or one of {', '.join(map(repr, NAMES))}; got {name!r}")
        module = _modules[name] = importlib.import_module(f"{__name__}.{name}")
    return module


def select(function: str, requested: str | None, *args) -> Callable:
    """The function of the backend that runs this call."""
    requested = requested or envs.backend()
    if _explaining.get() is not None:
        _record(function, requested, args)
    if requested is not None:
        module = backend(requested)
        yes, reason = module.supports(function, *args)
        if not yes:
            raise RuntimeError(f"backend {requested!r} cannot run {function}: {reason}")
        return getattr(module, function)
    for name in AUTOMATIC.get(args[0].device.type, ("reference",)):
        module = backend(name)
        if module.supports(function, *args)[0]:
            return getattr(module, function)
    raise RuntimeError(f"no backend runs {function} on {args[0].device}")  # the reference takes everything


def _record(function: str, requested: str | None, args: tuple) -> None:
    x = next(a for a in args if isinstance(a, Tensor))
    candidates = (requested,) if requested else AUTOMATIC.get(x.device.type, ("reference",))
    lines, chosen = [], None
    for name in NAMES:
        yes, reason = backend(name).supports(function, *args)
        state = "no"
        if yes and name in candidates and chosen is None:
            chosen, state = name, "chosen"
        elif yes:
            state = "able" if name in candidates or requested is None else "able, not asked for"
        lines.append(f"  {name:<10} {state:<7} {reason}")
    how = f"backend={requested!r} was asked for" if requested else "chosen automatically"
    shape = "x".join(map(str, x.shape))
    head = f"{function} on {x.device}, {str(x.dtype).removeprefix('torch.')} {shape}: {chosen or 'nothing can run it'} ({how})"
    _explaining.get().append("\n".join([head, *lines]))
    raise _Explained


def explain(op_name: str, *args, **kwargs) -> str:
    """Which backend a call would use, and for each of the others the reason why not; runs nothing.

    >>> print(spectralops.explain("rational", x, numerator, denominator))
    """
    import spectralops

    public = getattr(spectralops, op_name, None)
    if op_name not in spectralops.OPS or public is None:
        raise ValueError(f"op_name must be one of {', '.join(spectralops.OPS)}; got {op_name!r}")
    found: list[str] = []
    token = _explaining.set(found)
    try:
        with contextlib.suppress(_Explained), torch.no_grad():
            public(*args, **kwargs)
    finally:
        _explaining.reset(token)
    return found[0] if found else f"{op_name}: nothing to launch for this call (empty input, or the plain reference)"

"""Every operator that torch sees, once: its schema and its fake (the shapes and dtypes it returns).

`ops/<op>.py` gives each one its implementation with `implement`, and is imported when its operator is first called: importing
the package is quick, and a loaded graph finds what it needs. No complex tensor crosses these schemas;
outputs are contiguous; `backend` is None for the automatic choice. Operators know nothing of autograd: the
functions above them do (see `ops/`).
"""

from __future__ import annotations

import importlib
from typing import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

_library = torch.library.Library("spectralops", "DEF")

# name -> torch dtype of (q, scales) and the values that one element of q holds
FORMATS = {
    "int8": (torch.int8, torch.float32, 1),
    "fp8_e4m3": (torch.float8_e4m3fn, torch.float32, 1),
    "mxfp4": (torch.uint8, torch.float8_e8m0fnu, 2),
    "nvfp4": (torch.uint8, torch.float8_e4m3fn, 2),
}


_implementations: dict[str, Callable] = {}
_loaded: set[str] = set()


def _define(module: str, schema: str):
    """Define an operator implemented in ops/<module>.py and register the decorated function as its fake."""
    name = schema[: schema.index("(")]
    _library.define(schema)

    def implementation(*args, **kwargs):
        if module not in _loaded:  # noted once the whole module is there, for the sake of other threads
            importlib.import_module(f"spectralops.ops.{module}")
            _loaded.add(module)
        return _implementations[name](*args, **kwargs)

    _library.impl(name, implementation, "CompositeExplicitAutograd")

    def register(fake: Callable) -> Callable:
        torch.library.register_fake(f"spectralops::{name}", fake, lib=_library)
        return fake

    return register


def implement(name: str) -> Callable:
    """Decorator: the implementation of an operator on every device; returns the operator, ready to be called."""

    def register(function: Callable):
        _implementations[name] = function
        return getattr(torch.ops.spectralops, name).default

    return register


def register_vmap(name: str) -> Callable:
    """Decorator: the batching rule (info, in_dims, *args) -> (outputs, out_dims) of an operator."""

    def register(rule: Callable) -> Callable:
        torch.library.register_vmap(f"spectralops::{name}", rule, lib=_library)
        return rule

    return register


def differentiated(*tensors: Tensor | None) -> bool:
    """Whether anything may differentiate this call, so that it must go through the autograd.Function.

    `requires_grad` tells of plain autograd alone: inside vmap it hides what an outer level of torch.func follows, a
    tracer has not decided yet, and forward mode does not use it.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def traced_transform(backend: str | None) -> bool:
    """Whether torch.compile is tracing inside torch.func, where it loses the backward of an autograd.Function: what is
    called there must be plain PyTorch, and a backend named by hand is refused.
    """
    inside = torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    if inside and backend not in (None, "reference"):
        raise RuntimeError(f"backend {backend!r} cannot run inside torch.func under torch.compile; only the reference can")
    return inside


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in tensors)


@_define("rational", "rational_forward(Tensor x, Tensor numerator, Tensor denominator, int version, str? backend=None) -> Tensor")
def _(x, numerator, denominator, version, backend=None):
    return x.new_empty(x.shape)


@_define(
    "rational",
    "rational_backward(Tensor grad, Tensor x, Tensor numerator, Tensor denominator, int version, int sign_at_zero,"
    " str? backend=None) -> (Tensor, Tensor, Tensor)"
)
def _(grad, x, numerator, denominator, version, sign_at_zero, backend=None):
    return _like(x, numerator, denominator)


@_define(
    "rational",
    "rational_double_backward(Tensor ggx, Tensor ggnum, Tensor ggden, Tensor grad, Tensor x, Tensor numerator,"
    " Tensor denominator, int version, int sign_at_zero, str? backend=None) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _(ggx, ggnum, ggden, grad, x, numerator, denominator, version, sign_at_zero, backend=None):
    return _like(grad, x, numerator, denominator)


@_define(
    "hadamard",
    "hadamard(Tensor x, Tensor? signs_in, Tensor? signs_out, float scale, int dim, int block, int order_in, int order_out,"
    " bool transpose, str? backend=None) -> Tensor"
)
def _(x, signs_in, signs_out, scale, dim, block, order_in, order_out, transpose, backend=None):
    return x.new_empty(x.shape)


@_define(
    "hadamard",
    "hadamard_quantize(Tensor x, Tensor? signs, float scale, int block, int group, str format, bool round_rotation,"
    " str? backend=None) -> (Tensor, Tensor)"
)
def _(x, signs, scale, block, group, format, round_rotation, backend=None):
    dtype, scale_dtype, packed = FORMATS[format]
    *leading, size = x.shape
    q = x.new_empty((*leading, size // packed), dtype=dtype)
    return q, x.new_empty((*leading, size // group), dtype=scale_dtype)


@_define("hadamard", "srht(Tensor x, Tensor signs, Tensor rows, float scale, str? backend=None) -> Tensor")
def _(x, signs, rows, scale, backend=None):
    return x.new_empty((*x.shape[:-1], rows.shape[0]))


# The basis of a KAN crosses as `kan_basis.BasisCode`: its five numbers, its scalars, its table; `m` is the derivative order.
@_define(
    "kan",
    "kan_forward(Tensor x, Tensor? u, Tensor coeff, Tensor? base_weight, Tensor? bias, Tensor? table, int[] code,"
    " float[] scalars, int base, int m, str precision, str? backend=None) -> Tensor"
)
def _(x, u, coeff, base_weight, bias, table, code, scalars, base, m, precision, backend=None):
    return x.new_empty(x.shape[0], coeff.shape[0])


@_define(
    "kan",
    "kan_dx(Tensor grad, Tensor x, Tensor? u, Tensor coeff, Tensor? base_weight, Tensor? table, int[] code, float[] scalars,"
    " int base, int m, str precision, str? backend=None) -> Tensor"
)
def _(grad, x, u, coeff, base_weight, table, code, scalars, base, m, precision, backend=None):
    return x.new_empty(x.shape)


@_define(
    "kan",
    "kan_dcoeff(Tensor grad, Tensor x, Tensor? u, Tensor? table, int[] code, float[] scalars, int base, int m, str precision,"
    " str? backend=None) -> (Tensor, Tensor)"
)
def _(grad, x, u, table, code, scalars, base, m, precision, backend=None):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    outputs, inputs = grad.shape[1], x.shape[1]
    return x.new_empty(outputs, inputs, code[1], dtype=dtype), x.new_empty(outputs, inputs if base else 0, dtype=dtype)


@_define(
    "wavelet",
    "wavelet_forward(Tensor x, Tensor weight, Tensor scale, Tensor translation, int kind, str? backend=None)"
    " -> Tensor",
)
def _(x, weight, scale, translation, kind, backend=None):
    return x.new_empty(x.shape[0], weight.shape[0])


@_define(
    "wavelet",
    "wavelet_backward(Tensor grad, Tensor x, Tensor weight, Tensor scale, Tensor translation, int kind, str? backend=None)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
def _(grad, x, weight, scale, translation, kind, backend=None):
    return _like(x, weight, scale, translation)


@_define(
    "wavelet",
    "wavelet_double_backward(Tensor ggx, Tensor ggw, Tensor ggs, Tensor ggt, Tensor grad, Tensor x, Tensor weight, Tensor scale,"
    " Tensor translation, int kind, str? backend=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _(ggx, ggw, ggs, ggt, grad, x, weight, scale, translation, kind, backend=None):
    return _like(grad, x, weight, scale, translation)
# `function` is a code of activations_reference; x has its channels in dimension `dim` where params (P, C) are one a channel. A
# parameter gradient that nobody needs is an empty tensor.
@_define("activations", "activation_forward(Tensor x, Tensor params, int function, int dim, str? backend=None) -> Tensor")
def _(x, params, function, dim, backend=None):
    return x.new_empty((*x.shape, 2) if function == 6 else x.shape)


@_define(
    "activations",
    "activation_backward(Tensor grad, Tensor x, Tensor params, int function, int dim, bool need_params, str? backend=None)"
    " -> (Tensor, Tensor)"
)
def _(grad, x, params, function, dim, need_params, backend=None):
    return x.new_empty(x.shape), params.new_empty(params.shape if need_params else (0,))


@_define(
    "activations",
    "activation_double_backward(Tensor ggx, Tensor? ggparams, Tensor grad, Tensor x, Tensor params, int function, int dim,"
    " bool need_params, str? backend=None) -> (Tensor, Tensor, Tensor)"
)
def _(ggx, ggparams, grad, x, params, function, dim, need_params, backend=None):
    return *_like(grad, x), params.new_empty(params.shape if need_params else (0,))


@_define("poly_norm", "poly_norm_forward(Tensor x, Tensor weight, Tensor bias, float eps, str? backend=None) -> Tensor")
def _(x, weight, bias, eps, backend=None):
    return x.new_empty(x.shape)


@_define(
    "poly_norm",
    "poly_norm_backward(Tensor grad, Tensor x, Tensor weight, float eps, str? backend=None)"
    " -> (Tensor, Tensor, Tensor)",
)
def _(grad, x, weight, eps, backend=None):
    return *_like(x, weight), weight.new_empty(1)


@_define(
    "poly_norm",
    "poly_norm_double_backward(Tensor ggx, Tensor ggweight, Tensor ggbias, Tensor grad, Tensor x, Tensor weight, float eps,"
    " str? backend=None) -> (Tensor, Tensor, Tensor)"
)
def _(ggx, ggweight, ggbias, grad, x, weight, eps, backend=None):
    return _like(grad, x, weight)


@_define("fan", "fan_forward(Tensor h, Tensor e, str? backend=None) -> Tensor")
def _(h, e, backend=None):
    return h.new_empty(h.shape[0], 2 * h.shape[1] + e.shape[1])


@_define("fan", "fan_backward(Tensor grad, Tensor h, Tensor e, str? backend=None) -> (Tensor, Tensor)")
def _(grad, h, e, backend=None):
    return _like(h, e)


@_define(
    "fan",
    "fan_double_backward(Tensor ggh, Tensor gge, Tensor grad, Tensor h, Tensor e, str? backend=None)"
    " -> (Tensor, Tensor, Tensor)",
)
def _(ggh, gge, grad, h, e, backend=None):
    return _like(grad, h, e)


@_define("mittag_leffler", "mittag_leffler(Tensor x, float alpha, float beta, int m) -> Tensor")
def _(x, alpha, beta, m):
    return x.new_empty(x.shape)


@_define(
    "fft_conv",
    "fft_conv(Tensor u, Tensor kernel, Tensor? skip, Tensor? gate_in, Tensor? gate_out, Tensor? mask, Tensor? cu_seqlens,"
    " SymInt lag0, SymInt grid, str activation, str precision, bool blh, SymInt length, str? backend=None) -> Tensor"
)
def _(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, lag0, grid, activation, precision, blh, length, backend=None):
    from .ops.fft_conv_reference import new_like_y

    return new_like_y(u, kernel.shape[1], blh)


@_define(
    "fft_conv",
    "fft_conv_backward(Tensor grad, Tensor? u, Tensor? kernel, Tensor? skip, Tensor? gate_in, Tensor? gate_out, Tensor? mask,"
    " Tensor? cu_seqlens, SymInt[] kernel_shape, SymInt lag0, SymInt grid, str activation, str precision, bool blh,"
    " SymInt length, bool[] needs, str? backend=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, lag0, grid, activation, precision, blh, length,
      needs, backend=None):  # fmt: skip
    from .ops.fft_conv_reference import new_like_u, new_like_y

    rows, dtype = grad[:, 0], torch.float64 if grad.dtype == torch.float64 else torch.float32
    makers = (
        lambda: new_like_u(rows, blh),
        lambda: grad.new_empty((*kernel_shape, 2) if grid else tuple(kernel_shape), dtype=dtype),
        lambda: grad.new_empty(grad.shape[1:3], dtype=dtype),
        lambda: new_like_u(rows, blh),
        lambda: new_like_y(rows, grad.shape[1], blh),
        lambda: mask.new_empty(mask.shape),
    )
    return tuple(make() if need else grad.new_empty(0) for make, need in zip(makers, needs))


@_define(
    "spectral_filter",
    "spectral_filter(Tensor x, Tensor weight, Tensor? norm_weight, Tensor? norm_bias, Tensor? residual, float eps, bool conj,"
    " str? backend=None) -> Tensor",
)
def _(x, weight, norm_weight, norm_bias, residual, eps, conj, backend=None):
    return torch.empty_like(x)


@_define(
    "spectral_filter",
    "spectral_filter_gradient(Tensor x, Tensor grad, Tensor? norm_weight, Tensor? norm_bias, float eps, SymInt samples,"
    " SymInt groups, str? backend=None) -> Tensor",
)
def _(x, grad, norm_weight, norm_bias, eps, samples, groups, backend=None):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((samples, x.shape[1], x.shape[2], x.shape[3] // 2 + 1, groups, 2), dtype=dtype)


# A box of modes crosses as the four lists of modes_reference.Modes.
@_define(
    "modes",
    "mode_dft(Tensor x, SymInt[] sizes, SymInt[] starts, SymInt[] shifts, SymInt[] counts, bool last, float scale, bool doubled,"
    " str? backend=None) -> Tensor",
)
def _(x, sizes, starts, shifts, counts, last, scale, doubled, backend=None):
    from .ops.modes import new_spectrum

    return new_spectrum(x, counts, last)


@_define(
    "modes",
    "mode_idft(Tensor spectrum, SymInt[] sizes, SymInt[] starts, SymInt[] shifts, SymInt[] counts, bool last, float scale,"
    " bool doubled, Tensor? skip, Tensor? bias, Tensor? grad, str activation, ScalarType dtype, str? backend=None) -> Tensor",
)
def _(spectrum, sizes, starts, shifts, counts, last, scale, doubled, skip, bias, grad, activation, dtype, backend=None):
    from .ops.modes import new_grid

    return new_grid(spectrum, sizes, last, dtype)


@_define("modes", "mode_mix(Tensor spectrum, Tensor weight, bool adjoint, str? backend=None) -> Tensor")
def _(spectrum, weight, adjoint, backend=None):
    return spectrum.new_empty(spectrum.shape[0], weight.shape[0 if adjoint else 1], spectrum.shape[2], 2)


@_define("modes", "mode_mix_gradient(Tensor spectrum, Tensor grad, str? backend=None) -> Tensor")
def _(spectrum, grad, backend=None):
    return spectrum.new_empty(spectrum.shape[1], grad.shape[1], spectrum.shape[2], 2)


@_define("fourier_mix", "fourier_mix(Tensor x, str? backend=None) -> Tensor")
def _(x, backend=None):
    return x.new_empty(x.shape)


@_define(
    "spectral_mlp",
    "spectral_mlp_core(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, float threshold, str activation, bool mask,"
    " str? backend=None) -> Tensor",
)
def _(x, w1, b1, w2, b2, threshold, activation, mask, backend=None):
    return x.new_empty(x.shape)


@_define(
    "spectral_mlp",
    "spectral_mlp_core_backward(Tensor grad, Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, float threshold, str activation,"
    " bool mask, bool[] needs, str? backend=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _(grad, x, w1, b1, w2, b2, threshold, activation, mask, needs, backend=None):
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((x, w1, b1, w2, b2), needs))


@_define("dct", "dct(Tensor x, int power, bool transposed, str? backend=None) -> Tensor")
def _(x, power, transposed, backend=None):
    return x.new_empty(x.shape)


@_define("dct", "dct_resample(Tensor x, SymInt points, str? backend=None) -> Tensor")
def _(x, points, backend=None):
    return x.new_empty(x.shape[0], points, x.shape[2])


@_define("haar", "haar(Tensor x, int levels, bool inverse, str? backend=None) -> Tensor")
def _(x, levels, inverse, backend=None):
    return x.new_empty(x.shape)


@_define(
    "istft_head",
    "istft_head(Tensor x, Tensor? window, SymInt n, SymInt size, SymInt hop, SymInt start, SymInt length, bool normalize,"
    " str variant, float limit, str? backend=None) -> Tensor",
)
def _(x, window, n, size, hop, start, length, normalize, variant, limit, backend=None):
    return x.new_empty(x.shape[0], length)


@_define(
    "istft_head",
    "istft_head_backward(Tensor grad, Tensor? x, Tensor? window, SymInt n, SymInt size, SymInt frames, SymInt hop, SymInt start,"
    " bool normalize, str variant, float limit, str? backend=None) -> Tensor",
)
def _(grad, x, window, n, size, frames, hop, start, normalize, variant, limit, backend=None):
    return grad.new_empty(grad.shape[0], frames, 2 * (n // 2 + 1))


@_define(
    "fourier_linear",
    "fourier_linear(Tensor x, Tensor spectrum, Tensor indices, Tensor? weight, Tensor? bias, SymInt outputs, SymInt inputs,"
    " float scaling, bool transposed, str? backend=None) -> Tensor",
)
def _(x, spectrum, indices, weight, bias, outputs, inputs, scaling, transposed, backend=None):
    return x.new_empty(x.shape[0], inputs if transposed else outputs)


@_define(
    "fourier_linear",
    "fourier_linear_gradient(Tensor x, Tensor grad, Tensor indices, SymInt outputs, SymInt inputs, float scaling,"
    " str? backend=None) -> Tensor",
)
def _(x, grad, indices, outputs, inputs, scaling, backend=None):
    return x.new_empty(indices.shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


@_define(
    "fourier_linear",
    "fourier_linear_backward(Tensor grad, Tensor x, Tensor spectrum, Tensor indices, Tensor? weight, SymInt outputs,"
    " SymInt inputs, float scaling, str? backend=None) -> (Tensor, Tensor)",
)
def _(grad, x, spectrum, indices, weight, outputs, inputs, scaling, backend=None):
    return x.new_empty(x.shape), x.new_empty(spectrum.shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


@_define(
    "circulant_linear",
    "circulant_linear(Tensor x, Tensor weight, float scaling, bool transposed, str? backend=None) -> Tensor",
)
def _(x, weight, scaling, transposed, backend=None):
    return x.new_empty(x.shape[0], weight.shape[1 if transposed else 0] * weight.shape[2])


@_define(
    "circulant_linear",
    "circulant_linear_gradient(Tensor x, Tensor grad, SymInt block, float scaling, str? backend=None) -> Tensor",
)
def _(x, grad, block, scaling, backend=None):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(grad.shape[1] // block, x.shape[1] // block, block, dtype=dtype)


@_define(
    "sparse_wht_decode",
    "sparse_wht_decode(Tensor values, Tensor? index, Tensor[] tables, int[] sizes, float[] levels, str? backend=None)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _(values, index, tables, sizes, levels, backend=None):
    rows, (groups, _, words), bins, capacity = values.shape[0], tables[0].shape, 1 << sizes[1], sizes[8]
    return (
        tables[0].new_empty((rows, capacity, words)),
        values.new_empty((rows, capacity)),
        values.new_empty(rows, dtype=torch.int32),
        values.new_empty((rows, groups, bins)),
        values.new_empty((rows, 2)),
    )


@_define("walsh_sum", "walsh_sum(Tensor points, Tensor keys, Tensor values, str? backend=None) -> Tensor")
def _(points, keys, values, backend=None):
    return values.new_empty(points.shape[0])

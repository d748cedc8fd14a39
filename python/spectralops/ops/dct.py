"""`dct`, `idct`, `dct_resample`: DCT-II, its inverse, and both with the high coefficients left out between, for any length.

Operators and formulas: dct_reference.py. They are linear, and each other's adjoints: derivatives of every order are
the operators, and nothing is saved.

Fewest bytes: the input and the output once. Fewest operations known: 2.5 log2(N) an element.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor
from torch.autograd import Function

from . import dct_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap
from .batching import rows_or_each
from .plain import formula

NORMS = (None, "ortho")


@implement("dct")
def transform(x, power, transposed, backend=None):
    _check.operand("x", x, 3)
    if x.numel() == 0:
        return x.new_empty(x.shape)
    args = (x.contiguous(), power, transposed)
    return backends.select("dct", backend, *args)(*args)


@implement("dct_resample")
def resample(x, points, backend=None):
    _check.operand("x", x, 3)
    if x.shape[0] == 0 or x.shape[2] == 0:
        return x.new_empty(x.shape[0], points, x.shape[2])
    if x.shape[1] < 1 or points < 1:
        raise ValueError(f"x of {_check.shape(x)} (outer, n, inner) and points = {points} must have a point at least")
    args = (x.contiguous(), points)
    return backends.select("dct_resample", backend, *args)(*args)


register_vmap("dct")(rows_or_each(transform, (0,)))
register_vmap("dct_resample")(rows_or_each(resample, (0,)))


class _Dct(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, power, transposed, backend):
        return transform(x, power, transposed, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.static = inputs[1:]

    @staticmethod
    def backward(ctx, grad):
        power, transposed, backend = ctx.static
        return _Dct.apply(grad, power, not transposed, backend), None, None, None


class _Resample(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, points, backend):
        return resample(x, points, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.size, ctx.backend = inputs[0].shape[1], inputs[2]

    @staticmethod
    def backward(ctx, grad):
        return _Resample.apply(grad, ctx.size, ctx.backend), None, None


for _f in (_Dct, _Resample):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public functions --------------------------------------------------------------------------------------------


def along(x: Tensor, dim: int, run) -> Tensor:
    """run((outer, N, inner)) along one dimension of x."""
    lead, tail = x.shape[:dim], x.shape[dim + 1 :]
    y = run(x.reshape(math.prod(lead), x.shape[dim], math.prod(tail)))
    return y.reshape(*lead, y.shape[1], *tail)


def _line(x, dim, backend) -> int:
    _check.tensor("x", x)
    _check.backend(backend)
    if x.dim() < 1:
        raise ValueError("x must have at least one dimension")
    dim = _check.dimension("dim", dim, x.dim())
    if x.shape[dim] == 0:
        raise ValueError(f"x of {_check.shape(x)} has no points along dimension {dim}")
    return dim


def _transform(x, dim, power, transposed, backend) -> Tensor:
    def run(rows):
        if formula(backend) and rows.numel():
            return spec.dct(rows, power, transposed)
        if differentiated(rows):
            return _Dct.apply(rows, power, transposed, backend)
        return transform(rows, power, transposed, backend)

    return along(x, dim, run)


def dct(x: Tensor, *, dim: int = -1, norm: str | None = "ortho", backend: str | None = None) -> Tensor:
    r"""The cosine transform DCT-II along `dim`, scipy.fft.dct's:

        y_k = s_k 2 sum_n x_n cos(pi k (2 n + 1) / 2N),   s_0 = 1 / sqrt(4N), s_k = 1 / sqrt(2N) with norm "ortho", else 1.

    Args:
        x: any shape, N >= 1 points along `dim`, float16, bfloat16, float32 or float64, any strides, empty allowed.
        norm: "ortho" (the transform is orthonormal) or None.
        backend: None (automatic), "reference", "cpu", "triton", "cuda".

    Returns y of x's shape and dtype, computed in float32 (float64 for float64) and rounded once.

    Derivative: the transposed transform of the incoming gradient, to every order; nothing is saved. Deterministic.
    Autocast: takes what it is given. A row with NaN is NaN throughout. Errors: TypeError for dtypes, ValueError for
    `dim`, `norm` and a length of 0. torch.export and torch.onnx see a product with the N x N matrix; up to 256
    points that is also what runs.

    Source: N. Ahmed et al., Discrete Cosine Transform, 1974; the transform of Transform Once, Dynamic Spectrum Mixer, Fourier
    Transformer.
    """
    dim = _line(x, dim, backend)
    _check.choice("norm", norm, NORMS)
    return _transform(x, dim, int(norm == "ortho"), False, backend)


def idct(x: Tensor, *, dim: int = -1, norm: str | None = "ortho", backend: str | None = None) -> Tensor:
    """The inverse of :func:`dct` with the same `norm`, scipy.fft.idct's. Arguments and the rest as there."""
    dim = _line(x, dim, backend)
    _check.choice("norm", norm, NORMS)
    return _transform(x, dim, 1 if norm == "ortho" else 2, True, backend)


def dct_resample(x: Tensor, m: int, *, dim: int, backend: str | None = None) -> Tensor:
    r"""idct(dct(x)[:m]) of m points along `dim`, both orthonormal: Fourier Transformer's shortening of a sequence.

    The matrix is R = D_m^T D_n[:m]; for m > n the coefficients from n on are 0, and R^T R = 1. A constant c becomes
    c sqrt(n / m), as upstream.

    Args: x as in :func:`dct`; m: points of the result, at least 1.

    Returns a tensor of x's dtype with m points along `dim`. Derivative: the resampling of the incoming gradient to n
    points, R^T. The rest as in :func:`dct`; torch.export sees a product with R.

    Source: Z. He et al., Fourier Transformer, 2023.
    """
    dim = _line(x, dim, backend)
    if _check.integer("m", m) < 1:
        raise ValueError(f"m must be at least 1; got {m}")

    def run(rows):
        if formula(backend) and rows.numel():
            return spec.resample(rows, m)
        return _Resample.apply(rows, m, backend) if differentiated(rows) else resample(rows, m, backend)

    return along(x, dim, run)

"""`haar`, `ihaar`, `wavelet_gate`: the orthonormal Haar transform of one dimension, and gates between it and its inverse.

    a_k = (x_2k + x_2k+1) / sqrt 2,   d_k = (x_2k - x_2k+1) / sqrt 2,   again on a, L levels:   c = (a_L, d_L, d_L-1, .., d_1)

the order of pywt.wavedec. The matrix is orthogonal, so the inverse is the adjoint: derivatives of every order are the two
transforms, and nothing is saved.

Fewest bytes: the input and the output once. Fewest operations: 2 N additions and N products a row.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _check, backends
from .._ops import differentiated, implement, register_vmap
from .batching import rows_or_each
from .dct import along
from .fft_conv_reference import compute_dtype
from .plain import formula

_ROOT = 0.5**0.5


def reference(x: Tensor, levels: int, inverse: bool) -> Tensor:
    """x (outer, N, inner), N divisible by 2^levels -> c, or back; the operator, which writes into its result."""
    if inverse or levels == 0:
        return plain(x, levels, inverse)
    a = x.to(compute_dtype(x))
    c = torch.empty_like(a, memory_format=torch.contiguous_format)
    for _ in range(levels):
        size = a.shape[1] // 2
        even, odd = a.unflatten(1, (size, 2)).unbind(2)
        torch.sub(even, odd, out=c[:, size : 2 * size]).mul_(_ROOT)
        a = (even + odd).mul_(_ROOT)
    c[:, : a.shape[1]] = a
    return c.to(x.dtype)


def plain(x: Tensor, levels: int, inverse: bool) -> Tensor:
    """The formula, which everything can follow."""
    z = x.to(compute_dtype(x))
    if not inverse:
        a, details = z, []
        for _ in range(levels):
            even, odd = a.unflatten(1, (a.shape[1] // 2, 2)).unbind(2)
            a, details = (even + odd) * _ROOT, [(even - odd) * _ROOT, *details]
        return torch.cat([a, *details], 1).to(x.dtype).contiguous()
    size = x.shape[1] >> levels
    a, rest = z[:, :size], z[:, size:]
    for _ in range(levels):
        size = a.shape[1]
        d, rest = rest[:, :size], rest[:, size:]
        a = torch.stack([(a + d) * _ROOT, (a - d) * _ROOT], 2).flatten(1, 2)
    return a.to(x.dtype, copy=levels == 0).contiguous()


def _divisible(name: str, size: int, levels: int) -> None:
    if _check.integer("levels", levels) < 0:
        raise ValueError(f"levels must be at least 0; got {levels}")
    if size % 2**levels:
        raise ValueError(f"{name} has {size} points, which 2^levels = {2**levels} does not divide")


@implement("haar")
def transform(x, levels, inverse, backend=None):
    _divisible("x", x.shape[1], levels)
    if x.numel() == 0:
        return x.new_empty(x.shape)
    args = (x.contiguous(), levels, inverse)
    return backends.select("haar", backend, *args)(*args)


register_vmap("haar")(rows_or_each(transform, (0,)))


class _Haar(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, levels, inverse, backend):
        return transform(x, levels, inverse, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.static = inputs[1:]

    @staticmethod
    def backward(ctx, grad):
        levels, inverse, backend = ctx.static
        return _Haar.apply(grad, levels, not inverse, backend), None, None, None


_Haar.forward.__signature__ = inspect.signature(_Haar.forward)  # Function.apply inspects it on every call otherwise


def _run(name, x, levels, dim, inverse, backend) -> Tensor:
    _check.tensor(name, x)
    _check.backend(backend)
    if x.dim() < 1:
        raise ValueError(f"{name} must have at least one dimension")
    dim = _check.dimension("dim", dim, x.dim())
    _divisible(name, x.shape[dim], levels)

    def run(rows):
        if formula(backend):
            return plain(rows, levels, inverse)
        if differentiated(rows):
            return _Haar.apply(rows, levels, inverse, backend)
        return transform(rows, levels, inverse, backend)

    return along(x, dim, run)


def haar(x: Tensor, levels: int, *, dim: int = -1, backend: str | None = None) -> Tensor:
    r"""The orthonormal Haar transform along `dim`: c = (a_L, d_L, d_{L-1}, .., d_1), approximation first, details
    coarse to fine,

        a_k = (x_{2k} + x_{2k+1}) / sqrt(2),   d_k = (x_{2k} - x_{2k+1}) / sqrt(2),   again on a, `levels` = L times,

    in one tensor of x's shape: numpy.concatenate(pywt.wavedec(x, "haar", level=L)).

    Args:
        x: any shape with 2^L a divisor of the points along `dim`, float16, bfloat16, float32 or float64, any strides,
            empty allowed.
        levels: L >= 0; 0 gives x.
        backend: None (automatic), "reference", "cpu", "triton", "cuda".

    Returns c of x's shape and dtype, computed in float32 (float64 for float64) and rounded once.

    Derivative: the inverse transform of the incoming gradient, to every order; nothing is saved. Deterministic.
    Autocast: takes what it is given. NaN spreads over the coefficients whose support it is in. Errors: TypeError for
    dtypes, ValueError for `dim` and sizes. torch.export and torch.onnx see standard operators.

    Source: A. Haar, 1910; Y. Zhuang et al., WavSpA, 2022; WERSA, 2025.
    """
    return _run("x", x, levels, dim, False, backend)


def ihaar(c: Tensor, levels: int, *, dim: int = -1, backend: str | None = None) -> Tensor:
    """The inverse of :func:`haar`, which is its adjoint. Arguments and the rest as there."""
    return _run("c", c, levels, dim, True, backend)


def bands(size: int, levels: int) -> list[int]:
    """Coefficients of each band: a_L, d_L, .., d_1."""
    return [size >> levels, *(size >> level for level in range(levels, 0, -1))]


def wavelet_gate(x: Tensor, gates: Tensor, *, levels: int, dim: int = -2, backend: str | None = None) -> Tensor:
    r"""y = ihaar(gates haar(x)): a gate a wavelet coefficient, or one a band.

    Args:
        x: (.., N, C) with 2^levels a divisor of N, the points along `dim` (-2, or -1 for (.., C, N)); the rest as in
            :func:`haar`.
        gates: a gate for each band, (L + 1, C), bands as haar orders them; or for each coefficient, (N, C). C may be 1,
            and more dimensions in front broadcast with those of x: gates that depend on the data. With dim = -1 (C, L + 1)
            or (C, N). May stay float32 under 16-bit x.

    Returns y of x's shape and dtype. Computed in float32 (float64 for float64); the coefficients are not rounded between.
    Saved for backward: haar(x) in the compute dtype and the gates. Derivatives of every order.

    Source: as :func:`haar`.
    """
    _check.tensor("x", x)
    _check.tensor("gates", gates)
    _check.coefficients_dtype("gates", gates, "x", x)
    _check.same_device("x", x, gates=gates)
    if x.dim() < 2 or gates.dim() < 2:
        raise ValueError(f"x and gates must have two dimensions at least; got {_check.shape(x)} and {_check.shape(gates)}")
    dim = _check.dimension("dim", dim, x.dim()) - x.dim()
    if dim not in (-1, -2):
        raise ValueError(f"dim must be one of the last two of x; got {dim + x.dim()} for rank {x.dim()}")
    size, given = x.shape[dim], gates.shape[dim]
    _divisible("x", size, levels)
    if given not in (levels + 1, size):
        raise ValueError(f"gates must have levels + 1 = {levels + 1} bands or {size} coefficients along dimension {dim};"
                         f" got {_check.shape(gates)}")  # fmt: skip
    compute = compute_dtype(x)
    gates = gates.to(compute)
    if given != size:
        parts = zip(gates.split(1, dim), bands(size, levels))
        gates = torch.cat([g.expand(*g.shape[:dim], n, *g.shape[dim % g.dim() + 1 :]) for g, n in parts], dim)
    try:
        fits = torch.broadcast_shapes(gates.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"gates of {_check.shape(gates)} do not broadcast to x, {_check.shape(x)}")
    c = haar(x.to(compute), levels, dim=dim, backend=backend)
    return ihaar(c * gates, levels, dim=dim, backend=backend).to(x.dtype)

"""`fourier_mix`: y = Re FFT2(x) over the last two dimensions, FNet's mixing of tokens and channels.

On S x H points, theta = 2 pi (s t / S + h k / H):

    y[s, h] = sum_{t, k} x[t, k] cos(theta),     y[s, h] = y[-s, -h]

so half of the outputs is computed and the other half copied, and the matrix of the transform is symmetric: the
operator is its own adjoint, derivatives of every order are the operator itself, and nothing is saved.

Fewest bytes: 2 B S H elements. Fewest operations known: 2.5 log2(S H) an element.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _check, backends
from .._ops import differentiated, implement, register_vmap
from .batching import rows_or_each
from .fft_conv_reference import compute_dtype
from .plain import constant, exporting, formula, no_autocast, turns

# ---- the reference ---------------------------------------------------------------------------------------------------


POINTS = 1 << 20  # of the samples transformed together: spectra that a cache holds, and few parallel regions


def reference(x: Tensor) -> Tensor:
    """x (B, S, H) -> y, contiguous; a few samples after the others, so that a spectrum stays in cache."""
    dtype, (_, rows, size) = compute_dtype(x), x.shape
    y = x.new_empty(x.shape)
    half = size // 2 + 1
    rest = size - half  # columns half .. size - 1 are columns rest .. 1 with the rows negated
    together = max(1, POINTS // (rows * size))
    for some, out in zip(x.split(together), y.split(together)):
        out[..., :half] = torch.fft.rfft2(some.to(dtype)).real
        mirror = out[..., 1 : 1 + rest].flip(2)
        out[:, 0, half:] = mirror[:, 0]
        out[:, 1:, half:] = mirror[:, 1:].flip(1)
    return y


def _dft(size: int) -> Tensor:
    """cos, sin (2, size, size)."""
    n = torch.arange(size, device="cpu")
    angle = turns(n, n, size)
    return torch.stack([angle.cos(), angle.sin()])


def plain(x: Tensor) -> Tensor:
    """y = C_S x C_H - S_S x S_H where standard real operators alone may appear, else the transform itself; autograd
    follows both."""
    z = x.to(compute_dtype(x))
    if not exporting():
        return torch.fft.fft2(z).real.to(x.dtype).contiguous()
    (cos_s, sin_s), (cos_h, sin_h) = (constant(_dft, (n,), z, z.dtype) for n in x.shape[1:])
    with no_autocast(z):
        return (cos_s @ (z @ cos_h) - sin_s @ (z @ sin_h)).to(x.dtype)


# ---- the operator ----------------------------------------------------------------------------------------------------


@implement("fourier_mix")
def mix(x: Tensor, backend: str | None = None) -> Tensor:
    if x.dim() != 3:
        raise ValueError(f"x must have shape (B, S, H); got {_check.shape(x)}")
    if x.numel() == 0:
        return x.new_empty(x.shape)
    return backends.select("fourier_mix", backend, x)(x)


register_vmap("fourier_mix")(rows_or_each(mix, (0,)))


class _FourierMix(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, backend):
        return mix(x, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return _FourierMix.apply(grad, ctx.backend), None


_FourierMix.forward.__signature__ = inspect.signature(_FourierMix.forward)  # Function.apply inspects it on every call otherwise


def fourier_mix(x: Tensor, *, backend: str | None = None) -> Tensor:
    r"""FNet's mixing, :math:`y = \mathrm{Re}\,\mathrm{FFT2}(x)` over the last two dimensions, unnormalised.

    Args:
        x: (.., S, H), float16, bfloat16, float32 or float64, any sizes and strides, empty allowed.
        backend: None (automatic), "reference", "cpu", "triton", "cuda".

    Returns y of x's shape and dtype, contiguous, computed in float32 (float64 for float64) and rounded once. Sums
    grow as S H: float16 overflows where |y| > 65504.

    Derivative: the same map of the incoming gradient, to every order; nothing is saved. Deterministic. Autocast:
    takes what it is given. NaN or infinity anywhere in a sample makes all of it NaN. Errors: TypeError for dtypes,
    ValueError for rank and backend.

    torch.export and torch.onnx see two products with each of the cosine and sine matrices of S and H points.

    Source: J. Lee-Thorp et al., FNet: Mixing Tokens with Fourier Transforms, 2021.
    """
    _check.tensor("x", x)
    _check.backend(backend)
    if x.dim() < 2:
        raise ValueError(f"x must have shape (.., S, H); got {_check.shape(x)}")
    rows = x if x.dim() == 3 else x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    if rows.numel() == 0:
        y = rows * 1
    elif formula(backend):
        y = plain(rows)
    else:
        y = _FourierMix.apply(rows, backend) if differentiated(rows) else mix(rows, backend)
    return y if x.dim() == 3 else y.reshape(x.shape)

"""`waveft_linear` and `waveft_delta`: the update of WaveFT with the Haar wavelet (db1), as formulas instead of a reconstruction.

D (H, W) is O x I rounded up to even sizes, zero but for n entries, in quarters A, R (right), B (below), C (corner). Then

    dW[o, i] = (s / 2) (A + (-1)^o R + (-1)^i B + (-1)^(o + i) C)[o // 2, i // 2]

one elementwise expression. An entry at (r, c) meets x in x[2 q] +- x[2 q + 1], q = c mod W / 2, with - for r >= H / 2, and y in
y[2 p] = z, y[2 p + 1] = +- z, p = r mod H / 2, with - for c >= W / 2: a few entries need no matrix of O x I at all.

Source: A. Bilican et al., Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets, 2025 (WaveFT).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _check
from .fft_conv_reference import compute_dtype

# Nanoseconds of one core: an entry of a token; a point of the matrix; a multiply-add of its product
ENTRY, MATRIX, PRODUCT = 7.0, 4.0, 0.012


def _checked(spectrum, indices, out_features, in_features, scaling) -> None:
    _check.tensor("spectrum", spectrum)
    _check.tensor("indices", indices, (torch.int64,))
    _check.same_device("spectrum", spectrum, indices=indices)
    if spectrum.dim() != 1 or tuple(indices.shape) != (2, spectrum.shape[0]):
        found = f"{_check.shape(indices)} and {_check.shape(spectrum)}"
        raise ValueError(f"indices must have shape (2, n) for spectrum (n,); got {found}")
    for name, size in (("out_features", out_features), ("in_features", in_features)):
        if _check.integer(name, size) < 1:
            raise ValueError(f"{name} must be positive; got {size}")
    if not isinstance(scaling, (int, float)):
        raise TypeError(f"scaling must be a number; got {type(scaling).__name__}")


def waveft_delta(spectrum: Tensor, indices: Tensor, *, out_features: int, in_features: int, scaling: float) -> Tensor:
    """dW (out_features, in_features) of spectrum (n,) at indices (2, n) int64, rows and columns of D, all distinct.

    In spectrum's dtype, computed in float32 (float64 for float64) and rounded once. Differentiable to every order; deterministic.
    Errors: TypeError for dtypes, ValueError for shapes and devices; an index out of range is torch's error.
    """
    _checked(spectrum, indices, out_features, in_features, scaling)
    h, w = -(-out_features // 2), -(-in_features // 2)
    dense = spectrum.new_zeros(2 * h, 2 * w, dtype=compute_dtype(spectrum))
    dense = dense.index_put((indices[0], indices[1]), spectrum.to(dense.dtype) * (scaling / 2)).view(2, h, 2, w)
    left, right = dense[:, :, 0], dense[:, :, 1]  # (2, h, w)
    rows = torch.stack([left + right, left - right], 2)  # (2, h, 2, w): of the upper and the lower half, by the parity of o
    whole = torch.stack([rows[0] + rows[1], rows[0] - rows[1]], 3).reshape(2 * h, 2 * w)
    return whole[:out_features, :in_features].to(spectrum.dtype)


def waveft_linear(x: Tensor, spectrum: Tensor, indices: Tensor, *, out_features: int, scaling: float) -> Tensor:
    r"""WaveFT's update of a linear layer, :math:`y = x\, dW^T`, without dW where tokens are few.

    Args:
        x: (..., I), float16, bfloat16, float32 or float64. spectrum, indices: as :func:`waveft_delta`; spectrum may stay float32
            under 16-bit x.

    Returns (..., O) in x's dtype, computed in float32 (float64 for float64) and rounded once. Plain PyTorch: derivatives of every
    order, compile, export. The form is chosen by sizes alone; on a GPU it is always the matrix, whose gradient needs
    no atomic sum. Deterministic. Errors: TypeError for dtypes, ValueError for shapes and devices.
    """
    _check.tensor("x", x)
    _check.same_device("x", x, spectrum=spectrum if isinstance(spectrum, Tensor) else None)
    if x.dim() < 1 or x.shape[-1] < 1:
        raise ValueError(f"x must have shape (..., in_features); got {_check.shape(x)}")
    inputs, dtype = x.shape[-1], compute_dtype(x)
    _checked(spectrum, indices, out_features, inputs, scaling)
    _check.coefficients_dtype("spectrum", spectrum, "x", x)
    z, c = x.to(dtype), spectrum.to(dtype)
    tokens, entries = x.numel() // inputs, spectrum.shape[0]
    traced = torch.compiler.is_compiling() or x.device.type != "cpu"  # one graph for every number of tokens
    if traced or tokens * entries * ENTRY > out_features * inputs * (MATRIX + tokens * PRODUCT):
        delta = waveft_delta(c, indices, out_features=out_features, in_features=inputs, scaling=scaling)
        return F.linear(z, delta).to(x.dtype)
    h, w = -(-out_features // 2), -(-inputs // 2)
    row, column = indices
    below, right = (row >= h).long(), (column >= w).long()
    pairs = F.pad(z.reshape(-1, inputs), (0, 2 * w - inputs)).T.unflatten(0, (w, 2))  # (w, 2, T)
    sums = torch.cat([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]])  # (2 w, T)
    terms = sums.index_select(0, column - w * right + w * below) * (c * (scaling / 2))[:, None]
    halves = terms.new_zeros(2 * h, terms.shape[1]).index_add(0, row - h * below + h * right, terms).unflatten(0, (2, h))
    y = torch.stack([halves[0] + halves[1], halves[0] - halves[1]], 1).flatten(0, 1)[:out_features]
    return y.T.reshape(*x.shape[:-1], out_features).to(x.dtype)

"""`spectral_conv`: the layer of Fourier neural operators, in one to three dimensions.

With frequencies f of a box of modes, theta = 2 pi sum_d f_d n_d / N_d on the input grid, theta' the same on the output grid N':

    X[f] = s sum_n x[n] exp(-i theta)          truncated transform, the full spectrum never exists       (mode_dft)
    Y[f] = sum_i X_i[f] W[i, o, f]             a matrix of channels a mode, or its factors               (mode_mix, spectral_contract.py)
    y[n] = act(s' sum_f c_f Re(Y[f] exp(i theta')) + skip + bias)                                        (mode_idft)

c_f = 1 where f_D = 0 or 2 f_D = N'_D, else 2. Each of the three is linear in each argument and its derivative one of the same
kind (modes.py), so derivatives of every order are the same kernels. Saved: the kept modes of x, W, and, with an activation, Y and skip;
never a grid but skip.

Fewest bytes: x, y, W (and skip) once; the kept modes are a few per cent of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _check, backends
from .fft_conv_reference import compute_dtype
from .modes import mode_dft, mode_idft
from .plain import formula, no_autocast
from .spectral_contract import Weight, contract
from .spectral_conv_plan import Box, Plan, plan
from .spectral_filter import as_real

LAYOUTS = ("neuralop", "corner")
NORMS = ("forward", "ortho", "backward")
ACTIVATIONS = (None, "gelu")


# ---- arguments -------------------------------------------------------------------------------------------------------


def _ints(name: str, value, rank: int | None) -> tuple[int, ...]:
    alone = not isinstance(value, (tuple, list))
    value = _check.integers(name, value) * (rank or 1 if alone else 1)
    if any(v < 1 for v in value):
        raise ValueError(f"{name} must be positive; got {value}")
    if rank is not None and len(value) != rank:
        raise ValueError(f"{name} must have {rank} entries, one a dimension; got {value}")
    return value


def parse_weight(weight, rank: int, factorization: str | None) -> Weight:
    """A tensor, or a tuple of factors whose kind shows in their ranks."""
    if not isinstance(weight, (tuple, list)):
        w = as_real("weight", weight)
        if w.dim() not in (rank + 2, rank + 3) or 0 in w.shape[2:]:
            raise ValueError(f"weight must have shape (Ci, Co, m1, .., m{rank}, 2), or (C, m1, .., m{rank}, 2) where separable; got"
                             f" {_check.shape(w)}")  # fmt: skip
        if factorization not in (None, "dense"):
            raise ValueError(f"factorization {factorization!r} takes a tuple of factors as weight; got one tensor")
        return Weight("dense", w.dim() == rank + 2, (w,))
    tensors = tuple(as_real(f"weight[{i}]", t) for i, t in enumerate(weight))
    ranks = [t.dim() - 1 for t in tensors]
    for kind in ("cp", "tucker", "tt") if factorization is None else (factorization,):
        for separable in (False, True):
            order = rank + (1 if separable else 2)
            if _fits(kind, order, tensors, ranks):
                return Weight(kind, separable, tensors)
    raise ValueError("weight must be the factors of a CP (weights (R,), then (size, R) each), Tucker (core, then (size, rank) each)"
                     f" or TT ((r, size, r') each) tensor (Ci, Co, m1, .., m{rank}) or, separable, (C, m1, .., m{rank});"
                     f" got shapes {[_check.shape(t) for t in tensors]}")  # fmt: skip


def _fits(kind: str, order: int, tensors, ranks) -> bool:
    shapes = [t.shape[:-1] for t in tensors]
    if kind == "cp":
        return len(tensors) == order + 1 and ranks == [1] + [2] * order and len({shapes[0][0], *(s[1] for s in shapes[1:])}) == 1
    if kind == "tucker":
        return len(tensors) == order + 1 and ranks == [order] + [2] * order and tuple(shapes[0]) == tuple(s[1] for s in shapes[1:])
    if kind != "tt":
        raise ValueError(f"factorization must be None, 'dense', 'cp', 'tucker' or 'tt'; got {kind!r}")
    joined = all(a[2] == b[0] for a, b in zip(shapes, shapes[1:])) if ranks == [3] * order else False
    return len(tensors) == order and joined and shapes[0][0] == 1 and shapes[-1][2] == 1


def _scales(norm: str, sizes, out_sizes) -> tuple[float, float]:
    n, m = math.prod(sizes), math.prod(out_sizes)
    return {"forward": (1 / n, 1.0), "backward": (1.0, 1 / m), "ortho": (n**-0.5, m**-0.5)}[norm]


def _skip(skip: Tensor | None, x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A tensor to add, or a 1x1 convolution of x, of the result's shape."""
    if skip is None:
        return None
    _check.tensor("skip", skip)
    _check.same_device("x", x, skip=skip)
    if skip.dim() == len(shape) and tuple(skip.shape) == shape:
        return skip
    matrix = skip.reshape(skip.shape[:2]) if skip.dim() >= 2 and math.prod(skip.shape[2:]) == 1 else None
    if matrix is None or tuple(matrix.shape) != (shape[1], x.shape[1]) or x.shape[2:] != shape[2:]:
        raise ValueError(f"skip must have the result's shape {shape}, or be the matrix ({shape[1]}, {x.shape[1]}) of a 1x1 convolution of x"
                         f" on an unchanged grid; got {_check.shape(skip)}")  # fmt: skip
    _check.coefficients_dtype("skip", skip, "x", x)
    with no_autocast(x):
        return torch.matmul(matrix.to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:])


# ---- the layer -------------------------------------------------------------------------------------------------------


def spectral_conv(
    x: Tensor,
    weight: Tensor | tuple[Tensor, ...],
    *,
    modes: int | tuple[int, ...],
    norm: str = "forward",
    output_size: int | tuple[int, ...] | None = None,
    layout: str = "neuralop",
    skip: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
    factorization: str | None = None,
    compat: str | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Truncated spectral convolution :math:`y = \mathrm{act}(\mathcal F^{-1}(W_f \mathcal F x) + \mathrm{skip} + b)`, the layer of an FNO.

    Args:
        x: (.., Ci, n_1, .., n_D), D = 1, 2 or 3 (as `modes` says; one leading dimension where that is a number), any sizes, any strides; float16, bfloat16, float32 or float64.
        weight: (Ci, Co, m_1, .., m_D // 2 + 1, 2), or complex without the 2; (C, m_1, .., m_D // 2 + 1, 2): separable, one number a
            channel and mode. A tuple: the factors of such a tensor, CP (weights, factors..), Tucker (core, factors..) or TT (cores..)
            in tensorly's order, never multiplied out. Any float dtype up to x's compute dtype; sums are float32 (float64).
        modes: kept modes along each dimension, as the weight has them or fewer: those nearest to 0 are used, and of them those that
            the grids carry. With layout "corner" the rows on either side of 0, and the columns.
        norm: "forward", "backward" or "ortho", that of the two transforms.
        output_size: the grid of the result, default that of x. Frequencies stay what they are: low ones of the input are the same low
            ones of the result. compat="neuralop" places them as neuraloperator 2.0.0 does, which moves negative ones (and the rows of
            odd grids by one), and cuts a weight down to fewer modes as it does.
        layout: which frequency row r of the weight has along all dimensions but the last: "neuralop": r - m // 2; "corner": 0 .. m / 2 - 1,
            then -m / 2 .. -1. The last dimension has 0 .. m_D // 2 in both.
        skip: a tensor of the result's shape that is added, or a (Co, Ci) matrix: a 1x1 convolution of x, added. bias: (Co,), or with
            sizes of 1 behind. activation: None or "gelu" (erf form), of the sum.
        factorization: None tells CP, Tucker and TT apart by the factors' shapes; or its name.
        backend: None (automatic), "reference", "cpu", "triton".

    Returns (.., Co, n'_1, .., n'_D) in x's dtype, computed in float32 (float64 for float64), rounded once. Imaginary parts at frequency
    0 and n'_D / 2 of the last dimension are projected out on every device. NaN in a sample stays in it.
    Saved for backward: the kept modes of x, the weight; with an activation also Y's modes and skip. Derivatives of every order
    (the second too) are the same kernels. Deterministic. Autocast: takes what it is given.
    Errors: TypeError for dtypes, ValueError for shapes, sizes, devices.

    Source: Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021; J. Kossaifi et al.,
    Multi-Grid Tensorized Fourier Neural Operator, 2023 (TFNO).
    """
    _check.tensor("x", x)
    rank = x.dim() - 2
    if isinstance(modes, (tuple, list)) and 0 < len(modes) < rank:  # any leading batch shape
        rank = len(modes)
        rows = x.reshape(math.prod(x.shape[: -rank - 1]), *x.shape[-rank - 1 :])
        if skip is not None and skip.dim() == x.dim():
            skip = skip.reshape(math.prod(skip.shape[: -rank - 1]), *skip.shape[-rank - 1 :])
        y = spectral_conv(rows, weight, modes=modes, norm=norm, output_size=output_size, layout=layout, skip=skip, bias=bias,
                          activation=activation, factorization=factorization, compat=compat, backend=backend)  # fmt: skip
        return y.reshape(*x.shape[: -rank - 1], *y.shape[1:])
    if not 1 <= rank <= 3 or 0 in x.shape[2:]:
        raise ValueError(f"x must have shape (B, C, n1, .., nD) with D = 1, 2 or 3 and no empty dimension; got {_check.shape(x)}")
    modes = _ints("modes", modes, rank)
    _check.choice("norm", norm, NORMS)
    _check.choice("layout", layout, LAYOUTS)
    _check.choice("activation", activation, ACTIVATIONS)
    _check.choice("compat", compat, (None, "neuralop"))
    if backend is not None and backend not in backends.NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, backends.NAMES))}; got {backend!r}")
    if compat and layout != "neuralop":
        raise ValueError(f"compat='neuralop' has layout 'neuralop'; got {layout!r}")
    w = parse_weight(weight, rank, factorization)
    for i, t in enumerate(w.tensors):
        _check.coefficients_dtype("weight", t, "x", x)
        _check.same_device("x", x, **{f"weight[{i}]": t})
    channels = w.sizes()[: -rank]
    if channels[0] != x.shape[1]:
        raise ValueError(f"weight takes {channels[0]} channels, x has {x.shape[1]}")
    if layout == "corner" and any(m % 2 for m in w.sizes()[-rank:-1]):
        raise ValueError(f"with layout 'corner' the weight has as many positive as negative rows; got {w.sizes()[-rank:]} modes")
    sizes = tuple(x.shape[2:])
    out_sizes = sizes if output_size is None else _ints("output_size", output_size, rank)
    shape = (x.shape[0], channels[-1], *out_sizes)
    skip = _skip(skip, x, shape)
    if bias is not None:
        _check.tensor("bias", bias)
        _check.same_device("x", x, bias=bias)
        _check.coefficients_dtype("bias", bias, "x", x)
        if bias.numel() != channels[-1] or bias.dim() < 1 or bias.shape[0] != channels[-1]:
            raise ValueError(f"bias must have shape ({channels[-1]},); got {_check.shape(bias)}")
        bias = bias.reshape(-1).to(compute_dtype(x))
    placed = plan(w.sizes()[-rank:], modes, layout, compat is not None, sizes, tuple(out_sizes))
    how = {"last": False, "backend": backend, "plain": formula(backend)}
    return _layer(x, w, skip, bias, activation or "identity", placed, _scales(norm, sizes, out_sizes), how)


def _layer(x: Tensor, w: Weight, skip, bias, activation: str, placed: Plan, scales: tuple[float, float], how: dict) -> Tensor:
    rank = len(placed.counts)
    grid = x.reshape(*x.shape[:2], *(1,) * (3 - rank), *x.shape[2:])
    spectrum = mode_dft(grid, placed.grid, scale=scales[0], doubled=False, **how)
    with no_autocast(x):  # the products with factors
        w = w.narrowed(placed.runs)
        y = contract(spectrum.reshape(*spectrum.shape[:2], *placed.counts, 2), w, how["backend"], how["plain"])
    ones = (*y.shape[:2], *(1,) * (3 - rank))
    skip = None if skip is None else skip.reshape(*ones, *skip.shape[2:])
    total, out = None, {"scale": scales[1], "doubled": True, **how}
    for box in placed.boxes[:-1]:  # each adds to the last
        total = mode_idft(_part(y, box).reshape(*ones, *box.counts, 2), box.modes, skip=total, dtype=y.dtype, **out)
    box = placed.boxes[-1]
    part = _part(y, box) if box.counts else y.new_zeros(*y.shape[:2], *(1,) * rank, 2)
    skip = skip if total is None else total if skip is None else total + skip
    z = mode_idft(part.reshape(*ones, *part.shape[2:]), box.modes, skip=skip, bias=bias, activation=activation, dtype=x.dtype, **out)
    return z.reshape(*z.shape[:2], *z.shape[5 - rank :])


def _part(y: Tensor, box: Box) -> Tensor:
    for d, (start, count) in enumerate(zip(box.starts, box.counts)):
        if count != y.shape[2 + d]:
            y = y.narrow(2 + d, start, count)
    return y

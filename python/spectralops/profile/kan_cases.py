"""KAN layers in the registry. The baseline is the product of the materialised basis, as efficient-kan has it, not pykan's sums.

The floor of a spline layer is the arithmetic that cannot be left out, order + 1 functions an input and the base branch, at the
rate of torch's own matrix product: N x I (order + 2) times I (order + 2) x O. That of a dense basis has all K functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .cases import CASES, Case, Goal, Inputs, _with_gradients
from .. import basis as B
from ..ops.kan import kan_linear


def spline_basis(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """Cox-de Boor over all intervals, (N, I) and knots (I, T) -> (N, I, T - order - 1)."""
    x = x[..., None]
    b = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for p in range(1, order + 1):
        rise = (x - knots[:, : -p - 1]) / (knots[:, p:-1] - knots[:, : -p - 1])
        fall = (knots[:, p + 1 :] - x) / (knots[:, p + 1 :] - knots[:, 1:-p])
        b = rise * b[..., :-1] + fall * b[..., 1:]
    return b


def _knots(grid: int, order: int, like: Tensor, inputs: int) -> Tensor:
    steps = torch.arange(-order, grid + order + 1, device=like.device, dtype=like.dtype)
    return (steps * (2 / grid) - 1).expand(inputs, -1).contiguous()


def eager_spline(grid: int, order: int) -> Callable[..., Tensor]:
    def call(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
        b = spline_basis(x, _knots(grid, order, x, x.shape[1]), order)
        return F.linear(F.silu(x), w.to(x.dtype)) + F.linear(b.flatten(1), c.flatten(1).to(x.dtype))

    return call


def eager_chebyshev(degree: int) -> Callable[..., Tensor]:
    def call(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
        z = torch.tanh(x)
        t = [torch.ones_like(z), z]
        for _ in range(degree - 1):
            t.append(2 * z * t[-1] - t[-2])
        return F.linear(F.silu(x), w) + F.linear(torch.stack(t, -1).flatten(1), c.flatten(1))

    return call


def eager_fourier(terms: int) -> Callable[..., Tensor]:
    def call(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
        a = x[..., None] * torch.arange(1, terms + 1, device=x.device, dtype=x.dtype)
        return F.linear(F.silu(x), w) + F.linear(torch.cat([a.cos(), a.sin()], -1).flatten(1), c.flatten(1))

    return call


def eager_rbf(num: int) -> Callable[..., Tensor]:
    def call(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
        u = (x[..., None] - torch.linspace(-2, 2, num, device=x.device, dtype=x.dtype)) * ((num - 1) / 4)
        return F.linear(F.silu(x), w) + F.linear(torch.exp(-u * u).flatten(1), c.flatten(1))

    return call


def _inputs(rows: int, inputs: int, outputs: int, size: int, dtype: torch.dtype, gradient: bool):
    def make(device: torch.device) -> Inputs:
        g = torch.Generator().manual_seed(0)
        draw = lambda *s: torch.randn(*s, generator=g)  # noqa: E731
        x = (draw(rows, inputs) * 0.5).to(device, dtype)
        c, w = (draw(outputs, inputs, size) / math.sqrt(inputs * size)).to(device), (draw(outputs, inputs) / inputs**0.5).to(device)
        if not gradient:
            return x, c, w
        return (*(t.requires_grad_() for t in (x, c, w)), draw(rows, outputs).to(device, dtype))

    return make


def _product(rows: int, inner: int, outputs: int) -> Callable[..., tuple[Tensor, ...]]:
    """The bare product (rows, inner) x (inner, outputs) in x's dtype; with a gradient, the two products of its backward too."""
    made: dict = {}

    def call(x: Tensor, c: Tensor, w: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
        key = (x.device, x.dtype)
        if key not in made:
            made[key] = tuple(torch.randn(s, device=x.device).to(x.dtype) for s in ((rows, inner), (inner, outputs)))
        a, b = made[key]
        return (a @ b,) if grad is None else (a @ b, grad @ b.T, a.T @ grad)

    return call


def _add(name, basis, eager, sizes, dtype=torch.float32, *, least=(), goals=((), ()), devices=("cpu", "cuda"), contenders=None):
    """Forward, and forward + backward. `least`: functions an input that cannot be left out, the base branch included."""
    rows, inputs, outputs = sizes
    label = f"{name}, {inputs} -> {outputs}, batch {rows}, {str(dtype).removeprefix('torch.')}"
    layer = lambda x, c, w: kan_linear(x, c, basis, base_weight=w)  # noqa: E731
    parameters = 4 * outputs * inputs * (basis.size + 1)
    single = lambda f: lambda *i: (f(*i),)  # noqa: E731
    gemm, floor = _product(rows, inputs * (basis.size + 1), outputs), _product(rows, inputs * least, outputs)
    for gradient in (False, True):
        wrap = (lambda f: _with_gradients(f, 3)) if gradient else single
        case = Case(
            "kan_linear",
            f"{label}, forward{' + backward' if gradient else ''}",
            _inputs(rows, inputs, outputs, basis.size, dtype, gradient),
            {"ours": wrap(layer), "eager": wrap(eager), "gemm": gemm, "floor": floor},
            wrap(eager),
            (3 if gradient else 1) * rows * (inputs + outputs) * dtype.itemsize + (3 if gradient else 1) * parameters,
            (3 if gradient else 1) * 2 * rows * inputs * outputs * least,
            list(goals[gradient]),
            devices=devices,
            saved=layer if gradient else None,
        )
        for extra, f in (contenders or {}).items():
            case.contenders[extra] = wrap(f)
        CASES.append(case)


def _grid_5(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
    """The same layer at grid 5, on a slice of the coefficients: what the wide grid's time is compared with."""
    return kan_linear(x, c[..., :8], B.BSpline(5, 3), base_weight=w)


def register() -> None:
    forward = (
        Goal("ours", "gemm", most=1.5, device="cpu"),
        Goal("eager", "ours", least=6, least_kept=4, device="cpu"),
        Goal("compile", "ours", least=1),
    )
    both = (
        Goal("eager", "ours", least=5, least_kept=3, device="cpu"),
        Goal("compile", "ours", least=1.3),
        Goal("saved", "x", most=1.1),
    )
    wide = (Goal("ours", "grid 5", most=1.5),)
    spline, wider = B.BSpline(5, 3), B.BSpline(50, 3)
    _add("kan B-spline 5/3", spline, eager_spline(5, 3), (4096, 256, 256), least=5, goals=(forward, both))
    _add("kan B-spline 50/3", wider, eager_spline(50, 3), (4096, 256, 256), least=5,
         goals=(wide, (*wide, Goal("saved", "x", most=1.1))), devices=("cpu",), contenders={"grid 5": _grid_5})  # fmt: skip
    _add("kan B-spline 5/3", spline, eager_spline(5, 3), (4096, 256, 256), torch.bfloat16, least=5)
    _add("kan Chebyshev 7", B.Chebyshev(7), eager_chebyshev(7), (4096, 256, 256), least=9)
    _add("kan RBF 8", B.RBF(8), eager_rbf(8), (4096, 256, 256), least=9)
    _add("kan Fourier 8", B.Fourier(8), eager_fourier(8), (4096, 128, 128), least=17)
    narrow = (Goal("compile", "ours", least=3, device="cuda"),)
    _add("kan B-spline 5/3", spline, eager_spline(5, 3), (65536, 64, 64), least=5, goals=(narrow, narrow))
    for dtype in (torch.bfloat16, torch.float32):
        big = (Goal("ours", "gemm", most=1 / 0.6),) if dtype == torch.bfloat16 else ()
        _add("kan B-spline 5/3", spline, eager_spline(5, 3), (8192, 1024, 1024), dtype, least=9, goals=(big, big), devices=("cuda",))


register()

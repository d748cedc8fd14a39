"""Spectral gating and mixing in the registry. Baselines are the published layers as a good user writes them; in 16 bit they go
through float32, since torch's transforms take nothing narrower on a CPU and powers of two alone on a GPU.

Floors move the fewest bytes: of a filter x in, y out, forward, and twice that backward; of an FNO layer the grids and the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .cases import CASES, Case, Goal, Inputs, _with_gradients
from ..ops.spectral_conv import spectral_conv
from ..ops.spectral_filter import spectral_filter


def _single(f: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *i: (f(*i),)


def _wrapped(f, count: int, gradient: bool):
    return _with_gradients(f, count) if gradient else _single(f)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- the global filter -----------------------------------------------------------------------------------------------


def eager_filter(x: Tensor, w: Tensor) -> Tensor:
    """GFNet's: x (B, h, w, C)."""
    z = torch.fft.rfft2(x.to(w.dtype), dim=(1, 2), norm="ortho") * torch.view_as_complex(w)
    return torch.fft.irfft2(z, s=x.shape[1:3], dim=(1, 2), norm="ortho").to(x.dtype)


def _copies(x: Tensor, w: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
    copy = x.detach().clone()
    return (copy,) if grad is None else (copy, torch.add(x.detach(), grad))


def _filter_inputs(shape, dtype: torch.dtype, gradient: bool) -> Callable[[torch.device], Inputs]:
    def make(device: torch.device) -> Inputs:
        g = torch.Generator().manual_seed(0)
        x = torch.randn(shape, generator=g).to(device, dtype)
        w = torch.randn(shape[1], shape[2] // 2 + 1, shape[3], 2, generator=g).to(device)
        if not gradient:
            return x, w
        return x.requires_grad_(), w.requires_grad_(), torch.randn(shape, generator=g).to(device, dtype)

    return make


def _filter(shape, dtype=torch.float32, goals=((), ()), devices=("cpu", "cuda"), gradients=(False, True)) -> None:
    items, points = math.prod(shape), shape[1] * shape[2]
    weights = 8 * shape[1] * (shape[2] // 2 + 1) * shape[3]
    for gradient in gradients:
        CASES.append(
            Case(
                "spectral_filter",
                f"spectral_filter {shape}, {_name(dtype)}, forward{' + backward' if gradient else ''}",
                _filter_inputs(shape, dtype, gradient),
                {"ours": _wrapped(spectral_filter, 2, gradient), "eager": _wrapped(eager_filter, 2, gradient), "floor": _copies},
                _wrapped(eager_filter, 2, gradient),
                (5 if gradient else 2) * items * dtype.itemsize + (3 if gradient else 1) * weights,
                int((5 if gradient else 2) * 2.5 * items * math.log2(points)),
                list(goals[gradient]),
                devices=devices,
                saved=spectral_filter if gradient else None,
            )
        )


# ---- the layer of an FNO ---------------------------------------------------------------------------------------------


def eager_fno(x: Tensor, w: Tensor) -> Tensor:
    """The usual code: two corners of rfft2 (B, C, h, w) times a matrix a mode, zeros elsewhere; w (Ci, Co, 2 m, m', 2)."""
    h, width = x.shape[2:]
    rows, columns = w.shape[2] // 2, w.shape[3]
    a, b = torch.view_as_complex(w).split(rows, 2)
    z = torch.fft.rfft2(x.to(w.dtype), norm="forward")
    out = torch.zeros(x.shape[0], w.shape[1], h, width // 2 + 1, dtype=z.dtype, device=x.device)
    out[:, :, :rows, :columns] = torch.einsum("bixy,ioxy->boxy", z[:, :, :rows, :columns], a)
    out[:, :, -rows:, :columns] = torch.einsum("bixy,ioxy->boxy", z[:, :, -rows:, :columns], b)
    return torch.fft.irfft2(out, s=(h, width), norm="forward").to(x.dtype)


def fno(x: Tensor, w: Tensor) -> Tensor:
    return spectral_conv(x, w, modes=(w.shape[2] // 2, w.shape[3]), layout="corner")


def _conv_inputs(batch, channels, side, modes, dtype, gradient) -> Callable[[torch.device], Inputs]:
    def make(device: torch.device) -> Inputs:
        g = torch.Generator().manual_seed(0)
        x = torch.randn(batch, channels, side, side, generator=g).to(device, dtype)
        w = (torch.randn(channels, channels, modes, modes // 2 + 1, 2, generator=g) / channels).to(device)
        if not gradient:
            return x, w
        return x.requires_grad_(), w.requires_grad_(), torch.randn(batch, channels, side, side, generator=g).to(device, dtype)

    return make


def _conv(batch, channels, side, modes, dtype=torch.float32, goals=((), ()), devices=("cpu", "cuda"), gradients=(False, True)) -> None:
    items, kept = batch * channels * side * side, modes * (modes // 2 + 1)
    weights = 8 * channels * channels * kept
    # thin products: the last dimension, then the other, there and back, and the matrices of the modes
    flops = 2 * (4 * items * (modes // 2 + 1) + 8 * items // side * kept) + 8 * batch * channels * channels * kept
    for gradient in gradients:
        CASES.append(
            Case(
                "spectral_conv",
                f"spectral_conv {channels} channels, batch {batch}, {side} x {side}, {modes} modes, {_name(dtype)},"
                f" forward{' + backward' if gradient else ''}",
                _conv_inputs(batch, channels, side, modes, dtype, gradient),
                {"ours": _wrapped(fno, 2, gradient), "eager": _wrapped(eager_fno, 2, gradient), "floor": _copies},
                _wrapped(eager_fno, 2, gradient),
                (4 if gradient else 2) * items * dtype.itemsize + (3 if gradient else 1) * weights,
                (3 if gradient else 1) * flops,
                list(goals[gradient]),
                devices=devices,
                saved=fno if gradient else None,
            )
        )


def register() -> None:
    compiled, far = Goal("compile", "ours", least=1), Goal("floor", "ours", least=0.6, device="cuda")
    _filter((32, 14, 14, 384), goals=((Goal("eager", "ours", least=2, device="cpu"), compiled),
                                      (Goal("eager", "ours", least=2.5, device="cpu"), compiled, Goal("saved", "x", most=1.1))))  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        _filter((128, 14, 14, 384), dtype, ((far,), ()), devices=("cuda",))
        _filter((128, 56, 56, 64), dtype, ((far,), ()), devices=("cuda",))
    _filter((8, 56, 56, 64), devices=("cpu",), gradients=(False,))
    _filter((32, 14, 14, 384), torch.bfloat16, devices=("cpu",), gradients=(False,))
    _filter((2, 90, 180, 64), devices=("cpu",), gradients=(False,))
    for side, least in ((128, 1.5), (256, 2.5)):
        goals = (Goal("eager", "ours", least=least, device="cpu"), compiled)
        _conv(4, 64, side, 16, goals=(goals, goals), devices=("cpu",))
    for dtype in (torch.float32, torch.bfloat16):
        _conv(16, 64, 128, 16, dtype, ((far, Goal("eager", "ours", least=3, device="cuda")), ()), devices=("cuda",))


register()

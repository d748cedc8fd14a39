"""Learnable activations and Wav-KAN's layer in the registry: the formula as a user writes it, and a copy as the floor."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .cases import CASES, Case, Goal, Inputs, _with_gradients
from ..ops.activations import sine, snake
from ..ops.poly_norm import poly_norm
from ..ops.wavelet import wavelet_linear


def _eager_snake(x: Tensor, alpha: Tensor) -> Tensor:
    a = alpha[:, None].to(x.dtype)
    return x + torch.sin(a * x) ** 2 / a


def _eager_poly_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """In the compute dtype, as PolyCom's training code has it: norm(u) = u rsqrt(mean u^2 + eps)."""
    z = x if x.dtype == torch.float64 else x.float()
    norm = lambda u: u * torch.rsqrt((u * u).mean(-1, keepdim=True) + 1e-6)  # noqa: E731
    return (w[0] * norm(z) + w[1] * norm(z * z) + w[2] * norm(z * z * z) + b).to(x.dtype)


def _eager_wavelet(x: Tensor, w: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """The Mexican hat on every edge, (N, O, I)."""
    u = (x[:, None, :] - t) / s
    q = u * u
    return (w * (2 / (math.sqrt(3) * math.pi**0.25)) * (q - 1) * torch.exp(-0.5 * q)).sum(-1)


def _draw(shapes: tuple[tuple[int, ...], ...], positive: tuple[int, ...], dtype: torch.dtype, out: tuple[int, ...] | None):
    """x in `dtype`, parameters float32 (those in `positive` near one), and with `out` gradients and an incoming gradient."""

    def make(device: torch.device) -> Inputs:
        g = torch.Generator().manual_seed(0)
        tensors = [torch.randn(s, generator=g) for s in shapes]
        for i in positive:
            tensors[i] = 0.5 + tensors[i].abs()
        tensors = [t.to(device, dtype if i == 0 else torch.float32) for i, t in enumerate(tensors)]
        if out is None:
            return tuple(tensors)
        return (*(t.requires_grad_() for t in tensors), torch.randn(out, generator=g).to(device, dtype))

    return make


def _add(op: str, name: str, ours: Callable, eager: Callable, shapes, positive, dtype, out, operations, goals=()):
    for gradient in (False, True):
        moved = math.prod(shapes[0]) + math.prod(out) * (2 if gradient else 1) + (2 * math.prod(shapes[0]) if gradient else 0)
        wrap = (lambda f: _with_gradients(f, len(shapes))) if gradient else (lambda f: lambda *i: (f(*i),))
        copy = (lambda x, *r: (x.detach().clone(), x.detach() + r[-1])) if gradient else (lambda x, *r: (x.clone(),))
        if shapes[0] != out:
            copy = lambda x, *r: (x.detach().clone(),)  # noqa: E731
        CASES.append(
            Case(
                op,
                f"{name} {str(dtype).removeprefix('torch.')}, forward{' + backward' if gradient else ''}",
                _draw(shapes, positive, dtype, out if gradient else None),
                {"ours": wrap(ours), "eager": wrap(eager), "floor": copy},
                wrap(eager),
                moved * dtype.itemsize,
                operations * (3 if gradient else 1),
                list(goals),
            )
        )


def register() -> None:
    faster = (Goal("compile", "ours", least=1),)
    signal = (16, 256, 2048)
    items = math.prod(signal)
    for dtype in (torch.float32, torch.bfloat16):
        _add("snake", f"snake {signal}, a channel each", lambda x, a: snake(x, a, dim=1), _eager_snake, (signal, signal[1:2]), (1,),
             dtype, signal, 8 * items, faster)  # fmt: skip
    omega = lambda x: torch.sin(30 * x)  # noqa: E731
    _add("sine", f"sine {signal}", lambda x: sine(x, 30.0), omega, (signal,), (), torch.float32, signal, 6 * items, faster)
    rows = (2048, 4096)
    _add("poly_norm", f"poly_norm {rows}", poly_norm, _eager_poly_norm, (rows, (3,), (1,)), (), torch.bfloat16, rows, 12 * math.prod(rows),
         faster)  # fmt: skip
    edges = ((128, 128),) * 3
    wavelet = lambda x, w, s, t: wavelet_linear(x, w, s, t, kind="mexican_hat")  # noqa: E731
    _add("wavelet_linear", "wavelet_linear mexican hat, 128 -> 128, batch 2048,", wavelet, _eager_wavelet, ((2048, 128), *edges), (2,),
         torch.float32, (2048, 128), 15 * 2048 * 128 * 128, faster)  # fmt: skip


register()

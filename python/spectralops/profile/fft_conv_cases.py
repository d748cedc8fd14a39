"""Long convolutions in the registry. The baseline is the rfft chain a good user writes, real transforms of 2 L, gates around it.

The floor moves the fewest bytes: u and both gates read, the result written; backward the incoming gradient, u and the gates read, three
gradients written.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .cases import CASES, Case, Goal, Inputs, _with_gradients
from ..ops.fft_conv import fft_conv


def eager_gated(u: Tensor, g: Tensor, w: Tensor, k: Tensor, d: Tensor) -> Tensor:
    """w (conv(g u, k) + d g u), (B, H, L); 16-bit data goes through float32 transforms, which torch has everywhere."""
    length, v = u.shape[-1], u * g
    n = length + min(length, k.shape[-1])
    spectra = torch.fft.rfft(v.to(k.dtype), n) * torch.fft.rfft(k[..., :length], n)
    return (w * (torch.fft.irfft(spectra, n)[..., :length] + v * d[:, None])).to(u.dtype)


def eager_plain(u: Tensor, k: Tensor) -> Tensor:
    length = u.shape[-1]
    n = length + min(length, k.shape[-1])
    spectra = torch.fft.rfft(u.to(k.dtype), n) * torch.fft.rfft(k[..., :length], n)
    return torch.fft.irfft(spectra, n)[..., :length].to(u.dtype)


def eager_blh(u: Tensor, k: Tensor) -> Tensor:
    return eager_plain(u.transpose(1, 2), k).transpose(1, 2).contiguous()


def gated(u: Tensor, g: Tensor, w: Tensor, k: Tensor, d: Tensor) -> Tensor:
    return fft_conv(u, k, skip=d, gate_in=g, gate_out=w)


def _moved(u: Tensor, g: Tensor, w: Tensor, k: Tensor, d: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
    """Four tensors' bytes; with a gradient seven more."""
    forward = torch.addcmul(u.detach(), g.detach(), w.detach())
    return (forward,) if grad is None else (forward, u.detach() * grad, torch.addcmul(grad, g.detach(), w.detach()))


def _inputs(shape, size: int, dtype: torch.dtype, gates: bool, gradient: bool, blh: bool = False) -> Callable[[torch.device], Inputs]:
    b, h, length = shape

    def make(device: torch.device) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        draw = lambda *s: torch.randn(*s, generator=generator)  # noqa: E731
        rows = (b, length, h) if blh else shape
        u, g, w = (draw(*rows).to(device, dtype) for _ in range(3))
        k = (draw(h, size) * torch.exp(-torch.arange(size) * (4 / size)) / math.sqrt(size)).to(device)
        found = (u, g, w, k, draw(h).to(device)) if gates else (u, k)
        if not gradient:
            return found
        return (*(t.requires_grad_() for t in found), draw(*rows).to(device, dtype))

    return make


def _operations(shape, size: int, gradient: bool) -> int:
    """Complex transforms of n / 2 points, n = L + K: two a row forward, three more backward, and three of each kernel."""
    b, h, length = shape
    points = (length + min(size, length)) // 2
    return int((5 * b + 3 if gradient else 2 * b + 1) * h * 5 * points * math.log2(max(points, 2)))


def _add(shape, size=None, dtype=torch.float32, *, goals=((), ()), devices=("cpu", "cuda"), gradients=(False, True)) -> None:
    size = size or shape[-1]
    label = f"fft_conv gated, {shape}, K {size}, {str(dtype).removeprefix('torch.')}"
    items = shape[0] * shape[1] * shape[2] * dtype.itemsize
    for gradient in gradients:
        wrap = (lambda f: _with_gradients(f, 5)) if gradient else (lambda f: lambda *i: (f(*i),))
        CASES.append(
            Case(
                "fft_conv",
                f"{label}, forward{' + backward' if gradient else ''}",
                _inputs(shape, size, dtype, True, gradient),
                {"ours": wrap(gated), "eager": wrap(eager_gated), "floor": _moved},
                wrap(eager_gated),
                (11 if gradient else 4) * items + (3 if gradient else 1) * 4 * shape[1] * size,
                _operations(shape, size, gradient),
                list(goals[gradient]),
                devices=devices,
                saved=gated if gradient else None,
            )
        )


def _plain(name, ours, eager, shape, size, *, blh=False, goals=()) -> None:
    items = shape[0] * shape[1] * shape[2]
    single = lambda f: lambda *i: (f(*i),)  # noqa: E731
    CASES.append(
        Case(
            "fft_conv",
            f"fft_conv {name}, {shape}, K {size}, float32, forward",
            _inputs(shape, size, torch.float32, False, False, blh),
            {"ours": single(ours), "eager": single(eager), "floor": lambda u, k: (u.clone(),)},
            single(eager),
            8 * items + 4 * shape[1] * size,
            _operations(shape, size, False),
            list(goals),
        )
    )


def register() -> None:
    forward = (
        Goal("eager", "ours", least=2, least_kept=1.3, device="cpu"),
        Goal("eager", "ours", least=5, device="cuda"),
        Goal("compile", "ours", least=1),
        Goal("extra ours", "extra eager", most=0.25),
    )
    both = (
        Goal("eager", "ours", least=2, least_kept=1.6, device="cpu"),
        Goal("compile", "ours", least=1),
        Goal("extra ours", "extra eager", most=0.25),
        Goal("saved", "x", most=1.1),
    )
    for length in (4096, 16384):
        _add((4, 256, length), goals=(forward, both))
    _add((4, 256, 4096), dtype=torch.bfloat16, devices=("cpu",), gradients=(False,))
    _add((4, 256, 1000), devices=("cpu",), gradients=(False,))
    _add((4, 64, 16384), 128, devices=("cpu",), gradients=(False,))
    _plain("channels last", lambda u, k: fft_conv(u, k, layout="blh"), eager_blh, (4, 256, 4096), 4096, blh=True)
    _plain("one long row", fft_conv, eager_plain, (1, 4, 1 << 20), 1 << 20)
    half, third = (Goal("floor", "ours", least=0.5, device="cuda"),), (Goal("floor", "ours", least=0.35, device="cuda"),)
    for dtype in (torch.bfloat16, torch.float32):
        for length in (1024, 2048, 4096, 8192, 16384, 32768):
            rows = max(1, 64 * 768 * 2048 // (256 * length))
            goals = third if length > 16384 else half
            _add((rows, 256, length), dtype=dtype, goals=(goals, ()), devices=("cuda",))
        _add((1, 64, 1 << 20), dtype=dtype, goals=((Goal("floor", "ours", least=0.15, device="cuda"),), ()), devices=("cuda",))


register()

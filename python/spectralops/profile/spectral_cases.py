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
from ..ops.fourier_linear import fourier_linear
from ..ops.fourier_mix import fourier_mix
from ..ops.istft_head import istft_head
from ..ops.spectral_conv import spectral_conv
from ..ops.spectral_filter import spectral_filter
from ..ops.spectral_mlp import spectral_mlp


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


# ---- heads, adapters, mixers -----------------------------------------------------------------------------------------


def eager_istft(x: Tensor, n: int, hop: int) -> Tensor:
    """Vocos' head after its linear layer, padding "same": x (B, L, n + 2)."""
    a, b = x.transpose(1, 2).chunk(2, 1)
    magnitude = torch.exp(a).clip(max=1e2)
    phase = torch.atan2(torch.sin(b), torch.cos(b))
    window, frames, cut = torch.hann_window(n, dtype=x.dtype, device=x.device), x.shape[1], (n - hop) // 2
    pieces = torch.fft.irfft(magnitude * torch.exp(1j * phase), n, dim=1) * window[:, None]
    fold = lambda t: torch.nn.functional.fold(t, (1, (frames - 1) * hop + n), (1, n), stride=(1, hop))[:, 0, 0, cut:-cut]  # noqa: E731
    return fold(pieces) / fold(window.square().expand(1, frames, -1).transpose(1, 2))


def eager_fourierft(x: Tensor, c: Tensor, w: Tensor, indices: Tensor) -> Tensor:
    """PEFT's layer: the update made at every call, and a second product."""
    dense = torch.zeros(w.shape, dtype=c.dtype, device=c.device)
    dense[indices[0], indices[1]] = c
    delta = torch.fft.ifft2(dense).real * 150.0
    return x @ w.T + x @ delta.to(x.dtype).T


def eager_fnet(x: Tensor) -> Tensor:
    wide = x.float() if x.dtype.itemsize == 2 else x  # torch has no such transform of 16 bit on a CPU
    return torch.fft.fftn(wide, dim=(1, 2)).real.to(x.dtype)


def eager_afno(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """AFNO2D, all modes: eight products of real and imaginary parts."""
    b, h, w, c = x.shape
    z = torch.fft.rfft2(x, dim=(1, 2), norm="ortho").reshape(b, h, w // 2 + 1, w1.shape[1], -1)
    mul = lambda a, m: torch.einsum("...bi,bio->...bo", a, m)  # noqa: E731
    real = torch.relu(mul(z.real, w1[0]) - mul(z.imag, w1[1]) + b1[0])
    imag = torch.relu(mul(z.imag, w1[0]) + mul(z.real, w1[1]) + b1[1])
    out = torch.stack([mul(real, w2[0]) - mul(imag, w2[1]) + b2[0], mul(imag, w2[0]) + mul(real, w2[1]) + b2[1]], -1)
    out = torch.nn.functional.softshrink(out, 0.01)
    return torch.fft.irfft2(torch.view_as_complex(out).reshape(b, h, w // 2 + 1, c), s=(h, w), dim=(1, 2), norm="ortho") + x


def _case(op, name, draw, ours, eager, count, moved, operations, goals, gradient, devices=("cpu", "cuda")) -> None:
    """`draw(generator)` gives the inputs, of which the first `count` want gradients; the result has y's shape."""

    def make(device: torch.device) -> Inputs:
        g = torch.Generator().manual_seed(0)
        found = [t.to(device) for t in draw(g)]
        if not gradient:
            return tuple(found)
        shape = ours(*found).shape
        return (*(t.requires_grad_() for t in found[:count]), *found[count:], torch.randn(shape, generator=g).to(device, found[0].dtype))

    floor = lambda x, *_: (x.detach().clone(),) if not gradient else (x.detach().clone(), torch.add(x.detach(), x.detach()))  # noqa: E731
    CASES.append(
        Case(
            op,
            f"{op} {name}, forward{' + backward' if gradient else ''}",
            make,
            {"ours": _wrapped(ours, count, gradient), "eager": _wrapped(eager, count, gradient), "floor": floor},
            _wrapped(eager, count, gradient),
            (3 if gradient else 1) * moved,
            (3 if gradient else 1) * operations,
            list(goals),
            compile="eager" if op != "fourier_linear" else None,  # a graph cannot hold PEFT's scatter of complex numbers
            devices=devices,
        )
    )


def _heads() -> None:
    fast, even, small = (Goal("eager", "ours", least=k, device="cpu") for k in (4, 1, 1))
    for n, hop in ((1024, 256), (1280, 320)):
        draw = lambda g, n=n: (0.5 * torch.randn(8, 376, n + 2, generator=g),)  # noqa: E731
        items = 8 * 376 * (n + 2)
        for gradient in (False, True):
            _case("istft_head", f"Vocos (8, 376, {n + 2}), n_fft {n}, hop {hop}, float32", draw,
                  lambda x, n=n, hop=hop: istft_head(x, n_fft=n, hop_length=hop), lambda x, n=n, hop=hop: eager_istft(x, n, hop),
                  1, 4 * items + 4 * 8 * 376 * hop, int(8 * 376 * 2.5 * n * math.log2(n) + 40 * items),
                  [] if gradient else [fast], gradient)  # fmt: skip
    for tokens in (1, 64, 512, 2048, 8192):
        def draw(g, tokens=tokens):
            picked = torch.randperm(1024 * 1024, generator=g)[:1000]
            x, c, w = (torch.randn(*s, generator=g) for s in ((tokens, 1024), (1000,), (1024, 1024)))
            return x, c, w / 32, torch.stack([picked // 1024, picked % 1024])

        ours = lambda x, c, w, i: fourier_linear(x, c, i, out_features=1024, scaling=150.0, weight=w)  # noqa: E731
        _case("fourier_linear", f"1024 -> 1024, 1000 frequencies, {tokens} tokens, float32", draw, ours, eager_fourierft, 2,
              4 * (2048 * tokens + 1024 * 1024), 2 * tokens * 1024 * 1024, [fast if tokens == 64 else even], True)  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        rows = lambda g, dtype=dtype: (torch.randn(8, 512, 768, generator=g).to(dtype),)  # noqa: E731
        items = 8 * 512 * 768
        _case("fourier_mix", f"(8, 512, 768), {_name(dtype)}", rows, fourier_mix, eager_fnet, 1, 2 * items * dtype.itemsize,
              int(2.5 * items * math.log2(512 * 768)), [small], False)  # fmt: skip

    def blocks(g):
        shapes = ((4, 14, 14, 768), (2, 8, 96, 96), (2, 8, 96), (2, 8, 96, 96), (2, 8, 96))
        return tuple((1 if i == 0 else 0.1) * torch.randn(*s, generator=g) for i, s in enumerate(shapes))

    for gradient in (False, True):
        _case("spectral_mlp", "AFNO (4, 14, 14, 768), 8 blocks, float32", blocks, spectral_mlp, eager_afno, 5,
              4 * (2 * 4 * 196 * 768 + 4 * 8 * 96 * 96), 4 * 14 * 8 * 8 * 4 * 4 * 96 * 96, [small], gradient)  # fmt: skip


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

    _heads()


register()

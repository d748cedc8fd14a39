"""`imdct_head`: the IMDCT heads of Vocos, from MDCT coefficients to audio by one product with the matrix of the DCT-IV.

A frame of 2 N samples from N coefficients (N even), with the window w and c_m = sqrt(2 / N) sum_k X_k cos(pi (m +
1/2)(k + 1/2) / N):

    f[n] = w[n] sqrt(2 / N) sum_k X_k cos(pi (n + 1/2 + N/2)(k + 1/2) / N) = w[n] (c'', -c'' reversed, -c' reversed, -c')[n]

c = (c', c''): half of the 2 N values repeat the others, so N x N products suffice; frames follow N samples apart and
are added. The published head takes a complex FFT of 2 N points between two products with complex tables, and a fold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _check
from .fft_conv_reference import compute_dtype
from .plain import no_autocast

VARIANTS = ("plain", "symexp", "cos")
_kept: dict[tuple, tuple[Tensor, Tensor]] = {}


def _made(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    odd = 2 * torch.arange(size, device=device) + 1
    turns = (odd[:, None] * odd) % (8 * size)  # exact in the phase
    matrix = (turns.to(torch.float64) * (math.pi / (4 * size))).cos() * math.sqrt(2 / size)
    window = ((2 * torch.arange(2 * size, device=device) + 1).to(torch.float64) * (math.pi / (4 * size))).sin()
    return matrix.to(dtype), window.to(dtype)


def tables(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The DCT-IV (N, N) and the sine window (2 N,); kept, but never by a trace, which would keep its own."""
    if torch.compiler.is_compiling():
        return _made(size, dtype, device)
    key = (size, dtype, device)
    if key not in _kept:
        with torch.inference_mode(False):
            made = _made(size, dtype, device)
        if type(made[0]) is not Tensor:
            return made
        _kept[key] = made
    return _kept[key]


def coefficients(x: Tensor, variant: str, limit: float) -> Tensor:
    if variant == "plain":
        return x
    if variant == "symexp":
        size = x.abs()
        size = size if limit == math.inf else size.clamp(max=math.log1p(limit) + 1)
        return (x.sign() * (size.exp() - 1)).clamp(-limit, limit)
    a, b = x.chunk(2, -1)
    a = a if limit == math.inf else a.clamp(max=math.log(limit) + 1)
    return a.exp().clamp(max=limit) * b.cos()


def imdct_head(
    x: Tensor,
    *,
    frame_len: int,
    padding: str = "same",
    window: Tensor | None = None,
    variant: str = "plain",
    max_magnitude: float | None = None,
) -> Tensor:
    r"""MDCT coefficients of L frames to audio, :math:`\sqrt{2/N} \sum_k X_k \cos(\pi (n + (N + 1)/2)(k + 1/2)/N)`
    windowed and added.

    Args:
        x: (B, L, N), N = frame_len / 2; (B, L, 2 N) with variant "cos". float16, bfloat16, float32 or float64, any strides.
        frame_len: 2 N, a multiple of 4.
        padding: "same": N / 2 samples are cut at both ends, L N remain. "center": N, (L - 1) N remain.
        window: (frame_len,), differentiable; None: the sine window, with which the MDCT reconstructs perfectly.
        variant: "plain": X = x. "symexp": X = sign(x) (exp|x| - 1), at most max_magnitude. "cos": X = min(exp(a),
            max_magnitude) cos(b), x = (a, b).
        max_magnitude: None: 100, the published bound; math.inf: none.

    Returns (B, samples) in x's dtype, computed in float32 (float64 for float64). Plain PyTorch, one matrix product:
    derivatives of every order, compile and export as MatMul. Deterministic. Errors: TypeError for dtypes, ValueError
    for shapes and devices.

    Source: H. Siuzdak, Vocos, 2023 (IMDCTSymExpHead, IMDCTCosHead); J. Princen and A. Bradley, 1986.
    """
    _check.tensor("x", x)
    _check.choice("padding", padding, ("same", "center"))
    _check.choice("variant", variant, VARIANTS)
    if _check.integer("frame_len", frame_len) < 4 or frame_len % 4:
        raise ValueError(f"frame_len must be a positive multiple of 4; got {frame_len}")
    if max_magnitude is not None and (not isinstance(max_magnitude, (int, float)) or not max_magnitude > 0):
        raise ValueError(f"max_magnitude must be a positive number; got {max_magnitude!r}")
    size, dtype = frame_len // 2, compute_dtype(x)
    channels = 2 * size if variant == "cos" else size
    if x.dim() != 3 or x.shape[2] != channels or x.shape[1] < 1:
        wanted = f"(B, L, {channels}), L at least 1, for frame_len = {frame_len}"
        raise ValueError(f"x must have shape {wanted}; got {_check.shape(x)}")
    matrix, default = tables(size, dtype, x.device)
    if window is not None:
        _check.tensor("window", window)
        _check.coefficients_dtype("window", window, "x", x)
        _check.same_device("x", x, window=window)
        if tuple(window.shape) != (frame_len,):
            raise ValueError(f"window must have shape ({frame_len},); got {_check.shape(window)}")
    w = default if window is None else window.to(dtype)
    with no_autocast(x):
        c = coefficients(x.to(dtype), variant, 100.0 if max_magnitude is None else float(max_magnitude)) @ matrix  # (B, L, N)
    low, high = c[..., : size // 2], c[..., size // 2 :]
    first = torch.cat([high, -high.flip(-1)], -1) * w[:size]
    second = torch.cat([low.flip(-1), low], -1) * -w[size:]
    inner = (first[:, 1:] + second[:, :-1]).flatten(1)  # hop s: the end of frame s - 1 and the beginning of frame s
    if padding == "same":
        inner = torch.cat([first[:, 0, size // 2 :], inner, second[:, -1, : size // 2]], 1)
    return inner.to(x.dtype)

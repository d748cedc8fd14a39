"""`spectral_gate1d`: gates on the spectrum of a sequence that the data choose, FFTNet's and SPECTRE's mixing, and
its decoding token by token.

With F = rfft(x) along the sequence and K = N // 2 + 1 bins, G = g F, one gate g a sample, head and bin:

    y = irfft(G),   with modReLU   y = irfft(G relu(|G| + bias) / (|G| + 1e-6))

Without modReLU it is spectral_filter, one kernel, with a weight a sample. With it, mode_dft, pointwise operations on
the spectrum, mode_idft. A decoder keeps the sums F_k = sum_t exp(-2 pi i k t / N) x_t of the tokens so far and adds
one term a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _check
from .fft_conv_reference import compute_dtype
from .modes import mode_dft, mode_idft
from .modes_reference import Modes
from .plain import exporting, formula, turns
from .spectral_filter import spectral_filter
from .spectral_gate1d_samples import EPS, gated_samples, taken

NORMS = ("ortho", "forward", "backward")


def _scales(size: int, norm: str) -> tuple[float, float]:
    """Of the transform and of its inverse."""
    return {"ortho": (size**-0.5, size**-0.5), "forward": (1 / size, 1.0), "backward": (1.0, 1 / size)}[norm]


def _magnitude(z: Tensor) -> Tensor:
    """|z| of pairs, with derivative 0 at 0."""
    re, im = z[..., 0], z[..., 1]
    if exporting():  # which know no hypot
        return (re.square() + im.square()).sqrt()
    zero = (re == 0) & (im == 0)
    return torch.hypot(torch.where(zero, 1, re), im).masked_fill(zero, 0)


def gated(spectrum: Tensor, gate: Tensor, bias: Tensor | None, plain: bool = False) -> Tensor:
    """spectrum (B, K, D, 2), gate (S, K, heads) or (S, K, heads, 2), bias (K or 1, heads) -> (B, K, D, 2)."""
    if bias is not None and not plain and taken(spectrum, gate, bias):
        return gated_samples(spectrum, gate, bias)
    return composed(spectrum, gate, bias)


def composed(spectrum: Tensor, gate: Tensor, bias: Tensor | None) -> Tensor:
    heads = gate.shape[2]
    f = spectrum.unflatten(2, (heads, -1))  # (B, K, heads, d, 2)
    if gate.dim() == 3:
        f = f * gate[..., None, None]
    else:
        re, im = gate[..., None, 0], gate[..., None, 1]
        f = torch.stack([f[..., 0] * re - f[..., 1] * im, f[..., 0] * im + f[..., 1] * re], -1)
    if bias is not None:
        r = _magnitude(f)
        f = f * (torch.relu(r + bias[..., None]) / (r + EPS))[..., None]
    return f.flatten(2, 3)


def _gate(gate, x: Tensor, samples: int, channels: int, bins: int) -> Tensor:
    """-> (S, K, heads) or (S, K, heads, 2) in the compute dtype."""
    if isinstance(gate, Tensor) and gate.is_complex():
        gate = torch.view_as_real(gate.resolve_conj())
    _check.tensor("gate", gate)
    _check.coefficients_dtype("gate", gate, "x", x)
    _check.same_device("x", x, gate=gate)
    pairs = gate.dim() == 4 and gate.shape[3] == 2
    if not (gate.dim() == 3 or pairs) or gate.shape[0] not in (1, samples) or gate.shape[2] != bins:
        raise ValueError(f"gate must have shape ({samples} or 1, heads, {bins}), real, complex or (.., 2), for this x;"
                         f" got {_check.shape(gate)}")  # fmt: skip
    heads = gate.shape[1]
    if heads < 1 or channels % heads:
        raise ValueError(f"gate has {heads} heads, which do not divide the {channels} channels of x")
    return gate.to(compute_dtype(x)).transpose(1, 2)


def _bias(bias, x: Tensor, gate: Tensor) -> Tensor | None:
    """-> (K or 1, heads) in the compute dtype."""
    if bias is None:
        return None
    _check.tensor("modrelu_bias", bias)
    _check.coefficients_dtype("modrelu_bias", bias, "x", x)
    _check.same_device("x", x, modrelu_bias=bias)
    _, bins, heads = gate.shape[:3]
    if bias.dim() == 3 and bias.shape[2] == 1:
        bias = bias[..., 0]
    if tuple(bias.shape) not in ((heads, bins), (heads, 1)):
        raise ValueError(f"modrelu_bias must have shape ({heads}, {bins}) or ({heads}, 1); got {_check.shape(bias)}")
    return bias.to(compute_dtype(x)).T


def _modes(size: int) -> Modes:
    return Modes((1, 1, size), (0, 0, 0), (0, 0, 0), (1, 1, size // 2 + 1))


def spectral_gate1d(
    x: Tensor,
    gate: Tensor,
    *,
    modrelu_bias: Tensor | None = None,
    norm: str = "ortho",
    dim: int = -2,
    backend: str | None = None,
) -> Tensor:
    r"""y = irfft(g rfft(x)) along the sequence with a gate a sample, head and frequency; with a bias modReLU between.

        G = g F,   F = rfft(x),   y = irfft(G relu(|G| + bias) / (|G| + 1e-6))

    Args:
        x: (B, N, D), or (B, D, N) with dim = -1; D = heads d, head h being the channels h d .. h d + d - 1. float16,
            bfloat16, float32 or float64, any sizes and strides, empty batches allowed.
        gate: (B or 1, heads, N // 2 + 1), real (FFTNet) or complex (SPECTRE), or real with a trailing 2. It is not
            spread over the d channels of a head in memory. May stay float32 under 16-bit x.
        modrelu_bias: (heads, N // 2 + 1) or (heads, 1), upstream's trailing 1 allowed; None: no modReLU.
        norm: "ortho", "forward" or "backward": what |G| is measured in; of no effect without modReLU.
        backend: None (automatic), "reference", "cpu", "triton", "cuda".

    Returns y of x's shape and dtype, computed in float32 (float64 for float64) and rounded once.

    At frequencies 0 and N / 2 the spectrum before irfft acts by its real part. Derivatives of every order; where G =
    0 that of modReLU is relu(bias) / 1e-6, finite. Saved for backward: x and the gate, with modReLU the spectrum.
    Deterministic. Autocast: takes what it is given. Errors: TypeError for dtypes, ValueError for shapes.

    Source: J. Fein-Ashley et al., The FFT Strikes Back (FFTNet), 2025; Spectre: An FFT-Based Efficient Drop-In Replacement to
    Self-Attention, 2025.
    """
    _check.tensor("x", x)
    _check.backend(backend)
    _check.choice("norm", norm, NORMS)
    if x.dim() != 3:
        raise ValueError(f"x must have shape (B, N, D), or (B, D, N) with dim = -1; got {_check.shape(x)}")
    dim = _check.dimension("dim", dim, 3)
    if dim == 0:
        raise ValueError("dim must be 1 or 2, the sequence; dimension 0 is the batch")
    z = x if dim == 1 else x.transpose(1, 2)
    samples, size, channels = z.shape
    if size == 0:
        raise ValueError(f"x of {_check.shape(x)} has no points along dimension {dim}")
    bins = size // 2 + 1
    gate = _gate(gate, x, samples, channels, bins)
    bias = _bias(modrelu_bias, x, gate)
    if bias is None:
        weight = gate if gate.dim() == 4 else torch.stack([gate, torch.zeros_like(gate)], -1)
        y = spectral_filter(z, weight, dims=1, backend=backend)
    else:
        forth, back = _scales(size, norm)
        how = {"last": True, "backend": backend, "plain": formula(backend)}
        spectrum = mode_dft(z[:, None, None], _modes(size), scale=forth, doubled=False, **how)
        f = gated(spectrum[:, 0, 0], gate, bias, how["plain"])
        y = mode_idft(f[:, None, None], _modes(size), scale=back, doubled=True, dtype=x.dtype, **how)[:, 0, 0]
    return y if dim == 1 else y.transpose(1, 2)


# ---- token by token --------------------------------------------------------------------------------------------------


def _size(size) -> int:
    if _check.integer("size", size) < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    return size


def spectral_gate1d_state(x: Tensor, size: int, *, backend: str | None = None) -> Tensor:
    r"""The prefix spectrum F_k = sum_{t < T} exp(-2 pi i k t / N) x_t, k = 0 .. N // 2, from which
    :func:`spectral_gate1d_step` goes on.

    Args: x (B, T, D), 0 <= T <= N tokens already there (the prompt); size: N, the length of the transform and the
    most tokens there can be.

    Returns (B, N // 2 + 1, D, 2), float32 (float64 for float64), unnormalised. Derivatives of every order.
    """
    _check.tensor("x", x)
    _check.backend(backend)
    if x.dim() != 3:
        raise ValueError(f"x must have shape (B, T, D); got {_check.shape(x)}")
    batch, tokens, channels = x.shape
    if tokens > _size(size):
        raise ValueError(f"x has {tokens} tokens, more than size = {size}")
    if tokens == 0:
        return x.new_zeros(batch, size // 2 + 1, channels, 2, dtype=compute_dtype(x))
    z = torch.nn.functional.pad(x, (0, 0, 0, size - tokens))
    how = {"last": True, "backend": backend, "plain": formula(backend)}
    return mode_dft(z[:, None, None], _modes(size), scale=1.0, doubled=False, **how)[:, 0, 0]


def spectral_gate1d_step(
    v: Tensor,
    gate: Tensor,
    state: Tensor,
    position: int,
    size: int,
    *,
    modrelu_bias: Tensor | None = None,
    norm: str = "ortho",
) -> tuple[Tensor, Tensor]:
    r"""One more token: y and the next state, F_k + exp(-2 pi i k t / N) v.

    Args: v (B, D), the token at t = `position`, 0 <= t < N = `size`; gate, modrelu_bias, norm as in
    :func:`spectral_gate1d` for sequences of N; state (B, N // 2 + 1, D, 2), of t tokens, from
    :func:`spectral_gate1d_state` or the step before. Neither is written.

    Returns y (B, D) of v's dtype, row t of spectral_gate1d(x, gate) where x are the t + 1 tokens and zeros up to N,
    and the new state. O(N D) a token. The state is a running sum in float32: its error grows with the root of the
    number of steps, as SPECTRE's does; spectral_gate1d_state of the tokens starts afresh. Plain PyTorch; derivatives
    of every order. Errors as in spectral_gate1d.

    Source: SPECTRE's prefix-FFT cache, 2025.
    """
    _check.tensor("v", v)
    _check.choice("norm", norm, NORMS)
    if v.dim() != 2:
        raise ValueError(f"v must have shape (B, D); got {_check.shape(v)}")
    batch, channels = v.shape
    bins, compute = _size(size) // 2 + 1, compute_dtype(v)
    if not 0 <= _check.integer("position", position) < size:
        raise ValueError(f"position must be in [0, {size - 1}]; got {position}")
    _check.tensor("state", state, (compute,))
    _check.same_device("v", v, state=state)
    if tuple(state.shape) != (batch, bins, channels, 2):
        raise ValueError(f"state must have shape {(batch, bins, channels, 2)}; got {_check.shape(state)}")
    gate = _gate(gate, v, batch, channels, bins)
    bias = _bias(modrelu_bias, v, gate)
    k = torch.arange(bins, device=v.device)
    angle = turns(k, torch.full_like(k[:1], position), size)  # (K, 1)
    cos, sin = angle.cos().to(compute), angle.sin().to(compute)
    state = state + v.to(compute)[:, None, :, None] * torch.stack([cos, -sin], -1)
    forth, back = _scales(size, norm)
    f = gated(state * forth if bias is not None else state, gate, bias)
    count = torch.where((2 * k) % size == 0, 1.0, 2.0).to(compute)[:, None] * (back if bias is not None else 1 / size)
    y = (f[..., 0] * (count * cos) - f[..., 1] * (count * sin)).sum(1)
    return y.to(v.dtype), state

"""The oracle of the fft_conv tests: every convolution as a dense matrix in float64, summed directly."""

import numpy as np
import torch


def _shift(length, lag, circular):
    """y[t] = v[t - lag]."""
    return np.roll(np.eye(length), lag, 0) if circular else np.eye(length, k=-lag)


def matrix(k, length, mode="causal", k_rev=None, rev_offset=0):
    """Taps (..., K) -> (..., L, L) with y = M v."""
    k = np.asarray(k.detach().double())
    first = {"causal": 0, "circular": 0, "same": -(k.shape[-1] // 2), "toeplitz": -(length - 1)}[mode]
    terms = [(k[..., j], j + first) for j in range(k.shape[-1])]
    if k_rev is not None:
        back = np.asarray(k_rev.detach().double())
        terms += [(back[..., j], -j - rev_offset) for j in range(back.shape[-1])]
    found = np.zeros((*k.shape[:-1], length, length))
    for tap, lag in terms:
        found = found + tap[..., None, None] * _shift(length, lag, mode == "circular")
    return torch.from_numpy(found)


def act(z, activation):
    if activation == "silu":
        return z / (1 + torch.exp(-z))
    return z if activation is None else 0.5 * z * (1 + torch.erf(z / 2**0.5))


def fft_conv(u, k, *, skip=None, gate_in=None, gate_out=None, k_rev=None, mode="causal", activation=None, mask=None, rev_offset=0,
             multi=False):  # fmt: skip
    """(B, H, L) -> (B, H, L), with multi (B, F, H, L), in float64; differentiable in u, skip, the gates and mask."""
    d = torch.float64

    def full(t):  # -> (B or 1, F, H, K)
        t = t if multi else t.unsqueeze(-3)
        t = t if t.dim() == 4 else t[None]
        return t.repeat_interleave(u.shape[1] // t.shape[2], 2)

    v = u.to(d) if gate_in is None else u.to(d) * gate_in.to(d)
    m = matrix(full(k), u.shape[-1], mode, None if k_rev is None else full(k_rev), rev_offset)
    z = (m @ v[:, None, :, :, None])[..., 0]  # (B, F, H, L)
    if skip is not None:
        z = z + skip.to(d)[..., None] * v[:, None]
    if gate_out is not None:
        gate_out = gate_out.to(d)
        z = z * (gate_out if gate_out.dim() == 4 else gate_out[:, None])
    y = act(z, activation)
    if mask is not None:
        y = y * mask.to(d)[:, None, :, None]
    return y if multi else y[:, 0]

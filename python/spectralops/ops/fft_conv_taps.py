"""Every mode of `fft_conv` as one linear convolution: y[t] = sum_j taps[j] u[t + lag0 - j], u zero outside its row.

tap j stands at lag j - lag0. Lags of L or more meet nothing but zeros and are cut off, exactly; a circular convolution is the
Toeplitz one whose lags repeat with period L. All of it is slicing and joining of (.., K) kernels, which autograd follows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MODES = ("causal", "same", "circular", "toeplitz")


def taps(k: Tensor, k_rev: Tensor | None, mode: str, length: int, rev_offset: int = 0) -> tuple[Tensor, int]:
    """(.., K') taps and lag0 for rows of `length`, both 0 <= lag0 < length and K' - lag0 <= length."""
    if mode == "toeplitz":
        return k, length - 1
    if mode == "same":  # y[t] = full[t + K // 2]
        lag0 = k.shape[-1] // 2
        first = max(0, lag0 - (length - 1))
        return k[..., first : lag0 + length], lag0 - first
    if mode == "circular":
        return _circular(k, k_rev, length, rev_offset)
    k = k[..., :length]
    if k_rev is None or length <= rev_offset:
        return k, 0
    back = k_rev[..., : length - rev_offset].flip(-1)  # lags -(K - 1) - offset .. -offset
    if rev_offset:
        return torch.cat(_alike(back, k), -1), back.shape[-1]
    shared = back[..., -1:] + k[..., :1]
    return torch.cat(_alike(back[..., :-1], shared, k[..., 1:]), -1), back.shape[-1] - 1


def _alike(*parts: Tensor) -> list[Tensor]:
    """The leading dimensions of all broadcast: a kernel of one group may meet one of many."""
    leading = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return [p.expand(*leading, p.shape[-1]) for p in parts]


def _fold(k: Tensor, period: int) -> Tensor:
    """(.., K) -> (.., period): tap j goes to j mod period."""
    size = k.shape[-1]
    if size <= period:  # also for a traced length, of which the number of turns would make a constant
        return F.pad(k, (0, period - size))
    turns = -(-size // period)
    return F.pad(k, (0, turns * period - size)).unflatten(-1, (turns, period)).sum(-2)


def _circular(k: Tensor, k_rev: Tensor | None, length: int, rev_offset: int) -> tuple[Tensor, int]:
    period = _fold(k, length)
    if k_rev is not None:  # lag -(j + offset) stands at (-j - offset) mod L
        period = period + _fold(k_rev, length).flip(-1).roll(1 - rev_offset, -1)
    return torch.cat([period[..., 1:], period], -1), length - 1

"""Convolution kernels that are sums of exponentials, those of diagonal state space models."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.plain import no_autocast


def exponential_sum(c: Tensor, rate: Tensor, length: int, imaginary: tuple[Tensor, Tensor] | None = None) -> Tensor:
    r"""k[h, l] = sum_n Re(c_hn exp(rate_hn l)), l = 0 .. length - 1: (H, N), (H, N) -> (H, length).

    c, rate: the real parts; imaginary: the imaginary ones of both. With l = l1 + l2, l1 a multiple of S, about sqrt(length), and
    l2 < S, exp(rate l) = exp(rate l1) exp(rate l2), so the sum is a product of two matrices, (length / S, N) and (N, S) for
    each h: memory H (length + 2 N sqrt(length)) numbers, where the whole table would take H N length.
    The products are not narrowed by autocast.
    """
    with no_autocast(c):
        return _exponential_sum(c, rate, length, imaginary)


def _exponential_sum(c: Tensor, rate: Tensor, length: int, imaginary: tuple[Tensor, Tensor] | None) -> Tensor:
    if type(length) is not int or torch.jit.is_tracing():  # it is being traced and knows no integer root: the sum as it stands
        l = torch.arange(length, device=c.device).to(c.dtype)  # noqa: E741
        wave = torch.exp(rate[..., None] * l)  # (H, N, length)
        if imaginary is None:
            return (c[..., None] * wave).sum(1)
        angle = imaginary[1][..., None] * l
        return (wave * (c[..., None] * angle.cos() - imaginary[0][..., None] * angle.sin())).sum(1)
    step = int(length**0.5) + 1  # any S is right
    coarse = torch.arange(0, max(length, 1), step, device=c.device).to(c.dtype)  # (length / S,)
    fine = torch.arange(step, device=c.device).to(c.dtype)  # (S,)
    left = torch.exp(coarse[:, None] * rate[:, None])  # (H, length / S, N)
    right = torch.exp(rate[..., None] * fine)  # (H, N, S)
    if imaginary is None:
        return (left * c[:, None] @ right).flatten(1)[:, :length]
    ci, wi = imaginary
    angle = coarse[:, None] * wi[:, None]
    re, im = left * angle.cos(), left * angle.sin()
    left = torch.cat([re * c[:, None] - im * ci[:, None], -im * c[:, None] - re * ci[:, None]], 2)  # Re, -Im of c exp(rate l1)
    angle = wi[..., None] * fine
    return (left @ torch.cat([right * angle.cos(), right * angle.sin()], 1)).flatten(1)[:, :length]

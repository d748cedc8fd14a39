"""The specification of `spectral_mlp_core`, the MLP that AFNO and its kin apply to every mode, forward and backward.

With complex weights w = w[0] + i w[1], a block of channels of one mode x and the activation taken of real and
imaginary parts:

    a = x w1 + b1,  h = act(a),  o = h w2 + b2,  s = shrink(o),  y = s x where mask, else s
    shrink(o) = sign(o) max(|o| - threshold, 0) of each part; o itself where threshold = 0

    with mask: ds = dy conj(x), dx = dy conj(s) + ..., else ds = dy;  do = ds [|o| > threshold]
    dw2 = conj(h)^T do, db2 = sum do, dh = do conj(w2)^T, da = dh act'(a)
    dw1 = conj(x)^T da, db1 = sum da, dx = .. + da conj(w1)^T

Complex numbers are folded into real ones: a row of n of them is 2 n reals and w is the real matrix with the 2 x 2 blocks
[[re, im], [-im, re]], so that each layer is one real product a block of channels.

Shapes, M modes, nb blocks of bs channels, hs hidden ones: x, y, grad (M, nb, bs, 2), w1 (2, nb, bs, hs), b1 (2, nb,
hs), w2 (2, nb, hs, bs), b2 (2, nb, bs), all in the compute dtype. The backward keeps nothing of the forward but x:
it computes a, h and o again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .plain import no_autocast

ACTIVATIONS = ("identity", "relu", "gelu", "silu", "tanh")


def fold(w: Tensor) -> Tensor:
    """(2, nb, i, o) -> (nb, 2 i, 2 o)."""
    re, im = w
    return torch.stack([torch.stack([re, im], -1), torch.stack([-im, re], -1)], 2).flatten(3, 4).flatten(1, 2)


def unfold(dw: Tensor) -> Tensor:
    """The adjoint of fold."""
    blocks = dw.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (nb, i, 2, o, 2)
    re = blocks[:, :, 0, :, 0] + blocks[:, :, 1, :, 1]
    return torch.stack([re, blocks[:, :, 0, :, 1] - blocks[:, :, 1, :, 0]])


def _fold_bias(b: Tensor) -> Tensor:
    """(2, nb, o) -> (nb, 1, 2 o)."""
    return b.permute(1, 2, 0).flatten(1)[:, None]


def _act(a: Tensor, activation: str) -> Tensor:
    if activation == "identity":
        return a
    if activation == "relu":
        return a.relu_()  # whose derivative needs the result alone
    return torch.tanh(a) if activation == "tanh" else getattr(F, activation)(a)


def _act_backward(grad: Tensor, a: Tensor, h: Tensor, activation: str) -> Tensor:
    aten = torch.ops.aten
    if activation == "identity":
        return grad
    if activation == "relu":
        return aten.threshold_backward(grad, h, 0)
    if activation == "tanh":
        return aten.tanh_backward(grad, h)
    return (aten.gelu_backward if activation == "gelu" else aten.silu_backward)(grad, a)


def times(a: Tensor, b: Tensor) -> Tensor:
    """The complex product of pairs."""
    ar, ai, br, bi = a[..., 0], a[..., 1], b[..., 0], b[..., 1]
    return torch.stack([ar * br - ai * bi, ar * bi + ai * br], -1)


def _times_conj(a: Tensor, b: Tensor) -> Tensor:
    return times(a, torch.stack([b[..., 0], -b[..., 1]], -1))


def _layers(x: Tensor, w1, b1, w2, b2, activation):
    """-> x (nb, M, 2 bs), the folded weights, a, h, o."""
    z = x.flatten(2).transpose(0, 1)
    f1, f2 = fold(w1), fold(w2)
    a = torch.baddbmm(_fold_bias(b1), z, f1)
    h = _act(a, activation)
    return z, f1, f2, a, h, torch.baddbmm(_fold_bias(b2), h, f2)


def _modes(t: Tensor) -> Tensor:
    """(nb, M, 2 bs) -> (M, nb, bs, 2)."""
    return t.transpose(0, 1).unflatten(2, (-1, 2))


def forward(x, w1, b1, w2, b2, threshold, activation, mask) -> Tensor:
    with no_autocast(x):
        o = _layers(x, w1, b1, w2, b2, activation)[-1]
    s = _modes(F.softshrink(o, threshold) if threshold > 0 else o)
    return times(s, x) if mask else s.contiguous()


def backward(grad, x, w1, b1, w2, b2, threshold, activation, mask, needs):
    """-> dx, dw1, db1, dw2, db2, None where not needed."""
    with no_autocast(x):
        z, f1, f2, a, h, o = _layers(x, w1, b1, w2, b2, activation)
        ds = _times_conj(grad, x) if mask else grad
        do = ds.flatten(2).transpose(0, 1)
        do = torch.ops.aten.softshrink_backward(do, o, threshold) if threshold > 0 else do
        dw2 = unfold(h.mT @ do) if needs[3] else None
        db2 = _bias_gradient(do) if needs[4] else None
        if not any(needs[:3]):
            return None, None, None, dw2, db2
        da = _act_backward(do @ f2.mT, a, h, activation)
        dw1 = unfold(z.mT @ da) if needs[1] else None
        db1 = _bias_gradient(da) if needs[2] else None
        dx = None
        if needs[0]:
            dx = _modes(da @ f1.mT)
            if mask:
                dx = dx + _times_conj(grad, _modes(F.softshrink(o, threshold) if threshold > 0 else o))
            dx = dx.contiguous()
    return dx, dw1, db1, dw2, db2


def _bias_gradient(d: Tensor) -> Tensor:
    """(nb, M, 2 o) -> (2, nb, o)."""
    return d.sum(1).unflatten(1, (-1, 2)).permute(2, 0, 1).contiguous()

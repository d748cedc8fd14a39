"""Wav-KAN's layer in plain PyTorch: the formula, its gradient and its second derivative, as a reader can check them.

    y_no = sum_i w_oi psi(z_noi),    z_noi = (x_ni - t_oi) / s_oi

    kind          psi                    psi'                        psi''                             E = e^(-z^2 / 2)
    mexican_hat   c (z^2 - 1) E          c z (3 - z^2) E             c (z^4 - 6 z^2 + 3) E             c = 2 / (sqrt 3 pi^(1/4))
    morlet        cos(5 z) E             -(5 sin 5z + z cos 5z) E    ((z^2 - 26) cos 5z + 10 z sin 5z) E
    dog           -z E                   (z^2 - 1) E                 z (3 - z^2) E

First derivatives, g the gradient of y:

    dx_ni = sum_o g_no w psi' / s        dw_oi = sum_n g_no psi
    dt_oi = -(w / s) sum_n g_no psi'     ds_oi = -(w / s) sum_n g_no psi' z

Second, the gradient of <hx, dx> + <hw, dw> + <hs, ds> + <ht, dt> = sum_no g_no sum_i D_noi, where D is the derivative of
w psi in the direction (hx, hw, hs, ht) and v that of z:

    v = (hx_ni - ht_oi - z hs_oi) / s    D = hw psi + w psi' v
    U = dD/dz = (hw - w hs / s) psi' + w psi'' v

    dgrad_no = sum_i D                   dw_oi = sum_n g_no psi' v
    dx_ni = sum_o g_no U / s             dt_oi = -(1 / s) sum_n g_no U
                                         ds_oi = -(1 / s) sum_n g_no (z U + w psi' v)

The (rows, O, I) tensors are made for a chunk of the rows at a time. Computed in float32 (float64 for float64), y, dgrad and dx
rounded once; the gradients of parameters stay in the compute dtype. Where s = 0, z is infinite or NaN and so is psi.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KINDS = ("mexican_hat", "morlet", "dog")
MEXICAN_HAT, MORLET, DOG = range(3)
AMPLITUDE = 2 / (math.sqrt(3) * math.pi**0.25)
FREQUENCY = 5.0  # of morlet

_CHUNK = 1 << 22  # elements of the tensors over (rows, O, I)


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def psi(z: Tensor, kind: int) -> Tensor:
    bell = torch.exp(-0.5 * z * z)
    if kind == MEXICAN_HAT:
        return AMPLITUDE * (z * z - 1) * bell
    if kind == MORLET:
        return torch.cos(FREQUENCY * z) * bell
    return -z * bell


def jet(z: Tensor, kind: int) -> tuple[Tensor, Tensor, Tensor]:
    """psi, psi', psi''."""
    q = z * z
    bell = torch.exp(-0.5 * q)
    if kind == MEXICAN_HAT:
        bell = AMPLITUDE * bell
        return (q - 1) * bell, z * (3 - q) * bell, (q * (q - 6) + 3) * bell
    if kind == MORLET:
        c, s = torch.cos(FREQUENCY * z), torch.sin(FREQUENCY * z)
        square = FREQUENCY**2 + 1
        return c * bell, -(FREQUENCY * s + z * c) * bell, ((q - square) * c + 2 * FREQUENCY * z * s) * bell
    return -z * bell, (q - 1) * bell, z * (3 - q) * bell


def _chunks(like: Tensor, *rows: Tensor) -> list[tuple[Tensor, ...]]:
    """Runs of rows whose (rows, O, I) tensors are small; `like` is (O, I)."""
    size = max(1, _CHUNK // max(1, like.numel()))
    if rows[0].shape[0] <= size:
        return [rows]
    return list(zip(*(t.split(size) for t in rows)))


def forward(x: Tensor, weight: Tensor, scale: Tensor, translation: Tensor, kind: int) -> Tensor:
    """y (N, O) in x's dtype; differentiable by autograd to any order. x (N, I), the parameters (O, I)."""
    w, s, t = (p.to(compute_dtype(x)) for p in (weight, scale, translation))
    parts = [(w * psi((u[:, None].to(w.dtype) - t) / s, kind)).sum(-1) for (u,) in _chunks(w, x)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(x.dtype)


def backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, translation: Tensor, kind: int):
    """dx (N, I) in x's dtype; dw, ds, dt (O, I) in the compute dtype."""
    w, s, t = (p.to(compute_dtype(x)) for p in (weight, scale, translation))
    dx, sums = [], torch.zeros(3, *w.shape, dtype=w.dtype, device=x.device)
    for g, u in _chunks(w, grad, x):
        z = (u[:, None].to(w.dtype) - t) / s
        g = g[:, :, None].to(w.dtype)
        p, p1, _ = jet(z, kind)
        dx.append((g * (w / s) * p1).sum(1))
        sums += torch.stack([(g * p).sum(0), (g * p1 * z).sum(0), (g * p1).sum(0)])
    return torch.cat(dx).to(x.dtype), sums[0], -(w / s) * sums[1], -(w / s) * sums[2]


def double_backward(
    ggx: Tensor, ggw: Tensor, ggs: Tensor, ggt: Tensor,
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, translation: Tensor, kind: int,
):  # fmt: skip
    """dgrad (N, O), dx (N, I) in x's dtype; dw, ds, dt (O, I) in the compute dtype."""
    w, s, t, hw, hs, ht = (p.to(compute_dtype(x)) for p in (weight, scale, translation, ggw, ggs, ggt))
    dgrad, dx, sums = [], [], torch.zeros(3, *w.shape, dtype=w.dtype, device=x.device)
    for h, g, u in _chunks(w, ggx, grad, x):
        z = (u[:, None].to(w.dtype) - t) / s
        g = g[:, :, None].to(w.dtype)
        p, p1, p2 = jet(z, kind)
        v = (h[:, None].to(w.dtype) - ht - z * hs) / s
        uu = (hw - w * hs / s) * p1 + w * p2 * v
        dgrad.append((hw * p + w * p1 * v).sum(-1))
        dx.append((g * uu / s).sum(1))
        sums += torch.stack([(g * p1 * v).sum(0), (g * (z * uu + w * p1 * v)).sum(0), (g * uu).sum(0)])
    return torch.cat(dgrad).to(x.dtype), torch.cat(dx).to(x.dtype), sums[0], -sums[1] / s, -sums[2] / s

"""What the fft_conv kernels do at the times of a tile, for rows of any length: taps in and out, the epilogues, and on the
host the arguments that describe tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .common import load, store
from .fft_conv_dft import product_of
from .kan_basis import activation_value

ACTIVATIONS = {"identity": 0, "silu": 1, "gelu": 2}  # the names of kan_basis.activation_value


@triton.jit
def tap(p_k, position, SIZE, lag0, N: tl.constexpr, m):
    """What stands at a position below 2 N: the tap at that lag, and the one at the lag 2 N less with its sign turned."""
    j = position + lag0
    return load(p_k + j, m & (j < SIZE)) - load(p_k + j - 2 * N, m & (j >= 2 * N))


@triton.jit
def untap(p_k, x, position, size, lag0, N: tl.constexpr, m):
    """The adjoint of tap; a position holds one tap at most, as lags are shorter than rows."""
    j = position + lag0
    tl.store(p_k + j, x, mask=m & (j < size))
    tl.store(p_k + j - 2 * N, -x, mask=m & (j >= 2 * N))


@triton.jit
def write(p_y, o_y, y_t, c, v_skip, p_o, o_o, o_t, factor, t, m, ACT: tl.constexpr):
    """act(gate_out (c + skip v)) mask."""
    z = c + v_skip
    if p_o is not None:
        z = z * load(p_o + o_o + t * o_t, m)
    if ACT:
        z = activation_value(z, ACT, 0)
    store(p_y + o_y + t * y_t, z * factor, m)


@triton.jit
def derive(c, p_e, o_e, e_t, p_o, o_o, o_t, p_dc, o_dc, p_do, o_do, do_t, factor, t, m, ACT: tl.constexpr, MASK: tl.constexpr):
    """Stores dc and dgate_out of one half of a row; grad act(z), where the mask's gradient is asked for."""
    e, z, d_mask = load(p_e + o_e + t * e_t, m), c, c
    if p_o is not None:
        gate = load(p_o + o_o + t * o_t, m)
        z = gate * c
    if MASK:
        d_mask = e * (activation_value(z, ACT, 0) if ACT else z)
    dz = e * factor
    if ACT:
        dz = dz * activation_value(z, ACT, 1)
    if p_do is not None:
        store(p_do + o_do + t * do_t, dz * c, m)
    if p_dc is not None:
        store(p_dc + o_dc + t, dz * gate if p_o is not None else dz, m)
    return d_mask


@triton.jit
def dc_of(p_e, o_e, e_t, p_o, o_o, o_t, factor, t, m):
    """grad gate_out mask at times t."""
    return product_of(p_e, o_e, e_t, p_o, o_o, o_t, t, m) * factor


@triton.jit
def write_input(dv, p_u, o_u, u_t, p_g, o_g, g_t, p_du, o_du, p_dg, o_dg, d_t, t, m):
    """du = dv gate_in, dgate_in = dv u."""
    if p_dg is not None:
        store(p_dg + o_dg + t * d_t, dv * load(p_u + o_u + t * u_t, m), m)
    if p_du is not None:
        if p_g is not None:
            dv = dv * load(p_g + o_g + t * g_t, m)
        store(p_du + o_du + t * d_t, dv, m)


# ---- host ----------------------------------------------------------------------------------------


def rows_of(x: torch.Tensor, cu_seqlens) -> int:
    return x.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1


def strides(name: str, t: torch.Tensor | None, axes: str) -> dict:
    return {f"{name}_{axis}": 0 if t is None else t.stride(i) for i, axis in enumerate(axes)}


def wide(n: int, *tensors: torch.Tensor | None) -> bool:
    """Whether offsets along a row need 64 bits."""
    return any(t is not None and 2 * n * t.stride(-1) >= 2**31 for t in tensors)

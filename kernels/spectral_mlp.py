"""The MLP that all modes share, in Triton: spectral_mlp_core in one kernel, forward.

Formulas and shapes are those of ops/spectral_mlp_reference.py.  A program takes BM modes of one block of channels and BO of its
outputs.  Over tiles of hidden channels: a = x w1 + b1 and h = act(a), which never leave the chip, and o += h w2; then b2, the
threshold, and where asked the product with x.  A complex product is four real ones.  Blocks of more than BO channels compute
the hidden ones again for each BO.  Its backward computes the layers again in PyTorch.

Operands: three tf32 products for one (float32's own multiply-adds on AMD), sums float32: over the inputs in steps added one to
the next, over hidden channels in the order of their tiles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import common, configs, kan_basis
from .common import cdiv, double_bits, launch, load, next_power_of_2, runnable
from .kan_basis import activation_value
from .modes import exact_precision, padded

ACTIVATIONS = {
    "identity": kan_basis.IDENTITY.value, "relu": kan_basis.RELU.value, "gelu": kan_basis.GELU.value,
    "silu": kan_basis.SILU.value, "tanh": kan_basis.TANH.value,
}  # fmt: skip


@triton.jit
def times(x_re, x_im, w_re, w_im, re, im, PRECISION: tl.constexpr):
    """(re + i im) + x w."""
    re = tl.dot(x_re, w_re, re, input_precision=PRECISION)
    im = tl.dot(x_re, w_im, im, input_precision=PRECISION)
    re = tl.dot(-x_im, w_im, re, input_precision=PRECISION)
    im = tl.dot(x_im, w_re, im, input_precision=PRECISION)
    return re, im


@triton.jit
def pairs(p, o_m, o_c, modes, channels, row, BM: tl.constexpr, BC: tl.constexpr):
    """(BM, BC) complex numbers; o_c counts reals."""
    x = tl.load(p + o_m * row + o_c, mask=(o_m < modes) & (o_c < 2 * channels), other=0)
    return tl.split(tl.reshape(x, (BM, BC, 2)))


@triton.jit
def shrink(x, threshold):
    """softshrink; NaN stays."""
    return tl.where(x > threshold, x - threshold, tl.where(x < -threshold, x + threshold, x * 0.0))


@triton.jit(do_not_specialize=["modes", "w_im", "threshold"])
def forward_kernel(
    p_x, p_w1, p_b1, p_w2, p_b2, p_y, modes, blocks, channels, hidden, w_im, threshold,
    ACT: tl.constexpr, SHRINK: tl.constexpr, MASK: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(channels, BO)
    i_o, i = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_n, i_m = i % blocks, i // blocks
    row = 2 * blocks * channels  # numbers of a mode
    o_m = i_m.to(tl.int64) * BM + tl.arange(0, BM)[:, None]
    p_x, p_y = p_x + i_n * (2 * channels), p_y + i_n * (2 * channels)
    p_w1, p_b1 = p_w1 + i_n.to(tl.int64) * channels * hidden, p_b1 + i_n * hidden
    p_w2, p_b2 = p_w2 + i_n.to(tl.int64) * hidden * channels, p_b2 + i_n * channels
    b1_im, b2_im = blocks * hidden, blocks * channels  # where imaginary parts stand
    o_o = i_o * BO + tl.arange(0, BO)[None, :]
    re = tl.zeros([BM, BO], tl.float32)
    im = tl.zeros([BM, BO], tl.float32)

    for j in tl.range(0, hidden, BH):
        o_h = j + tl.arange(0, BH)
        h_re = tl.zeros([BM, BH], tl.float32)
        h_im = tl.zeros([BM, BH], tl.float32)
        for k in tl.range(0, channels, BC):
            o_c = k + tl.arange(0, BC)[:, None]
            x_re, x_im = pairs(p_x, o_m, 2 * k + tl.arange(0, 2 * BC)[None, :], modes, channels, row, BM, BC)
            o_w, m_w = o_c * hidden + o_h[None, :], (o_c < channels) & (o_h < hidden)[None, :]
            w_re, w_i = tl.load(p_w1 + o_w, mask=m_w, other=0), tl.load(p_w1 + w_im + o_w, mask=m_w, other=0)
            h_re, h_im = times(x_re, x_im, w_re, w_i, h_re, h_im, PRECISION)
        m_h = (o_h < hidden)[None, :]
        h_re = activation_value(h_re + load(p_b1 + o_h[None, :], m_h), ACT, 0)
        h_im = activation_value(h_im + load(p_b1 + b1_im + o_h[None, :], m_h), ACT, 0)
        o_w, m_w = o_h[:, None] * channels + o_o, (o_h < hidden)[:, None] & (o_o < channels)
        w_re, w_i = tl.load(p_w2 + o_w, mask=m_w, other=0), tl.load(p_w2 + w_im + o_w, mask=m_w, other=0)
        re, im = times(h_re, h_im, w_re, w_i, re, im, PRECISION)

    re += load(p_b2 + o_o, o_o < channels)
    im += load(p_b2 + b2_im + o_o, o_o < channels)
    if SHRINK:
        threshold = threshold.to(tl.float64, bitcast=True).to(tl.float32)
        re, im = shrink(re, threshold), shrink(im, threshold)
    o_p = i_o * (2 * BO) + tl.arange(0, 2 * BO)[None, :]
    if MASK:
        x_re, x_im = pairs(p_x, o_m, o_p, modes, channels, row, BM, BO)
        re, im = re * x_re - im * x_im, re * x_im + im * x_re
    y = tl.reshape(tl.join(re, im), (BM, 2 * BO))
    tl.store(p_y + o_m * row + o_p, y, mask=(o_m < modes) & (o_p < 2 * channels))


# ---- host ----------------------------------------------------------------------------------------


def supports_spectral_mlp_core(x, w1, b1, w2, b2, threshold: float, activation: str, mask: bool) -> tuple[bool, str]:
    if any(t.dtype != torch.float32 for t in (x, w1, b1, w2, b2)):
        return False, f"triton's spectral_mlp computes in float32, got {x.dtype}"
    if activation not in ACTIVATIONS:
        return False, f"triton's spectral_mlp has no activation {activation!r}"
    if max(x.shape[1] * x.shape[2] * 2, w1.shape[2] * w1.shape[3]) >= 1 << 31:
        return False, f"triton's spectral_mlp takes fewer than 2^31 numbers a mode, got {tuple(x.shape)}"
    return runnable(x)


def spectral_mlp_core(x, w1, b1, w2, b2, threshold: float, activation: str, mask: bool):
    modes, blocks, channels, _ = x.shape
    hidden = w1.shape[3]
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    row = configs.SPECTRAL_MLP
    bo = min(row.outputs, padded(channels))
    sizes = {"BM": row.modes, "BC": min(row.inputs, padded(channels)), "BH": min(row.hidden, next_power_of_2(max(hidden, 16))), "BO": bo}
    grid = (cdiv(modes, row.modes) * blocks * cdiv(channels, bo),)
    launch(
        x, forward_kernel, grid, p_x=x, p_w1=w1, p_b1=b1, p_w2=w2, p_b2=b2, p_y=y, modes=modes, blocks=blocks, channels=channels,
        hidden=hidden, w_im=w1.numel() // 2, threshold=double_bits(threshold), ACT=ACTIVATIONS[activation], SHRINK=threshold > 0,
        MASK=mask, PRECISION=exact_precision(), **sizes, warps=row.warps // 2 if common.AMD else row.warps, stages=row.stages,
        registers=255, fuse=True,
    )  # fmt: skip
    return y

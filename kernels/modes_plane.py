"""The truncated transforms of the last two dimensions of channels-first grids in one kernel, where a plane of modes is small.

    X[f2, f3] = sum_n2 W2[f2, n2] (sum_n3 x[n2, n3] T[n3, f3])        a program a plane, the inner sums for BN rows at a time
    y[n2, n3] = Re sum_f3 (sum_f2 W2[n2, f2] X[f2, f3]) T[f3, n3]     a program BN rows of a plane

so that the grid is read or written once and nothing but the kept modes beside it.  Formulas, tables and operands are modes.py's;
a sum has no more than MODES_CHAIN terms.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import configs
from .common import cdiv, launch
from .fft_conv_dft import operand
from .modes import columns_table, exact_precision, finish, padded, place, rows_sum, rows_table
from .spectral_mlp import times


@triton.jit
def plane_dft_kernel(
    p_x, p_t, p_w, p_y, N2, N3, M2, M3, t_pitch, part, w_pitch, turned, channels, n1, x_0, x_1, x_2, x_3, x_k,
    SPLIT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, BM2: tl.constexpr, BM3: tl.constexpr,
):  # fmt: skip
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    o = tl.program_id(0)
    p_x += place(o, channels, n1, 1, x_0, x_1, x_2, 0)
    p_t += tl.arange(0, 2 * BM3)[None, :] * t_pitch + tl.arange(0, BK)[:, None]  # (BK, 2 BM3)
    p_w += tl.arange(0, BM2)[:, None] * w_pitch + tl.arange(0, BN)[None, :]  # (BM2, BN)
    re = tl.zeros([BM2, BM3], tl.float32)
    im = tl.zeros([BM2, BM3], tl.float32)
    for n in tl.range(0, N2, BN):
        o_n = n + tl.arange(0, BN)[:, None]
        t = rows_sum(p_x + o_n.to(INDEX) * x_3, p_t, x_k, part, 0, N3, N3, SPLIT, PRECISION, INDEX, BN, BK, 2 * BM3, o_n < N2)
        t_re, t_im = tl.split(tl.reshape(t, (BN, BM3, 2)))
        re, im = times(tl.load(p_w + n), tl.load(p_w + turned + n), t_re, t_im, re, im, PRECISION)
    z = tl.reshape(tl.join(re, im), (BM2, 2 * BM3))
    m2, q = tl.arange(0, BM2)[:, None], tl.arange(0, 2 * BM3)[None, :]
    tl.store(p_y + o.to(tl.int64) * M2 * (2 * M3) + m2 * (2 * M3) + q, z, mask=(m2 < M2) & (q < 2 * M3))


@triton.jit
def plane_idft_kernel(
    p_x, p_t, p_w, p_y, p_skip, p_bias, p_grad, N2, N3, M2, M3, t_pitch, t_turned, w_pitch, w_turned, channels, n1,
    s_0, s_1, s_2, s_3, s_k, g_0, g_1, g_2, g_3, g_k, ACT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, BM3: tl.constexpr,
):  # fmt: skip
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    blocks = tl.cdiv(N2, BN)
    o, i_n = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    o_n = i_n * BN + tl.arange(0, BN)[:, None]
    m2, q = tl.arange(0, 16)[:, None], tl.arange(0, 2 * BM3)[None, :]
    p_x += o.to(tl.int64) * M2 * (2 * M3) + m2 * (2 * M3) + q
    p_w += o_n * w_pitch + tl.arange(0, 16)[None, :]  # (BN, 16)
    re = tl.zeros([BN, BM3], tl.float32)
    im = tl.zeros([BN, BM3], tl.float32)
    for j in tl.range(0, M2, 16):
        x = tl.load(p_x + j * (2 * M3), mask=(m2 + j < M2) & (q < 2 * M3), other=0)
        x_re, x_im = tl.split(tl.reshape(operand(x, PRECISION), (16, BM3, 2)))
        re, im = times(tl.load(p_w + j), tl.load(p_w + w_turned + j), x_re, x_im, re, im, PRECISION)
    re, im = operand(re, PRECISION), -operand(im, PRECISION)

    p_y += (o.to(tl.int64) * N2 + o_n) * N3
    if p_skip is not None:
        p_skip += place(o, channels, n1, 1, s_0, s_1, s_2, 0) + o_n.to(INDEX) * s_3
    if p_grad is not None:
        p_grad += place(o, channels, n1, 1, g_0, g_1, g_2, 0) + o_n.to(INDEX) * g_3
    if p_bias is not None:
        p_bias += (o // n1) % channels + 0 * o_n
    p_t += tl.arange(0, BM3)[:, None]
    for n in tl.range(0, N3, BK):
        o_k = n + tl.arange(0, BK)[None, :]
        z = tl.dot(re, tl.load(p_t + o_k * t_pitch), input_precision=PRECISION)
        z = tl.dot(im, tl.load(p_t + t_turned + o_k * t_pitch), z, input_precision=PRECISION)
        skip, grad = p_skip, p_grad
        if p_skip is not None:
            skip = p_skip + o_k.to(INDEX) * s_k
        if p_grad is not None:
            grad = p_grad + o_k.to(INDEX) * g_k
        m = (o_n < N2) & (o_k < N3)
        finish(z, p_y + o_k, skip, p_bias, grad, m, o_n < N2, ACT)


# ---- host ----------------------------------------------------------------------------------------


def taken(modes, last: bool) -> bool:
    """Tiles of 16 numbers at least, and sums that are one chain."""
    (_, n2, n3), (_, m2, m3) = modes.sizes, modes.counts
    most = configs.MODES_PLANE["dft", "exact"].modes
    return not last and 1 < n2 <= configs.MODES_CHAIN and n3 <= configs.MODES_CHAIN and m2 <= most and 8 < m3 <= 32


def _plan(modes, kind: str, form: str) -> tuple[dict, dict]:
    row, (_, n2, n3), (_, m2, m3) = configs.MODES_PLANE[kind, form], modes.sizes, modes.counts
    sizes = {"N2": n2, "N3": n3, "M2": m2, "M3": m3, "BM3": padded(2 * m3) // 2,
             "BN": min(row.others, padded(n2)), "BK": min(row.depth, padded(n3))}  # fmt: skip
    return sizes, {"warps": row.warps, "stages": row.stages, "registers": 255, "fuse": True}


def plane_dft(x, y, modes, scale: float, doubled: bool, form: str) -> None:
    """x (B, C, N1, N2, N3) -> pairs y (B C N1, M2, M3)."""
    from .modes import _wide

    sizes, options = _plan(modes, "dft", form)
    table = rows_table(modes, scale, doubled, False, form, x.device)
    w = columns_table(modes, 1, 1.0, False, False, "exact", x.device)
    b, channels, n1 = x.shape[:3]
    launch(
        x, plane_dft_kernel, (b * channels * n1,), p_x=x, p_t=table, p_w=w, p_y=y, t_pitch=table.shape[-1],
        part=table.numel() // 2 if form == "split" else 0, w_pitch=w.shape[-1], turned=w[0].numel(), channels=channels, n1=n1,
        **{f"x_{i}": s for i, s in zip("0123k", x.stride())}, SPLIT=form == "split", WIDE=_wide(0, x),
        PRECISION=exact_precision(), BM2=padded(modes.counts[1]), **sizes, **options,
    )  # fmt: skip


def plane_idft(x, y, modes, scale: float, doubled: bool, form: str, skip, bias, grad, act: int) -> None:
    """Pairs x (B C N1, M2, M3) -> y (B, C, N1, N2, N3)."""
    from .modes import _strides, _wide

    sizes, options = _plan(modes, "idft", form)
    table = columns_table(modes, 2, scale, doubled, True, form, y.device)
    w = columns_table(modes, 1, 1.0, False, True, form, y.device)
    b, channels, n1, n2, _ = y.shape
    launch(
        y, plane_idft_kernel, (b * channels * n1 * cdiv(n2, sizes["BN"]),), p_x=x, p_t=table, p_w=w, p_y=y, p_skip=skip,
        p_bias=bias, p_grad=grad, t_pitch=table.shape[-1], t_turned=table[0].numel(), w_pitch=w.shape[-1], w_turned=w[0].numel(),
        channels=channels, n1=n1, **_strides(skip, "s", "0123k", range(5)), **_strides(grad, "g", "0123k", range(5)), ACT=act,
        WIDE=_wide(0, skip, grad), PRECISION="tf32" if form == "tf32" else exact_precision(), **sizes, **options,
    )  # fmt: skip

"""The mixing of channels in each mode, in Triton: three products that are each other's derivatives, by one kernel.

    mode_mix              out[b, o, p] = sum_i X[b, i, p] W[i, o, p]
    adjoint               out[b, i, p] = sum_o Y[b, o, p] conj(W[i, o, p])
    mode_mix_gradient     out[i, o, p] = sum_b conj(X[b, i, p]) Y[b, o, p]

are all out[u, v, p] = sum_s A[u, s, p] B[s, v, p], one of the two conjugated.  The weight is the traffic: a program takes
some modes and outputs and as many rows as the launch table has, so that B is read once where there are no more.  A mode's sum
is float32 in the order of s, by MODE_MIX_CHAIN terms that are added to the whole.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from .common import cdiv, launch, load, next_power_of_2, runnable
from .modes import FLOATS


@triton.jit
def pairs_of(p, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MODES: tl.constexpr):
    """(ROWS, COLUMNS, 2 MODES) numbers at p -> real and imaginary parts."""
    return tl.split(tl.reshape(load(p, m), (ROWS, COLUMNS, MODES, 2)))


@triton.jit(do_not_specialize=["first", "terms", "second"])
def mix_kernel(
    p_a, p_b, p_y, first, terms, second, modes, a_u, a_s, b_s, b_v,
    CONJ_A: tl.constexpr, CONJ_B: tl.constexpr, CHAIN: tl.constexpr, BU: tl.constexpr, BV: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(first, BU)
    i_u, i = tl.program_id(0) % blocks, tl.program_id(0) // blocks  # rows of the same weights beside each other in time
    i_p, i_v = i % tl.cdiv(modes, BP), i // tl.cdiv(modes, BP)
    u = (i_u * BU + tl.arange(0, BU)[:, None, None]).to(tl.int64)
    v = (i_v * BV + tl.arange(0, BV)[None, :, None]).to(tl.int64)
    p = i_p.to(tl.int64) * (2 * BP) + tl.arange(0, 2 * BP)[None, None, :]
    m_p = p < 2 * modes
    m_a, m_b = (u < first) & m_p, (v < second) & m_p
    p_a += u * a_u + p  # (BU, 1, 2 BP)
    p_b += v * b_v + p  # (1, BV, 2 BP)

    zero = tl.zeros([1, 1, 1], tl.int32)
    re = tl.zeros([BU, BV, BP], tl.float32)
    im = tl.zeros([BU, BV, BP], tl.float32)
    for s0 in tl.range(0, terms, CHAIN):
        some_re = tl.zeros([BU, BV, BP], tl.float32)
        some_im = tl.zeros([BU, BV, BP], tl.float32)
        for s in tl.range(s0, tl.minimum(s0 + CHAIN, terms)):
            o_s = (s + zero).to(tl.int64)
            a_re, a_im = pairs_of(p_a + o_s * a_s, m_a, BU, 1, BP)
            b_re, b_im = pairs_of(p_b + o_s * b_s, m_b, 1, BV, BP)
            if CONJ_A:
                a_im = -a_im
            if CONJ_B:
                b_im = -b_im
            some_re += a_re * b_re
            some_im += a_re * b_im
            some_re -= a_im * b_im
            some_im += a_im * b_re
        re += some_re
        im += some_im

    y = tl.reshape(tl.join(re, im), (BU, BV, 2 * BP))
    tl.store(p_y + (u * second + v) * (2 * modes) + p, y, mask=(u < first) & (v < second) & m_p)


# ---- host ----------------------------------------------------------------------------------------


def supports_mode_mix(spectrum, weight, adjoint: bool) -> tuple[bool, str]:
    if spectrum.dtype != torch.float32 or weight.dtype not in FLOATS:
        return False, f"triton's mode_mix computes in float32, which {spectrum.dtype} with {weight.dtype} does not fit"
    return runnable(spectrum)


def supports_mode_mix_gradient(spectrum, grad) -> tuple[bool, str]:
    return supports_mode_mix(spectrum, grad, False)


def _run(a, b, y, terms: int, strides, row: configs.MixTile, conj_a: bool, conj_b: bool):
    first, second, modes, _ = y.shape
    if y.numel() == 0 or terms == 0:
        return y.zero_()
    bv, bp = min(row.second, next_power_of_2(second)), min(row.modes, next_power_of_2(modes))
    grid = (cdiv(first, row.first) * cdiv(second, bv) * cdiv(modes, bp),)
    launch(
        a, mix_kernel, grid, p_a=a, p_b=b, p_y=y, first=first, terms=terms, second=second, modes=modes,
        **dict(zip(("a_u", "a_s", "b_s", "b_v"), strides)), CONJ_A=conj_a, CONJ_B=conj_b, CHAIN=configs.MODE_MIX_CHAIN,
        BU=row.first, BV=bv, BP=bp, warps=row.warps, registers=255, fuse=True,
    )  # fmt: skip
    return y


def mode_mix(spectrum, weight, adjoint: bool):
    inputs, outputs, modes, _ = weight.shape
    rows = spectrum.shape[0]
    terms, second = (outputs, inputs) if adjoint else (inputs, outputs)
    y = spectrum.new_empty(rows, second, modes, 2)
    row = configs.MODE_MIX[next((r for r in configs.MODE_MIX if r >= rows), max(configs.MODE_MIX))]
    of_i, of_o = outputs * modes * 2, modes * 2
    strides = (terms * modes * 2, modes * 2, *((of_o, of_i) if adjoint else (of_i, of_o)))
    return _run(spectrum, weight, y, terms, strides, row, False, adjoint)


def mode_mix_gradient(spectrum, grad):
    (rows, inputs, modes, _), outputs = spectrum.shape, grad.shape[1]
    y = spectrum.new_empty(inputs, outputs, modes, 2)
    strides = (modes * 2, inputs * modes * 2, outputs * modes * 2, modes * 2)
    return _run(spectrum, grad, y, rows, strides, configs.MODE_MIX_GRADIENT, True, False)

"""KAN layers on B-splines in their sparse form: of the K functions only p + 1 are not zero at an x.

For many functions or few outputs: the p + 1 rows of coefficients that x_ni selects are gathered and summed by float32's
own multiply-adds (float64 for float64), so that the work does not grow with K.  Sums run over the blocks of the
summed dimension first and across the last block at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import configs
from . import kan_plan as plan
from .common import COMPUTE, cdiv, launch, load, next_power_of_2, store
from .kan_basis import activation_value
from .kan_spline import spline_taps


@triton.jit
def gathered(taps, p, o_o, c_k, m_i, c_outputs, K: tl.constexpr, ORDER: tl.constexpr):
    """sum_r N_r(x) c_{i, first + r, o}: (BN, BI, BO), from p (1, BI) at (i, 0)."""
    for r in tl.static_range(0, ORDER + 1):
        k = taps[0] + r  # (BN, BI)
        exists = (k >= 0) & (k < K) & m_i
        v = tl.where(exists, taps[2 + r] + taps[1], 0.0)
        c = tl.load((p + k.to(tl.int64) * c_k)[:, :, None] + o_o, mask=exists[:, :, None] & (o_o < c_outputs), other=0)
        if r == 0:
            acc = v[:, :, None] * c
        else:
            acc = acc + v[:, :, None] * c
    return acc


@triton.jit(do_not_specialize=["rows", "s0", "s1", "s2"])
def sparse_forward_kernel(
    p_x, p_u, p_c, p_bias, p_table, p_y, rows, inputs, outputs, x_stride, u_stride,
    c_k, c_i, c_outputs, table_stride, s0, s1, s2,
    FAMILY: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    BASE: tl.constexpr, BN: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(outputs, BO)
    o_n = (tl.program_id(0) // blocks).to(tl.int64) * BN + tl.arange(0, BN)[:, None]  # (BN, 1)
    o_o = (tl.program_id(0) % blocks) * BO + tl.arange(0, BO)[None, None, :]  # (1, 1, BO)
    acc = tl.zeros([BN, BI, BO], p_c.dtype.element_ty)

    for i in tl.range(0, tl.cdiv(inputs, BI)):
        o_i = i * BI + tl.arange(0, BI)[None, :]
        m = (o_n < rows) & (o_i < inputs)  # (BN, BI)
        x = load(p_x + o_n * x_stride + o_i, m)
        o_i = tl.minimum(o_i, inputs - 1)
        p = p_c + o_i.to(tl.int64) * c_i
        taps = spline_taps(x, o_i, p_table, table_stride, s0, s1, FAMILY, K, A, B, C, M)
        y = gathered(taps, p, o_o, c_k, m, c_outputs, K, A)
        if BASE:
            w = tl.load((p + tl.full([], K, tl.int64) * c_k)[:, :, None] + o_o, mask=o_o < c_outputs, other=0)
            y = y + tl.where(m, activation_value(x, BASE, M), 0.0)[:, :, None] * w
        if p_u is not None:
            y = y * load(p_u + o_n * u_stride + o_i, m)[:, :, None]
        acc = acc + y

    y = tl.sum(acc, axis=1)  # (BN, BO)
    o_o = (tl.program_id(0) % blocks) * BO + tl.arange(0, BO)[None, :]
    if p_bias is not None:
        y = y + tl.load(p_bias + o_o, mask=o_o < outputs, other=0)
    store(p_y + o_n * outputs + o_o, y, (o_n < rows) & (o_o < outputs))


@triton.jit(do_not_specialize=["rows", "s0", "s1", "s2"])
def sparse_dx_kernel(
    p_g, p_x, p_u, p_c, p_table, p_d, rows, inputs, outputs, g_stride, x_stride, u_stride,
    c_k, c_i, c_outputs, table_stride, s0, s1, s2,
    FAMILY: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    BASE: tl.constexpr, BN: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(inputs, BI)
    o_n = (tl.program_id(0) // blocks).to(tl.int64) * BN + tl.arange(0, BN)[:, None]  # (BN, 1)
    o_i = (tl.program_id(0) % blocks) * BI + tl.arange(0, BI)[None, :]  # (1, BI)
    m = (o_n < rows) & (o_i < inputs)
    x = load(p_x + o_n * x_stride + o_i, m)
    p_i = tl.minimum(o_i, inputs - 1)
    p = p_c + p_i.to(tl.int64) * c_i
    taps = spline_taps(x, p_i, p_table, table_stride, s0, s1, FAMILY, K, A, B, C, M)
    if BASE:
        s = activation_value(x, BASE, M)
    acc = tl.zeros([BN, BI, BO], p_c.dtype.element_ty)

    for i in tl.range(0, tl.cdiv(outputs, BO)):
        o_o = i * BO + tl.arange(0, BO)[None, None, :]  # (1, 1, BO)
        m_g = (o_n < rows)[:, :, None] & (o_o < outputs)
        g = load(p_g + (o_n * g_stride)[:, :, None] + o_o, m_g)  # (BN, 1, BO)
        y = gathered(taps, p, o_o, c_k, m, c_outputs, K, A)
        if BASE:
            w = tl.load((p + tl.full([], K, tl.int64) * c_k)[:, :, None] + o_o, mask=o_o < c_outputs, other=0)
            y = y + s[:, :, None] * w
        acc = acc + y * g

    d = tl.sum(acc, axis=2)  # (BN, BI)
    if p_u is not None:
        d = d * load(p_u + o_n * u_stride + o_i, m)
    store(p_d + o_n * inputs + o_i, d, m)


# ---- host ----------------------------------------------------------------------------------------


def chosen(code, outputs: int) -> bool:
    many = code.size >= configs.KAN_SPARSE_FUNCTIONS or outputs <= configs.KAN_SPARSE_OUTPUTS
    return code.family in (plan.UNIFORM, plan.SPLINE) and many


def _tile(kernel: str, x, outputs: int, code, m: int) -> configs.KanTile:
    """A row of the table; few outputs leave room for more rows."""
    tile = configs.KAN_SPARSE[kernel, COMPUTE[x.dtype].itemsize]
    columns = min(tile.outputs, max(next_power_of_2(outputs), 4))
    heavy = plan.state_tiles(code, m) > tile.state
    return tile._replace(rows=tile.rows * (tile.outputs // columns) // (2 if heavy else 1), outputs=columns)


def run(kernel: str, x, coeff, base_weight, code, arguments: dict):
    outputs, inputs, m = arguments["outputs"], arguments["inputs"], arguments["M"]
    slabs = plan.pack(coeff, base_weight, COMPUTE[x.dtype], inputs_last=False)
    tile = _tile(kernel, x, outputs, code, m)
    across = cdiv(outputs, tile.outputs) if kernel == "forward" else cdiv(inputs, tile.inputs)
    function = sparse_forward_kernel if kernel == "forward" else sparse_dx_kernel
    launch(x, function, (cdiv(arguments["rows"], tile.rows) * across,), warps=tile.warps, registers=255, fuse=True, **arguments,
           **{name: slabs[name] for name in ("p_c", "c_k", "c_i", "c_outputs")},
           BN=tile.rows, BI=tile.inputs, BO=tile.outputs)  # fmt: skip

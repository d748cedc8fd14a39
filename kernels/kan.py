"""KAN layers in Triton: y = sum_k B_k^(m)(x) C_k and its gradient in x, the basis built in registers.

The formulas are those of `ops/kan_reference.py`, the bases those of kan_basis.py, and dcoeff is in kan_dcoeff.py.
The base branch is one more slot of C with one more function.  Each tile of x is read once; B_k (BN, BI) is rounded
to the operand type and multiplied by the slab C_k (BI, BO), sums in float32 (float64 for float64).

Operands: 16-bit data uses operands of its own type (kan_plan.operand_type has float16's exceptions), float32 data
three tf32 products for one, or one under precision="high".  float32 slabs lie with the dimension that is summed
contiguous, as Hopper's tf32 products want it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import kan_plan as plan
from . import kan_sparse as sparse
from .common import COMPUTE, cdiv, launch, load, store
from .kan_basis import activation_value, begin, step
from .kan_dcoeff import kan_dcoeff, supports_kan_dcoeff  # noqa: F401
from .kan_plan import product


@triton.jit(do_not_specialize=["rows", "s0", "s1", "s2"])
def forward_kernel(
    p_x, p_u, p_c, p_scale, p_bias, p_table, p_y, rows, inputs, outputs, x_stride, u_stride,
    c_k, c_i, c_o, c_inputs, c_outputs, table_stride, s0, s1, s2,
    FAMILY: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    BASE: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    OPERAND: tl.constexpr = p_c.dtype.element_ty
    blocks = tl.cdiv(outputs, BO)
    o_n = (tl.program_id(0) // blocks).to(tl.int64) * BN + tl.arange(0, BN)[:, None]  # (BN, 1)
    o_o = (tl.program_id(0) % blocks) * BO + tl.arange(0, BO)[None, :]  # (1, BO)
    acc = tl.zeros([BN, BO], tl.float64 if OPERAND == tl.float64 else tl.float32)

    for i in tl.range(0, tl.cdiv(inputs, BI)):
        o_i = i * BI + tl.arange(0, BI)
        m = (o_n < rows) & (o_i < inputs)[None, :]  # (BN, BI)
        m_c = (o_i < c_inputs)[:, None] & (o_o < c_outputs)  # (BI, BO)
        o_c = o_i.to(tl.int64)[:, None] * c_i + o_o.to(tl.int64) * c_o
        p_k = p_c
        x = load(p_x + o_n * x_stride + o_i[None, :], m)
        if p_u is not None:
            u = load(p_u + o_n * u_stride + o_i[None, :], m)
        state = begin(x, tl.minimum(o_i, inputs - 1)[None, :], p_table, table_stride, s0, s1, s2, FAMILY, K, A, B, C, M)
        for k in tl.range(0, K):
            b, state = step(k, state, p_table, s0, s1, s2, FAMILY, K, A, B, C, M)
            if p_u is not None:
                b = b * u
            acc = product(b, tl.load(p_k + o_c, mask=m_c, other=0), acc, OPERAND, PRECISION)
            p_k += c_k
        if BASE:
            b = activation_value(x, BASE, M)
            if p_u is not None:
                b = b * u
            acc = product(b, tl.load(p_k + o_c, mask=m_c, other=0), acc, OPERAND, PRECISION)

    if p_scale is not None:
        acc = acc * tl.load(p_scale)
    if p_bias is not None:
        acc = acc + tl.load(p_bias + o_o, mask=o_o < outputs, other=0)
    store(p_y + o_n * outputs + o_o, acc, (o_n < rows) & (o_o < outputs))


@triton.jit
def through(p_g, p_c, o_n, o_i, rows, outputs, g_stride, c_i, c_o, c_inputs, c_outputs,
            OPERAND: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr):  # fmt: skip
    """g C^T for one slab: (BN, BI)."""
    acc = tl.zeros([BN, BI], tl.float64 if OPERAND == tl.float64 else tl.float32)
    for i in tl.range(0, tl.cdiv(outputs, BO)):
        o_o = i * BO + tl.arange(0, BO)
        g = tl.load(p_g + o_n * g_stride + o_o[None, :], mask=(o_n < rows) & (o_o < outputs)[None, :], other=0)
        m_c = (o_o < c_outputs)[:, None] & (o_i < c_inputs)[None, :]
        c = tl.load(p_c + o_o.to(tl.int64)[:, None] * c_o + o_i.to(tl.int64)[None, :] * c_i, mask=m_c, other=0)
        acc = product(g, c, acc, OPERAND, PRECISION)
    return acc


@triton.jit(do_not_specialize=["rows", "s0", "s1", "s2"])
def dx_kernel(
    p_g, p_x, p_u, p_c, p_scale, p_table, p_d, rows, inputs, outputs, g_stride, x_stride, u_stride,
    c_k, c_i, c_o, c_inputs, c_outputs, table_stride, s0, s1, s2,
    FAMILY: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    BASE: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    OPERAND: tl.constexpr = p_c.dtype.element_ty
    blocks = tl.cdiv(inputs, BI)
    o_n = (tl.program_id(0) // blocks).to(tl.int64) * BN + tl.arange(0, BN)[:, None]  # (BN, 1)
    o_i = (tl.program_id(0) % blocks) * BI + tl.arange(0, BI)
    m = (o_n < rows) & (o_i < inputs)[None, :]  # (BN, BI)
    x = load(p_x + o_n * x_stride + o_i[None, :], m)
    d = tl.zeros_like(x)
    p_k = p_c

    state = begin(x, tl.minimum(o_i, inputs - 1)[None, :], p_table, table_stride, s0, s1, s2, FAMILY, K, A, B, C, M)
    for k in tl.range(0, K):
        v = through(p_g, p_k, o_n, o_i, rows, outputs, g_stride, c_i, c_o, c_inputs, c_outputs,
                    OPERAND, PRECISION, BN, BI, BO)  # fmt: skip
        b, state = step(k, state, p_table, s0, s1, s2, FAMILY, K, A, B, C, M)
        d = d + v * b
        p_k += c_k
    if BASE:
        v = through(p_g, p_k, o_n, o_i, rows, outputs, g_stride, c_i, c_o, c_inputs, c_outputs,
                    OPERAND, PRECISION, BN, BI, BO)  # fmt: skip
        d = d + v * activation_value(x, BASE, M)

    if p_scale is not None:
        d = d * tl.load(p_scale)
    if p_u is not None:
        d = d * load(p_u + o_n * u_stride + o_i[None, :], m)
    store(p_d + o_n * inputs + o_i[None, :], d, m)


# ---- host ----------------------------------------------------------------------------------------


def supports_kan_forward(x, u, coeff, base_weight, bias, code, base: int, m: int, precision: str) -> tuple[bool, str]:
    return plan.supports(x, code, m)


def supports_kan_dx(grad, x, u, coeff, base_weight, code, base: int, m: int, precision: str) -> tuple[bool, str]:
    return plan.supports(x, code, m)


def kan_forward(x, u, coeff, base_weight, bias, code, base: int, m: int, precision: str):
    (rows, inputs), outputs = x.shape, coeff.shape[0]
    base = base if base_weight is not None else 0
    y = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    arguments = {"p_x": x, "p_u": u, "p_bias": bias, "p_y": y, "rows": rows, "inputs": inputs, "outputs": outputs,
              "x_stride": plan.stride(x), "u_stride": plan.stride(u), **plan.basis_arguments(code, m), "BASE": base}  # fmt: skip
    if sparse.chosen(code, outputs):
        sparse.run("forward", x, coeff, base_weight if base else None, code, arguments)
        return y
    operand = plan.operand_type(x, u, code, m)
    slabs = plan.pack(coeff, base_weight if base else None, operand, inputs_last=operand == torch.float32)
    tile = plan.tile_of("forward", x, outputs, code, m, base)
    grid = (cdiv(rows, tile.rows) * cdiv(outputs, tile.outputs),)
    launch(x, forward_kernel, grid, warps=tile.warps, stages=tile.stages, registers=255, fuse=True, **arguments, **slabs,
           PRECISION=plan.input_precision(operand, x, precision), BN=tile.rows, BI=tile.inputs, BO=tile.outputs)  # fmt: skip
    return y


def kan_dx(grad, x, u, coeff, base_weight, code, base: int, m: int, precision: str):
    (rows, inputs), outputs = x.shape, coeff.shape[0]
    base = base if base_weight is not None else 0
    d = torch.empty((rows, inputs), dtype=x.dtype, device=x.device)
    if d.numel() == 0:
        return d
    arguments = {"p_g": grad, "p_x": x, "p_u": u, "p_d": d, "rows": rows, "inputs": inputs, "outputs": outputs,
              "g_stride": plan.stride(grad), "x_stride": plan.stride(x), "u_stride": plan.stride(u),
              **plan.basis_arguments(code, m), "BASE": base}  # fmt: skip
    if sparse.chosen(code, outputs):
        sparse.run("dx", x, coeff, base_weight if base else None, code, arguments)
        return d
    operand = grad.dtype if grad.dtype == x.dtype else COMPUTE[x.dtype]
    slabs = plan.pack(coeff, base_weight if base else None, operand, inputs_last=False)
    tile = plan.tile_of("dx", x, outputs, code, m, base)
    grid = (cdiv(rows, tile.rows) * cdiv(inputs, tile.inputs),)
    launch(x, dx_kernel, grid, warps=tile.warps, stages=tile.stages, registers=255, fuse=True, **arguments, **slabs,
           PRECISION=plan.input_precision(operand, x, precision), BN=tile.rows, BI=tile.inputs, BO=tile.outputs)  # fmt: skip
    return d

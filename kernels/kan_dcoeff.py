"""The gradient of a KAN layer in its coefficients: dc_k = (B_k^(m)(x) u)^T g, summed over rows, without atomics.

A program takes a block of inputs, a block of outputs, KB consecutive functions and a chunk of rows, and keeps the KB
sums in registers: x and g are read once for KB products.  Chunks follow from the sizes alone; where there are several, a
second kernel adds their sums in order, in double.  The base branch is a basis of one function and a launch of its own.

Splines take this dense form for every K: their sparse form would be a scatter over the rows of a chunk, whose order is
fixed only by sorting them by interval first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from . import kan_plan as plan
from .common import COMPUTE, cdiv, launch, load
from .kan_basis import POLYNOMIAL, begin, step
from .kan_plan import product


@triton.jit(do_not_specialize=["rows", "steps", "s0", "s1", "s2"])
def dcoeff_kernel(
    p_g, p_x, p_u, p_table, p_out, rows, inputs, outputs, steps, g_stride, x_stride, u_stride, table_stride, s0, s1, s2,
    FAMILY: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr, KB: tl.constexpr,
):  # fmt: skip
    """out (chunks, K, I, O)."""
    output_blocks, input_blocks, groups = tl.cdiv(outputs, BO), tl.cdiv(inputs, BI), tl.cdiv(K, KB)
    i_p = tl.program_id(0)
    o_o = (i_p % output_blocks) * BO + tl.arange(0, BO)[None, :]  # (1, BO)
    i_p = i_p // output_blocks
    o_i = (i_p % input_blocks) * BI + tl.arange(0, BI)[:, None]  # (BI, 1)
    i_p = i_p // input_blocks
    i_k, i_c = (i_p % groups) * KB, i_p // groups
    acc = ()
    for _ in tl.static_range(0, KB):
        acc = acc + (tl.zeros([BI, BO], p_out.dtype.element_ty),)

    for s in tl.range(0, steps):
        o_n = (i_c.to(tl.int64) * steps + s) * BN + tl.arange(0, BN)
        m = (o_i < inputs) & (o_n < rows)[None, :]  # (BI, BN)
        x = load(p_x + o_n[None, :] * x_stride + o_i, m)
        if p_u is not None:
            u = load(p_u + o_n[None, :] * u_stride + o_i, m)
        g = tl.load(p_g + o_n[:, None] * g_stride + o_o, mask=(o_n < rows)[:, None] & (o_o < outputs), other=0)
        state = begin(x, tl.minimum(o_i, inputs - 1), p_table, table_stride, s0, s1, s2, FAMILY, K, A, B, C, M)
        if FAMILY == POLYNOMIAL and K > KB:
            for k in tl.range(0, i_k):
                passed, state = step(k, state, p_table, s0, s1, s2, FAMILY, K, A, B, C, M)
        sums = ()
        for k in tl.static_range(0, KB):
            b, state = step(tl.minimum(i_k + k, K - 1), state, p_table, s0, s1, s2, FAMILY, K, A, B, C, M)
            if p_u is not None:
                b = b * u
            sums = sums + (product(b, g, acc[k], OPERAND, PRECISION),)
        acc = sums

    p = p_out + i_c.to(tl.int64) * K * inputs * outputs + o_i.to(tl.int64) * outputs + o_o
    for k in tl.static_range(0, KB):
        m = (o_i < tl.where(i_k + k < K, inputs, 0)) & (o_o < outputs)
        tl.store(p + (i_k + k).to(tl.int64) * inputs * outputs, acc[k], mask=m)


@triton.jit(do_not_specialize=["count"])
def reduce_kernel(p_partial, p_out, size, count, BLOCK: tl.constexpr):
    """Add `count` arrays of `size` elements, in order."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float64)
    for _ in tl.range(0, count):
        acc += tl.load(p_partial + o, mask=o < size, other=0).to(tl.float64)
        p_partial += size
    tl.store(p_out + o, acc.to(p_out.dtype.element_ty), mask=o < size)


# ---- host ----------------------------------------------------------------------------------------


def supports_kan_dcoeff(grad, x, u, code, base: int, m: int, precision: str) -> tuple[bool, str]:
    return plan.supports(x, code, m)


def partition(rows: int, block: int, tiles: int, size: int) -> tuple[int, int]:
    """(steps of `block` rows in a chunk, chunks): enough programs for a large GPU, each with some rows to sum, and no more
    partial sums than the workspace takes.
    """
    blocks = cdiv(rows, block)
    chunks = min(cdiv(configs.KAN_PROGRAMS, tiles), cdiv(blocks, configs.KAN_STEPS), configs.KAN_WORKSPACE // max(size, 1))
    steps = cdiv(blocks, max(chunks, 1))
    return steps, cdiv(blocks, steps)


def _sums(grad, x, u, code, m: int, precision: str):
    """(K, I, O) in the compute dtype."""
    (rows, inputs), outputs, dtype = x.shape, grad.shape[1], COMPUTE[x.dtype]
    operand = plan.operand_type(x, u, code, m)
    tile = plan.tile_of("dcoeff", x, outputs, code, m, 0)
    functions = min(tile.functions, code.size)
    tiles = cdiv(inputs, tile.inputs) * cdiv(outputs, tile.outputs) * cdiv(code.size, functions)
    size = code.size * inputs * outputs
    steps, chunks = partition(rows, tile.rows, tiles, size)
    partial = torch.empty((chunks, code.size, inputs, outputs), dtype=dtype, device=x.device)
    launch(x, dcoeff_kernel, (tiles * chunks,), warps=tile.warps, stages=tile.stages, registers=255, fuse=True,
           p_g=grad, p_x=x, p_u=u, p_out=partial, rows=rows, inputs=inputs, outputs=outputs, steps=steps,
           g_stride=plan.stride(grad), x_stride=plan.stride(x), u_stride=plan.stride(u), **plan.basis_arguments(code, m),
           OPERAND=plan.triton_type(operand), PRECISION=plan.input_precision(operand, x, precision),
           BN=tile.rows, BI=tile.inputs, BO=tile.outputs, KB=functions)  # fmt: skip
    if chunks == 1:
        return partial[0]
    out = torch.empty((code.size, inputs, outputs), dtype=dtype, device=x.device)
    launch(x, reduce_kernel, (cdiv(size, configs.KAN_REDUCE_BLOCK),), warps=4, p_partial=partial, p_out=out, size=size,
           count=chunks, BLOCK=configs.KAN_REDUCE_BLOCK)  # fmt: skip
    return out


def kan_dcoeff(grad, x, u, code, base: int, m: int, precision: str):
    """-> dcoeff (O, I, K), and (O, I) or None for the base branch, in the compute dtype."""
    dcoeff = _sums(grad, x, u, code, m, precision).permute(2, 1, 0).contiguous()
    if not base:
        return dcoeff, None
    activation = code._replace(family=plan.ACTIVATION, size=1, a=base, b=0, c=0, scalars=(), table=None)
    return dcoeff, _sums(grad, x, u, activation, m, precision)[0].T.contiguous()

"""Learnable activations y = f(x; p) in Triton: forward, backward and double backward; the formulas are in
activations_math.py.

x is contiguous (outer, C, inner), rows of C groups of `inner` columns.  Where groups are wide a program stays in one of
them and parameters are scalars; where they are narrow a tile spans several and parameters are one a column; shared
parameters make one group of everything.  Arithmetic is float under 16-bit data and double under double.  Parameter
gradients use no atomics: a program sums tiles chosen by the sizes alone, and a second kernel adds the programs' sums in
double, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from .activations_math import first, second, value
from .common import COMPUTE, cdiv, launch, load, next_power_of_2, runnable, store

POLY_RELU, WIRE, WIRE_COMPLEX = 4, 6, 7


# ---- where a program works -----------------------------------------------------------------------


@triton.jit
def place(i_u, i_t, rows, dim, group_dim, numel, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, NARROW: tl.constexpr):
    """Tile i_t of unit i_u, a group or (narrow) a block of columns: offsets (BLOCK_R, BLOCK_C), mask, columns, group."""
    if NARROW:
        o_c = i_u * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        o_group = tl.minimum(o_c, dim - 1) // group_dim
        m_c = o_c < dim
        i_r = i_t
    else:
        across = tl.cdiv(group_dim, BLOCK_C)
        i_r = i_t // across
        o_in = (i_t % across) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        o_c = i_u * group_dim + o_in
        o_group = i_u
        m_c = o_in < group_dim
    o_r = i_r.to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    o = o_r * dim + o_c
    return o, (o_r < rows) & m_c & (o < numel), o_c, o_group


@triton.jit
def table(p, o_group, stride, channels, COUNT: tl.constexpr):
    """Column o_group of a (COUNT, channels) table, as a tuple: scalars, or one a column of the tile."""
    found = ()
    for k in tl.static_range(0, COUNT):
        found = found + (tl.load(p + k * channels + o_group * stride),)
    return found


@triton.jit
def place_parts(
    o, m, i_u, i_t, rows, dim, group_dim, numel,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, NARROW: tl.constexpr, PAIR: tl.constexpr,
):  # fmt: skip
    """The same place in a tensor of pairs, whose columns are twice as many: (BLOCK_R, 2 BLOCK_C); else o and m."""
    if PAIR:
        o, m, _, _ = place(i_u, i_t, rows, 2 * dim, 2 * group_dim, 2 * numel, BLOCK_R, 2 * BLOCK_C, NARROW)
    return o, m


@triton.jit
def load_parts(p, o, m, PAIR: tl.constexpr):
    if PAIR:
        v = load(p + o, m)
        re, im = tl.split(tl.reshape(v, [v.shape[0], v.shape[1] // 2, 2]))
        return (re, im)
    else:
        return (load(p + o, m),)


@triton.jit
def store_parts(p, o, v, m, PAIR: tl.constexpr):
    if PAIR:
        store(p + o, tl.reshape(tl.join(v[0], v[1]), [o.shape[0], o.shape[1]]), m)
    else:
        store(p + o, v[0], m)


# ---- sums over what shares a parameter -----------------------------------------------------------


@triton.jit
def zeros(p, COUNT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    acc = ()
    for _ in tl.static_range(0, COUNT):
        acc = acc + (tl.zeros([BLOCK_R, BLOCK_C], p.dtype.element_ty),)
    return acc


@triton.jit
def add(acc, terms, m, COUNT: tl.constexpr, VECTOR: tl.constexpr, NARROW: tl.constexpr):
    """Add a tile's terms; where columns share the parameter, a thread's contiguous elements first."""
    sums = ()
    for k in tl.static_range(0, COUNT):
        b = tl.where(m, terms[k], 0.0)
        if not NARROW and VECTOR > 1:
            b = tl.sum(tl.reshape(b, [b.shape[0], b.shape[1] // VECTOR, VECTOR]), axis=2)
        sums = sums + (acc[k] + b,)
    return sums


@triton.jit
def write_partials(p, acc, i_u, i_p, chunks, channels, group_dim, dim, o_c, o_group, COUNT: tl.constexpr, NARROW: tl.constexpr):
    """Laid out (parameter, group, chunk, column of the group), so that the second stage reads each sum's parts in one run."""
    for k in tl.static_range(0, COUNT):
        if NARROW:
            o = ((k * channels + o_group).to(tl.int64) * chunks + i_p) * group_dim + (o_c - o_group * group_dim)
            tl.store(p + o, tl.sum(acc[k], axis=0)[None, :], mask=o_c < dim)
        else:
            o = (k * channels + i_u).to(tl.int64) * chunks + i_p
            tl.store(p + o, tl.sum(tl.sum(acc[k], axis=1), axis=0))


# ---- kernels -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "units"])
def forward_kernel(
    p_x, p_params, p_y, rows, dim, group_dim, numel, channels, stride, units,
    FUNCTION: tl.constexpr, COUNT: tl.constexpr, XPAIR: tl.constexpr, YPAIR: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    i_t, i_u = tl.program_id(0) // units, tl.program_id(0) % units
    o, m, _, o_group = place(i_u, i_t, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW)
    p = table(p_params, o_group, stride, channels, COUNT)
    o_y, m_y = place_parts(o, m, i_u, i_t, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW, YPAIR)
    o_x, m_x = (o_y, m_y) if XPAIR else (o, m)
    store_parts(p_y, o_y, value(load_parts(p_x, o_x, m_x, XPAIR), p, FUNCTION, COUNT), m_y, YPAIR)


@triton.jit(do_not_specialize=["rows", "units", "chunks", "steps"])
def backward_kernel(
    p_grad, p_x, p_params, p_dx, p_partial, rows, dim, group_dim, numel, channels, stride, units, chunks, steps,
    FUNCTION: tl.constexpr, COUNT: tl.constexpr, SUMS: tl.constexpr, XPAIR: tl.constexpr, YPAIR: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, VECTOR: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """dx = <g, f_x>, and the sums of <g, f_p> over a program's tiles; SUMS is COUNT, or 0 where nobody needs them."""
    i_p, i_u = tl.program_id(0) // units, tl.program_id(0) % units
    o, m, o_c, o_group = place(i_u, i_p, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW)
    p = table(p_params, o_group, stride, channels, COUNT)
    acc = zeros(p_partial, SUMS, BLOCK_R, BLOCK_C if NARROW else BLOCK_C // VECTOR)

    for i in tl.range(0, steps):
        o, m, o_c, o_group = place(i_u, i_p * steps + i, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW)
        o_y, m_y = place_parts(o, m, i_u, i_p * steps + i, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW, YPAIR)
        o_x, m_x = (o_y, m_y) if XPAIR else (o, m)
        x, g = load_parts(p_x, o_x, m_x, XPAIR), load_parts(p_grad, o_y, m_y, YPAIR)
        dx, terms = first(g, x, p, FUNCTION, COUNT)
        store_parts(p_dx, o_x, dx, m_x, XPAIR)
        acc = add(acc, terms, m, SUMS, VECTOR, NARROW)
    write_partials(p_partial, acc, i_u, i_p, chunks, channels, group_dim, dim, o_c, o_group, SUMS, NARROW)


@triton.jit(do_not_specialize=["rows", "units", "chunks", "steps"])
def double_backward_kernel(
    p_ggx, p_ggparams, p_grad, p_x, p_params, p_dgrad, p_dx, p_partial,
    rows, dim, group_dim, numel, channels, stride, units, chunks, steps,
    FUNCTION: tl.constexpr, COUNT: tl.constexpr, SUMS: tl.constexpr, XPAIR: tl.constexpr, YPAIR: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, VECTOR: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """dgrad = f_d, dx = <g, f_xd> and the sums of <g, f_pd> along the direction (ggx, ggparams)."""
    i_p, i_u = tl.program_id(0) // units, tl.program_id(0) % units
    o, m, o_c, o_group = place(i_u, i_p, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW)
    p = table(p_params, o_group, stride, channels, COUNT)
    w = table(p_ggparams, o_group, stride, channels, COUNT)
    acc = zeros(p_partial, SUMS, BLOCK_R, BLOCK_C if NARROW else BLOCK_C // VECTOR)

    for i in tl.range(0, steps):
        o, m, o_c, o_group = place(i_u, i_p * steps + i, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW)
        o_y, m_y = place_parts(o, m, i_u, i_p * steps + i, rows, dim, group_dim, numel, BLOCK_R, BLOCK_C, NARROW, YPAIR)
        o_x, m_x = (o_y, m_y) if XPAIR else (o, m)
        x, v = load_parts(p_x, o_x, m_x, XPAIR), load_parts(p_ggx, o_x, m_x, XPAIR)
        dgrad, dx, terms = second(v, w, load_parts(p_grad, o_y, m_y, YPAIR), x, p, FUNCTION, COUNT)
        store_parts(p_dgrad, o_y, dgrad, m_y, YPAIR)
        store_parts(p_dx, o_x, dx, m_x, XPAIR)
        acc = add(acc, terms, m, SUMS, VECTOR, NARROW)
    write_partials(p_partial, acc, i_u, i_p, chunks, channels, group_dim, dim, o_c, o_group, SUMS, NARROW)


@triton.jit(do_not_specialize=["count"])
def reduce_kernel(p_partial, p_out, count, BLOCK: tl.constexpr):
    """Add the `count` parts of one sum, in double and in order."""
    p = p_partial + tl.program_id(0).to(tl.int64) * count
    acc = tl.zeros([BLOCK], tl.float64)
    for i in tl.range(0, tl.cdiv(count, BLOCK)):
        o = i * BLOCK + tl.arange(0, BLOCK)
        acc += tl.load(p + o, mask=o < count, other=0).to(tl.float64)
    tl.store(p_out + tl.program_id(0), tl.sum(acc, axis=0).to(p_out.dtype.element_ty))


# ---- host ----------------------------------------------------------------------------------------


def supports_activation(x, params, function: int) -> tuple[bool, str]:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False, f"triton's activations take floating point, got {x.dtype}"
    if params.shape[0] > configs.ACTIVATION_MAX_PARAMETERS:
        return False, f"triton's activations take up to {configs.ACTIVATION_MAX_PARAMETERS} parameters, got {params.shape[0]}"
    return runnable(x)


def _plan(kernel: str, x, params, function: int):
    """(shape arguments, constants, units, tiles a unit, tile): how (outer, C, inner) is cut, from the sizes alone."""
    channels = params.shape[1]
    pairs = function in (WIRE, WIRE_COMPLEX)
    tile = (configs.ACTIVATION_PAIRS if pairs else configs.ACTIVATION)[kernel, x.element_size()]
    outer, _, inner = x.shape[:3]
    numel = outer * x.shape[1] * inner
    if channels == 1:  # everything is one group, of rows as long as a tile
        dim = group_dim = min(tile.elements, max(next_power_of_2(numel), tile.vector))
        rows = cdiv(numel, dim)
    else:
        rows, dim, group_dim = outer, channels * inner, inner
    narrow = channels > 1 and group_dim < configs.ACTIVATION_NARROW_BELOW
    columns = min(next_power_of_2(dim if narrow else group_dim), tile.elements)
    if channels > 1:
        columns = min(columns, max(configs.ACTIVATION_COLUMNS, tile.elements // next_power_of_2(rows)))
    block_c = max(columns, 16 if narrow else tile.vector)
    block_r = tile.elements // block_c
    units, across = (cdiv(dim, block_c), 1) if narrow else (channels, cdiv(group_dim, block_c))
    sizes = {"rows": rows, "dim": dim, "group_dim": group_dim, "numel": numel, "channels": channels, "units": units,
             "stride": 1 if channels > 1 else 0}  # fmt: skip
    constants = {"FUNCTION": function, "COUNT": params.shape[0], "XPAIR": function == WIRE_COMPLEX,
                 "YPAIR": pairs, "BLOCK_R": block_r, "BLOCK_C": block_c, "NARROW": narrow}  # fmt: skip
    return sizes, constants, units, cdiv(rows, block_r) * across, tile


def activation_forward(x, params, function: int):
    shape = (*x.shape, 2) if function == WIRE else x.shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device)
    sizes, constants, units, tiles, tile = _plan("forward", x, params, function)
    launch(x, forward_kernel, (tiles * units,), warps=tile.warps, fuse=True, p_x=x, p_params=params, p_y=y, **sizes, **constants)
    return y


def _partition(tiles: int, units: int) -> tuple[int, int]:
    """(tiles a program takes, programs a unit gets)."""
    least, most = configs.ACTIVATION_STEPS
    steps = min(max(cdiv(tiles * units, configs.ACTIVATION_PROGRAMS), least), most)
    steps = max(steps, cdiv(tiles * units, configs.ACTIVATION_MAX_PROGRAMS))
    chunks = cdiv(tiles, steps)
    steps = cdiv(tiles, chunks)  # as even as it gets
    return steps, cdiv(tiles, steps)


def _gradient(kernel, name: str, pointers: dict, x, params, function: int, need_params: bool):
    """Run a gradient kernel and its second stage: dparams, or None."""
    sizes, constants, units, tiles, tile = _plan(name, x, params, function)
    steps, chunks = _partition(tiles, units)
    sums = params.shape[0] if need_params else 0
    slots = sizes["group_dim"] if constants["NARROW"] else 1  # parts that a chunk leaves of one sum
    channels = sizes["channels"]
    partial = torch.empty(max(sums * channels * chunks * slots, 1), dtype=COMPUTE[x.dtype], device=x.device)
    launch(x, kernel, (chunks * units,), warps=tile.warps, fuse=True, p_x=x, p_params=params, p_partial=partial, chunks=chunks,
           steps=steps, SUMS=sums, VECTOR=min(tile.vector, constants["BLOCK_C"]), **pointers, **sizes, **constants)  # fmt: skip
    if not need_params:
        return None
    dparams = torch.empty(params.shape, dtype=params.dtype, device=x.device)
    if sums:
        launch(x, reduce_kernel, (sums * channels,), warps=4, p_partial=partial, p_out=dparams, count=chunks * slots,
               BLOCK=configs.ACTIVATION_REDUCE_BLOCK)  # fmt: skip
    return dparams


def activation_backward(grad, x, params, function: int, need_params: bool):
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    pointers = {"p_grad": grad, "p_dx": dx}
    return dx, _gradient(backward_kernel, "backward", pointers, x, params, function, need_params)


def activation_double_backward(ggx, ggparams, grad, x, params, function: int, need_params: bool):
    dgrad, dx = torch.empty(grad.shape, dtype=x.dtype, device=x.device), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    ggparams = torch.zeros_like(params) if ggparams is None else ggparams
    pointers = {"p_ggx": ggx, "p_ggparams": ggparams, "p_grad": grad, "p_dgrad": dgrad, "p_dx": dx}
    return dgrad, dx, _gradient(double_backward_kernel, "double_backward", pointers, x, params, function, need_params)

"""Rational activations y = P(x) / Q(x) in Triton: forward, backward and double backward.

With P = sum a_i x^i, z = |x| for version A and x otherwise, T = sum b_j z^j (|b_j| for A; j from 0
for C, else from 1): Q = 1 + T (A), 1 + |T| (B), 0.1 + |T| (C), 1 + T^2 (smooth).  Below w = dQ/dT,
so that dQ/db_j = w z^j (times sign b_j for A).

Arithmetic is float under 16-bit data and double under double.  `/` is PTX's div.full for float (at
most 2 ulp) and exact division for double.  Coefficient gradients use no atomics: a program sums a
range of rows fixed by the sizes alone, and a second kernel adds the programs' sums in double, in a
fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from .common import COMPUTE, cdiv, launch, load, next_power_of_2, runnable, sign, store

A, B, C, SMOOTH = (tl.constexpr(code) for code in range(4))


# ---- the mathematics -----------------------------------------------------------------------------


@triton.jit
def coefficients(p, o_group, COUNT: tl.constexpr, ABSOLUTE: tl.constexpr):
    """Row o_group of a (groups, COUNT) table, as a tuple; o_group is a scalar, or (1, BLOCK_C)
    offsets.
    """
    b = ()
    for i in tl.static_range(0, COUNT):
        b_i = tl.load(p + o_group + i)
        if ABSOLUTE:
            b_i = tl.abs(b_i)
        b = b + (b_i,)
    return b


@triton.jit
def jet(c, x, COUNT: tl.constexpr, FIRST: tl.constexpr):
    """sum_j c_j x^(j + FIRST) and its first two derivatives, by Horner's rule.  FIRST is 0 or 1."""
    v = tl.zeros_like(x)
    d = tl.zeros_like(x)
    h = tl.zeros_like(x)  # half the second derivative
    if COUNT > 0:
        v = v + c[COUNT - 1]
        for i in tl.static_range(1, COUNT):
            h = h * x + d
            d = d * x + v
            v = v * x + c[COUNT - 1 - i]
    if FIRST == 1:
        h = h * x + d
        d = d * x + v
        v = v * x
    return v, d, 2 * h


@triton.jit
def denominator(t, VERSION: tl.constexpr):
    if VERSION == A:
        return 1.0 + t
    elif VERSION == B:
        return 1.0 + tl.abs(t)
    elif VERSION == C:
        return 0.1 + tl.abs(t)
    else:
        return 1.0 + t * t


@triton.jit
def slope(t, VERSION: tl.constexpr, SIGN0: tl.constexpr):
    """w = dQ/dT."""
    if VERSION == A:
        return tl.zeros_like(t) + 1.0
    elif VERSION == SMOOTH:
        return 2.0 * t
    else:
        return sign(t, SIGN0)


# ---- where a program works -----------------------------------------------------------------------


@triton.jit
def columns(i_c, dim, group_dim, BLOCK_C: tl.constexpr, NARROW: tl.constexpr):
    """Columns of block i_c with their mask, (1, BLOCK_C), and the group: one for all, or one a
    column.
    """
    if NARROW:
        o_c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        return o_c, o_c < dim, tl.minimum(o_c, dim - 1) // group_dim
    else:
        per_group = tl.cdiv(group_dim, BLOCK_C)
        i_g = i_c // per_group
        o_in = (i_c % per_group) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        return i_g * group_dim + o_in, o_in < group_dim, i_g


@triton.jit
def fold(b, VECTOR: tl.constexpr, NARROW: tl.constexpr):
    """Add a thread's contiguous elements: no exchange, and one accumulator a coefficient instead
    of VECTOR of them.
    """
    if NARROW or VECTOR == 1:
        return b
    else:
        return tl.sum(tl.reshape(b, [b.shape[0], b.shape[1] // VECTOR, VECTOR]), axis=2)


@triton.jit
def zeros(
    p, COUNT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, VECTOR: tl.constexpr, NARROW: tl.constexpr
):
    """COUNT accumulators of the shape `fold` gives."""
    acc = ()
    for _ in tl.static_range(0, COUNT):
        if NARROW:
            acc = acc + (tl.zeros([BLOCK_R, BLOCK_C], p.dtype.element_ty),)
        else:
            acc = acc + (tl.zeros([BLOCK_R, BLOCK_C // VECTOR], p.dtype.element_ty),)
    return acc


@triton.jit
def write_partials(
    p, acc, factor, i_c, i_p, chunks, groups, group_dim, o_c, m_c, o_group, FIRST_K: tl.constexpr, COUNT: tl.constexpr,
    BLOCK_C: tl.constexpr, NARROW: tl.constexpr, FACTOR: tl.constexpr,
):  # fmt: skip
    """Partial sums, laid out (coefficient, group, chunk, part of the group) so that the second
    stage reads them in one run.
    """
    for k in tl.static_range(0, COUNT):
        if NARROW:
            s = tl.sum(acc[k], axis=0)[None, :]  # (1, BLOCK_C)
            o = ((k + FIRST_K) * groups + o_group).to(tl.int64) * chunks + i_p
            o = o * group_dim + (o_c - o_group * group_dim)
        else:
            parts = tl.cdiv(group_dim, BLOCK_C)
            s = tl.sum(tl.sum(acc[k], axis=1), axis=0)
            o = (((k + FIRST_K) * groups + o_group).to(tl.int64) * chunks + i_p) * parts + i_c % parts
        if FACTOR:
            s = s * factor[k]
        if NARROW:
            tl.store(p + o, s, mask=m_c)
        else:
            tl.store(p + o, s)


# ---- kernels -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "column_blocks"])
def forward_kernel(
    p_x, p_num, p_den, p_y, rows, dim, group_dim, x_stride, num_stride, den_stride, column_blocks,
    VERSION: tl.constexpr, NUM: tl.constexpr, DEN: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    i_r, i_c = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    o_c, m_c, o_group = columns(i_c, dim, group_dim, BLOCK_C, NARROW)
    o_r = i_r.to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    m = (o_r < rows) & m_c  # (BLOCK_R, BLOCK_C)

    a = coefficients(p_num, o_group * num_stride, NUM, False)
    b = coefficients(p_den, o_group * den_stride, DEN, VERSION == A)
    x = load(p_x + o_r * x_stride + o_c, m)

    p, _, _ = jet(a, x, NUM, 0)
    t, _, _ = jet(b, tl.abs(x) if VERSION == A else x, DEN, 0 if VERSION == C else 1)
    store(p_y + o_r * dim + o_c, p / denominator(t, VERSION), m)


@triton.jit(do_not_specialize=["rows", "column_blocks", "chunks", "steps"])
def backward_kernel(
    p_grad, p_x, p_num, p_den, p_dx, p_partial, rows, dim, groups, group_dim,
    grad_stride, x_stride, num_stride, den_stride, column_blocks, chunks, steps,
    VERSION: tl.constexpr, SIGN0: tl.constexpr, NUM: tl.constexpr, DEN: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, VECTOR: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """dx = g F', and the sums of  u x^i,  u = g / Q,  for the numerator and of  -u F w z^j  for
    the denominator.
    """
    FIRST: tl.constexpr = 0 if VERSION == C else 1
    i_p, i_c = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    o_c, m_c, o_group = columns(i_c, dim, group_dim, BLOCK_C, NARROW)
    a = coefficients(p_num, o_group * num_stride, NUM, False)
    b = coefficients(p_den, o_group * den_stride, DEN, VERSION == A)
    acc_num = zeros(p_partial, NUM, BLOCK_R, BLOCK_C, VECTOR, NARROW)
    acc_den = zeros(p_partial, DEN, BLOCK_R, BLOCK_C, VECTOR, NARROW)

    for i in tl.range(0, steps):
        o_r = (i_p.to(tl.int64) * steps + i) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        m = (o_r < rows) & m_c  # (BLOCK_R, BLOCK_C)
        x = load(p_x + o_r * x_stride + o_c, m)
        g = load(p_grad + o_r * grad_stride + o_c, m)

        z = tl.abs(x) if VERSION == A else x
        p, dp, _ = jet(a, x, NUM, 0)
        t, dt, _ = jet(b, z, DEN, FIRST)
        w = slope(t, VERSION, SIGN0)
        dt = sign(x, SIGN0) * dt if VERSION == A else dt
        q = denominator(t, VERSION)
        if p_x.dtype.element_ty.primitive_bitwidth > 16:
            f, u = p / q, g / q
        else:  # the rounding to 16 bits hides one of a reciprocal, and instructions are what bounds this kernel there
            r = 1.0 / q
            f, u = p * r, g * r
        store(p_dx + o_r * dim + o_c, u * (dp - f * w * dt), m)

        s = -u * f * w
        sums = ()
        for k in tl.static_range(0, NUM):
            sums = sums + (acc_num[k] + fold(u, VECTOR, NARROW),)
            u = u * x
        acc_num = sums
        sums = ()
        for k in tl.static_range(0, DEN):
            s = s * z if k + FIRST > 0 else s
            sums = sums + (acc_den[k] + fold(s, VECTOR, NARROW),)
        acc_den = sums

    signs = ()
    for k in tl.static_range(0, DEN):
        signs = signs + (sign(tl.load(p_den + o_group * den_stride + k), SIGN0),)
    write_partials(p_partial, acc_num, signs, i_c, i_p, chunks, groups, group_dim, o_c, m_c, o_group, 0, NUM,
                   BLOCK_C, NARROW, False)  # fmt: skip
    write_partials(p_partial, acc_den, signs, i_c, i_p, chunks, groups, group_dim, o_c, m_c, o_group, NUM, DEN,
                   BLOCK_C, NARROW, VERSION == A)  # fmt: skip


@triton.jit
def directional(a, b, da, db, x, xd, VERSION: tl.constexpr, SIGN0: tl.constexpr, NUM: tl.constexpr, DEN: tl.constexpr):
    """F, F' and their derivatives along (xd, da, db), with what the coefficient terms need.

    d marks d/dx and a trailing _ the derivative along the direction.
    """
    z = tl.abs(x) if VERSION == A else x
    sx = sign(x, SIGN0) if VERSION == A else tl.zeros_like(x) + 1.0
    p, dp, ddp = jet(a, x, NUM, 0)
    q0, q1, _ = jet(da, x, NUM, 0)
    p_, dp_ = dp * xd + q0, ddp * xd + q1
    t, dt, ddt = jet(b, z, DEN, 0 if VERSION == C else 1)
    q0, q1, _ = jet(db, z, DEN, 0 if VERSION == C else 1)
    t_, dt_ = sx * dt * xd + q0, sx * (sx * ddt * xd + q1)
    dt = sx * dt
    w = slope(t, VERSION, SIGN0)
    dq, q_, dq_ = w * dt, w * t_, w * dt_
    if VERSION == SMOOTH:
        dq_ += 2.0 * t_ * dt
    q = denominator(t, VERSION)
    f = p / q
    df = (dp - f * dq) / q
    f_ = (p_ - f * q_) / q
    df_ = (dp_ - f_ * dq - f * dq_ - df * q_) / q
    # dden_j is the sum of g (c0 z^j + c1 j z^(j-1))
    fq, qq = f / q, q_ / q
    c0 = (fq * q_ - f_) / q * w
    if VERSION == SMOOTH:
        c0 -= 2.0 * fq * t_
    return f_, df_, q, qq, c0, -fq * w * sx * xd


@triton.jit(do_not_specialize=["rows", "column_blocks", "chunks", "steps"])
def double_backward_kernel(
    p_ggx, p_ggnum, p_ggden, p_grad, p_x, p_num, p_den, p_dgrad, p_dx, p_partial, rows, dim, groups, group_dim,
    ggx_stride, grad_stride, x_stride, num_stride, den_stride, column_blocks, chunks, steps,
    VERSION: tl.constexpr, SIGN0: tl.constexpr, NUM: tl.constexpr, DEN: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, VECTOR: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    FIRST: tl.constexpr = 0 if VERSION == C else 1
    i_p, i_c = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    o_c, m_c, o_group = columns(i_c, dim, group_dim, BLOCK_C, NARROW)
    a = coefficients(p_num, o_group * num_stride, NUM, False)
    b = coefficients(p_den, o_group * den_stride, DEN, VERSION == A)
    da = coefficients(p_ggnum, o_group * NUM, NUM, False)
    db = coefficients(p_ggden, o_group * DEN, DEN, False)
    signs = ()
    for k in tl.static_range(0, DEN):
        signs = signs + (sign(tl.load(p_den + o_group * den_stride + k), SIGN0),)
    if VERSION == A:  # T holds |b_j|, which moves by sign(b_j) db_j
        scaled = ()
        for k in tl.static_range(0, DEN):
            scaled = scaled + (signs[k] * db[k],)
        db = scaled
    acc_num = zeros(p_partial, NUM, BLOCK_R, BLOCK_C, VECTOR, NARROW)
    acc_den = zeros(p_partial, DEN, BLOCK_R, BLOCK_C, VECTOR, NARROW)

    for i in tl.range(0, steps):
        o_r = (i_p.to(tl.int64) * steps + i) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        m = (o_r < rows) & m_c  # (BLOCK_R, BLOCK_C)
        x = load(p_x + o_r * x_stride + o_c, m)
        g = load(p_grad + o_r * grad_stride + o_c, m)
        xd = load(p_ggx + o_r * ggx_stride + o_c, m)

        f_, df_, q, qq, c0, c1 = directional(a, b, da, db, x, xd, VERSION, SIGN0, NUM, DEN)
        store(p_dgrad + o_r * dim + o_c, f_, m)
        store(p_dx + o_r * dim + o_c, g * df_, m)

        z = tl.abs(x) if VERSION == A else x
        v = g / q
        u, v = -v * qq, v * xd  # dnum_k sums u x^k + v k x^(k-1)
        sums = ()
        for k in tl.static_range(0, NUM):
            if k == 0:
                sums = sums + (acc_num[k] + fold(u, VECTOR, NARROW),)
            else:
                u = u * x
                sums = sums + (acc_num[k] + fold(u + v * k, VECTOR, NARROW),)
                v = v * x
        acc_num = sums
        u, v = g * c0, g * c1
        sums = ()
        for k in tl.static_range(0, DEN):
            if k + FIRST == 0:
                sums = sums + (acc_den[k] + fold(u, VECTOR, NARROW),)
            else:
                u = u * z
                sums = sums + (acc_den[k] + fold(u + v * (k + FIRST), VECTOR, NARROW),)
                v = v * z
        acc_den = sums

    write_partials(p_partial, acc_num, signs, i_c, i_p, chunks, groups, group_dim, o_c, m_c, o_group, 0, NUM,
                   BLOCK_C, NARROW, False)  # fmt: skip
    write_partials(p_partial, acc_den, signs, i_c, i_p, chunks, groups, group_dim, o_c, m_c, o_group, NUM, DEN,
                   BLOCK_C, NARROW, VERSION == A)  # fmt: skip


@triton.jit(do_not_specialize=["groups", "count"])
def reduce_kernel(p_partial, p_dnum, p_dden, groups, count, NUM: tl.constexpr, DEN: tl.constexpr, BLOCK: tl.constexpr):
    """Add the `count` partial sums of one coefficient of one group, in double and in order."""
    i_g, i_k = tl.program_id(0) // (NUM + DEN), tl.program_id(0) % (NUM + DEN)
    p = p_partial + (i_k * groups + i_g).to(tl.int64) * count
    acc = tl.zeros([BLOCK], tl.float64)
    for i in tl.range(0, tl.cdiv(count, BLOCK)):
        o = i * BLOCK + tl.arange(0, BLOCK)
        acc += tl.load(p + o, mask=o < count, other=0).to(tl.float64)
    s = tl.sum(acc, axis=0).to(p_dnum.dtype.element_ty)
    tl.store(p_dnum + i_g * NUM + i_k, s, mask=i_k < NUM)
    tl.store(p_dden + i_g * DEN + i_k - NUM, s, mask=i_k >= NUM)


# ---- host ----------------------------------------------------------------------------------------


def supports_rational(x, num, den, version: int) -> tuple[bool, str]:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False, f"triton's rational takes floating point, got {x.dtype}"
    degree = max(num.shape[-1] - 1, den.shape[-1])
    if degree > configs.RATIONAL_MAX_DEGREE:
        return False, f"triton's rational takes degrees up to {configs.RATIONAL_MAX_DEGREE}, got {degree}"
    return runnable(x)


def _plan(kernel: str, num, den, version: int, *data):
    """(data, shape arguments, constants, warps, column blocks): how (rows, dim) is cut, from the
    sizes alone.
    """
    groups = max(num.shape[0], den.shape[0])
    data = tuple(d if d.shape[1] <= 1 or d.stride(1) == 1 else d.contiguous() for d in data)
    rows, dim = data[0].shape
    if groups == 1 and all(d.is_contiguous() for d in data):
        while dim < configs.RATIONAL_MAX_COLUMNS and rows % 2 == 0:  # one group: short rows may as well be long ones
            rows, dim = rows // 2, dim * 2
        data = tuple(d.view(rows, dim) for d in data)
    group_dim = dim // groups
    narrow = group_dim < configs.RATIONAL_NARROW_BELOW and groups > 1
    tile = configs.RATIONAL[kernel, "narrow" if narrow else "wide", data[0].element_size()]
    limit = min(configs.RATIONAL_MAX_COLUMNS, tile.elements)
    if narrow:
        block_c = min(next_power_of_2(dim), limit)
        column_blocks = cdiv(dim, block_c)
    else:
        block_c = _block_columns(group_dim, tile.vector, limit)
        column_blocks = cdiv(group_dim, block_c) * groups
    sizes = {
        "rows": rows,
        "dim": dim,
        "group_dim": group_dim,
        "num_stride": num.shape[1] if num.shape[0] > 1 else 0,
        "den_stride": den.shape[1] if den.shape[0] > 1 else 0,
        "column_blocks": column_blocks,
    }
    constants = {
        "VERSION": version,
        "NUM": num.shape[1],
        "DEN": den.shape[1],
        "BLOCK_R": tile.elements // block_c,
        "BLOCK_C": block_c,
        "NARROW": narrow,
    }
    return data, sizes, constants, tile


def _block_columns(group_dim: int, vector: int, limit: int) -> int:
    """The widest power of two whose blocks waste at most a tenth more of their lanes than the
    best one does.
    """
    choices = [c for c in (16, 32, 64, 128, 256) if max(vector, 16) <= c <= limit]
    used = {c: group_dim / (cdiv(group_dim, c) * c) for c in choices}
    return max(c for c in choices if used[c] >= 0.9 * max(used.values()))


def _stride(t: torch.Tensor) -> int:
    return t.stride(0) if t.shape[0] > 1 else t.shape[1]


def rational_forward(x, num, den, version: int):
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return y
    (x,), sizes, constants, tile = _plan("forward", num, den, version, x)
    grid = (cdiv(sizes["rows"], constants["BLOCK_R"]) * sizes["column_blocks"],)
    launch(x, forward_kernel, grid, warps=tile.warps, fuse=True, p_x=x, p_num=num, p_den=den, p_y=y,
           x_stride=_stride(x), **sizes, **constants)  # fmt: skip
    return y


def _partition(row_blocks: int, column_blocks: int) -> tuple[int, int]:
    """(row blocks a program takes, programs a column block gets)."""
    tiles = row_blocks * column_blocks
    least, most = configs.RATIONAL_STEPS
    steps = min(max(cdiv(tiles, configs.RATIONAL_PROGRAMS), least), most)
    steps = max(steps, cdiv(tiles, configs.RATIONAL_MAX_PROGRAMS))
    chunks = cdiv(row_blocks, steps)
    steps = cdiv(row_blocks, chunks)  # as even as it gets
    return steps, cdiv(row_blocks, steps)


def _gradient(kernel, name: str, inputs: dict, outputs, extra: dict, num, den, version: int, sign_at_zero: int):
    """Run a gradient kernel and its second stage; returns the elementwise results and (dnum,
    dden).
    """
    x = inputs["x"]
    groups = max(num.shape[0], den.shape[0])
    dtype = COMPUTE[x.dtype]
    results = {o: torch.empty(x.shape, dtype=x.dtype, device=x.device) for o in outputs}
    if x.numel() == 0:
        zero = [torch.zeros(groups, c.shape[1], dtype=dtype, device=x.device) for c in (num, den)]
        return (*results.values(), *zero)
    dnum, dden = (torch.empty(groups, c.shape[1], dtype=dtype, device=x.device) for c in (num, den))
    data, sizes, constants, tile = _plan(name, num, den, version, *inputs.values())
    column_blocks = sizes["column_blocks"]
    steps, chunks = _partition(cdiv(sizes["rows"], constants["BLOCK_R"]), column_blocks)
    # partial sums that a chunk leaves of one coefficient of one group
    slots = sizes["group_dim"] if constants["NARROW"] else column_blocks // groups
    terms = constants["NUM"] + constants["DEN"]
    partial = torch.empty(terms * groups * chunks * slots, dtype=dtype, device=x.device)
    pointers = {f"p_{k}": t for k, t in zip(inputs, data)} | {f"p_{k}": t for k, t in results.items()} | extra
    strides = {f"{k}_stride": _stride(t) for k, t in zip(inputs, data)}
    launch(x, kernel, (chunks * column_blocks,), warps=tile.warps, fuse=True, p_num=num, p_den=den, p_partial=partial,
           groups=groups, chunks=chunks, steps=steps, SIGN0=sign_at_zero, VECTOR=tile.vector,
           **pointers, **strides, **sizes, **constants)  # fmt: skip
    launch(x, reduce_kernel, (groups * terms,), warps=4, p_partial=partial, p_dnum=dnum, p_dden=dden,
           groups=groups, count=chunks * slots, NUM=constants["NUM"], DEN=constants["DEN"],
           BLOCK=configs.RATIONAL_REDUCE_BLOCK)  # fmt: skip
    return (*results.values(), dnum, dden)


def rational_backward(grad, x, num, den, version: int, sign_at_zero: int):
    """-> (dx, dnum (G, m+1), dden (G, nb)); G = max of the coefficients' groups, summed over
    every element of a group.
    """
    return _gradient(backward_kernel, "backward", {"grad": grad, "x": x}, ("dx",), {}, num, den, version, sign_at_zero)


def rational_double_backward(ggx, ggnum, ggden, grad, x, num, den, version: int, sign_at_zero: int):
    """-> (dgrad, dx, dnum (G, m+1), dden (G, nb)): the gradient of <ggx, dx> + <ggnum, dnum> +
    <ggden, dden>.
    """
    return _gradient(
        double_backward_kernel,
        "double_backward",
        {"ggx": ggx, "grad": grad, "x": x},
        ("dgrad", "dx"),
        {"p_ggnum": ggnum, "p_ggden": ggden},
        num, den, version, sign_at_zero,
    )  # fmt: skip

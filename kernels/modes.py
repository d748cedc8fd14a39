"""The truncated transforms in Triton: dimension by dimension, thin products with tables of cosines and sines.

Formulas and shapes are those of ops/modes_reference.py.  The transform to modes begins with the last dimension, the one from
modes ends with it: the grid is read or written once, what passes between the dimensions is the kept spectrum, a few per cent
of it.  Two kernels, each both ways:

    rows      Y (R, M) = X (R, K) T      the last dimension where it lies contiguous: a pair (re, im) is two columns
    columns   Y (O, M, I) = W X (O, K, I)      along any dimension before others, real or complex on either side

and where a plane of modes is small, modes_plane.py takes the last two dimensions of channels-first grids at once.
s and c are in the table of the last dimension.  Tables are computed in float64 from phases reduced exactly.

Operands: float32 three tf32 products for one (float32's own multiply-adds on AMD); 16-bit grids, which tf32 holds exactly, two
products with the table's upper and lower bits, so that a spectrum is float32's either way; bfloat16 results one tf32 product,
whose 2^-11 is a quarter of what their rounding loses, but not inside a derivative of gelu.  Sums of more than MODES_CHAIN terms
are sums of shorter ones.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl

from . import common, configs
from .common import cdiv, launch, load, next_power_of_2, runnable, store
from .fft_conv_dft import operand, tf32
from .kan_basis import GELU, activation_value

ACTIVATIONS = {"identity": 0, "gelu": GELU.value}
_GELU = tl.constexpr(GELU.value)


# ---- inside kernels ------------------------------------------------------------------------------


@triton.jit
def place(o, d1, d2, d3, s0, s1, s2, s3):
    """Offset of index o of (.., d1, d2, d3)."""
    i3, o = o % d3, o // d3
    i2, o = o % d2, o // d2
    i1, i0 = o % d1, o // d1
    return i0.to(tl.int64) * s0 + i1.to(tl.int64) * s1 + i2.to(tl.int64) * s2 + i3.to(tl.int64) * s3


@triton.jit
def finish(z, p_y, p_skip, p_bias, p_grad, m, m_bias, ACT: tl.constexpr):
    """y = act(z + skip + bias), or grad act'(.)."""
    if p_skip is not None:
        z = z + load(p_skip, m)
    if p_bias is not None:
        z = z + load(p_bias, m_bias)
    if p_grad is not None:
        z = load(p_grad, m) * activation_value(z, ACT, 1)
    elif ACT == _GELU:
        z = activation_value(z, ACT, 0)
    store(p_y, z, m)


@triton.jit
def rows_sum(p_x, p_t, x_k, part, first, last, K, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
             INDEX: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, m_r):  # fmt: skip
    """Terms first .. last - 1 of X T; p_x (BR, 1) and p_t (BK, BM) point at term 0."""
    acc = tl.zeros([BR, BM], tl.float32)
    for k in tl.range(first, last, BK):
        o_k = (k + tl.arange(0, BK)[None, :]).to(INDEX)
        x = load(p_x + o_k * x_k, m_r & (o_k < K))
        if SPLIT:
            acc = tl.dot(x, tl.load(p_t + part + k), acc, input_precision="tf32")
            acc = tl.dot(x, tl.load(p_t + k), acc, input_precision="tf32")
        else:
            acc = tl.dot(operand(x, PRECISION), tl.load(p_t + k), acc, input_precision=PRECISION)
    return acc


@triton.jit(do_not_specialize=["rows"])
def rows_kernel(
    p_x, p_t, p_y, p_skip, p_bias, p_grad, rows, K, M, pitch, part, channels, d2, d3, x_0, x_1, x_2, x_3, x_k,
    s_0, s_1, s_2, s_3, s_m, g_0, g_1, g_2, g_3, g_m,
    ACT: tl.constexpr, SPLIT: tl.constexpr, LONG: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    CHAIN: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Rows are (.., channels, d2, d3); tables (padded M, pitch).  WIDE: an index times a stride may leave 32 bits."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    blocks = tl.cdiv(M, BM)
    o_r = (tl.program_id(0) // blocks) * BR + tl.arange(0, BR)[:, None]
    o_m = (tl.program_id(0) % blocks) * BM + tl.arange(0, BM)[None, :]
    m_r = o_r < rows
    p_x += place(o_r, channels, d2, d3, x_0, x_1, x_2, x_3)  # (BR, 1)
    p_t += o_m * pitch + tl.arange(0, BK)[:, None]  # (BK, BM)
    if LONG:
        acc = tl.zeros([BR, BM], tl.float32)
        for k in tl.range(0, K, CHAIN):
            acc += rows_sum(p_x, p_t, x_k, part, k, tl.minimum(k + CHAIN, K), K, SPLIT, PRECISION, INDEX, BR, BK, BM, m_r)
    else:
        acc = rows_sum(p_x, p_t, x_k, part, 0, K, K, SPLIT, PRECISION, INDEX, BR, BK, BM, m_r)

    c, m = (o_r // d3 // d2) % channels, m_r & (o_m < M)
    if p_skip is not None:
        p_skip += place(o_r, channels, d2, d3, s_0, s_1, s_2, s_3) + o_m.to(INDEX) * s_m
    if p_grad is not None:
        p_grad += place(o_r, channels, d2, d3, g_0, g_1, g_2, g_3) + o_m.to(INDEX) * g_m
    if p_bias is not None:
        p_bias += c
    finish(acc, p_y + o_r.to(tl.int64) * M + o_m, p_skip, p_bias, p_grad, m, m_r, ACT)


@triton.jit
def columns_sum(p_x, p_w, x_k, turned, part, first, last, K, m_c, REAL_IN: tl.constexpr, REAL_OUT: tl.constexpr,
                SPLIT: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
                BM: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr):  # fmt: skip
    """Terms first .. last - 1 of W X, re and im; im is re where only that is wanted.  `turned` is where W's imaginary part
    stands, p_x (1, BC or pairs of it) and p_w (BM, BK) point at term 0.
    """
    re = tl.zeros([BM, BC], tl.float32)
    im = tl.zeros([BM, BC], tl.float32)
    for k in tl.range(first, last, BK):
        o_k = (k + tl.arange(0, BK)[:, None]).to(INDEX)
        x = load(p_x + o_k * x_k, m_c & (o_k < K))
        w_re, w_im = tl.load(p_w + k), tl.load(p_w + turned + k)
        if REAL_IN:
            if SPLIT:
                re = tl.dot(tl.load(p_w + part + k), x, re, input_precision="tf32")
                im = tl.dot(tl.load(p_w + turned + part + k), x, im, input_precision="tf32")
                re = tl.dot(w_re, x, re, input_precision="tf32")
                im = tl.dot(w_im, x, im, input_precision="tf32")
            else:
                x = operand(x, PRECISION)
                re = tl.dot(w_re, x, re, input_precision=PRECISION)
                im = tl.dot(w_im, x, im, input_precision=PRECISION)
        else:
            x_re, x_im = tl.split(tl.reshape(operand(x, PRECISION), (BK, BC, 2)))
            re = tl.dot(w_re, x_re, re, input_precision=PRECISION)
            re = tl.dot(w_im, -x_im, re, input_precision=PRECISION)
            if not REAL_OUT:
                im = tl.dot(w_im, x_re, im, input_precision=PRECISION)
                im = tl.dot(w_re, x_im, im, input_precision=PRECISION)
    return re, im


@triton.jit
def columns_kernel(
    p_x, p_w, p_y, p_skip, p_bias, p_grad, K, M, inner, pitch, turned, part, d1, d2, x_0, x_1, x_2, x_k, x_c,
    s_0, s_1, s_2, s_m, s_c, g_0, g_1, g_2, g_m, g_c,
    REAL_IN: tl.constexpr, REAL_OUT: tl.constexpr, ACT: tl.constexpr, SPLIT: tl.constexpr, LONG: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, CHAIN: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A program takes BM of M by BC of inner at one place (.., d1, d2) before; complex is pairs, inner counts them."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    i_m, i_c = tl.program_id(0) % tl.cdiv(M, BM), tl.program_id(0) // tl.cdiv(M, BM)
    o, i_c = i_c // tl.cdiv(inner, BC), i_c % tl.cdiv(inner, BC)
    o_m = i_m * BM + tl.arange(0, BM)[:, None]
    o_c = (i_c * BC + tl.arange(0, BC)[None, :]).to(INDEX)
    o_p = i_c * (2 * BC) + tl.arange(0, 2 * BC)[None, :]  # of pairs
    if REAL_IN:
        p_x += place(o, d1, d2, 1, x_0, x_1, x_2, 0) + o_c * x_c
        m_c = o_c < inner
    else:
        p_x += o.to(tl.int64) * K * x_k + o_p
        m_c = o_p < 2 * inner
    p_w += o_m * pitch + tl.arange(0, BK)[None, :]
    if LONG:
        re = tl.zeros([BM, BC], tl.float32)
        im = tl.zeros([BM, BC], tl.float32)
        for k in tl.range(0, K, CHAIN):
            some, more = columns_sum(p_x, p_w, x_k, turned, part, k, tl.minimum(k + CHAIN, K), K, m_c,
                                     REAL_IN, REAL_OUT, SPLIT, PRECISION, INDEX, BM, BK, BC)  # fmt: skip
            re, im = re + some, im + more
    else:
        re, im = columns_sum(p_x, p_w, x_k, turned, part, 0, K, K, m_c, REAL_IN, REAL_OUT, SPLIT, PRECISION, INDEX, BM, BK, BC)

    if REAL_OUT:
        if p_skip is not None:
            p_skip += place(o, d1, d2, 1, s_0, s_1, s_2, 0) + o_m.to(INDEX) * s_m + o_c * s_c
        if p_grad is not None:
            p_grad += place(o, d1, d2, 1, g_0, g_1, g_2, 0) + o_m.to(INDEX) * g_m + o_c * g_c
        if p_bias is not None:
            p_bias += o_c
        p_y += o.to(tl.int64) * M * inner + o_m * inner + o_c
        finish(re, p_y, p_skip, p_bias, p_grad, (o_m < M) & (o_c < inner), o_c < inner, ACT)
    else:
        pairs = tl.reshape(tl.join(re, im), (BM, 2 * BC))
        tl.store(p_y + o.to(tl.int64) * M * (2 * inner) + o_m * (2 * inner) + o_p, pairs, mask=(o_m < M) & (o_p < 2 * inner))


# ---- tables --------------------------------------------------------------------------------------


def padded(n: int) -> int:
    """Up to a multiple of every tile that n may be given."""
    return next_power_of_2(max(n, 16)) if n <= 128 else cdiv(n, 128) * 128


def turns(modes, d: int, scale: float, doubled: bool) -> torch.Tensor:
    """s c exp(-i theta_d) (2, M_d, N_d) in float64."""
    f, size = modes.frequencies(d), modes.sizes[d]
    angle = (f[:, None] * torch.arange(size) % size).double() * (2 * math.pi / size)
    factor = scale * torch.where(2 * f % size == 0, 1.0, 2.0).double() if doubled else torch.full((len(f),), scale).double()
    return torch.stack([angle.cos(), -angle.sin()]) * factor[:, None]


def stored(table: torch.Tensor, form: str, device) -> torch.Tensor:
    """(.., out, in) with zeros up to `padded`, as float32: "split" in tf32's upper and lower bits, (2, .., out, in), "tf32" rounded."""
    *_, m, k = table.shape
    table = torch.nn.functional.pad(table, (0, padded(k) - k, 0, padded(m) - m))
    if form == "split":
        table = torch.stack([tf32(table), tf32(table - tf32(table))])
    elif form == "tf32":
        table = tf32(table)
    return table.float().contiguous().to(device)


@functools.lru_cache(maxsize=128)
def rows_table(modes, scale: float, doubled: bool, inverse: bool, form: str, device) -> torch.Tensor:
    """(2 M3, N3), or back (N3, 2 M3)."""
    table = turns(modes, 2, scale, doubled).transpose(0, 1).flatten(0, 1)
    return stored(table.T if inverse else table, form, device)


@functools.lru_cache(maxsize=128)
def columns_table(modes, d: int, scale: float, doubled: bool, inverse: bool, form: str, device) -> torch.Tensor:
    """W: real and imaginary part, (2, M_d, N_d), or back (2, N_d, M_d)."""
    re, im = turns(modes, d, scale, doubled)
    return stored(torch.stack([re.T, -im.T] if inverse else [re, im]), form, device)


# ---- host ----------------------------------------------------------------------------------------

PRODUCTS = {"tf32": 1, "split": 2, "exact": 3}  # for one
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def supports_modes(modes, data, rows: int, row: int, *others) -> tuple[bool, str]:
    for t in (data, *others):
        if t is not None and t.dtype not in FLOATS:
            return False, f"triton's modes compute in float32, which {t.dtype} does not fit"
    for m, n in zip(modes.counts, modes.sizes):
        if padded(m) * padded(n) > configs.MODES_TABLE:
            return False, f"triton's modes take tables of up to {configs.MODES_TABLE} factors, {m} modes of {n} have more"
    if rows >= 1 << 31 or row >= 1 << 30:
        return False, f"triton's modes take fewer than 2^31 rows of up to 2^30 numbers, got {rows} of {row}"
    return runnable(data)


def supports_mode_dft(x, modes, last, scale, doubled) -> tuple[bool, str]:
    return supports_modes(modes, x, *_extent(modes, *((x.shape[0], x.shape[4]) if last else x.shape[:2]), last))


def supports_mode_idft(spectrum, modes, last, scale, doubled, skip, bias, grad, activation, dtype) -> tuple[bool, str]:
    if dtype not in FLOATS or spectrum.dtype != torch.float32:
        return False, f"triton's modes compute in float32, which {dtype} from {spectrum.dtype} does not fit"
    b, c = spectrum.shape[0], spectrum.shape[4 if last else 1]
    return supports_modes(modes, spectrum, *_extent(modes, b, c, last), skip, grad)


def _extent(modes, b: int, c: int, last: bool) -> tuple[int, int]:
    """Rows of the grid, and numbers around a place of the first dimension that is still there."""
    (n1, n2, n3), (m1, m2, m3) = modes.sizes, modes.counts
    beside = c if last else 1
    return b * c * n1 * n2, beside * max(2 * n1 * m2 * m3, 2 * n2 * m3, n3)


def exact_precision() -> str:
    return "ieee" if common.AMD else "tf32x3"


def tile(kind: str, form: str, m: int, columns: int, k: int, chain: int) -> tuple[dict, dict]:
    """Block sizes and options of a launch."""
    row = configs.MODES[kind, PRODUCTS[form]]
    bm, bk = min(row.modes, padded(m)), min(row.depth, padded(k))
    others = min(row.others, next_power_of_2(max(columns, 16)))
    warps = max(2, row.warps * bm * others // (row.modes * row.others))
    if form == "exact" and k > chain:  # two sums at once
        others = max(16, others // 2)
    return {"BM": bm, "BK": bk, ("BR" if kind == "rows" else "BC"): others}, {
        "warps": warps, "stages": row.stages, "registers": 255, "fuse": True}  # fmt: skip


def _wide(reach: int, *tensors) -> bool:
    """Whether an offset within a row leaves 32 bits; half of them are a margin for what is masked."""
    spans = (n * s for t in tensors if t is not None for n, s in zip(t.shape[1:], t.stride()[1:]))
    return max((reach, *spans)) >= 1 << 30


def _strides(t, prefix: str, names: str, order) -> dict:
    return {f"{prefix}_{name}": 0 if t is None else t.stride(d) for name, d in zip(names, order)}


def rows(x, table, y, rows: int, k: int, m: int, dims, strides, form: str, skip=None, bias=None, grad=None, act=0, chain=None):
    """Y (rows, m) = X T; dims (channels, d2, d3) and strides (.., last) of x's rows."""
    chain = chain or configs.MODES_CHAIN
    sizes, options = tile("rows", form, m, rows, k, chain)
    grid = (cdiv(rows, sizes["BR"]) * cdiv(m, sizes["BM"]),)
    launch(
        y, rows_kernel, grid, p_x=x, p_t=table, p_y=y, p_skip=skip, p_bias=bias, p_grad=grad, rows=rows, K=k, M=m,
        pitch=table.shape[-1], part=table.numel() // 2 if form == "split" else 0, channels=dims[0], d2=dims[1], d3=dims[2],
        **{f"x_{i}": s for i, s in zip("0123k", strides)}, **_strides(skip, "s", "0123m", range(5)),
        **_strides(grad, "g", "0123m", range(5)), ACT=act, SPLIT=form == "split", LONG=k > chain,
        WIDE=_wide(k * strides[-1], skip, grad), PRECISION="tf32" if form == "tf32" else exact_precision(), CHAIN=chain,
        **sizes, **options,
    )  # fmt: skip


def columns(x, table, y, outer: int, k: int, m: int, inner: int, form: str, real_in=False, real_out=False,
            skip=None, bias=None, grad=None, act=0, chain=None):  # fmt: skip
    """Y (outer, m, inner) = W X; x is contiguous pairs, or with real_in the grid (B, N1, N2, K, inner)."""
    chain = chain or configs.MODES_CHAIN
    sizes, options = tile("columns", form, m, inner, k, chain)
    outside = x if real_in else y
    d1, d2 = outside.shape[1:3] if real_in or real_out else (1, 1)
    x_strides = x.stride() if real_in else (0, 0, 0, 2 * inner, 2)
    grid = (cdiv(m, sizes["BM"]) * cdiv(inner, sizes["BC"]) * outer,)
    launch(
        y, columns_kernel, grid, p_x=x, p_w=table, p_y=y, p_skip=skip, p_bias=bias, p_grad=grad, K=k, M=m, inner=inner,
        pitch=table.shape[-1], turned=table.shape[-1] * table.shape[-2], part=table.numel() // 2 if form == "split" else 0,
        d1=d1, d2=d2, **{f"x_{i}": s for i, s in zip("012kc", x_strides)}, **_strides(skip, "s", "012mc", range(5)),
        **_strides(grad, "g", "012mc", range(5)), REAL_IN=real_in, REAL_OUT=real_out, ACT=act, SPLIT=form == "split",
        LONG=k > chain, WIDE=_wide(max(k * x_strides[3], inner * x_strides[4]), skip, grad),
        PRECISION="tf32" if form == "tf32" else exact_precision(), CHAIN=chain,
        **sizes, **options,
    )  # fmt: skip


def pairs(x: torch.Tensor, numbers: int) -> torch.Tensor:
    return x.new_empty(2 * numbers, dtype=torch.float32)


def mode_dft(x, modes, last: bool, scale: float, doubled: bool):
    (n1, n2, n3), (m1, m2, m3) = modes.sizes, modes.counts
    b, c = x.shape[0], x.shape[4 if last else 1]
    out = x.new_empty((b, m1, m2, m3, c, 2) if last else (b, c, m1, m2, m3, 2), dtype=torch.float32)
    if out.numel() == 0 or x.numel() == 0:
        return out
    from . import modes_plane

    plane = modes_plane.taken(modes, last)
    inner, outer = (m3 * c, b) if last else (m3, b * c)  # around N1, N2
    left = [d for d in (1, 0) if modes.sizes[d] > 1 and not (d == 1 and plane)]
    y = pairs(x, outer * n1 * (m2 if plane else n2) * inner) if left else out
    form = "split" if x.dtype != torch.float32 else "exact"
    if plane:
        modes_plane.plane_dft(x, y, modes, scale, doubled, form)
    elif last:
        table = columns_table(modes, 2, scale, doubled, False, form, x.device)
        columns(x, table, y, b * n1 * n2, n3, m3, c, form, real_in=True)
    else:
        table = rows_table(modes, scale, doubled, False, form, x.device)
        rows(x, table, y, b * c * n1 * n2, n3, 2 * m3, (c, n1, n2), x.stride(), form)
    for d in left:
        x, y = y, out if d == left[-1] else pairs(x, outer * n1 * m2 * inner)
        around = (outer * n1, inner) if d == 1 else (outer, m2 * inner)
        table = columns_table(modes, d, 1.0, False, False, "exact", x.device)
        columns(x, table, y, around[0], modes.sizes[d], modes.counts[d], around[1], "exact")
    return out


def mode_idft(spectrum, modes, last: bool, scale: float, doubled: bool, skip, bias, grad, activation: str, dtype):
    (n1, n2, n3), (m1, m2, m3) = modes.sizes, modes.counts
    b, c = spectrum.shape[0], spectrum.shape[4 if last else 1]
    y = spectrum.new_empty((b, n1, n2, n3, c) if last else (b, c, n1, n2, n3), dtype=dtype)
    if y.numel() == 0:
        return y
    if grad is not None and activation == "identity":
        return y.copy_(grad)
    inner, outer = (m3 * c, b) if last else (m3, b * c)
    from . import modes_plane

    plane = modes_plane.taken(modes, last)
    form, x = "tf32" if dtype == torch.bfloat16 and grad is None else "exact", spectrum
    for d in (0, 1):
        if modes.sizes[d] == 1 or d == 1 and plane:
            continue
        around = (outer, m2 * inner) if d == 0 else (outer * n1, inner)
        t = pairs(x, around[0] * modes.sizes[d] * around[1])
        table = columns_table(modes, d, 1.0, False, True, form, x.device)
        columns(x, table, t, around[0], modes.counts[d], modes.sizes[d], around[1], form)
        x = t
    act = ACTIVATIONS[activation]
    ends = {"skip": skip, "bias": bias, "grad": grad, "act": act}
    if plane:
        modes_plane.plane_idft(x, y, modes, scale, doubled, form, **ends)
    elif last:
        table = columns_table(modes, 2, scale, doubled, True, form, x.device)
        columns(x, table, y, b * n1 * n2, m3, n3, c, form, real_out=True, **ends)
    else:
        table = rows_table(modes, scale, doubled, True, form, x.device)
        length = 2 * m3
        strides = (c * n1 * n2 * length, n1 * n2 * length, n2 * length, length, 1)
        rows(x, table, y, b * c * n1 * n2, length, n3, (c, n1, n2), strides, form, **ends)
    return y

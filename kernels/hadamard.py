"""Walsh-Hadamard transforms in Triton: y = scale * signs_out * (H (signs_in * x)), H = H_m (x)
H_{2^k} along n = m 2^k.

A butterfly takes (a, b), whose indices differ in one bit, to (a + b, a - b); bits are taken from
the lowest up.  All arithmetic is additions in the arithmetic type (float under 16-bit data;
integers wrap), with fusing off, so the bits of a result do not depend on the type the data is
stored in.  Three kernels:

rows      the low bits of contiguous transforms, one or more of them a program;
strided   a few bits along any axis that has a stride, for inner > 1 and for the high bits of a long n;
base      H_m from its packed signs, m additions an element, after the Sylvester bits.

One pass reads and writes the data once.  n = 2^k with inner = 1 takes one pass up to 2^14 (2^13 in
64 bits), two to 2^21, three to 2^28; m > 1 takes one more.  Between passes the data is kept in the
arithmetic type.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from .common import COMPUTE, cdiv, double_bits, launch, load, next_power_of_2, runnable, store, widen

NATURAL, DYADIC, SEQUENCY = (tl.constexpr(code) for code in range(3))


# ---- parts of kernels ----------------------------------------------------------------------------


@triton.jit
def butterflies(x, LOW: tl.constexpr, BITS: tl.constexpr, SIZE: tl.constexpr, EXCHANGE: tl.constexpr):
    """Butterflies over bits LOW .. LOW + BITS - 1 of the index into x, SIZE elements in row-major
    order.

    Below bit EXCHANGE the partner lies in the same thread or warp: b = a ^ (a ^ b), the exclusive
    or being a reduction that the compiler turns into nothing or one shuffle.  From EXCHANGE on it
    lies in another warp, and splitting the pair moves the data through shared memory once.
    """
    shape: tl.constexpr = x.shape
    for i in tl.static_range(LOW, LOW + BITS):
        v = tl.reshape(x, [SIZE // (2 << i), 2, 1 << i])
        if i >= EXCHANGE:
            a, b = tl.split(tl.permute(v, (0, 2, 1)))
            x = tl.permute(tl.join(a + b, a - b), (0, 2, 1))
        else:
            if v.dtype.primitive_bitwidth == 64:
                bits = v.to(tl.int64, bitcast=True)
            else:
                bits = v.to(tl.int32, bitcast=True)
            partner = (bits ^ tl.xor_sum(bits, axis=1, keep_dims=True)).to(v.dtype, bitcast=True)
            upper = (tl.arange(0, 2) == 1)[None, :, None]
            x = partner + tl.where(upper, -v, v)
    return tl.reshape(x, shape)


@triton.jit
def position(i, LOG2: tl.constexpr, ORDER: tl.constexpr):
    """Where natural index i lies in memory: at its bit reversal (dyadic), or at the index whose
    Gray code that is (sequency).
    """
    if ORDER == NATURAL or LOG2 == 0:
        return i
    else:
        r = i.to(tl.uint32)
        r = ((r & 0x55555555) << 1) | ((r >> 1) & 0x55555555)
        r = ((r & 0x33333333) << 2) | ((r >> 2) & 0x33333333)
        r = ((r & 0x0F0F0F0F) << 4) | ((r >> 4) & 0x0F0F0F0F)
        r = ((r & 0x00FF00FF) << 8) | ((r >> 8) & 0x00FF00FF)
        r = ((r << 16) | (r >> 16)) >> (32 - LOG2)
        if ORDER == SEQUENCY:
            r ^= r >> 1
            r ^= r >> 2
            r ^= r >> 4
            r ^= r >> 8
            r ^= r >> 16
        return r.to(tl.int64)


@triton.jit
def scalar(bits, like):
    """A scale passed as an int64: itself for integer data, the bits of a double otherwise."""
    if like.dtype.is_floating():
        return bits.to(tl.int64).to(tl.float64, bitcast=True).to(like.dtype)
    else:
        return bits.to(like.dtype)


@triton.jit
def rows_index(i_p, rows, rows_per_outer, LOG2: tl.constexpr, SIZE: tl.constexpr):
    """Of a tile of SIZE >> LOG2 rows: the row (R, 1), its outer slice (R, 1), and the natural
    index along n (R, 2^LOG2).
    """
    R: tl.constexpr = SIZE >> LOG2
    o_r = i_p.to(tl.int64) * R + tl.arange(0, R)[:, None]
    o_n = (o_r % rows_per_outer) * (1 << LOG2) + tl.arange(0, 1 << LOG2)[None, :]
    return o_r, o_r // rows_per_outer, o_n


@triton.jit
def columns(i_p, count, a_count, b_count, BLOCK_C: tl.constexpr, ALIGNED: tl.constexpr):
    """Column block i_p of data (outer, a_count, J, b_count): outer index, index into a, index into
    b, mask.

    Columns run over (outer, a, b).  ALIGNED: blocks divide b_count, so that a program has one outer
    and one a.
    """
    if ALIGNED:
        blocks = b_count // BLOCK_C
        i_a = i_p // blocks
        o_b = (i_p % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        return (i_a // a_count).to(tl.int64), (i_a % a_count).to(tl.int64), o_b, o_b >= 0
    else:
        o_c = i_p.to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        o_a = o_c // b_count
        return o_a // a_count, o_a % a_count, o_c % b_count, o_c < count


# ---- kernels -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "scale"])
def rows_kernel(
    p_x, p_y, p_signs_in, p_signs_out, rows, rows_per_outer, x_stride, sign_blocks, scale,
    LOG2: tl.constexpr, LOG2_N: tl.constexpr, SIZE: tl.constexpr, EXCHANGE: tl.constexpr,
    ORDER_IN: tl.constexpr, ORDER_OUT: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """The low LOG2 bits along n.  FLAT: the input is contiguous, row after row."""
    o_r, o_o, o_n = rows_index(tl.program_id(0), rows, rows_per_outer, LOG2, SIZE)
    n = rows_per_outer * (1 << LOG2)
    m = (o_r < rows) & (o_n >= 0)  # (R, 2^LOG2)
    o_flat = o_r * (1 << LOG2) + tl.arange(0, 1 << LOG2)[None, :]
    o_in = position(o_n, LOG2_N, ORDER_IN)
    if FLAT and ORDER_IN == NATURAL:
        x = load(p_x + o_flat, m)
    else:
        x = load(p_x + o_o * x_stride + o_in, m)
    if p_signs_in is not None:
        x = x * load(p_signs_in + (o_o % sign_blocks) * n + o_in, m)

    y = butterflies(x, 0, LOG2, SIZE, EXCHANGE) * scalar(scale, x)

    o_out = position(o_n, LOG2_N, ORDER_OUT)
    if p_signs_out is not None:
        y = y * load(p_signs_out + (o_o % sign_blocks) * n + o_out, m)
    if ORDER_OUT == NATURAL:
        store(p_y + o_flat, y, m)
    else:
        store(p_y + o_o * n + o_out, y, m)


@triton.jit(do_not_specialize=["count", "scale"])
def strided_kernel(
    p_x, p_y, p_signs_in, p_signs_out, count, a_count, b_count, inner, x_stride, sign_blocks, scale,
    BITS: tl.constexpr, LOG2_N: tl.constexpr, LOG2_C: tl.constexpr, EXCHANGE: tl.constexpr,
    ORDER_IN: tl.constexpr, ORDER_OUT: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """BITS bits of data (outer, a_count, 2^BITS, b_count), the last holding the bits already
    done and the inner axis.
    """
    J: tl.constexpr = 1 << BITS
    BLOCK_C: tl.constexpr = 1 << LOG2_C
    o_o, o_a, o_b, m_c = columns(tl.program_id(0), count, a_count, b_count, BLOCK_C, ALIGNED)
    o_j = o_a * J + tl.arange(0, J)[:, None]  # (J, 1) or (J, BLOCK_C)
    o_n = o_j * (b_count // inner) + o_b // inner  # natural index along n
    n = a_count * J * (b_count // inner)
    m = m_c & (o_j >= 0)  # (J, BLOCK_C)
    o_natural = o_j * b_count + o_b
    o_in = position(o_n, LOG2_N, ORDER_IN)
    x = load(p_x + o_o * x_stride + (o_natural if ORDER_IN == NATURAL else o_in * inner + o_b % inner), m)
    if p_signs_in is not None:
        x = x * load(p_signs_in + (o_o % sign_blocks) * n + o_in, m)

    y = butterflies(x, LOG2_C, BITS, J * BLOCK_C, EXCHANGE) * scalar(scale, x)

    o_out = position(o_n, LOG2_N, ORDER_OUT)
    if p_signs_out is not None:
        y = y * load(p_signs_out + (o_o % sign_blocks) * n + o_out, m)
    store(p_y + o_o * n * inner + (o_natural if ORDER_OUT == NATURAL else o_out * inner + o_b % inner), y, m)


@triton.jit(do_not_specialize=["count", "size", "scale"])
def base_kernel(
    p_x, p_y, p_signs_in, p_signs_out, p_base, count, size, b_count, inner, x_stride, sign_blocks, scale,
    WORDS: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """H_m on data (outer, m, b_count): bit l of packed row j says that x_l enters y_j with a
    minus.
    """
    j_blocks = tl.cdiv(size, BLOCK_J)
    o_o, _, o_b, m_c = columns(tl.program_id(0) // j_blocks, count, 1, b_count, BLOCK_C, ALIGNED)
    o_j = (tl.program_id(0) % j_blocks).to(tl.int64) * BLOCK_J + tl.arange(0, BLOCK_J)[:, None]
    n = size.to(tl.int64) * (b_count // inner)
    o_sign = (o_o % sign_blocks) * n + o_b // inner
    p, o_l = p_x + o_o * x_stride + o_b, o_sign  # (1, BLOCK_C)

    y = widen(tl.zeros([BLOCK_J, BLOCK_C], p_x.dtype.element_ty))
    for w in tl.static_range(0, WORDS):
        word = tl.load(p_base + o_j * WORDS + w, mask=o_j < size, other=0)
        for i_l in tl.range(0, tl.minimum(size - w * 64, 64)):
            x = load(p, m_c)
            if p_signs_in is not None:
                x = x * load(p_signs_in + o_l, m_c)
            y += tl.where(((word >> i_l) & 1) != 0, -x, x)
            p += b_count
            o_l += b_count // inner

    y = y * scalar(scale, y)
    m = m_c & (o_j < size)  # (BLOCK_J, BLOCK_C)
    if p_signs_out is not None:
        y = y * load(p_signs_out + o_sign + o_j * (b_count // inner), m)
    store(p_y + o_o * n * inner + o_j * b_count + o_b, y, m)


@triton.jit(do_not_specialize=["num_rows", "scale"])
def srht_kernel(
    p_x, p_y, p_signs, p_rows, num_rows, x_stride, sign_blocks, scale,
    LOG2: tl.constexpr, EXCHANGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One transform of 2^LOG2 points, of which the rows listed are kept."""
    i_p = tl.program_id(0).to(tl.int64)
    o = tl.arange(0, 1 << LOG2)
    x = load(p_x + i_p * x_stride + o, o >= 0)
    if p_signs is not None:
        x = x * load(p_signs + (i_p % sign_blocks) * (1 << LOG2) + o, o >= 0)
    y = butterflies(x, 0, LOG2, 1 << LOG2, EXCHANGE) * scalar(scale, x)
    for i in tl.range(0, tl.cdiv(num_rows, BLOCK)):
        o_k = i * BLOCK + tl.arange(0, BLOCK)
        i_row = tl.load(p_rows + o_k, mask=o_k < num_rows, other=0)
        exists = (i_row >= 0) & (i_row < 1 << LOG2)  # one that does not is answered with NaN
        b_y = tl.gather(y, tl.where(exists, i_row, 0).to(tl.int32), 0)
        store(p_y + i_p * num_rows + o_k, tl.where(exists, b_y, float("nan")), o_k < num_rows)


# ---- host ----------------------------------------------------------------------------------------


def exchange_bit(x) -> int:
    """The first bit of a tile's index in another warp: 16 bytes a thread, 32 threads a warp."""
    return (16 // x.element_size()).bit_length() - 1 + 5


class _Pass:
    """What the passes of one transform share; `run` gives each its input, and only the first and
    last what belongs to the ends.
    """

    def __init__(self, x, signs_in, signs_out, base, scale, order_in, order_out, dtype_out):
        self.outer, self.n, self.inner = x.shape
        self.m = 1 if base is None else base.size
        self.log2 = (self.n // self.m).bit_length() - 1
        self.base = base
        self.signs_in, self.signs_out = signs_in, signs_out
        signs = signs_in if signs_in is not None else signs_out
        self.sign_blocks = 1 if signs is None else signs.shape[0]
        self.order_in, self.order_out = order_in, order_out
        self.compute = COMPUTE[x.dtype]
        self.dtype_out = dtype_out
        self.scale = double_bits(scale) if self.compute.is_floating_point else int(scale)
        self.one = double_bits(1.0) if self.compute.is_floating_point else 1

    def run(self, x):
        steps = plan_passes(self.log2, self.inner, self.m, self.compute.itemsize)
        done = 0
        for index, (kind, bits) in enumerate(steps):
            first, last = index == 0, index == len(steps) - 1
            dtype = self.dtype_out if last else self.compute
            y = torch.empty(self.outer, self.n, self.inner, dtype=dtype, device=x.device)
            common = {
                "p_x": x,
                "p_y": y,
                "p_signs_in": self.signs_in if first else None,
                "p_signs_out": self.signs_out if last else None,
                "x_stride": x.stride(0) if first and self.outer > 1 else self.n * self.inner,
                "sign_blocks": self.sign_blocks,
                "scale": self.scale if last else self.one,
            }
            orders = {"ORDER_IN": self.order_in if first else 0, "ORDER_OUT": self.order_out if last else 0}
            getattr(self, kind)(bits, done, common, orders)
            x, done = y, done + bits
        return x

    def rows(self, bits: int, done: int, common: dict, orders: dict) -> None:
        table = configs.HADAMARD_ROWS[self.compute.itemsize]
        row = next(r for r in table if bits <= r.log2)
        rows_per_outer = self.n >> bits
        rows = self.outer * rows_per_outer
        launch(common["p_x"], rows_kernel, (cdiv(rows << bits, 1 << row.tile),), warps=row.warps, rows=rows,
               rows_per_outer=rows_per_outer, LOG2=bits, LOG2_N=self.log2, SIZE=1 << row.tile,
               EXCHANGE=exchange_bit(common["p_x"]), FLAT=common["x_stride"] == self.n,
               **common, **orders)  # fmt: skip

    def strided(self, bits: int, done: int, common: dict, orders: dict) -> None:
        table = configs.HADAMARD_STRIDED[self.compute.itemsize]
        row = next(r for r in table if bits <= r.bits)
        b_count = self.inner << done
        count = self.outer * self.n * self.inner >> bits
        aligned = b_count % (1 << (row.tile - bits)) == 0
        log2_c = (row.tile if aligned else row.loose) - bits
        launch(common["p_x"], strided_kernel, (cdiv(count, 1 << log2_c),), warps=row.warps, count=count,
               a_count=count // (self.outer * b_count), b_count=b_count, inner=self.inner, BITS=bits, LOG2_N=self.log2,
               LOG2_C=log2_c, EXCHANGE=exchange_bit(common["p_x"]), ALIGNED=aligned,
               **common, **orders)  # fmt: skip

    def base_matrix(self, bits: int, done: int, common: dict, orders: dict) -> None:
        row = next(r for r in configs.HADAMARD_BASE if self.m <= r.size)
        b_count = self.inner << done
        count = self.outer * b_count
        launch(common["p_x"], base_kernel, (cdiv(count, row.columns) * cdiv(self.m, row.rows),), warps=row.warps,
               p_base=self.base.packed(common["p_x"].device), count=count, size=self.m, b_count=b_count,
               inner=self.inner, WORDS=cdiv(self.m, 64), BLOCK_J=row.rows, BLOCK_C=row.columns,
               ALIGNED=b_count % row.columns == 0,
               **common)  # fmt: skip


def plan_passes(log2: int, inner: int, m: int, itemsize: int) -> list[tuple[str, int]]:
    """The passes in order, each with the bits it takes."""
    most = configs.HADAMARD_STRIDED[itemsize][-1].bits
    tail = [("base_matrix", 0)] if m > 1 else []
    if inner > 1:
        return [("strided", b) for b in _even(log2, most)] + tail or [("strided", 0)]
    longest = configs.HADAMARD_ROWS[itemsize][-1].log2
    if log2 <= longest:
        return [("rows", log2)] + tail if log2 or not tail else tail
    passes = cdiv(log2 - longest, most)
    above = min(passes * most, log2 - (longest - 2))  # shorter rows are cheaper, once a second pass is needed anyway
    return [("rows", log2 - above)] + [("strided", b) for b in _even(above, most)] + tail


def _even(bits: int, most: int) -> list[int]:
    count = cdiv(bits, most)
    return [bits // count + (i < bits % count) for i in range(count)]


def supports_hadamard(x, signs_in, signs_out, base, scale, order_in: int, order_out: int) -> tuple[bool, str]:
    if x.dtype not in COMPUTE:
        return False, f"triton's hadamard_transform takes {', '.join(str(d)[6:] for d in COMPUTE)}, got {x.dtype}"
    m = 1 if base is None else base.size
    if m > configs.HADAMARD_BASE[-1].size:
        most = configs.HADAMARD_BASE[-1].size
        return False, f"triton's hadamard_transform takes base matrices of up to {most} rows, got {m}"
    if m > 1 and (order_in or order_out):
        return False, "orders other than natural need a power of two"
    if x.shape[1] // m > 1 << 30:
        return False, f"triton's hadamard_transform takes up to 2^30 points, got {x.shape[1]}"
    return runnable(x)


def hadamard(x, signs_in, signs_out, base, scale: float, order_in: int, order_out: int):
    """y (outer, n, inner) in x's dtype."""
    return transform(x, signs_in, signs_out, base, scale, order_in, order_out, x.dtype)


def transform(x, signs_in, signs_out, base, scale, order_in, order_out, dtype_out):
    """`hadamard` with the result in another type: x's, or the arithmetic type, unrounded."""
    if x.numel() == 0:
        return torch.empty(x.shape, dtype=dtype_out, device=x.device)
    return _Pass(x, signs_in, signs_out, base, scale, order_in, order_out, dtype_out).run(x)


def supports_srht(x, signs, rows, base, scale) -> tuple[bool, str]:
    return supports_hadamard(x.unsqueeze(-1), signs, None, base, scale, 0, 0)


def srht(x, signs, rows, base, scale: float):
    """y (outer, len(rows)) = scale * (H (signs * x))[rows].

    One pass, kept on chip, for powers of two that fit in one program (2^14, 2^13 in 64 bits);
    beyond that, and with a base matrix, the whole transform is written in the arithmetic type and
    its rows are picked from there.
    """
    outer, n = x.shape
    y = torch.empty(outer, rows.numel(), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    compute = COMPUTE[x.dtype]
    log2 = n.bit_length() - 1
    table = configs.HADAMARD_ROWS[compute.itemsize]
    if base is not None or log2 > table[-1].log2:
        whole = transform(x.unsqueeze(-1), signs, None, base, scale, 0, 0, compute)
        return whole.squeeze(-1).index_select(1, rows).to(x.dtype)
    row = next(r for r in table if log2 <= r.log2)
    launch(x, srht_kernel, (outer,), warps=row.warps, p_x=x, p_y=y, p_signs=signs, p_rows=rows, num_rows=rows.numel(),
           x_stride=x.stride(0) if outer > 1 else n, sign_blocks=1 if signs is None else signs.shape[0],
           scale=double_bits(scale) if compute.is_floating_point else int(scale), LOG2=log2,
           EXCHANGE=exchange_bit(x), BLOCK=min(configs.SRHT_ROWS, next_power_of_2(rows.numel())))  # fmt: skip
    return y

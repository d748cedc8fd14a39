"""Rotate and quantise in Triton: int8, fp8 e4m3, mxfp4 and nvfp4 with one scale a group of
contiguous elements.

The conversions are written on the bits of a float, because Triton's own casts to 8 bits differ
between versions and devices; so the result is the same everywhere, bit for bit that of rotating,
keeping floats, and quantising them apart.  Rounding is to nearest with ties to even throughout,
division is IEEE division (PTX's div.rn).

Fused, one read of x and one write of q: a power-of-two block and a group that divides it (or the
block divides the group) within one program, 2^14 elements.  Anything else rotates into floats first
and quantises those.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from .common import cdiv, double_bits, launch, load, narrow, next_power_of_2
from .hadamard import butterflies, exchange_bit, scalar, supports_hadamard, transform

INT8, FP8, MXFP4, NVFP4 = (tl.constexpr(code) for code in range(4))


# ---- number formats, on the bits of a float ------------------------------------------------------


@triton.jit
def bits_of(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def saturate(x, LIMIT: tl.constexpr):
    """|x|, at most LIMIT."""
    a = tl.abs(x)
    return tl.where(a > LIMIT, LIMIT + 0.0, a)


@triton.jit
def small_float(a, MANTISSA: tl.constexpr, LEAST: tl.constexpr):
    """Code of a >= 0 in a format with MANTISSA bits, whose least normal number is 2^LEAST and has
    code 2^MANTISSA.

    Normal: round the float's mantissa in place, the carry running into the exponent.  Subnormal:
    adding 2^(23 + LEAST - MANTISSA), whose last place is the format's, makes the adder round.
    """
    SHIFT: tl.constexpr = 23 - MANTISSA
    bits = bits_of(a)
    rounded = (bits + ((1 << (SHIFT - 1)) - 1) + ((bits >> SHIFT) & 1)) >> SHIFT
    normal = rounded - ((126 + LEAST) << MANTISSA)
    adder = tl.full(a.shape, (127 + 23 + LEAST - MANTISSA) << 23, tl.int32)
    subnormal = bits_of(a + float_of(adder)) - adder
    return tl.where(bits >= ((127 + LEAST) << 23), normal, subnormal)


@triton.jit
def e4m3(a):
    """Code of 0 <= a <= 448 in e4m3fn."""
    return small_float(a, 3, -6)


@triton.jit
def e4m3_value(code):
    """The float a positive e4m3fn code stands for."""
    return tl.where(code >= 8, float_of((code + (120 << 3)) << 20), code.to(tl.float32) * 0.001953125)


@triton.jit
def group_scale(peak, FORMAT: tl.constexpr):
    """(what is stored, the divisor; for mxfp4 its reciprocal, exact) from the bits of a group's
    amax; a NaN or Inf stores NaN.
    """
    bad = peak >= 0x7F800000
    amax = float_of(tl.where(bad, 0, peak))
    if FORMAT == INT8 or FORMAT == FP8:
        limit = tl.full(amax.shape, 127.0 if FORMAT == INT8 else 448.0, tl.float32)
        scale = tl.div_rn(amax, limit)
        scale = tl.where(scale == 0, 1.0, scale)  # zeros alone, or so small that the quotient underflows
        return tl.where(bad, float("nan"), scale), scale
    elif FORMAT == MXFP4:
        code = tl.maximum((bits_of(amax) >> 23) - 2, 0)  # biased exponent: 2^-127 and the subnormals have 0
        return tl.where(bad, 255, code), float_of((254 - code) << 23)
    else:
        sixth = tl.div_rn(amax, tl.full(amax.shape, 6.0, tl.float32))
        code = e4m3(tl.minimum(tl.maximum(sixth, 0.001953125), 448.0))
        return tl.where(bad, 127, code), e4m3_value(code)


@triton.jit
def encode(r, scale, peak, FORMAT: tl.constexpr):
    """Codes of r / scale; 0, not -0, where the group's peak is 0, a NaN or an Inf."""
    v = r * scale if FORMAT == MXFP4 else tl.div_rn(r, scale)
    v = tl.where((peak == 0) | (peak >= 0x7F800000), 0.0, v)
    if FORMAT == INT8:
        adder = tl.full(v.shape, 12582912.0, tl.float32)  # 1.5 * 2^23: the adder rounds to integers
        a = saturate(v, 127.0)
        return bits_of(tl.where(v < 0, -a, a) + adder) - bits_of(adder)
    negative = (bits_of(v) >> 31) & 1
    if FORMAT == FP8:
        return e4m3(saturate(v, 448.0)) | (negative << 7)
    else:
        return small_float(saturate(v, 6.0), 1, 0) | (negative << 3)


@triton.jit
def store_codes(p_q, p_scales, r, i_unit, m_unit, UNIT: tl.constexpr, UNIT_P: tl.constexpr, GROUP: tl.constexpr,
                FORMAT: tl.constexpr):  # fmt: skip
    """Quantise r (U, UNIT_P), units i_unit (U, 1) of UNIT elements in groups of GROUP; lanes
    from UNIT on are zero.
    """
    U: tl.constexpr = r.shape[0]
    GROUP_P: tl.constexpr = UNIT_P // (UNIT // GROUP)
    grouped = tl.reshape(r, [U, UNIT // GROUP, GROUP_P])
    peak = tl.max(bits_of(grouped) & 0x7FFFFFFF, axis=2, keep_dims=True)  # as integers: NaN > Inf > numbers
    stored, scale = group_scale(peak, FORMAT)
    o_g = i_unit * (UNIT // GROUP) + tl.arange(0, UNIT // GROUP)[None, :]  # (U, groups of a unit)
    stored = tl.reshape(stored, [U, UNIT // GROUP]).to(p_scales.dtype.element_ty)
    tl.store(p_scales + o_g, stored, mask=m_unit & (o_g >= 0))

    q = tl.reshape(encode(grouped, scale, peak, FORMAT), [U, UNIT_P])
    if FORMAT == MXFP4 or FORMAT == NVFP4:
        low, high = tl.split(tl.reshape(q, [U, UNIT_P // 2, 2]))
        o = tl.arange(0, UNIT_P // 2)[None, :]
        tl.store(p_q + i_unit * (UNIT // 2) + o, (low | (high << 4)).to(tl.uint8), mask=m_unit & (o < UNIT // 2))
    else:
        o = tl.arange(0, UNIT_P)[None, :]
        tl.store(p_q + i_unit * UNIT + o, q.to(p_q.dtype.element_ty), mask=m_unit & (o < UNIT))


# ---- kernels -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["units", "scale"])
def quantize_kernel(
    p_x, p_q, p_scales, p_signs, units, units_per_row, x_stride, sign_blocks, scale,
    LOG2: tl.constexpr, UNIT: tl.constexpr, UNIT_P: tl.constexpr, U: tl.constexpr, GROUP: tl.constexpr,
    EXCHANGE: tl.constexpr, FORMAT: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Units of UNIT contiguous elements, whole blocks of 2^LOG2 and whole groups, each row of x
    holding units_per_row of them.
    """
    i_unit = tl.program_id(0).to(tl.int64) * U + tl.arange(0, U)[:, None]  # (U, 1)
    m_unit = i_unit < units
    o_in = (i_unit % units_per_row) * UNIT + tl.arange(0, UNIT_P)[None, :]  # (U, UNIT_P) index in the row
    m = m_unit & (tl.arange(0, UNIT_P)[None, :] < UNIT)
    r = load(p_x + (i_unit // units_per_row) * x_stride + o_in, m)
    if p_signs is not None:
        r = r * load(p_signs + ((o_in // (1 << LOG2)) % sign_blocks) * (1 << LOG2) + o_in % (1 << LOG2), m)
    r = butterflies(r, 0, LOG2, U * UNIT_P, EXCHANGE) * scalar(scale, r)
    if ROUND:
        r = narrow(r, p_x.dtype.element_ty).to(tl.float32)
    store_codes(p_q, p_scales, r, i_unit, m_unit, UNIT, UNIT_P, GROUP, FORMAT)


@triton.jit
def quantize_long_kernel(p_x, p_q, p_scales, group, FORMAT: tl.constexpr, BLOCK: tl.constexpr):
    """One group longer than a tile, already rotated: once over it for amax, once more to
    quantise.
    """
    i_g = tl.program_id(0).to(tl.int64)
    p = p_x + i_g * group
    peak = tl.zeros([BLOCK], tl.int32)
    for i in tl.range(0, tl.cdiv(group, BLOCK)):
        o = i * BLOCK + tl.arange(0, BLOCK)
        peak = tl.maximum(peak, bits_of(load(p + o, o < group)) & 0x7FFFFFFF)
    peak = tl.max(peak, axis=0, keep_dims=True)
    stored, scale = group_scale(peak, FORMAT)
    tl.store(p_scales + i_g + tl.arange(0, 1), stored.to(p_scales.dtype.element_ty))
    for i in tl.range(0, tl.cdiv(group, BLOCK)):
        o = i * BLOCK + tl.arange(0, BLOCK)
        q = encode(load(p + o, o < group), scale, peak, FORMAT)
        if FORMAT == MXFP4 or FORMAT == NVFP4:
            low, high = tl.split(tl.reshape(q, [BLOCK // 2, 2]))
            o = i * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
            tl.store(p_q + i_g * (group // 2) + o, (low | (high << 4)).to(tl.uint8), mask=o < group // 2)
        else:
            tl.store(p_q + i_g * group + o, q.to(p_q.dtype.element_ty), mask=o < group)


# ---- host ----------------------------------------------------------------------------------------

_FP4 = (2, 3)


def supports_hadamard_quantize(
    x, signs, base, scale, block: int, group: int, format: int, round_rotation: bool
) -> tuple[bool, str]:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False, f"triton's hadamard_quantize takes float16, bfloat16 and float32, got {x.dtype}"
    if format in _FP4 and group % 2:
        return False, f"triton's hadamard_quantize packs two codes of a group to a byte, got groups of {group}"
    return supports_hadamard(x[:, :block].unsqueeze(-1), signs, None, base, scale, 0, 0)


def _fused_unit(block: int, group: int, base) -> int | None:
    """Elements a program must hold at once, or None where rotation and quantisation are two
    steps.
    """
    unit = max(block, group)
    power = group & (group - 1) == 0
    together = group % block == 0 or (block % group == 0 and power)
    fits = next_power_of_2(unit) <= 1 << configs.HADAMARD_QUANTIZE[-1].log2
    return unit if base is None and together and fits else None


def _outputs(x, group: int, format: int):
    """(q, scales) as the kernels write them."""
    rows, dim = x.shape
    wide = format not in _FP4
    q = torch.empty(rows, dim if wide else dim // 2, dtype=torch.int8 if format == 0 else torch.uint8, device=x.device)
    return q, torch.empty(rows, dim // group, dtype=torch.float32 if wide else torch.uint8, device=x.device)


def _quantize(x, q, scales, signs, scale: float, log2: int, unit: int, group: int, format: int, round_rotation: bool):
    rows, dim = x.shape
    unit_p = next_power_of_2(unit)
    row = next(r for r in configs.HADAMARD_QUANTIZE if unit_p <= 1 << r.log2)
    per_program = (1 << row.tile) // unit_p
    units = rows * (dim // unit)
    launch(x, quantize_kernel, (cdiv(units, per_program),), warps=row.warps, p_x=x, p_q=q, p_scales=scales,
           p_signs=signs, units=units, units_per_row=dim // unit, x_stride=x.stride(0) if rows > 1 else dim,
           sign_blocks=1 if signs is None else signs.shape[0], scale=double_bits(scale), LOG2=log2, UNIT=unit,
           UNIT_P=unit_p, U=per_program, GROUP=group, EXCHANGE=exchange_bit(x), FORMAT=format,
           ROUND=round_rotation and x.dtype != torch.float32)  # fmt: skip


def hadamard_quantize(x, signs, base, scale: float, block: int, group: int, format: int, round_rotation: bool):
    """-> (q, scales) of rows of x rotated in blocks and quantised in groups; see the module's
    text for what is fused.
    """
    rows, dim = x.shape
    q, scales = _outputs(x, group, format)
    if x.numel() > 0:
        unit = _fused_unit(block, group, base)
        if unit is not None:
            _quantize(x, q, scales, signs, scale, block.bit_length() - 1, unit, group, format, round_rotation)
        else:
            rotated = _rotate(x, signs, base, scale, block, x.dtype if round_rotation else torch.float32)
            unit = _fused_unit(1, group, None)
            if unit is not None:
                _quantize(rotated, q, scales, None, 1.0, 0, unit, group, format, False)
            else:
                launch(x, quantize_long_kernel, (rows * (dim // group),), warps=8, p_x=rotated, p_q=q, p_scales=scales,
                       group=group, FORMAT=format, BLOCK=configs.QUANTIZE_LOOP)  # fmt: skip
    if format in (1, 3):
        q, scales = (q.view(torch.float8_e4m3fn), scales) if format == 1 else (q, scales.view(torch.float8_e4m3fn))
    return q, scales.view(torch.float8_e8m0fnu) if format == 2 else scales


def _rotate(x, signs, base, scale: float, block: int, dtype):
    """The rotated rows, contiguous; rows that are not contiguous are copied first.

    Block j of a row uses signs row j % sign_blocks, so a row of x must hold whole cycles of the signs.
    """
    rows, dim = x.shape
    per_row = dim // block
    if signs is not None and per_row % signs.shape[0]:
        signs = signs.repeat(cdiv(per_row, signs.shape[0]), 1)[:per_row].contiguous()
    return transform(x.reshape(-1, block, 1), signs, None, base, scale, 0, 0, dtype).view(rows, dim)

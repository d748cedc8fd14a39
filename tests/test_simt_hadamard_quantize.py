"""hadamard_quantize on the shim: bit for bit the transform followed by a quantiser written here."""

import pytest
import torch
from simt_build import check, simt_core
from simt_hadamard import (
    BASES,
    DTYPES,
    H200,
    Output,
    data,
    hadamard,
    packed,
    pointer,
    random_signs,
    workspace,
)


@pytest.fixture(scope="module")
def core():
    return simt_core()


@pytest.fixture(autouse=True)
def _defaults(core):
    core.simt_set_order(0)
    core.simt_set_limits(*H200)
    yield
    core.simt_set_order(0)
    core.simt_set_limits(*H200)


# ---- quantisation ------------------------------------------------------------------------------

FORMATS = {"int8": 0, "fp8_e4m3": 1, "mxfp4": 2, "nvfp4": 3}


def e2m1(v):
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, ties to the even code; the sign kept."""
    codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    nearest = (
        (v.abs().double().clamp(max=6).unsqueeze(-1) - codes).abs() + torch.tensor([0, 1e-9] * 4)
    ).argmin(-1)
    return (nearest + 8 * torch.signbit(v)).to(torch.uint8)


def quantised(r, group, format):
    """r (rows, dim) float32 -> codes, scales, as the header defines them."""
    groups = r.unflatten(1, (-1, group))
    amax = groups.abs().amax(-1)
    bad, zero = ~torch.isfinite(groups).all(-1), amax == 0
    safe = torch.where(bad | zero, torch.ones_like(amax), amax)
    if format in ("int8", "fp8_e4m3"):
        scale = safe / (127 if format == "int8" else 448)
        scale = torch.where(scale == 0, 1.0, scale)  # amax near the smallest float
        v = groups / scale.unsqueeze(-1)
        codes = (
            v.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)
            if format == "int8"
            else v.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
        )
        stored = torch.where(bad, torch.nan, torch.where(zero, 1.0, scale))
    elif format == "mxfp4":
        exponent = (torch.frexp(safe).exponent - 1 - 2).clamp(-127, 127)
        codes = e2m1(groups.double() * 2.0 ** -exponent.double().unsqueeze(-1))
        stored = torch.where(bad, 255, torch.where(zero, 0, exponent + 127)).to(torch.uint8)
    else:
        scale = (safe / 6).clamp(2.0**-9, 448).to(torch.float8_e4m3fn)
        codes = e2m1(groups / scale.float().unsqueeze(-1))
        stored = torch.where(bad, 0x7F, torch.where(zero, 1, scale.view(torch.uint8))).to(torch.uint8)
    codes = torch.where((bad | zero).unsqueeze(-1), 0, codes).flatten(1)
    if format in ("mxfp4", "nvfp4"):
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return codes, stored


def quantise(core, x, block, group, format, base=None, signs=None, scale=1.0, round_rotation=False, offset=0):
    rows, dim = x.shape
    four = format in ("mxfp4", "nvfp4")
    q = Output((rows, dim // 2 if four else dim), torch.uint8, fill=0xA5, offset=offset)
    scales = Output((rows, dim // group), torch.uint8 if four else torch.float32)
    m, table = (1, None) if base is None else (base.shape[0], packed(base))
    typed = None if signs is None else signs.float().contiguous()
    code = DTYPES[x.dtype]
    size = core.spectralops_hadamard_quantize_workspace(rows, dim, block, m, code, 0, 1)
    work = workspace(size)
    check(
        core,
        core.spectralops_hadamard_quantize(
            pointer(x),
            x.stride(0),
            pointer(q.tensor),
            pointer(scales.tensor),
            pointer(typed),
            1 if signs is None else signs.shape[0],
            pointer(table),
            rows,
            dim,
            block,
            group,
            m,
            float(scale),
            FORMATS[format],
            int(round_rotation),
            pointer(work),
            size,
            code,
            0,
            1,
            None,
        ),
    )
    return q.checked(), scales.checked()


def rotated(core, x, block, base, signs, scale):
    """(rows, dim) float32: the transform alone, kept in float32."""
    rows, dim = x.shape
    repeated = None if signs is None else signs[torch.arange(dim // block) % signs.shape[0]].repeat(rows, 1)
    y = hadamard(core, x.float().reshape(-1, block, 1), base=base, signs_in=repeated, scale=scale)
    return y.reshape(rows, dim)


def quantise_agrees(core, x, block, group, format, base=None, signs=None, scale=0.125, offset=0):
    r = rotated(core, x, block, base, signs, scale)
    for rounding in (False, True):
        codes, scales = quantise(core, x, block, group, format, base, signs, scale, rounding, offset)
        want_codes, want_scales = quantised(r.to(x.dtype).float() if rounding else r, group, format)
        assert torch.equal(scales, want_scales) or torch.equal(
            scales.nan_to_num(-1), want_scales.nan_to_num(-1)
        )
        assert torch.equal(codes, want_codes)
        assert codes.count_nonzero() > 0.5 * codes.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "rows, dim, block, group",
    [
        (9, 256, 128, 128),
        (5, 384, 128, 32),
        (3, 1024, 1024, 16),
        (33, 64, 16, 32),
        (2, 4096, 2048, 4096),
        (5, 640, 32, 640),
        (3, 96, 32, 24),
        (7, 512, 64, 512),
        (3, 48, 8, 6),
    ],
)
def test_quantise(core, rows, dim, block, group, format, dtype):
    quantise_agrees(core, data((rows, dim), dtype), block, group, format)


@pytest.mark.parametrize("format", FORMATS)
def test_quantise_operands(core, format):
    wide = data((4, 520), torch.float16)
    quantise_agrees(core, wide[:, 8:], 128, 64, format, signs=random_signs(4, 128))
    quantise_agrees(core, wide[:, 8:], 128, 64, format, signs=random_signs(3, 128))
    quantise_agrees(core, wide[:, 1:513], 64, 32, format, signs=random_signs(1, 64), offset=1)
    quantise_agrees(
        core, data((4, 384), torch.bfloat16), 96, 32, format, base=BASES["12"], signs=random_signs(4, 96)
    )
    quantise_agrees(core, data((3, 1280), torch.float32), 1280, 128, format, base=BASES["20"])
    core.simt_set_order(2)
    quantise_agrees(core, data((3, 640), torch.float16), 128, 640, format)
    quantise_agrees(core, data((3, 640), torch.float16), 128, 128, format)


@pytest.mark.parametrize("format", FORMATS)
def test_quantise_special_groups(core, format):
    x = data((8, 256), torch.float32) * torch.logspace(-44, 38, 8, dtype=torch.float64).unsqueeze(1).float()
    x[1] = 0
    x[2, 3], x[3, 200] = torch.nan, -torch.inf
    for group in (128, 32, 4):
        r = rotated(core, x, 64, None, None, 0.5)
        codes, scales = quantise(core, x, 64, group, format, scale=0.5)
        want_codes, want_scales = quantised(r, group, format)
        assert torch.equal(scales.float().nan_to_num(-1), want_scales.float().nan_to_num(-1))
        assert torch.equal(codes[1:], want_codes[1:]), (codes != want_codes).nonzero()[:4]
        assert (codes[1] == 0).all() and codes[4:].count_nonzero() > 0


def test_quantise_refuses_what_does_not_fit(core):
    with pytest.raises(RuntimeError, match="do not fit one thread block"):
        quantise(core, data((1, 65536), torch.float32), 65536, 128, "int8")

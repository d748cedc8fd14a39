"""hadamard_quantize of the CPU core, through the C interface: the bits of rotating in float and then quantising."""

import re

import hadamard_cpu as cpu
import numpy as np
import pytest
import torch
from hadamard_cpu import FORMATS, everywhere, hadamard, quantize
from test_cpu_hadamard_core import BASES, data, signs_of

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def e2m1(v):
    """The nearest code, ties to the even one: a search of the table, in float64."""
    v = v.astype(np.float64)
    gap = np.abs(np.minimum(np.abs(v), 6)[..., None] - E2M1)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # argmin takes the first of two equals
    return (order[gap[..., order].argmin(-1)] + 8 * np.signbit(v)).astype(np.uint8)


def quantised(r, group, format):
    """r (rows, dim) float32 numpy -> codes as bytes, scales, by the definition in the header."""
    groups = r.reshape(r.shape[0], -1, group)
    amax = np.abs(groups).max(-1)
    bad, zero = ~np.isfinite(groups).all(-1), amax == 0
    amax = np.where(bad | zero, np.float32(1), amax)
    dead = (bad | zero)[..., None]
    if format in ("int8", "fp8_e4m3"):
        scale = amax / np.float32(127 if format == "int8" else 448)
        scale = np.where(scale == 0, np.float32(1), scale)
        v = np.where(dead, 0, groups) / scale[..., None]
        if format == "int8":
            codes = np.clip(np.rint(v), -127, 127).astype(np.int8).view(np.uint8)
        else:
            codes = torch.from_numpy(np.clip(v, -448, 448)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        scales = np.where(bad, np.nan, np.where(zero, 1, scale)).astype(np.float32)
        return np.where(dead, 0, codes).reshape(r.shape), scales
    if format == "mxfp4":
        exponent = np.clip(np.floor(np.log2(amax.astype(np.float64))) - 2, -127, 127)
        v = np.where(dead, 0, groups).astype(np.float64) * 2.0 ** -exponent[..., None]
        scales = np.where(bad, 255, np.where(zero, 0, exponent + 127)).astype(np.uint8)
    else:
        sixth = np.clip(amax / np.float32(6), np.float32(2**-9), np.float32(448))
        scale = torch.from_numpy(sixth).to(torch.float8_e4m3fn)
        v = np.where(dead, 0, groups) / scale.float().numpy()[..., None]
        scales = np.where(bad, 0x7F, np.where(zero, 1, scale.view(torch.uint8).numpy())).astype(np.uint8)
    codes = np.where(dead, 0, e2m1(v)).reshape(r.shape)
    return (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8), scales


def rotated(x, block, base, signs, scale):
    """(rows, dim) float32: the transform alone, kept in float."""
    rows, dim = x.shape
    per_row = dim // block
    repeated = None if signs is None else signs[torch.arange(per_row) % signs.shape[0]].repeat(rows, 1)
    y = hadamard(x.float().reshape(-1, block, 1), base=base, signs_in=repeated, scale=scale)
    return y.reshape(rows, dim)


def agrees(x, block, group, format, base=None, signs=None, scale=0.125, threads=(1, 2), isas=None):
    r = rotated(x, block, base, signs, scale)
    for rounding in (False, True) if x.dtype != torch.float32 else (False,):
        got = everywhere(quantize, x, block, group, format, base=base, signs=signs, scale=scale,
                         round_rotation=rounding, threads=threads, isas=isas)  # fmt: skip
        kept = r.to(x.dtype).float() if rounding else r
        codes, scales = quantised(kept.numpy(), group, format)
        assert np.array_equal(got[0].numpy(), codes)
        assert np.array_equal(got[1].numpy(), scales, equal_nan=got[1].is_floating_point())
    return got


CASES = [  # rows, dim, block, group
    (3, 128, 128, 128),
    (5, 256, 64, 32),  # groups in a block
    (5, 256, 32, 128),  # blocks in a group
    (2, 192, 64, 96),  # neither
    (2, 384, 12, 32),  # a base, and the same
    (7, 16, 2, 16),
    (2, 48, 1, 6),
    (3, 4096, 4096, 4096),
    (300, 128, 128, 16),
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "dim", "block", "group"), CASES)
def test_bits(rows, dim, block, group, dtype, format):
    codes, _ = agrees(data((rows, dim), dtype), block, group, format, base=BASES[12] if block == 12 else None)
    assert codes.unique().numel() > 8


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("rows", "dim", "block", "group"),
    [
        (1, 2**18, 2**18, 2**18),
        (2, 2**18, 2**18, 64),
        (2, 2**18, 64, 2**18),
        (2, 2**17, 128, 2**16),
        (1, 2**17, 2**15, 32),
    ],
)
def test_units_beyond_a_cache(rows, dim, block, group, format):
    isas = cpu.capabilities("hadamard")[-1:]
    agrees(data((rows, dim), torch.bfloat16), block, group, format, threads=(1, 2), isas=isas)


@pytest.mark.parametrize("format", FORMATS)
def test_operands(format):
    signs = signs_of(3, 32, torch.float32)
    wide = data((4, 256 + 9), torch.bfloat16)
    agrees(wide[:, 3:259], 32, 32, format, signs=signs)
    agrees(wide[:1, :256].expand(4, 256), 32, 32, format, signs=signs)


@pytest.mark.parametrize("format", FORMATS)
def test_every_magnitude(format):
    """Values over the whole range of float, subnormals and overflow of the rotation too; zero groups; ties."""
    x = data((64, 256), torch.float32) * torch.logspace(-45, 38, 64).unsqueeze(1)
    agrees(x, 32, 32, format)
    agrees(x, 1, 32, format, scale=1.0)
    x[:, 64:128] = 0
    agrees(x, 32, 32, format, scale=1.0)
    steps = torch.arange(-256, 256).float().reshape(2, 256) / 64  # every tie of every format
    agrees(steps, 1, 256, format, scale=1.0)
    agrees(steps, 1, 16, format, scale=1.0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bad_groups(value, format):
    x = data((3, 256), torch.float32)
    clean = quantize(x, 64, 32, format)
    x[1, 70] = value
    codes, scales = agrees(x, 64, 32, format)
    spoilt = torch.zeros(3, 8, dtype=torch.bool)
    spoilt[1, 2:4] = True
    good = {"mxfp4": 255, "nvfp4": 0x7F}.get(format)
    assert (scales[spoilt].isnan() if good is None else scales[spoilt] == good).all()
    assert (codes.reshape(3, 8, -1)[spoilt] == 0).all()
    mended = quantize(torch.where(x.isfinite(), x, 0), 64, 32, format, scale=0.125)
    assert torch.equal(mended[1][~spoilt], scales[~spoilt])
    assert clean[0].unique().numel() > 8


BAD = {
    "block 64": dict(dim=96),
    "block 48 is not base_size 1 times": dict(block=48, dim=96),
    "group 24": dict(group=24),
    "group must be even": dict(group=1, format=2),
    "group must be at least 1": dict(group=0),
    "format must be": dict(format=4),
    "dtype must be": dict(dtype=1),
    "rows must not be negative": dict(rows=-1),
    "dim must not be negative": dict(dim=-64),
    "q is NULL": dict(q=None),
    "scales is NULL": dict(scales=None),
    "x is NULL": dict(x=None),
    "base is NULL": dict(base_size=2),
    "sign_blocks": dict(signs="table", sign_blocks=0),
    "threads": dict(threads=0),
    "workspace_bytes": dict(workspace=None, workspace_bytes=0),
}


@pytest.mark.parametrize("text", BAD)
def test_bad_arguments_are_named(text):
    table = torch.zeros(2**16, dtype=torch.int64)
    good = dict(x=table, x_stride=64, q=table, scales=table, signs=None, sign_blocks=1, base=None, rows=1, dim=64,
                block=64, group=32, base_size=1, scale=1.0, format=0, round_rotation=0, workspace=table,
                workspace_bytes=2**19, dtype=0, device=-1, threads=1, stream=None)  # fmt: skip
    arguments = {k: table if v == "table" else v for k, v in (good | BAD[text]).items()}
    values = [v.data_ptr() if isinstance(v, torch.Tensor) else v for v in arguments.values()]
    with pytest.raises(ValueError, match=re.escape(text)):
        cpu.invoke("hadamard_quantize", *values)

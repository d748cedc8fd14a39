"""`hadamard_quantize`: bit-equal to rotating and quantising apart; each format against a quantiser that searches its code table."""

import itertools

import numpy as np
import pytest
import torch

import spectralops as so
from spectralops.ops import hadamard_reference as spec

BACKENDS = ["reference", "cpu"]
FORMATS = ["int8", "fp8_e4m3", "mxfp4", "nvfp4"]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def unpack(q, format):
    if format in ("int8", "fp8_e4m3"):
        return q.float()
    codes = torch.stack((q & 15, q >> 4), -1).flatten(-2)
    table = torch.tensor([*E2M1, *-E2M1], dtype=torch.float32)
    return table[codes.long()]


def nearest(v, table):
    """The table entry nearest to v, ties to the entry with the even index, by search; float64."""
    distance = np.abs(np.abs(v)[..., None] - table)
    best = distance.min(-1, keepdims=True)
    tied = distance == best
    index = np.where(tied.sum(-1) == 1, tied.argmax(-1), np.where(tied.argmax(-1) % 2 == 0, tied.argmax(-1), tied.argmax(-1) + 1))
    return np.copysign(table[index], v)


def slow(r, group, format):
    """Dequantised codes and scales by the definition, value by value in float64 on float32 quotients."""
    r = np.asarray(r, dtype=np.float32).reshape(-1, group)
    amax = np.abs(r).max(-1)
    e4m3 = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
    if format == "int8":
        scale = np.where(amax == 0, np.float32(1), amax / np.float32(127))
        return np.rint((r / scale[:, None]).astype(np.float64)).clip(-127, 127), scale
    if format == "fp8_e4m3":
        scale = np.where(amax == 0, np.float32(1), amax / np.float32(448))
        return nearest((r / scale[:, None]).astype(np.float64), e4m3), scale
    if format == "mxfp4":
        scale = np.array([2.0 ** max(int(np.floor(np.log2(float(a)))) - 2, -127) if a else 2.0**-127 for a in amax])
    else:
        scale = nearest((amax / np.float32(6)).clip(2.0**-9, 448).astype(np.float64), e4m3)
    return nearest((r / scale.astype(np.float32)[:, None]).astype(np.float64), E2M1), scale


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bit_equal_to_rotating_and_quantising_apart(backend, format, dtype):
    for (rows, n), block, group in itertools.product([(5, 256), (1, 4096), (3, 768)], [None, 32, 128, 12], [None, 32, 64]):
        if block == 12 and n != 768:
            continue
        x = (torch.randn(rows, n) * torch.logspace(-3, 3, n)).to(dtype)
        signs = torch.randint(0, 2, (n,)) * 2 - 1
        q, scales = so.hadamard_quantize(x, 0.1, signs=signs, block=block, format=format, group=group, backend=backend)
        r = so.hadamard_transform(x.float(), 0.1, signs=signs, block=block, backend=backend)
        g = group or {"int8": n, "fp8_e4m3": 128, "mxfp4": 32, "nvfp4": 16}[format]
        expect, expect_scales = spec.quantize(r, g, format)
        assert scales.shape == (rows, n // g) and q.shape == expect.shape and q.dtype == expect.dtype
        assert torch.equal(scales.view(torch.uint8), expect_scales.view(torch.uint8))
        assert torch.equal(q.view(torch.uint8), expect.view(torch.uint8))
        rounded = so.hadamard_quantize(
            x, 0.1, signs=signs, block=block, format=format, group=group, backend=backend, round_rotation=True
        )
        apart = spec.quantize(so.hadamard_transform(x, 0.1, signs=signs, block=block, backend=backend).float(), g, format)
        assert all(torch.equal(u.view(torch.uint8), v.view(torch.uint8)) for u, v in zip(rounded, apart))


@pytest.mark.parametrize("format", FORMATS)
def test_the_quantiser_against_a_search_of_the_code_table(format):
    group = 16
    r = torch.cat([torch.randn(200, group), torch.randn(200, group).round() / 2, torch.zeros(1, group), torch.randn(30, group) * 1e-3,
                   torch.tensor([[6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, 0.0]])])  # fmt: skip
    q, scales = spec.quantize(r, group, format)
    values, expect = slow(r, group, format)
    assert np.array_equal(scales.float().numpy().ravel(), expect)
    assert np.array_equal(unpack(q, format).numpy(), values.astype(np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("format", FORMATS)
def test_dequantised_values_are_near(backend, format):
    x = torch.randn(64, 512)
    q, scales = so.hadamard_quantize(x, 512**-0.5, format=format, backend=backend)
    r = so.hadamard_transform(x, 512**-0.5, backend="reference")
    back = unpack(q, format).view(*scales.shape, -1) * scales.float()[..., None]
    error = ((back.view_as(r) - r).norm() / r.norm()).item()
    assert error < {"int8": 0.01, "fp8_e4m3": 0.04, "mxfp4": 0.2, "nvfp4": 0.12}[format], error
    assert error > 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("format", FORMATS)
def test_zero_and_bad_groups(backend, format):
    x = torch.randn(4, 64)
    x[0] = -0.0
    x[1, 3] = float("nan")
    x[2, 60] = float("inf")
    q, scales = so.hadamard_quantize(x, block=32, group=32, format=format, backend=backend)
    s, v = scales.float(), unpack(q, format).view(4, 2, 32)
    zero = {"int8": 1.0, "fp8_e4m3": 1.0, "mxfp4": 2.0**-127, "nvfp4": 2.0**-9}[format]
    assert (s[0] == zero).all() and (q[0].view(torch.uint8) == 0).all()
    assert s[1, 0].isnan() and (v[1, 0] == 0).all() and s[1, 1].isfinite()
    assert s[2, 1].isnan() and (v[2, 1] == 0).all() and s[2, 0].isfinite()
    assert s[3].isfinite().all() and (v[3] != 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_dim_layouts_and_empty(backend):
    x = torch.randn(6, 64, 5)
    q, s = so.hadamard_quantize(x, dim=1, format="mxfp4", backend=backend)
    p, t = so.hadamard_quantize(x.movedim(1, -1), format="mxfp4", backend=backend)
    assert q.shape == (6, 32, 5) and s.shape == (6, 2, 5)
    assert torch.equal(q, p.movedim(-1, 1)) and torch.equal(s.view(torch.uint8), t.movedim(-1, 1).view(torch.uint8))
    q, s = so.hadamard_quantize(torch.empty(0, 64), format="nvfp4", backend=backend)
    assert q.shape == (0, 32) and s.shape == (0, 4)
    wide = torch.randn(4, 100)[:, 3:67]
    got, expect = (so.hadamard_quantize(z, backend=backend) for z in (wide, wide.contiguous()))
    assert torch.equal(got[0], expect[0]) and torch.equal(got[1], expect[1])
    assert not so.hadamard_quantize(torch.randn(2, 8, requires_grad=True), format="fp8_e4m3", group=8)[0].requires_grad


def test_a_gpu_that_cannot_hold_a_row_is_known_before_the_launch():
    from spectralops.backends import _core

    h200 = _core.Limits(90, 132, 227 << 10)
    assert _core._quantise_plan(h200, 4096, 4096, 4096, 1, 0, 3) is None
    assert _core._quantise_plan(h200, 12 * 256, 12 * 256, 32, 12, 2, 3) is None
    assert "do not fit one thread block" in _core._quantise_plan(h200, 1 << 18, 1 << 18, 1 << 18, 1, 0, 3)


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(x=torch.ones(2, 64, dtype=torch.float64)), TypeError, "x must have dtype float16, bfloat16, float32; got float64"),
        (dict(format="int4"), ValueError, "format must be one of 'int8', 'fp8_e4m3', 'mxfp4', 'nvfp4'; got 'int4'"),
        (dict(format="fp8_e4m3"), ValueError, "group must divide the size along dim, 64; got 128"),
        (dict(group=0), ValueError, "group must divide the size along dim, 64; got 0"),
        (dict(group=2.0), TypeError, "group must be an int, got float"),
        (dict(x=torch.ones(3, 1), format="mxfp4", group=1), ValueError, "takes an even size along dim and an even group; got 1 and 1"),
        (dict(x=torch.ones(2, 12), format="nvfp4", group=3), ValueError, "an even group; got 12 and 3"),
        (dict(x=torch.ones(2, 48, 3), dim=1, block=24, group=7), ValueError, "group must divide"),
        (dict(x=torch.ones(2, 63)), ValueError, "size 63 has no Hadamard matrix"),
    ],
)
def test_bad_input_is_named(change, error, text):
    with pytest.raises(error, match=text):
        so.hadamard_quantize(**{"x": torch.ones(2, 64), **change})

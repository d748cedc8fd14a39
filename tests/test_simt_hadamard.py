"""The CUDA Hadamard kernels on the shim of csrc/simt, through the C interface, against simt_hadamard's oracles."""

import pytest
import torch
from simt_build import check, simt_core
from simt_hadamard import (
    BASES,
    DTYPES,
    H200,
    INTS,
    ORDERS,
    Output,
    compute,
    data,
    hadamard,
    one_warp,
    packed,
    plain,
    pointer,
    random_signs,
    same,
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", range(13))
def test_every_size(core, k, dtype):
    outer = max(1, min(37, 2**13 >> k)) + 1
    same(core, data((outer, 2**k, 1), dtype, k), scale=3 if dtype in INTS else 2 ** (-k / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int32])
@pytest.mark.parametrize("k", [13, 14, 15, 16])
def test_long_rows(core, k, dtype):
    same(core, data((2, 2**k, 1), dtype, k), scale=1 if dtype in INTS else 2 ** (-k / 2))


# ---- layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("k", [0, 1, 3, 5, 6, 8, 11])
@pytest.mark.parametrize("inner", [2, 33, 64])
def test_any_axis(core, k, inner, dtype):
    same(core, data((3, 2**k, inner), dtype, k), scale=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n, inner", [(8, 1), (64, 1), (512, 1), (2048, 1), (16, 3), (128, 5)])
def test_strided_outer(core, n, inner, dtype):
    wide = data((7, n * inner + 24), dtype)
    for first in (0, 8, 3):  # 3: rows that no vector access fits
        same(core, wide[:, first : first + n * inner].unflatten(1, (n, inner)))
    same(core, data((1, n, inner), dtype).expand(5, n, inner))
    same(core, data((5, n, inner), dtype), offset=1)


def test_nothing_to_do(core):
    for shape in ((0, 64, 1), (3, 64, 0), (0, 24, 5)):
        x = torch.empty(shape)
        base = BASES["12"] if shape[1] == 24 else None
        assert hadamard(core, x, base=base).shape == shape


# ---- base factors ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int32])
@pytest.mark.parametrize(
    "m, k, outer",
    [
        ("12", 0, 50),
        ("12", 1, 9),
        ("12", 2, 400),
        ("12", 5, 31),
        ("20", 7, 2),
        ("20", 9, 1),
        ("28", 8, 2),
        ("44", 3, 3),
        ("172", 4, 2),
        ("7", 6, 5),
        ("2", 3, 9),
        ("256", 1, 2),
        ("65", 3, 2),
    ],
)
def test_base_in_the_block(core, m, k, outer, dtype):
    base = BASES[m]
    x = data((outer, base.shape[0] << k, 1), dtype, k)
    same(
        core,
        x,
        base=base,
        scale=3,
        signs_in=random_signs(1, x.shape[1]),
        signs_out=random_signs(1, x.shape[1], 2),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize(
    "m, k, inner", [("12", 0, 5), ("12", 3, 34), ("20", 6, 2), ("65", 0, 1), ("12", 12, 1), ("28", 11, 1)]
)
def test_base_as_a_pass(core, m, k, inner, dtype):
    core.simt_set_limits(90, 132, 96 * 1024 if inner == 1 else H200[2])
    n = BASES[m].shape[0] << k
    same(
        core,
        data((2, n, inner), dtype, k),
        base=BASES[m],
        signs_in=random_signs(2, n),
        signs_out=random_signs(2, n, 2),
    )


# ---- signs and orders --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int32])
@pytest.mark.parametrize("n, inner", [(4, 1), (64, 1), (256, 1), (2048, 1), (32, 3), (64, 4)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_signs(core, n, inner, blocks, dtype):
    x = data((8, n, inner), dtype)
    first, second = random_signs(blocks, n), random_signs(blocks, n, 2)
    same(core, x, signs_in=first, signs_out=second)
    same(core, x, signs_in=first)
    same(core, x, signs_out=second, scale=3)
    if dtype not in INTS:  # any diagonal
        same(core, x, signs_in=torch.linspace(-2, 3, blocks * n).reshape(blocks, n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize("order_in", ORDERS)
@pytest.mark.parametrize("order_out", ORDERS)
@pytest.mark.parametrize("n, inner", [(1, 1), (8, 1), (128, 1), (2048, 1), (16, 3), (128, 2)])
def test_orders(core, n, inner, order_in, order_out, dtype):
    x = data((3, n, inner), dtype)
    signs = random_signs(3, n)
    same(core, x, order_in=order_in, order_out=order_out, signs_in=signs, signs_out=signs.flip(1))


# ---- several passes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k, warps", [(12, 1), (13, 1), (11, 2)])
def test_passes(core, k, warps, dtype):
    core.simt_set_limits(90, 132, warps * one_warp(dtype))
    x = data((3, 2**k, 1), dtype)
    signs = random_signs(3, 2**k)
    same(core, x, scale=2, signs_in=signs, signs_out=signs.flip(1))
    same(
        core,
        data((2, 2**k + 8, 1), dtype)[:, 8:],
        order_in="sequency",
        order_out="dyadic",
        signs_in=signs[:2],
    )
    same(core, x, order_out="sequency", signs_out=signs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_long_strided_factor(core, dtype):
    """More parts of 32 steps than a block has warps."""
    same(core, data((1, 2**10, 2), dtype), order_out="sequency", signs_out=random_signs(1, 2**10))
    core.simt_set_limits(90, 132, 150 * 1024)
    same(core, data((1, 2**16, 5), dtype))


def test_three_passes(core):
    core.simt_set_limits(90, 132, 6000)
    same(core, data((1, 2**17, 1), torch.bfloat16))
    same(core, data((1, 2**12, 3), torch.float32))
    same(core, data((1, 2**12, 2), torch.float16), order_out="dyadic")
    same(core, data((1, 12 * 2**11, 1), torch.float16), base=BASES["12"])


# ---- bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shared", [H200[2], 9000])
@pytest.mark.parametrize(
    "n, inner, m",
    [
        (16, 1, ""),
        (32, 1, ""),
        (64, 1, ""),
        (128, 1, ""),
        (256, 1, ""),
        (1024, 1, ""),
        (4096, 1, ""),
        (192, 1, "12"),
        (2560, 1, "20"),
        (128, 3, ""),
        (24, 2, "12"),
    ],
)
def test_sums_do_not_depend_on_the_type(core, n, inner, m, dtype, shared):
    core.simt_set_limits(90, 132, shared)
    x = data((4, n, inner), dtype)
    options = dict(base=BASES[m] if m else None, scale=0.37, signs_in=torch.linspace(-1, 2, n).reshape(1, n))
    wide = hadamard(core, x.float(), **options)
    assert torch.equal(hadamard(core, x, **options), wide.to(dtype))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_thread_order_changes_nothing(core, order):
    cases = [
        (data((5, 512, 1), torch.float16), {}),
        (data((2, 4096, 1), torch.float32), dict(order_out="sequency", order_in="dyadic")),
        (data((3, 2048, 1), torch.float32), {}),
        (data((9, 384, 1), torch.bfloat16), dict(base=BASES["12"])),
        (data((2, 256, 3), torch.float32), {}),
        (data((2, 80, 3), torch.float64), dict(base=BASES["20"])),
        (data((1000, 4, 1), torch.float32), dict(signs_in=random_signs(2, 4))),
    ]
    for x, options in cases:
        want = hadamard(core, x, **options)
        core.simt_set_order(order)
        assert torch.equal(hadamard(core, x, **options), want)
        core.simt_set_order(0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_special_values_stay_in_their_row(core, value):
    for n, base in ((256, None), (2048, None), (48, BASES["12"])):
        x = data((4, n, 1), torch.float32)
        x[1, 5] = value
        y = hadamard(core, x, base=base)
        assert not torch.isfinite(y[1]).any() and torch.isfinite(y[[0, 2, 3]]).all()


def test_integers_wrap(core):
    for dtype in INTS:
        x = torch.full((2, 64, 1), torch.iinfo(dtype).max, dtype=dtype)
        x[1] = torch.iinfo(dtype).min + 3
        assert torch.equal(hadamard(core, x, scale=-3), plain(x.transpose(1, 2)).transpose(1, 2) * -3)


# ---- subsampled transforms ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("n, m", [(1, ""), (16, ""), (128, ""), (2048, ""), (96, "12"), (1280, "20")])
def test_srht(core, n, m, dtype, small):
    core.simt_set_limits(90, 132, one_warp(dtype) if small else H200[2])
    base = BASES[m] if m else None
    wide = data((5, n + 8), dtype)
    x = wide[:, 8:]
    rows = torch.randint(0, n, (max(1, n // 3) + 5,), generator=torch.Generator().manual_seed(3))
    rows = torch.cat((rows, torch.tensor([-1, n, 1 << 40]))) if dtype not in INTS else rows  # the last three: NaN
    signs, scale = random_signs(1, n), 3 if dtype in INTS else 0.3
    y = Output((5, len(rows)), dtype)
    table, code, size = base.shape[0] if m else 1, DTYPES[dtype], 0
    size = core.spectralops_srht_workspace(5, n, table, code, 0, 1)
    work, bits, typed = workspace(size), packed(base) if m else None, signs.to(compute(dtype))
    check(
        core,
        core.spectralops_srht(
            pointer(x),
            x.stride(0),
            pointer(typed),
            pointer(rows),
            pointer(y.tensor),
            pointer(bits),
            5,
            n,
            len(rows),
            table,
            float(scale),
            pointer(work),
            size,
            code,
            0,
            1,
            None,
        ),
    )
    whole = hadamard(core, x.unsqueeze(-1), base=base, signs_in=signs, scale=scale)
    known, got = (rows >= 0) & (rows < n), y.checked()
    assert torch.equal(got[:, known], whole[:, rows[known], 0])
    assert dtype in INTS or (got[:, ~known].isnan().all() and (~known).sum() == 3)
    assert got[:, known].abs().max() > 0

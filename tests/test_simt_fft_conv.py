"""The CUDA kernels of fft_conv on the shim of csrc/simt, through the Python glue, against the reference in float64."""

import functools

import pytest
import simt_fft_conv as simt
import torch
from simt_build import simt_core
from simt_fft_conv import H200, cast, compare, operands, ours, problem, reference

import spectralops.backends._fft_conv as glue
from spectralops.testing import Tally, guard_bands, relative_error

FULL = dict(skip=True, gate_in=True, gate_out=True, mask=True)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def library():
    return simt_core()


@pytest.fixture(autouse=True)
def _core(library, monkeypatch):
    monkeypatch.setattr(glue, "core", functools.cache(lambda: simt.as_core(library)))
    library.simt_set_order(0)
    library.simt_set_limits(*H200)
    glue._plannable.cache_clear()
    yield
    glue._plannable.cache_clear()
    library.simt_set_order(0)
    library.simt_set_limits(*H200)


def held(draws, needs=None, **options):
    """The rule of Tally over several draws; the gradients by kind, since a few numbers alone are luck."""
    tally = Tally()
    for seed in range(draws):
        compare(tally, problem(seed=10 * seed, **options), needs)
    return tally.check()


# Row lengths that need N points, one for every way through the table: one pass, whole passes, a rest of every size.
POINTS = {
    torch.float32: (16, 32, 64, 128, 256, 512, 1024, 24, 48, 96, 192, 384, 20, 40, 80, 160),
    torch.float64: (8, 16, 32, 64, 128, 256, 12, 24, 48, 96, 20, 40, 80),
}


@pytest.mark.parametrize("dtype", POINTS)
def test_every_number_of_points(dtype):
    tally = Tally()
    for points in POINTS[dtype]:
        compare(tally, problem(points, points, channels=3, seed=points, dtype=dtype))
    tally.check()


@pytest.mark.parametrize("points", [2048, 4096, 8192, 16384, 6144, 2560])
def test_long_rows(points):
    """16384 in one block in the forward pass, through memory in the backward one."""
    tally = Tally()
    compare(tally, problem(points, points, channels=1))
    tally.check()


SMALL = 90, 132, 17000  # of shared memory: transforms of more than 4096 points go through memory
SMALLER = 90, 132, 33000


@pytest.mark.parametrize(
    "options",
    [
        dict(length=5000, size=5000, rows=2, channels=2, filters=2, groups=1, activation="gelu", **FULL),
        dict(length=5000, size=4000, rows=2, channels=1, samples=2, activation="silu", **FULL),
        dict(length=9000, size=2000, channels=1, grid=8192, skip=True, gate_in=True),
        dict(length=4500, size=4500, starts=[0, 0, 4500, 4600], channels=1, dtype=torch.float16, activation="gelu", gate_out=True),
        dict(length=7000, size=13999, lag0=6999, channels=1, dtype=torch.float64),
        dict(length=39000, size=30000, channels=1),
    ],
)
def test_rows_that_no_block_holds(library, options):
    library.simt_set_limits(*(SMALLER if options["length"] > 20000 else SMALL))
    tally = Tally()
    for draw in range(2 if options["length"] < 20000 else 1):
        compare(tally, problem(**options, seed=10 * draw), sums=False)
    tally.check()


def test_sums_of_rows_that_no_block_holds(library):
    library.simt_set_limits(*SMALL)
    tally, needs = Tally(), (False, False, True, False, False, True)
    for draw in range(4):
        p = problem(4200, 4200, rows=2, channels=3, filters=2, activation="silu", skip=True, mask=True, seed=10 * draw)
        compare(tally, p, needs)
    tally.check()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["identity", "silu", "gelu"])
def test_everything_at_once(dtype, activation):
    held(3, length=33, size=19, lag0=4, rows=3, channels=6, groups=2, filters=2, activation=activation, dtype=dtype, **FULL)


@pytest.mark.parametrize("points", [8, 12, 16, 20, 24, 32, 40, 80, 128])
def test_a_given_spectrum(points):
    dtype = torch.float64 if points < 16 else torch.float32
    held(4, length=points, size=points // 2, grid=points, rows=2, channels=4, activation="silu", dtype=dtype, **FULL)


@pytest.mark.parametrize(
    "options",
    [
        dict(length=60, size=60, rows=3, samples=3, channels=4, groups=2, filters=2),
        dict(length=60, size=60, rows=5, channels=6, groups=1),
        dict(length=50, size=99, lag0=49, rows=2, groups=1),
        dict(length=1, size=1, rows=2),
        dict(length=300, size=7, lag0=3, rows=2),
        dict(length=500, size=500, rows=9, channels=2),  # items of several rows
    ],
)
def test_kernels(options):
    held(2, **options)


@pytest.mark.parametrize("by_sample", [False, True])
@pytest.mark.parametrize("starts", [[0, 7, 7, 27, 30], [0, 0, 20]])
def test_joined_rows(starts, by_sample):
    longest = max(b - a for a, b in zip(starts, starts[1:]))
    held(
        2, length=longest, size=longest, starts=starts, samples=len(starts) - 1 if by_sample else 1,
        channels=4, groups=2, filters=2, activation="gelu", **FULL,
    )  # fmt: skip


def test_windows():
    """A short kernel on a long row: windows that overlap."""
    for options in (dict(size=9), dict(size=30, lag0=11), dict(size=16, lag0=15), dict(size=5, filters=2)):
        tally = Tally()
        for draw in range(2):
            p = problem(1500, channels=1, seed=draw, activation="silu", **options, **FULL)
            got = glue.fft_conv(simt.where, *operands(p), p.call)
            tally.add("y", got, reference(p)["y"], reference(cast(p, torch.float64))["y"])
        tally.check()


def test_less_shared_memory_changes_nothing(library):
    """What lanes set aside goes to device memory, with fewer blocks than items."""
    p = problem(70, 70, rows=3, channels=5, filters=3, activation="gelu", **FULL)
    before = ours(p)
    library.simt_set_limits(90, 1, 20000)
    after = ours(p)
    for name in before:
        assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_of_threads_changes_nothing(library, order):
    for options in (
        dict(length=70, size=70, rows=3, channels=5, filters=2, activation="silu", **FULL),
        dict(length=700, size=700, channels=1, activation="silu", **FULL),
        dict(length=1500, size=700, channels=1, skip=True),
        dict(length=20, size=20, rows=2, channels=20, grid=24, **FULL),
        dict(length=4200, size=4200, channels=1, activation="silu", **FULL),
    ):
        p = problem(**options)
        library.simt_set_limits(*(SMALL if p.call.length > 4096 else H200))
        library.simt_set_order(0)
        before = ours(p)
        library.simt_set_order(order)
        after = ours(p)
        for name in before:
            assert torch.equal(before[name], after[name]), name


def test_strides():
    p = problem(37, 37, rows=3, channels=4, filters=2, activation="silu", **FULL)
    want = ours(p)
    turned = simt.SimpleNamespace(**vars(p))
    turned.u = p.u.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    turned.gate_in = torch.stack((p.gate_in, p.gate_in), -1)[..., 1]
    turned.gate_out = p.gate_out.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    turned.grad = torch.cat((p.grad, p.grad), -1)[..., 37:]
    turned.call = p.call._replace(blh=True)
    for name, value in ours(turned).items():
        assert torch.equal(value, want[name]), name
    spread = simt.SimpleNamespace(**vars(p))
    for name in ("u", "gate_in", "gate_out", "grad"):
        t = getattr(p, name)
        setattr(spread, name, t[..., :1].expand(t.shape))
    dense = simt.SimpleNamespace(**{k: v.contiguous() if torch.is_tensor(v) else v for k, v in vars(spread).items()})
    first, second = ours(spread), ours(dense)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_row(value):
    p = problem(50, 50, rows=3, channels=4, skip=True, gate_in=True)
    want = ours(p)
    p.u[1, 2, 30] = value
    got = ours(p)
    bad = torch.zeros(3, 4, dtype=torch.bool)
    bad[1, 2] = True
    assert got["y"][:, 0][bad].isnan().all() and got["gate_in"][bad][:, 30].isnan().all() or value == float("inf")
    assert not got["y"][:, 0][bad].isfinite().any()
    assert torch.equal(got["y"][:, 0][~bad], want["y"][:, 0][~bad])
    assert torch.equal(got["u"], want["u"])
    assert got["kernel"][0, 0, 2].isnan().all()
    others = torch.tensor([0, 1, 3])
    assert torch.equal(got["kernel"][0, 0, others], want["kernel"][0, 0, others])


NEEDS = [(True, *(False,) * 5), (False, True, *(False,) * 4), (False, False, True, *(False,) * 3), (False,) * 4 + (True, True)]


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("activation", ["identity", "silu"])
def test_only_what_is_wanted(needs, activation):
    """The same bits as all at once, nothing written beside them."""
    p = problem(45, 30, 3, rows=2, filters=2, activation=activation, **FULL)
    everything = ours(p)
    with guard_bands():
        some = ours(p, needs)
    for name, value in some.items():
        if activation == "identity" and name in ("u", "kernel", "skip"):
            assert relative_error(value, everything[name]) < 1e-6, name
        else:
            assert torch.equal(value, everything[name]), name


def test_without_u_or_kernel():
    """The bare adjoint and the bare gradient of the kernel."""
    p = problem(45, 30, 3, rows=2)
    want = reference(p)
    none = (None,) * 5
    du = glue.fft_conv_backward(simt.where, p.grad, None, p.kernel, *none, p.kernel.shape, p.call, (True, *(False,) * 5))[0]
    dk = glue.fft_conv_backward(simt.where, p.grad, p.u, None, *none, p.kernel.shape, p.call, (False, True, *(False,) * 4))[1]
    assert relative_error(du, want["u"]) < 1e-6 and relative_error(dk, want["kernel"]) < 1e-6


def test_what_has_no_kernel_says_so():
    for options in (dict(length=12, size=12, grid=12), dict(length=600000, size=600000, channels=1)):
        p = problem(**options)
        with pytest.raises(RuntimeError, match="no CUDA kernel for transforms of"):
            glue.fft_conv(simt.where, *operands(p), p.call)
        assert "no CUDA kernel for rows of" in glue.unplannable("fft_conv", *operands(p), p.call)
        backward = (p.grad, *operands(p), p.kernel.shape[:4], p.call, (True,) * 6)
        assert "no CUDA kernel for rows of" in glue.unplannable("fft_conv_backward", *backward)
    p = problem(40, 40)
    assert glue.unplannable("fft_conv", *operands(p), p.call) is None
    assert glue.unplannable("fft_conv_backward", p.grad, *operands(p), p.kernel.shape[:4], p.call, (True,) * 6) is None

"""The CUDA kernels of spectral_filter on the shim of csrc/simt, through the Python glue, against the reference in float64."""

import functools

import pytest
import simt_spectral_filter as simt
import torch
from simt_build import CSRC, has_sanitizer, run_sanitized, simt_core, simt_library
from simt_spectral_filter import H200, compare, filter_args, gradient_args, ours, problem

import spectralops.backends._spectral as glue
from spectralops.testing import Tally, guard_bands

FULL = dict(norm=True, residual=True)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SQUARES = (7, 8, 14, 16, 28, 32, 56)  # sides with a kernel of their own


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


def held(draws, sides, **options):
    tally = Tally()
    for seed in range(draws):
        compare(tally, problem(sides, seed=10 * seed, **options))
    return tally.check()


@pytest.mark.parametrize("side", SQUARES)
def test_squares(side):
    tally = Tally()
    for seed in range(2):
        compare(tally, problem((side, side), rows=2, channels=5, seed=10 * seed, conj=seed == 1))
    tally.check()


def test_every_side():
    """Whatever 2, 3, 5 and 7 make up to 32, as columns and as rows."""
    sides = [n for n in range(1, 33) if all(n % p for p in (11, 13, 17, 19, 23, 29, 31))]
    tally = Tally()
    for number, side in enumerate(sides):
        compare(tally, problem((side, sides[number * 7 % len(sides)]), rows=1, channels=1, seed=number))
    tally.check()


@pytest.mark.parametrize("sides", [(196,), (400,), (2, 3, 4), (7, 1, 5), (6, 5, 3), (64, 10)])
def test_other_grids(sides):
    held(2, sides, rows=2, channels=3)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sides", [(7, 7), (14, 14), (5, 6)])
def test_everything_at_once(dtype, sides):
    held(2, sides, rows=2, channels=6, groups=3, conj=True, dtype=dtype, **FULL)
    held(1, sides, rows=3, channels=3, each=True, dtype=dtype, **FULL)


@pytest.mark.parametrize("sides", [(7, 7), (8, 8), (16, 16), (28, 28), (3, 10)])
def test_many_samples(library, sides):
    """Samples one after the other in a lane, the last chunk shorter; channels that fill no block; sums in several blocks."""
    library.simt_set_limits(90, 1, 227 * 1024)
    held(1, sides, rows=5, channels=70 if sides[0] < 16 else 18, groups=2)
    held(1, sides, rows=3, channels=20 if sides[0] < 16 else 6, each=True)


def test_long_sums():
    """Three levels of the gradient's last sum."""
    held(2, (2, 3), rows=40, channels=60, groups=1)


def test_less_shared_memory():
    """The same bits with fewer channels a block, and the general kernel where the square's own does not fit."""
    for sides, bound in (((12, 15), 30000), ((96,), 20000)):
        p = problem(sides, rows=2, channels=9, **FULL)
        before = ours(p)
        simt_core().simt_set_limits(90, 3, bound)
        after = ours(p)
        for name in before:
            assert torch.equal(before[name], after[name]), name
        simt_core().simt_set_limits(*H200)
    simt_core().simt_set_limits(80, 3, 20 * 1024)
    held(2, (14, 14), rows=1, channels=3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_of_threads_changes_nothing(library, order):
    for sides in ((7, 7), (14, 14), (10, 9), (4, 3, 6)):
        p = problem(sides, rows=2, channels=18, groups=6, **FULL)
        library.simt_set_limits(90, 1, 227 * 1024)
        library.simt_set_order(0)
        before = ours(p)
        library.simt_set_order(order)
        after = ours(p)
        for name in before:
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("sides", [(8, 8), (6, 5)])
def test_strides(sides):
    p = problem(sides, rows=3, channels=4, **FULL)
    want = ours(p)
    turned = simt.cast(p, p.x.dtype, p.weight.dtype)
    turned.x = p.x.permute(4, 1, 3, 2, 0).contiguous().permute(4, 1, 3, 2, 0)
    turned.grad = torch.stack((p.grad, p.grad), -1)[..., 1]
    turned.residual = torch.cat((p.residual, p.residual), 2)[:, :, sides[0] :]
    got = ours(turned)
    assert got["y"].stride() == turned.x.stride()
    for name in got:
        assert torch.equal(got[name], want[name]), name
    spread = simt.cast(p, p.x.dtype, p.weight.dtype)
    for name in ("x", "grad", "residual"):
        setattr(spread, name, getattr(p, name)[:, :, :1, :, :1].expand(p.x.shape))
    dense = simt.cast(spread, p.x.dtype, p.weight.dtype)
    dense.x, dense.grad, dense.residual = (t.contiguous() for t in (spread.x, spread.grad, spread.residual))
    first, second = ours(spread), ours(dense)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_nothing_else_is_written():
    for sides in ((7, 7), (5, 9)):
        p = problem(sides, rows=2, channels=5, **FULL)
        want = ours(p)
        with guard_bands():
            got = ours(p)
        for name in got:
            assert torch.equal(got[name], want[name]), name


@pytest.mark.parametrize("sides", [(14, 14), (7, 7), (9, 5)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_grid(sides, value):
    p = problem(sides, rows=3, channels=4)
    want = ours(p)
    p.x[1, 0, 2, 3, 2] = value
    got = ours(p)
    bad = torch.zeros(3, 4, dtype=torch.bool)
    bad[1, 2] = True
    grids, before = (t["y"].permute(0, 4, 1, 2, 3) for t in (got, want))
    assert not grids[bad].isfinite().any() and (grids[bad].isnan().all() or value == float("inf"))
    assert torch.equal(grids[~bad], before[~bad])
    others = torch.tensor([0, 1, 3])
    assert not got["dweight"][..., 2, :].isfinite().any(-1).any()
    assert torch.equal(got["dweight"][..., others, :], want["dweight"][..., others, :])


def test_what_has_no_kernel_says_so():
    for options in (dict(sides=(8, 13)), dict(sides=(90, 90)), dict(sides=(2**13,)), dict(sides=(90, 90), dtype=torch.float64)):
        p = problem(**options, rows=1, channels=1)
        with pytest.raises(RuntimeError, match="no CUDA kernel for grids of"):
            glue.spectral_filter(simt.where, *filter_args(p))
        with pytest.raises(RuntimeError, match="no CUDA kernel for grids of"):
            glue.spectral_filter_gradient(simt.where, *gradient_args(p))
        assert "no CUDA kernel for grids of" in glue.unplannable("spectral_filter", *filter_args(p))
        assert "no CUDA kernel for grids of" in glue.unplannable("spectral_filter_gradient", *gradient_args(p))
    wide = problem((2, 2), rows=1, channels=1)
    wide.x = torch.empty(2**34, device="meta").as_strided(wide.x.shape, (0, 0, 2**31, 1, 1))
    assert "no CUDA kernel" in glue.unplannable("spectral_filter", *filter_args(wide))
    p = problem((14, 14), **FULL)
    assert glue.unplannable("spectral_filter", *filter_args(p)) is None
    assert glue.unplannable("spectral_filter_gradient", *gradient_args(p)) is None
    assert glue.unplannable("mode_dft", p.x) is None


SANITIZED = """
import torch, simt_spectral_filter as simt, spectralops.backends._spectral as glue
from simt_build import load
library = load({path!r})
glue.core = lambda: simt.as_core(library)
library.simt_set_limits(90, 1, 227 * 1024)
for sides in ((7, 7), (14, 14), (5, 6), (2, 3, 4)):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        simt.ours(simt.problem(sides, rows=3, channels=5, norm=True, residual=True, dtype=dtype))
        simt.ours(simt.problem(sides, rows=2, channels=4, groups=2, each=True, dtype=dtype))
simt.ours(simt.problem((28, 28), rows=1, channels=3, norm=True, residual=True))
print("done")
"""


@pytest.mark.parametrize("sanitize", ["address", "undefined"])
@pytest.mark.slow
def test_sanitized(sanitize):
    if not has_sanitizer(sanitize):
        pytest.skip(f"no runtime of the {sanitize} sanitizer")
    sources = [*(CSRC / "cuda").glob("spectral_filter*.cu"), CSRC / "capi" / "spectral_filter.cpp", CSRC / "capi" / "status.cpp"]
    path = str(simt_library(sorted(sources), sanitize, support=(), stubs=True))
    done = run_sanitized(sanitize, SANITIZED.format(path=path))
    assert done.returncode == 0 and "done" in done.stdout, done.stderr[-3000:]

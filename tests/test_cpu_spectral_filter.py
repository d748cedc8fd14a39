"""csrc/cpu/spectral_filter* and dft_line*: the backend's two functions against the reference in float64, on every instruction set of
this machine."""

import functools
import itertools

import pytest
import torch
from cpu_isas import agree_on, as_before, instruction_sets  # noqa: F401  (as_before is a fixture)

from spectralops import backends
from spectralops._loader import core
from spectralops.ops import spectral_filter_reference as spec
from spectralops.ops.fft_conv_reference import compute_dtype
from spectralops.testing import Tally, guard_bands, layouts, poison, relative_error

CPU = backends.backend("cpu")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Problem:
    """Everything a call takes, rounded to the dtype's types."""

    def __init__(self, B=2, grid=(1, 6, 5), C=5, G=None, samples=False, dtype=torch.float32, eps=-1.0, affine=True, residual=False,
                 conj=False, first=False, seed=0):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        c, self.groups, self.samples = compute_dtype(torch.empty(0, dtype=dtype)), G or C, B if samples else 1
        self.x, self.grad, self.residual = (randn(B, *grid, C).to(dtype) for _ in range(3))
        if first:  # channels first in memory
            self.x, self.grad, self.residual = (t.movedim(-1, 1).contiguous().movedim(1, -1) for t in (self.x, self.grad, self.residual))
        self.residual = self.residual if residual else None
        self.weight = randn(self.samples, *grid[:2], spec.half_size(grid[2]), self.groups, 2).to(c)
        self.norm = tuple(randn(C).to(c) if eps >= 0 and affine else None for _ in range(2))
        self.eps, self.conj = eps, conj

    def run(self, module, wide=None):
        """{name: result}; `wide` the dtype to compute it in."""
        x, grad, weight, residual, *norm = (
            t if t is None or wide is None else t.to(wide) for t in (self.x, self.grad, self.weight, self.residual, *self.norm)
        )
        forward, gradient = (spec.forward, spec.gradient) if module is spec else (module.spectral_filter, module.spectral_filter_gradient)
        y = forward(x, weight, *norm, residual, self.eps, self.conj)
        return {"y": y, "dweight": gradient(x, grad, *norm, self.eps, self.samples, self.groups)}


agree = functools.partial(agree_on, Problem, CPU, spec)


@pytest.mark.parametrize("n", range(1, 41))
def test_every_size(n):
    """In one dimension, and in two as the size of either."""
    agree(draws=8, grid=(1, 1, n))
    agree(draws=3, grid=(1, 3, n), isas=("avx512",))
    agree(draws=3, grid=(1, n, 4), isas=("avx512",))


@pytest.mark.parametrize(
    "n",
    [49, 64, 96, 97, 101, 121, 127, 128, 169, 179, 196, 197, 211, 243, 251, 257, 262, 263, 360, 499, 512, 514, 997, 1000, 1021, 2187, 4096],
)  # fmt: skip
def test_larger_sizes(n):
    """Composites, primes with tables (up to 256) and those by convolution."""
    agree(draws=4, grid=(1, 1, n), C=3)
    agree(draws=2, grid=(1, 2, n), C=2, isas=("avx512",))


@pytest.mark.parametrize("n", [30030, 65537])
def test_long_rows(n):
    agree(draws=1, B=1, grid=(1, 1, n), C=2, isas=("avx512",))


@pytest.mark.parametrize(
    "grid", [(1, 7, 7), (1, 14, 14), (1, 197, 3), (1, 9, 262), (3, 4, 5), (5, 3, 7), (2, 1, 6), (7, 1, 1), (4, 6, 1)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grids(grid, dtype):
    agree(draws=3, grid=grid, C=17, dtype=dtype)


@pytest.mark.parametrize("channels", [1, 2, 8, 15, 16, 31, 32, 33, 49, 80])
@pytest.mark.parametrize("first", [False, True])
def test_channels(channels, first):
    for dtype in DTYPES:
        agree(draws=12 // channels + 2, C=channels, dtype=dtype, first=first, residual=True)


@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (6, 2), (6, 3), (40, 2), (40, 10), (40, 1), (34, 2), (96, 4), (51, 17)])
@pytest.mark.parametrize("samples", [False, True])
def test_groups_and_samples(channels, groups, samples):
    agree(draws=6, B=3, C=channels, G=groups, samples=samples)


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"first": True}, {"dtype": torch.bfloat16}, {"dtype": torch.float64}], ids=str)
@pytest.mark.parametrize("channels", [1, 19, 48, 700])
def test_norm(channels, settings):
    agree(draws=3, C=channels, eps=1e-5, residual=True, **{"grid": (1, 4, 6), **settings})


@pytest.mark.parametrize("grid", [(1, 1, 9), (1, 4, 6), (2, 3, 5)], ids=str)
def test_adjoint(grid):
    agree(draws=6, grid=grid, conj=True)
    agree(draws=6, grid=grid, conj=True, samples=True, residual=True, dtype=torch.float16)


def test_many_samples_err_no_more_than_few():
    agree(draws=4, B=1100, grid=(1, 1, 3), C=2)
    agree(draws=2, B=300, grid=(1, 2, 2), C=70, G=1, isas=("avx512", "portable"))
    agree(draws=2, B=40000, grid=(1, 1, 1), C=1, isas=("avx512",))


def assert_same(got, expected):
    for name, t in expected.items():
        assert torch.equal(got[name], t), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"eps": 1e-5}, {"grid": (1, 1, 9), "C": 20}, {"grid": (2, 3, 4), "C": 40}], ids=str)
def test_layouts(settings, dtype):
    """The same numbers from any memory, never written to. Transforms see the same numbers; the norm's sums have another order."""
    p = Problem(dtype=dtype, residual=True, **settings)
    tensors = p.x, p.grad, p.residual
    for isa in instruction_sets():
        p.x, p.grad, p.residual = tensors
        expected = p.run(CPU)
        for made in itertools.islice(zip(*(layouts(t) for t in tensors)), 5):
            p.x, p.grad, p.residual = (t for _, t in made)
            before = [t.clone() for _, t in made]
            got = p.run(CPU)
            assert got["y"].stride() == torch.empty_like(p.x).stride()
            if p.eps < 0:
                assert_same(got, expected)
            assert all(relative_error(got[k], t) <= 8 * torch.finfo(t.dtype).eps for k, t in expected.items()), isa
            assert all(torch.equal(a, t) for a, (_, t) in zip(before, made)), isa


def test_stride_zero():
    p = Problem(B=3, grid=(1, 4, 6), C=20, residual=True)
    p.x, p.residual = p.x[:1, :, :, :1].expand_as(p.x), p.residual[..., :1].expand_as(p.x)
    p.grad = p.grad[:, :, :1].expand_as(p.grad)
    got = p.run(CPU)
    p.x, p.grad, p.residual = (t.contiguous() for t in (p.x, p.grad, p.residual))
    assert_same(got, p.run(CPU))


@pytest.mark.parametrize(
    "settings",
    [{"B": 9, "C": 70}, {"B": 1, "C": 3}, {"B": 70, "C": 20, "G": 1}, {"B": 5, "C": 40, "samples": True},
     {"B": 5, "C": 40, "samples": True, "G": 2}, {"B": 40, "C": 90, "eps": 1e-5, "first": True}],
    ids=str,
)  # fmt: skip
def test_threads_do_not_matter(settings):
    p = Problem(**settings)
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(p.run(CPU))
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize("grid", [(1, 1, 9), (1, 1, 8), (1, 1, 31), (1, 1, 263), (1, 5, 6), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("first", [False, True])
def test_a_grid_with_nan_is_nan_throughout_and_alone(grid, bad, first):
    p = Problem(B=3, grid=grid, C=21, first=first)
    point = tuple(n - 1 for n in grid)
    for isa in instruction_sets():
        good, x, weight = p.run(CPU), p.x, p.weight
        p.x = x.clone()
        p.x[(1, *point, 2)] = bad
        got = p.run(CPU)
        at = torch.zeros(3, 21, dtype=torch.bool)
        at[1, 2] = True
        y, expected = (t["y"].movedim(-1, 1) for t in (got, good))
        assert y[at].isnan().all() and torch.equal(y[~at], expected[~at]), isa
        others, dweight = [i for i in range(21) if i != 2], got["dweight"]
        assert not dweight[..., 2, :].isfinite().any(), isa
        assert torch.equal(dweight[..., others, :], good["dweight"][..., others, :]), isa
        p.x, p.weight = x, weight.clone()
        p.weight[..., 0, 0, 0, 4, 0] = float("nan")
        got = p.run(CPU)["y"]
        others = [i for i in range(21) if i != 4]
        assert got[..., 4].isnan().all() and torch.equal(got[..., others], good["y"][..., others]), isa
        p.weight = weight


def test_scales_do_not_meet():
    """Channels and samples 1e12 apart keep their own precision."""
    p = Problem(B=2, grid=(1, 6, 7), C=18)
    scale = torch.logspace(-6, 6, 36).view(2, 1, 1, 1, 18)
    p.x = p.x * scale
    got, reference, exact = (r["y"] for r in (p.run(CPU), p.run(spec), p.run(spec, torch.float64)))
    tally = Tally()
    for b, i in itertools.product(range(2), range(18)):
        tally.add("y", *(t[b, ..., i] for t in (got, reference, exact)))
    tally.check()


@pytest.mark.parametrize(
    "settings", [{}, {"C": 33, "grid": (1, 1, 10)}, {"first": True, "C": 18}, {"C": 12, "G": 3, "samples": True}, {"eps": 0.1}], ids=str
)
def test_nothing_unwritten_and_nothing_beyond(settings):
    for dtype in DTYPES:
        p = Problem(dtype=dtype, residual=True, **settings)
        expected = p.run(CPU)
        with poison(), guard_bands():
            got = p.run(CPU)
        assert_same(got, expected)


def test_columns_of_the_half_spectrum_that_are_their_own_conjugates():
    """W = i there: what is left of it in one dimension is nothing, and in more its Hermitian part."""
    p = Problem(grid=(1, 4, 6), dtype=torch.float64)
    p.weight[:] = 0
    p.weight[..., (0, 3), :, 1] = 1.0
    assert relative_error(p.run(CPU)["y"], p.run(spec)["y"]) < 1e-14
    p = Problem(grid=(1, 1, 6), dtype=torch.float64)
    p.weight[:] = 0
    p.weight[..., (0, 3), :, 1] = 1.0
    assert p.run(CPU)["y"].abs().max() < 1e-15


def test_workspace_is_asked_for(monkeypatch):
    from spectralops.backends import _spectral

    calls = []
    monkeypatch.setattr(_spectral, "_run", lambda name, workspace, flag, position, where, fields, x: calls.append(fields))
    p = Problem()
    p.run(CPU)
    for run, fields in zip((core().filter, core().filter_gradient), calls, strict=True):
        with pytest.raises((ValueError, RuntimeError), match="workspace_bytes"):
            run(fields.buffer_info()[0], -1, 1, 0)

"""Cases of the spectral_filter kernels in Triton's interpreter, for test_triton_spectral_filter.py; the process is
interpret_worker.py's.
"""

import os
import sys

import interpret_worker
from interpret_worker import main

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
CASES, QUICK = {}, []  # the second: those that run without SPECTRALOPS_COMPILE_ALL=1


def case(*arguments, quick=None):
    """Register a function once for each tuple of arguments; of these only the ones in `quick` are quick, if it is given."""

    def register(function):
        for given in arguments or ((),):
            name = " ".join([function.__name__, *(str(a).replace(" ", "") for a in given)])
            CASES[name] = lambda function=function, given=given: function(*given)
            if quick is None or given in quick:
                QUICK.append(name)
        return function

    return register


def problem(sizes, c=3, b=2, g=None, per_sample=False, dtype="float32", norm=False, affine=True, residual=False, conj=False):
    """(x, grad, weight, norm_weight, norm_bias, residual), eps, conj."""
    import torch

    dtype, grid = getattr(torch, dtype), (1,) * (3 - len(sizes)) + tuple(sizes)

    def signal():
        return torch.randn((b, *grid, c), dtype=torch.float64).to(dtype)

    weight = torch.randn(b if per_sample else 1, *grid[:2], grid[2] // 2 + 1, g or c, 2)
    affine = (1 + torch.randn(c), torch.randn(c)) if norm and affine else (None, None)
    return (signal(), signal(), weight, *affine, signal() if residual else None), 1e-5 if norm else -1.0, conj


def run(forward, gradient, tensors, eps, conj):
    x, grad, weight, norm_weight, norm_bias, residual = tensors
    y = forward(x, weight, norm_weight, norm_bias, residual, eps, conj)
    return y, gradient(x, grad, norm_weight, norm_bias, eps, weight.shape[0], weight.shape[4])


def kernels(tensors, eps, conj):
    from spectralops.kernels import spectral_filter, spectral_filter_gradient

    return run(spectral_filter.spectral_filter, spectral_filter_gradient.spectral_filter_gradient, tensors, eps, conj)


def reference(tensors, eps, conj, double=False):
    from spectralops.ops import spectral_filter_reference as spec

    if double:
        tensors = [t if t is None else t.double() for t in tensors]
    return run(spec.forward, spec.gradient, tensors, eps, conj)


def check(*arguments, draws=2, scale=1.0, **keywords):
    """Both functions by the tolerance rule, nothing written beside their results, and twice the same bits."""
    import torch

    from spectralops import testing

    tally = testing.Tally()
    for draw in range(draws):
        tensors, eps, conj = problem(*arguments, **keywords)
        tensors = (tensors[0] * scale, *tensors[1:])
        with testing.guard_bands():
            got = kernels(tensors, eps, conj)
        both = reference(tensors, eps, conj), reference(tensors, eps, conj, double=True)
        for name, a, plain, exact in zip(("y", "dweight"), got, *both):
            assert a.dtype == plain.dtype and a.stride() == plain.stride(), name
            tally.add(name, a, plain, exact)
    tally.check()
    if draws == 1:
        assert all(torch.equal(a, b) for a, b in zip(kernels(tensors, eps, conj), got)), "two runs differ"


# ---- grids a program holds -------------------------------------------------------------------------------------------


@case(*(((n2, n3),) for n2 in (7, 14, 16, 17, 28, 32) for n3 in (2, 9, 14, 15, 16, 17, 28, 31, 32)),
      quick=[(grid,) for grid in ((14, 14), (17, 14), (7, 16), (28, 16), (14, 17), (28, 28), (14, 32), (32, 32))])  # fmt: skip
def sizes(grid):
    """Each row of the launch table, odd and even."""
    check(grid)


@case(*((d, n) for d in ("float32", "float16", "bfloat16") for n in (False, True)),
      quick=[("float32", True), ("float16", True), ("bfloat16", False)])  # fmt: skip
def everything(dtype, norm):
    check((6, 5), c=20, b=3, g=10, per_sample=True, dtype=dtype, norm=norm, residual=True, conj=True)
    check((5, 4), c=6, g=2, dtype=dtype, norm=norm, affine=False, residual=norm)


@case()
def many_samples():
    """Sums over samples in chunks, and over chunks and the channels of a group in groups of their own."""
    import torch

    from spectralops.kernels import configs, spectral_filter_gradient
    from spectralops.ops import spectral_filter_reference as spec
    from spectralops.testing import assert_within

    assert spectral_filter_gradient.chunked(33, 1) == (1, 33)
    configs.SPECTRAL_FILTER_PROGRAMS = 1
    assert spectral_filter_gradient.chunked(33, 1) == (32, 2)
    x, grad = torch.randn(2, 33, 1, 2, 2, 2)
    got = spectral_filter_gradient.spectral_filter_gradient(x, grad, None, None, -1.0, 1, 1)
    plain, exact = (spec.gradient(*pair, None, None, -1.0, 1, 1) for pair in ((x, grad), (x.double(), grad.double())))
    assert_within(got, plain, exact)
    terms = torch.randn(2, 1100, 3)
    assert_within(spectral_filter_gradient.summed(terms, 1100), terms.sum(1, True), terms.double().sum(1, True))


@case()
def many_channels():
    """A layer norm over more channels than a tile has."""
    from spectralops.kernels import configs

    configs.SPECTRAL_FILTER_MOMENTS = configs.Matrix(4, 8, 4)
    check((2, 3), c=37, norm=True, draws=1)


# ---- grids that go through memory --------------------------------------------------------------------------------------


@case(*((g,) for g in ((1,), (17,), (70,), (5, 70), (2, 34), (34, 3), (70, 3), (3, 4, 5), (2, 1, 6), (34, 2, 3), (101, 2))),
      quick=[((1,),), ((70,),), ((2, 34),), ((3, 4, 5),)])  # fmt: skip
def passes(grid):
    check(grid, c=2, b=1, draws=1)


@case()
def passes_everything():
    """Samples a few at a time, each with weights of its own, a norm, a residual."""
    from spectralops.kernels import configs

    configs.SPECTRAL_FILTER_WORKSPACE = 2 * 4 * 2 * 3 * 4
    check((4,), c=4, b=5, g=2, per_sample=True, norm=True, residual=True, conj=True, draws=1)
    check((2, 1, 4), c=4, b=3, dtype="float16", norm=True, draws=1)


@case()
def passes_longest():
    """Columns too long to go there and back in one launch, made short."""
    from spectralops.kernels import configs

    configs.SPECTRAL_FILTER_COLUMNS = {1: configs.Filter(16, 4)}
    check((3, 1, 4), c=4, b=2, g=2, per_sample=True, residual=True, conj=True, draws=1)


# ---- what holds for all --------------------------------------------------------------------------------------------------


@case(((4, 3),), ((5,),), quick=[((4, 3),)])
def layouts(grid):
    """Strides of any kind, 0 too."""
    import torch

    from spectralops import testing

    tensors, eps, conj = problem(grid, norm=True, residual=True)
    expect = kernels(tensors, eps, conj)
    x, grad, *weights, residual = tensors
    for (name, *_), views in zip(testing.layouts(x), zip(*(testing.layouts(t) for t in (x, grad, residual)))):
        got = kernels((views[0][1], views[1][1], *weights, views[2][1]), eps, conj)
        assert all(torch.equal(a, b) for a, b in zip(got, expect)), name
        assert got[0].stride() == torch.empty_like(views[0][1]).stride(), name
    one = [t[:1, ..., :1].expand(t.shape) for t in (x, grad, residual)]
    same = [t.contiguous() for t in one]
    got, expect = (kernels((t[0], t[1], *weights, t[2]), eps, conj) for t in (one, same))
    assert all(torch.equal(a, b) for a, b in zip(got, expect))


@case(((6, 5),), ((9,),))
def not_finite(grid):
    """A grid of a sample and channel with NaN or infinity is not finite anywhere, and its neighbours do not see it."""
    import torch

    tensors, eps, conj = problem(grid, c=5)
    clean = kernels(tensors, eps, conj)
    for value in (float("nan"), float("inf")):
        x = tensors[0].clone()
        x[1, 0, -1, 2, 3] = value
        y, dw = kernels((x, *tensors[1:]), eps, conj)
        bad = torch.zeros_like(x, dtype=torch.bool)
        bad[1, ..., 3] = True
        assert not y[bad].isfinite().any() and torch.equal(y[~bad], clean[0][~bad])
        assert not dw[..., 3, :].isfinite().any() and torch.equal(dw[..., :3, :], clean[1][..., :3, :])


@case()
def ends():
    """At frequencies 0 and N3 / 2 the weight acts by its Hermitian part, and imaginary parts there do nothing."""
    import torch

    (x, grad, weight, *none), eps, conj = problem((5, 6))
    mirrored = (-torch.arange(5)) % 5
    hermitian = weight.clone()
    for k in (0, 3):
        column = weight[:, 0, :, k]
        hermitian[:, 0, :, k] = 0.5 * (column + column[:, mirrored] * torch.tensor([1.0, -1.0]))
    a, b = (kernels((x, grad, w, *none), eps, conj)[0] for w in (weight, hermitian))
    assert (a - b).norm() <= 1e-6 * a.norm()


@case()
def float16_range():
    check((5, 6), dtype="float16", scale=3e-6, draws=1)


if __name__ == "__main__":
    interpret_worker.CASES = CASES
    main(sys.argv[1:])

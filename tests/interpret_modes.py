"""Cases of the truncated transforms, the mixing of modes and what is built like them, in Triton's interpreter, for
test_triton_modes.py; the process is interpret_worker.py's.
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
            name = " ".join([function.__name__, *map(str, given)])
            CASES[name] = lambda function=function, given=given: function(*given)
            if quick is None or given in quick:
                QUICK.append(name)
        return function

    return register


def tally_of(draws, one, again=False):
    """one() -> (name, got, reference, exact) of a draw; with `again` the last twice, for the same bits."""
    import torch

    from spectralops import testing

    tally = testing.Tally()
    for _ in range(draws):
        state = torch.get_rng_state()
        found = list(one())
        for name, *three in found:
            tally.add(name, *three)
    torch.set_rng_state(state)
    for (name, got, *_), (_, same, *_) in zip(found, one() if again else ()):
        assert torch.equal(got, same), f"{name}: two runs differ"
    tally.check()


def double(*tensors):
    return [None if t is None else t.double() for t in tensors]


# ---- truncated transforms ------------------------------------------------------------------------------------------------

BOXES = {
    "line": ((1, 1, 40), (0, 0, -3), (0, 0, 2), (1, 1, 9)),
    "even": ((1, 6, 8), (0, -3, 0), (0, 2, 0), (1, 5, 5)),
    "odd": ((1, 3, 19), (0, -1, 0), (0, 0, 0), (1, 2, 10)),
    "volume": ((3, 2, 5), (-1, -1, 0), (0, 1, 0), (3, 2, 3)),
    "plane": ((2, 34, 21), (0, -9, 0), (0, 4, 0), (2, 18, 11)),
    "column": ((1, 18, 1), (0, -8, 0), (0, 5, 0), (1, 17, 1)),
    "long": ((1, 3, 600), (0, 0, 5), (0, 0, 0), (1, 2, 3)),
    "one": ((1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1)),
}
SHAPES = [(box, last, "float32") for box in BOXES for last in (False, True)]
SHAPES += [(box, last, dtype) for box in ("even", "plane") for last in (False, True) for dtype in ("float16", "bfloat16")]


def grid(box, last, dtype, b=2, c=3):
    import torch

    sizes = box.sizes
    return torch.randn((b, *sizes, c) if last else (b, c, *sizes)).to(dtype)


@case(*SHAPES, quick=[s for s in SHAPES if s[2] == "float32" and (s[0] not in ("column", "long", "plane") or not s[1]) or s[0] == "even"
               or s == ("plane", False, "bfloat16")])  # fmt: skip
def transforms(name, last, dtype):
    import torch

    from spectralops import testing
    from spectralops.kernels import modes as kernels
    from spectralops.ops import modes_reference as spec

    box, dtype = spec.Modes(*BOXES[name]), getattr(torch, dtype)

    def one():
        x = grid(box, last, dtype)
        for doubled in (True, False):
            args = (box, last, 0.3, doubled)
            with testing.guard_bands():
                got = kernels.mode_dft(x, *args)
            plain = spec.dft(x, *args)
            assert got.shape == plain.shape and got.stride() == plain.stride() and got.dtype == torch.float32
            yield f"dft {doubled}", got, plain, spec.dft(x.double(), *args)
        s = spec.dft(grid(box, last, dtype), box, last, box.sizes[2] ** -0.5, False)
        skip, grad, bias = grid(box, last, dtype), grid(box, last, dtype), torch.randn(3)
        ends = [(None, None, None, "identity"), (skip, bias, None, "gelu"), (skip, bias, grad, "gelu"), (None, bias, None, "identity")]
        for end in ends if name == "even" else ends[:3:2]:
            args = (box, last, 0.2, True)
            with testing.guard_bands():
                got = kernels.mode_idft(s, *args, *end, dtype)
            plain = spec.idft(s, *args, *end, dtype)
            assert got.shape == plain.shape and got.stride() == plain.stride() and got.dtype == dtype
            exact = spec.idft(s.double(), *args, *double(*end[:3]), end[3], torch.float64)
            yield f"idft {[t is not None for t in end[:3]]}", got, plain, exact

    tally_of(3 if EVERYTHING else 1, one, EVERYTHING or name == "even")


@case()
def layouts():
    """Strides of any kind, 0 too."""
    import torch

    from spectralops import testing
    from spectralops.kernels import modes as kernels
    from spectralops.ops import modes_reference as spec

    box = spec.Modes(*BOXES["odd"])
    for last in (False, True):
        x = grid(box, last, torch.float32)
        expect = kernels.mode_dft(x, box, last, 1.0, True)
        ends = lambda t: kernels.mode_idft(expect, box, last, 1.0, True, t, None, t, "gelu", torch.float32)  # noqa: E731, B023
        plain = ends(x)
        for name, view in list(testing.layouts(x))[1:]:
            assert torch.equal(kernels.mode_dft(view, box, last, 1.0, True), expect), name
            assert torch.equal(ends(view), plain), name
        flat = x[..., :1].expand(x.shape)
        assert torch.equal(kernels.mode_dft(flat, box, last, 1.0, True), kernels.mode_dft(flat.contiguous(), box, last, 1.0, True))


@case()
def not_finite():
    """A grid of one sample and channel with NaN is NaN throughout; its neighbours do not see it."""
    import torch

    from spectralops.kernels import modes as kernels
    from spectralops.ops import modes_reference as spec

    box = spec.Modes(*BOXES["even"])
    for last in (False, True):
        x = grid(box, last, torch.float32)
        clean = kernels.mode_dft(x, box, last, 1.0, True)
        back = kernels.mode_idft(clean, box, last, 1.0, True, None, None, None, "identity", torch.float32)
        for value in (float("nan"), float("inf"))[: None if EVERYTHING else 1]:
            spoilt = x.clone()
            spoilt[(1, 0, 4, 5, 2) if last else (1, 2, 0, 4, 5)] = value
            got = kernels.mode_dft(spoilt, box, last, 1.0, True)
            y = kernels.mode_idft(got, box, last, 1.0, True, None, None, None, "identity", torch.float32)
            for a, e in ((got[..., 0], clean[..., 0]), (y, back)):
                a, e = (t.movedim(4 if last else 1, 1).flatten(2) for t in (a, e))
                bad = torch.zeros(2, 3, dtype=torch.bool)
                bad[1, 2] = True
                assert not a[bad].isfinite().any() and torch.equal(a[~bad], e[~bad])


# ---- mixing --------------------------------------------------------------------------------------------------------------


MIXES = [(1, 5, 3, 7, "float32"), (3, 4, 6, 40, "float32"), (18, 3, 9, 5, "float32"), (2, 37, 2, 3, "float16"), (6, 3, 35, 2, "bfloat16")]


@case(*MIXES)
def mixing(b, ci, co, modes, dtype):
    import torch

    from spectralops import testing
    from spectralops.kernels import modes_mix as kernels
    from spectralops.ops import modes_reference as spec

    def one():
        x, y = torch.randn(b, ci, modes, 2), torch.randn(b, co, modes, 2)
        w = torch.randn(ci, co, modes, 2).to(getattr(torch, dtype))
        for adjoint, t in ((False, x), (True, y)):
            with testing.guard_bands():
                got = kernels.mode_mix(t, w, adjoint)
            yield f"mix {adjoint}", got, spec.mix(t, w, adjoint), spec.mix(t.double(), w.double(), adjoint)
        with testing.guard_bands():
            got = kernels.mode_mix_gradient(x, y)
        yield "gradient", got, spec.mix_gradient(x, y), spec.mix_gradient(x.double(), y.double())

    tally_of(2, one, True)


# ---- through the operators -----------------------------------------------------------------------------------------------


@case()
def layer():
    """Transform, mixing and gelu with their derivatives, all by these kernels."""
    import torch

    from spectralops import backends
    from spectralops.ops import modes as ops
    from spectralops.ops.modes_reference import Modes

    box, scale = Modes(*BOXES["even"]), 0.2

    def derivatives(x, w, skip, bias, backend):
        leaves = [t.detach().requires_grad_() for t in (x, w, skip, bias)]
        spectrum = ops.mode_dft(leaves[0], box, last=False, scale=scale, doubled=False, backend=backend)
        spectrum = ops.mode_mix(spectrum.flatten(2, 4), leaves[1], backend=backend).unflatten(2, box.counts)
        y = ops.mode_idft(spectrum, box, last=False, scale=scale, doubled=True, dtype=x.dtype, skip=leaves[2], bias=leaves[3],
                          activation="gelu", backend=backend)  # fmt: skip
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    def one():
        modes = box.counts[1] * box.counts[2]
        given = [torch.randn(2, 3, *box.sizes), torch.randn(3, 4, modes, 2), torch.randn(2, 4, *box.sizes), torch.randn(4)]
        results = [derivatives(*t, backend) for t, backend in
                   ((given, "triton"), (given, "reference"), (double(*given), "reference"))]  # fmt: skip
        for name, *three in zip(("y", "dx", "dweight", "dskip", "dbias"), *results):
            yield name, *(t.detach() for t in three)

    tally_of(2, one)
    triton = backends.backend("triton")
    args = (torch.randn(1, 1, *box.sizes, dtype=torch.float64), box, False, 1.0, True)
    assert "float64 does not fit" in triton.supports("mode_dft", *args)[1]
    assert triton.supports("mode_dft", args[0].float(), *args[1:])[0]
    long = Modes((1, 8192, 8192), (0, 0, 0), (0, 0, 0), (1, 8192, 4097))
    assert "8192 modes of 8192" in triton.supports("mode_dft", args[0].float(), long, *args[2:])[1]
    assert "sides of up to 4096" in triton.supports("fourier_mix", torch.empty(1, 4097, 1))[1]


# ---- fourier_mix ---------------------------------------------------------------------------------------------------------

SIDES = [(2, 5, 7, "float32"), (1, 1, 1, "float32"), (3, 33, 36, "float32"), (2, 37, 6, "float32"), (2, 6, 37, "float32"),
         (1, 45, 51, "bfloat16"), (2, 40, 24, "float16"), (1, 38, 37, "bfloat16"), (1, 512, 16, "float32"), (1, 16, 768, "float32")]  # fmt: skip


@case(*SIDES)
def fourier_mix(b, s, h, dtype):
    import torch

    from spectralops import testing
    from spectralops.kernels import fourier_mix as kernels

    dtype = getattr(torch, dtype)

    def one():
        x = torch.randn(b, s, h).to(dtype)
        with testing.guard_bands():
            got = kernels.fourier_mix(x)
        assert got.dtype == dtype and got.stride() == x.stride()
        yield "y", got, torch.fft.fft2(x.float()).real.to(dtype), torch.fft.fft2(x.double()).real

    tally_of(3, one, b == 2)


@case()
def fourier_mix_layouts():
    """Strides of any kind; a sample with NaN is NaN throughout, the others do not see it."""
    import torch

    from spectralops import testing
    from spectralops.kernels import fourier_mix as kernels

    x = torch.randn(2, 6, 34)
    expect = kernels.fourier_mix(x)
    for name, view in list(testing.layouts(x))[1:]:
        assert torch.equal(kernels.fourier_mix(view), expect), name
    one = x[:, :1, :1].expand(x.shape)
    assert torch.equal(kernels.fourier_mix(one), kernels.fourier_mix(one.contiguous()))
    for at in ((1, 3, 30), (1, 0, 0)):
        spoilt = x.clone()
        spoilt[at] = float("nan")
        got = kernels.fourier_mix(spoilt)
        assert not got[1].isfinite().any() and torch.equal(got[0], expect[0])


# ---- spectral_mlp --------------------------------------------------------------------------------------------------------


def mlp(x, w1, b1, w2, b2, threshold, activation, mask):
    """By complex numbers."""
    import torch
    from torch.nn import functional as F

    act = {"identity": lambda t: t, "relu": torch.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}[activation]
    z, *(w1, b1, w2, b2) = torch.view_as_complex(x), *(torch.complex(t[0], t[1]) for t in (w1, b1, w2, b2))
    a = torch.einsum("mni,nio->mno", z, w1) + b1
    o = torch.einsum("mni,nio->mno", torch.complex(act(a.real), act(a.imag)), w2) + b2
    o = torch.complex(*(F.softshrink(t, threshold) if threshold else t for t in (o.real, o.imag)))
    return torch.view_as_real(o * z if mask else o)


MLPS = [((33, 2, 7, 9), "relu", 0.1, False), ((5, 3, 17, 40), "gelu", 0.0, True), ((9, 1, 130, 20), "relu", 0.3, True),
        ((4, 2, 3, 3), "silu", 0.1, False), ((4, 2, 3, 3), "tanh", 0.1, True), ((4, 2, 3, 3), "identity", 0.0, False)]  # fmt: skip


@case(*MLPS)
def spectral_mlp(shape, activation, threshold, mask):
    import torch

    from spectralops import testing
    from spectralops.kernels import spectral_mlp as kernels

    modes, blocks, channels, hidden = shape

    def one():
        given = [torch.randn(s) for s in ((modes, blocks, channels, 2), (2, blocks, channels, hidden), (2, blocks, hidden),
                                          (2, blocks, hidden, channels), (2, blocks, channels))]  # fmt: skip
        given[1], given[3] = given[1] / channels**0.5, given[3] / hidden**0.5
        rest = (threshold, activation, mask)
        with testing.guard_bands():
            got = kernels.spectral_mlp_core(*given, *rest)
        yield "y", got, mlp(*given, *rest), mlp(*double(*given), *rest)

    tally_of(3, one, True)
    x, *given = (torch.randn(s) for s in ((4, 2, 3, 2), (2, 2, 3, 5), (2, 2, 5), (2, 2, 5, 3), (2, 2, 3)))
    clean = kernels.spectral_mlp_core(x, *given, threshold, "identity", mask)
    x[1, 1, 2, 0] = float("nan")  # a block of a mode
    got = kernels.spectral_mlp_core(x, *given, threshold, "identity", mask)
    assert not got[1, 1].isfinite().any()
    got[1, 1] = clean[1, 1]
    assert torch.equal(got, clean)


if __name__ == "__main__":
    interpret_worker.CASES = CASES
    main(sys.argv[1:])

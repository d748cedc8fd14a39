"""csrc/cpu/modes*: the backend's functions against torch.fft and einsum in float64 on every instruction set."""

import itertools
import math

import pytest
import torch
from cpu_isas import as_before, instruction_sets  # noqa: F401  (as_before is a fixture)

from spectralops import backends
from spectralops.ops import modes_reference as spec
from spectralops.ops.fft_conv_reference import compute_dtype
from spectralops.ops.modes_reference import Modes
from spectralops.testing import Tally, guard_bands, layouts, poison

CPU = backends.backend("cpu")
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALVES)


def box(sizes, counts, starts=(0, 0, 0), shifts=(0, 0, 0)):
    def three(t, one):
        return (one,) * (3 - len(t)) + tuple(t)

    return Modes(three(sizes, 1), three(starts, 0)[-3:], three(shifts, 0)[-3:], three(counts, 1))


def centred(sizes, counts):
    """The lowest frequencies of every dimension, negative ones too but in the last, in the order of an FFT."""
    starts = [*(-(m // 2) for m in counts[:-1]), 0]
    shifts = [*(m // 2 for m in counts[:-1]), 0]
    return box(sizes, counts, starts, shifts)


def places(modes):
    return [modes.frequencies(d) % modes.sizes[d] for d in range(3)]


def factors(modes, scale, doubled):
    return scale * (spec.count(modes, torch.float64, "cpu") if doubled else torch.ones(modes.counts[2], dtype=torch.float64))


def turned(t, last, pairs=False):
    """Channels from second to last (before the pairs of a spectrum), or back."""
    if t is None or not last:
        return t
    return t.movedim(1, -2 if pairs else -1).contiguous()


def back(t, last, pairs=False):
    return t.movedim(-2 if pairs else -1, 1) if last and t is not None else t


def true_dft(x, modes, last, scale, doubled):
    """A full FFT in complex128, and of it the modes."""
    x = back(x, last)
    i, j, k = places(modes)
    full = torch.fft.fftn(x.to(torch.complex128), dim=(2, 3, 4))
    return turned(torch.view_as_real(full[:, :, i[:, None, None], j[:, None], k] * factors(modes, scale, doubled)), last, True)


def true_idft(spectrum, modes, last, scale, doubled, skip, bias, grad, activation, dtype):
    i, j, k = places(modes)
    spectrum, skip, grad = back(spectrum, last, True), back(skip, last), back(grad, last)
    full = torch.zeros(*spectrum.shape[:2], *modes.sizes, dtype=torch.complex128)
    kept = torch.view_as_complex(spectrum.double().contiguous())
    full[:, :, i[:, None, None], j[:, None], k] = kept * factors(modes, scale, doubled)
    z = torch.fft.ifftn(full, dim=(2, 3, 4)).real * math.prod(modes.sizes)
    z = z + (0 if skip is None else skip.double()) + (0 if bias is None else bias.double()[:, None, None, None])
    z.requires_grad_(True)
    y = z if activation == "identity" else torch.nn.functional.gelu(z)
    return turned(y.detach() if grad is None else torch.autograd.grad(y, z, grad.double())[0], last)


class Dft:
    def __init__(self, modes, B=2, C=3, dtype=torch.float32, doubled=False, seed=0, last=False, **_):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(B, C, *modes.sizes, generator=g, dtype=torch.float64).to(dtype)
        self.args = [turned(x, last), modes, last, 1 / math.sqrt(math.prod(modes.sizes)), doubled]

    kernel, reference, truth = staticmethod(CPU.mode_dft), staticmethod(spec.dft), staticmethod(true_dft)

    def widened(self, dtype):
        return [self.args[0].to(dtype), *self.args[1:]]


class Idft(Dft):
    def __init__(self, modes, B=2, C=3, dtype=torch.float32, doubled=True, seed=0, extras=(), act="identity", last=False):
        g = torch.Generator().manual_seed(seed)
        shape = (B, C, *modes.sizes)
        made = {name: turned(torch.randn(shape, generator=g, dtype=torch.float64).to(dtype), last) for name in ("skip", "grad")}
        compute = compute_dtype(made["skip"])
        made["bias"] = torch.randn(C, generator=g, dtype=torch.float64).to(compute)
        made = {name: t if name in extras else None for name, t in made.items()}
        spectrum = torch.randn(B, C, *modes.counts, 2, generator=g, dtype=torch.float64).to(compute)
        scale = 1 / math.sqrt(math.prod(modes.counts))
        ends = [made[name] for name in ("skip", "bias", "grad")]
        self.args = [turned(spectrum, last, True), modes, last, scale, doubled, *ends, act, dtype]

    kernel, reference, truth = staticmethod(CPU.mode_idft), staticmethod(spec.idft), staticmethod(true_idft)

    def widened(self, dtype):
        return [t.to(dtype) if isinstance(t, torch.Tensor) else t for t in self.args[:-1]] + [dtype]


class Mix:
    def __init__(self, rows, inputs, outputs, modes, kind, dtype=torch.float32, weight_dtype=None, seed=0):
        g = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, modes, 2, generator=g, dtype=torch.float64).to(dtype)

        self.kind, weight = kind, randn(inputs, outputs).to(weight_dtype or dtype)
        a, b = randn(rows, inputs), randn(rows, outputs)
        self.args = ([a, weight], [b, weight], [a, b])[kind]

    def kernel(self, a, b):
        return CPU.mode_mix_gradient(a, b) if self.kind == 2 else CPU.mode_mix(a, b, self.kind == 1)

    def reference(self, a, b):
        return spec.mix_gradient(a, b) if self.kind == 2 else spec.mix(a, b, self.kind == 1)

    def truth(self, a, b):
        a, b = (torch.view_as_complex(t.double()) for t in (a, b))
        equation = ("bip,iop->bop", "bop,iop->bip", "bip,bop->iop")[self.kind]
        a, b = (a.conj() if self.kind == 2 else a).resolve_conj(), (b.conj() if self.kind == 1 else b).resolve_conj()
        return torch.view_as_real(torch.einsum(equation, a, b))

    def widened(self, dtype):
        return [t.to(dtype) for t in self.args]


def agree(make, draws=4, **settings):
    """Within twice the reference's error, in the mean over some draws, on every instruction set."""
    wide = settings.get("dtype") == torch.float64
    problems = [make(seed=s, **settings) for s in range(draws)]
    truths = [p.truth(*p.args) for p in problems]
    references = [p.reference(*(p.widened(torch.float32) if wide else p.args)) for p in problems]
    for _ in instruction_sets():
        tally = Tally()
        for p, truth, reference in zip(problems, truths, references):
            with poison():
                got = p.kernel(*p.args)
            assert got.shape == truth.shape and got.is_contiguous()
            tally.add(type(p).__name__, got, reference, truth)
        tally.check(factor=5**0.5 if wide else 2)


SHAPES = [
    box((1,), (1,)), box((2,), (2,)), box((3,), (2,)), box((31,), (5,)), box((64,), (16,)), box((1000,), (17,)),
    box((97,), (97,), (-40,)), centred((5, 7), (3, 4)), centred((16, 16), (8, 5)), centred((33, 20), (33, 11)),
    centred((64, 48), (24, 12)), centred((128, 130), (12, 33)), box((12, 40), (7, 9), (-2, -4), (3, 5)),
    box((9, 8), (4, 8), (3, -3), (0, 7)), box((40, 1), (9, 1), (-3, 0)), centred((4, 6, 10), (3, 4, 5)),
    centred((17, 16, 15), (8, 7, 8)), centred((8, 9, 10), (8, 9, 10)), box((6, 1, 8), (3, 1, 4), (2, 0, 0)),
    box((3, 70, 20), (2, 5, 4), (0, 60, 15)),
]  # fmt: skip


@pytest.mark.parametrize("modes", SHAPES, ids=lambda m: f"{m.sizes}-{m.counts}-{m.starts}")
@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("make", [Dft, Idft])
def test_sizes(make, modes, doubled, last):
    agree(make, draws=12 if math.prod(modes.counts) < 8 else 2, modes=modes, doubled=doubled, last=last)


@pytest.mark.parametrize("modes", [box((197,), (99,)), centred((14, 14), (14, 8)), centred((5, 9, 6), (4, 7, 4))], ids=str)
@pytest.mark.parametrize("C", [1, 16, 37])
def test_channels(modes, C):
    """Whole vectors of them and parts of one."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        agree(Dft, draws=2, modes=modes, C=C, last=True, dtype=dtype)
        agree(Idft, draws=2, modes=modes, C=C, last=True, dtype=dtype, extras=("skip", "bias"), act="gelu")


def test_beyond_the_half_spectrum():
    """Modes f and -f of one column: channels last add them."""
    for modes in (box((9,), (9,), (-4,)), centred((6, 8), (6, 8)), box((4, 5, 6), (4, 5, 6), (0, -2, -3), (1, 2, 4))):
        for doubled in (False, True):
            agree(Dft, draws=2, modes=modes, doubled=doubled, last=True)
            agree(Idft, draws=2, modes=modes, doubled=doubled, last=True)


def test_half_spectrum_is_the_inverse():
    for sizes, last in itertools.product(((15,), (12, 14), (5, 6, 8)), (False, True)):
        modes = box(sizes, (*sizes[:-1], sizes[-1] // 2 + 1))
        x, s = turned(torch.randn(2, 3, *modes.sizes, dtype=torch.float64), last), 1 / math.sqrt(math.prod(sizes))
        half = CPU.mode_dft(x, modes, last, s, False)
        again = CPU.mode_idft(half, modes, last, s, True, None, None, None, "identity", x.dtype)
        torch.testing.assert_close(again, x)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("modes", [centred((20, 37), (9, 6)), box((300,), (20,)), centred((6, 10, 64), (4, 5, 16))], ids=str)
def test_dtypes(modes, dtype):
    for last in (False, True):
        agree(Dft, modes=modes, dtype=dtype, last=last)
        agree(Idft, modes=modes, dtype=dtype, extras=("skip", "bias"), act="gelu", last=last)


def test_long_sums():
    agree(Dft, draws=1, modes=box((20000,), (5,), (3,)), B=1, C=2)
    agree(Dft, draws=1, modes=box((3000, 6), (2, 3)), B=1, C=1)
    agree(Idft, draws=1, modes=box((90, 3000), (80, 50), (0, 5)), B=1, C=1)


@pytest.mark.parametrize("act", ["identity", "gelu"])
@pytest.mark.parametrize("extras", [(), ("skip",), ("bias",), ("skip", "bias"), ("grad",), ("skip", "bias", "grad")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ends(act, extras, dtype):
    for last in (False, True):
        agree(Idft, modes=centred((11, 21), (4, 6)), act=act, extras=extras, dtype=dtype, last=last)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "modes"),
    [(1, 1, 1, 1), (4, 8, 6, 16), (5, 9, 7, 33), (3, 40, 2, 20), (9, 3, 50, 7), (2, 5, 3, 1100), (40, 4, 3, 5)],
)
def test_mix(kind, rows, inputs, outputs, modes):
    settings = {"kind": kind, "rows": rows, "inputs": inputs, "outputs": outputs}
    agree(Mix, draws=16 if rows * inputs * outputs * modes < 100 else 4, modes=modes, **settings)
    agree(Mix, draws=8, modes=min(modes, 99), dtype=torch.float64, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
def test_weights(dtype, weight_dtype):
    for kind in (0, 1):
        agree(Mix, kind=kind, rows=5, inputs=10, outputs=3, modes=150, dtype=dtype, weight_dtype=weight_dtype)


@pytest.mark.parametrize("last", [False, True])
def test_layouts(last):
    """The same numbers from any memory, never written to, bit for bit."""
    modes = centred((6, 9, 20), (4, 5, 7))
    for dtype in (torch.float32, torch.float16):
        settings = {"dtype": dtype, "last": last}
        forward, back = Dft(modes, **settings), Idft(modes, extras=("skip", "bias", "grad"), act="gelu", **settings)
        expected, skip, grad = CPU.mode_dft(*forward.args), back.args[5], back.args[7]
        end = CPU.mode_idft(*back.args)
        here, there = (-1, 1) if last else (1, -1)
        grids = (forward.args[0], skip, grad)
        other = [("the other order", t.movedim(here, there).contiguous().movedim(there, here)) for t in grids]
        for (name, x), (_, s), (_, g) in zip(*([*layouts(t), l] for t, l in zip(grids, other))):
            kept = [t.clone() for t in (x, s, g)]
            assert torch.equal(CPU.mode_dft(x, *forward.args[1:]), expected), name
            assert torch.equal(CPU.mode_idft(*back.args[:5], s, back.args[6], g, *back.args[8:]), end), name
            assert all(map(torch.equal, kept, (x, s, g))), name


def test_stride_zero():
    modes = centred((7, 30), (4, 5))
    one = torch.randn(1, 3, 1, 7, 1).expand(2, 3, 1, 7, 30)
    assert torch.equal(CPU.mode_dft(one, modes, False, 1.0, False), CPU.mode_dft(one.contiguous(), modes, False, 1.0, False))
    wide = one.movedim(1, -1)
    assert torch.equal(CPU.mode_dft(wide, modes, True, 1.0, False), CPU.mode_dft(wide.contiguous(), modes, True, 1.0, False))
    args = Idft(modes).args
    one = one[:, :1].expand(2, 3, 1, 7, 30)
    assert torch.equal(CPU.mode_idft(*args[:5], one, *args[6:]), CPU.mode_idft(*args[:5], one.contiguous(), *args[6:]))


@pytest.mark.parametrize("modes", [box((50,), (7,)), centred((10, 20), (4, 5)), centred((4, 6, 18), (3, 4, 5))], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("last", [False, True])
def test_a_plane_with_nan_is_odd_throughout(modes, bad, last):
    """No other plane sees it; at any place, the middle and the ends of a fold too."""
    forward, backward = Dft(modes, B=3, last=last), Idft(modes, B=3, last=last)
    inside = torch.zeros(3, 3, dtype=torch.bool)
    inside[1, 2] = True
    for _ in instruction_sets():
        for p, side in ((forward, modes.sizes[2]), (backward, modes.counts[2])):
            good = back(p.kernel(*p.args), last, p is forward)
            for at in (0, 1, side // 2, side - 1):
                x = back(p.args[0], last, p is backward).clone()
                x[1, 2, 0, 0, at] = bad
                if p is backward:
                    x[1, 2, 0, 0, at, 1] = 1
                got = back(p.kernel(turned(x, last, p is backward), *p.args[1:]), last, p is forward)
                assert not got[inside].isfinite().any() and torch.equal(got[~inside], good[~inside])


def test_threads_do_not_matter():
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        boxes = (box((500,), (20,)), centred((50, 60), (12, 9)), centred((9, 8, 40), (4, 4, 6)))
        problems = [f(modes=m, B=5, C=7) for f in (Dft, Idft) for m in boxes]
        problems += [f(modes=m, B=b, C=70, last=True) for f in (Dft, Idft) for m in boxes for b in (1, 3)]
        problems += [Mix(5, 9, 11, 700, kind) for kind in (0, 1, 2)]
        found.append([p.kernel(*p.args) for p in problems])
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


def test_writes_within_results():
    boxes = (box((3,), (2,)), centred((5, 37), (3, 5)), centred((3, 4, 6), (2, 3, 3)))
    problems = [f(modes=m, last=last) for f in (Dft, Idft) for m in boxes for last in (False, True)]
    for p in [*problems, *(Mix(5, 3, 5, 21, kind) for kind in (0, 1, 2))]:
        for _ in instruction_sets():
            with guard_bands():
                p.kernel(*p.args)


def test_chosen():
    """The operators take these kernels where they are the faster ones."""
    narrow, whole = centred((6, 8), (4, 5)), centred((700, 10), (650, 6))
    for modes, last, kernel in ((narrow, False, CPU), (narrow, True, CPU), (whole, False, None), (whole, True, CPU)):
        x = torch.randn(2, *modes.sizes, 3) if last else torch.randn(2, 3, *modes.sizes)
        args = (x, modes, last, 1.0, False)
        assert (backends.select("mode_dft", None, *args) is CPU.mode_dft) is (kernel is CPU)
        found = torch.ops.spectralops.mode_dft(x, *map(list, modes), last, 1.0, False)
        torch.testing.assert_close(found, spec.dft(*args), atol=1e-3, rtol=0)
    grid = list(map(list, narrow))
    assert torch.ops.spectralops.mode_dft(torch.empty(0, 3, 1, 6, 8), *grid, False, 1.0, False).shape == (0, 3, 1, 4, 5, 2)
    assert torch.ops.spectralops.mode_mix(torch.empty(0, 2, 3, 2), torch.randn(2, 4, 3, 2), False).shape == (0, 4, 3, 2)

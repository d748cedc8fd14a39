"""csrc/cpu/fft_conv*: the backend's two functions against the reference in float64, on every instruction set of this machine."""

import functools
import itertools

import pytest
import torch
from cpu_isas import agree_on, as_before, instruction_sets  # noqa: F401  (as_before is a fixture)

from spectralops import backends
from spectralops._loader import core
from spectralops.ops import fft_conv_reference as spec
from spectralops.ops.fft_conv_reference import GRADIENTS, Call, compute_dtype
from spectralops.testing import guard_bands, layouts, poison, relative_error

CPU = backends.backend("cpu")
HALVES = (torch.float16, torch.bfloat16)


def randn(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Problem:
    """Everything a call takes, in float64 and rounded to the dtype's types."""

    def __init__(self, B=2, F=1, H=8, L=50, K=None, lag0=0, G=None, samples=False, dtype=torch.float32, blh=False, act="identity",
                 extras=("skip", "gate_in", "gate_out", "mask"), grid=0, cu=None, seed=0, scale=1.0):  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        c = compute_dtype(torch.empty(0, dtype=dtype))
        rows, batch, time = (B, B, L) if cu is None else (len(cu) - 1, 1, cu[-1])
        u, gate_in = (randn(batch, H, time, generator=g).to(dtype) * scale for _ in range(2))
        gate_out, grad = (randn(batch, F, H, time, generator=g).to(dtype) for _ in range(2))
        kernel = randn(rows if samples else 1, F, G or H, K or L, generator=g).to(c)
        kernel = spec.spectrum(kernel, lag0, grid) if grid else kernel
        if blh:
            u, gate_in = (t.mT.contiguous().mT for t in (u, gate_in))
            gate_out, grad = (t.movedim(-1, 1).contiguous().movedim(1, -1) for t in (gate_out, grad))
        skip, mask = randn(F, H, generator=g).to(c), randn(rows, H, generator=g).to(c)
        made = {"skip": skip, "gate_in": gate_in, "gate_out": gate_out, "mask": mask}
        self.tensors = [u, kernel, *(made[n] if n in extras else None for n in made), None if cu is None else torch.tensor(cu)]
        self.grad, self.shape = grad, tuple(kernel.shape[:4])
        self.call = Call(0 if grid else lag0, grid, act, "highest", blh, L)
        self.needs = (True, True, *(n in extras for n in made))

    def run(self, module, wide=None):
        """{name: result}; `wide` the dtype to compute it in."""
        tensors, grad = self.tensors, self.grad
        if wide is not None:
            tensors = [t if t is None or not t.is_floating_point() else t.to(wide) for t in tensors]
            grad = grad.to(wide)
        forward, backward = (spec.forward, spec.backward) if module is spec else (module.fft_conv, module.fft_conv_backward)
        found = {"y": forward(*tensors, self.call)}
        found.update(zip(GRADIENTS, backward(grad, *tensors, self.shape, self.call, self.needs)))
        return {name: t for name, t in found.items() if t is not None}


agree = functools.partial(agree_on, Problem, CPU, spec)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 33, 64, 100, 128, 257, 500, 1000, 1025, 2048, 3000, 4096, 5000])
def test_lengths(length):
    agree(draws=6 if length < 100 else 3, L=length)


@pytest.mark.parametrize("length", [10000, 16384, 40000, 50000])
def test_long_rows(length):
    agree(draws=1, B=1, L=length)


def test_rows_of_many_caches():
    """2^18 numbers: levels above the caches, and roots that are not all kept."""
    agree(draws=1, B=1, H=2, L=300000, extras=("gate_in", "gate_out"), isas=("avx512", "avx2"))


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize(("length", "act"), [(60, "gelu"), (1000, "silu"), (4100, "identity")])
def test_dtypes(dtype, length, act):
    agree(L=length, act=act, dtype=dtype, draws=4)


@pytest.mark.parametrize(
    ("length", "size", "lag0"),
    [(100, 13, 5), (1000, 1999, 999), (1000, 1500, 700), (64, 64, 63), (5, 3, 2), (700, 1, 0), (513, 600, 512), (33, 65, 32)],
)
def test_lags(length, size, lag0):
    agree(draws=4, L=length, K=size, lag0=lag0)


@pytest.mark.parametrize(("length", "size", "lag0"), [(3000, 17, 0), (9000, 100, 40), (5001, 64, 63), (20000, 500, 0)])
@pytest.mark.parametrize("more", [{}, {"F": 2}, {"blh": True, "H": 7}], ids=str)
def test_overlap_save(length, size, lag0, more):
    agree(**{"draws": 2, "B": 1, "L": length, "K": size, "lag0": lag0, **more})


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_activations(act):
    for extras in ((), ("gate_out",), ("skip", "mask"), ("skip", "gate_in", "gate_out", "mask")):
        agree(draws=8, L=120, act=act, extras=extras)


def test_every_set_of_extras():
    names = ("skip", "gate_in", "gate_out", "mask")
    for extras in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(5)):
        agree(draws=6, L=130, extras=extras)


@pytest.mark.parametrize(
    "settings",
    [
        {"H": 6, "G": 2}, {"H": 6, "G": 1}, {"H": 12, "G": 6, "F": 2}, {"samples": True}, {"H": 6, "G": 2, "samples": True}, {"F": 3},
        {"F": 3, "G": 1, "act": "gelu"}, {"F": 2, "samples": True}, {"B": 1, "H": 1, "draws": 30}, {"B": 9, "H": 1, "draws": 12},
        {"B": 3, "H": 70, "draws": 2},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("blh", [False, True])
def test_kernels(settings, blh):
    agree(**{"draws": 5, "L": 150, "blh": blh, **settings})


@pytest.mark.parametrize("channels", [2, 16, 17, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
def test_channels_last(channels, dtype):
    agree(L=90, H=channels, blh=True, dtype=dtype, draws=24 // min(channels, 8) + 1)


@pytest.mark.parametrize("grid", [8, 80, 96, 100, 160, 512, 640])
def test_spectrum(grid):
    agree(draws=4, L=min(grid, 300), K=min(grid, 300), lag0=2, grid=grid)
    agree(L=grid // 2, K=grid // 2, grid=grid, H=4, G=2, F=2, blh=True)


@pytest.mark.parametrize("settings", [{}, {"samples": True, "H": 5}, {"F": 2, "blh": True}, {"act": "silu"}], ids=str)
def test_packed(settings):
    cu = [0, 0, 30, 31, 131, 131, 150]
    agree(draws=4, L=100, cu=cu, **settings)


def test_packed_in_windows():
    agree(L=6000, K=30, cu=[0, 6000, 6100, 6100, 9100])


def assert_same(got, expected):
    for name, t in expected.items():
        assert torch.equal(got[name], t), name


@pytest.mark.parametrize(("length", "size"), [(200, 200), (3000, 20)])
def test_layouts(length, size):
    """The same numbers from any memory, never written to. Staging rounds nothing, so results are equal bit for bit."""
    p = Problem(L=length, K=size, H=4, act="silu")
    expected = p.run(CPU)
    u, kernel, skip, gate_in, gate_out, mask, _ = p.tensors
    for (name, *ts), *_ in zip(zip(("contiguous", "offset", "sliced", "every other", "permuted"), *(
        [t for _, t in layouts(x)] for x in (u, gate_in, gate_out, p.grad))), range(5)):  # fmt: skip
        p.tensors = [ts[0], kernel, skip, ts[1], ts[2], mask, None]
        p.grad = ts[3]
        before = [t.clone() for t in ts]
        assert_same(p.run(CPU), expected)
        assert all(torch.equal(a, b) for a, b in zip(before, ts)), name


def test_stride_zero():
    p = Problem(L=100, H=4, B=3)
    p.tensors[0] = p.tensors[0][:1, :, :1].expand(3, 4, 100)
    p.tensors[3] = p.tensors[3][:, :1].expand(3, 4, 100)
    p.grad = p.grad[..., :1].expand(3, 1, 4, 100)
    got = p.run(CPU)
    p.tensors[0], p.tensors[3], p.grad = (t.contiguous() for t in (p.tensors[0], p.tensors[3], p.grad))
    assert_same(got, p.run(CPU))


@pytest.mark.parametrize(
    "settings",
    [{"B": 5, "H": 3, "L": 900}, {"B": 5, "H": 3, "L": 9000, "K": 40}, {"B": 3, "H": 40, "L": 300, "blh": True},
     {"B": 40, "H": 2, "G": 1, "L": 500, "F": 2}],
    ids=str,
)
def test_threads_do_not_matter(settings):
    p = Problem(**settings)
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(p.run(CPU))
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize(("length", "size"), [(100, 100), (3000, 3000), (9000, 60)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("blh", [False, True])
def test_a_row_with_nan_is_nan_throughout(length, size, bad, blh):
    p = Problem(B=2, H=4, L=length, K=size, blh=blh, extras=("skip", "gate_in"))
    for isa in instruction_sets():
        good = p.run(CPU)
        u, grad = p.tensors[0].clone(), p.grad.clone()
        p.tensors[0] = u.clone()
        p.tensors[0][1, 2, length // 3] = bad
        got = p.run(CPU)
        at = torch.zeros(2, 4, dtype=torch.bool)
        at[1, 2] = True
        assert got["y"][:, 0][at].isnan().all() and torch.equal(got["y"][:, 0][~at], good["y"][:, 0][~at]), isa
        assert got["kernel"][0, 0, 2].isnan().all() and torch.equal(got["u"], good["u"])
        p.tensors[0] = u
        p.grad = grad.clone()
        p.grad[0, 0, 1, length // 2] = bad
        got = p.run(CPU)
        at = torch.zeros(2, 4, dtype=torch.bool)
        at[0, 1] = True
        assert got["u"][at].isnan().all() and torch.equal(got["u"][~at], good["u"][~at]), isa
        p.grad = grad
        kernel = p.tensors[1]
        p.tensors[1] = kernel.clone()
        p.tensors[1][0, 0, 3, size // 2] = bad
        got = p.run(CPU)
        assert got["y"][:, :, 3].isnan().all() and torch.equal(got["y"][:, :, :3], good["y"][:, :, :3])
        p.tensors[1] = kernel


def test_small_halves():
    """float16 at scale 4e-4: nothing is lost on the way."""
    p = Problem(L=4096, H=2, dtype=torch.float16, extras=(), scale=4e-4)
    kernel = p.tensors[1]
    kernel /= kernel.norm(dim=-1, keepdim=True)
    exact = p.run(spec, torch.float64)["y"]
    assert relative_error(p.run(CPU)["y"], exact) < 1e-3


@pytest.mark.parametrize("blh", [False, True])
def test_nothing_unwritten_and_nothing_beyond(blh):
    packed, spectrum = {"L": 60, "cu": [0, 0, 60, 100]}, {"L": 20, "grid": 40}
    for settings in ({"L": 77}, {"L": 5000, "K": 50}, {"L": 300, "F": 2, "act": "gelu"}, packed, spectrum):
        p = Problem(blh=blh, **settings)
        expected = p.run(CPU)
        with poison(), guard_bands():
            got = p.run(CPU)
        assert_same(got, expected)


def test_what_is_wanted():
    """Any set of gradients, and the products that need no u or no kernel."""
    p = Problem(L=200, H=3)
    everything = p.run(CPU)
    for needs in itertools.product((False, True), repeat=6):
        if any(needs):
            found = CPU.fft_conv_backward(p.grad, *p.tensors, p.shape, p.call, needs)
            for name, need, t in zip(GRADIENTS, needs, found):
                assert (t is not None) == need
                assert t is None or relative_error(t, everything[name]) < 4 * torch.finfo(torch.float32).eps, (needs, name)
    u, kernel = p.tensors[:2]
    none = (None,) * 5
    plain = CPU.fft_conv_backward(p.grad, u, kernel, *none, p.shape, p.call, (True, True, *(False,) * 4))
    du = CPU.fft_conv_backward(p.grad, None, kernel, *none, p.shape, p.call, (True, *(False,) * 5))[0]
    dk = CPU.fft_conv_backward(p.grad, u, None, *none, p.shape, p.call, (False, True, *(False,) * 4))[1]
    assert torch.equal(du, plain[0]) and torch.equal(dk, plain[1])


def test_workspace_is_asked_for():
    with pytest.raises((ValueError, RuntimeError), match="workspace_bytes"):
        _without_workspace()


def _without_workspace():
    from spectralops.backends import _fft_conv

    p = Problem(L=100)
    y = spec.new_like_y(p.tensors[0], 1, False)
    fields = _fft_conv._fields(p.tensors[0], *p.tensors, None, (y, *(None,) * 6), 1, p.shape, p.call)
    core().fft_conv_forward(fields.buffer_info()[0], -1, 1, 0)


@pytest.mark.parametrize("case", [dict(B=1, H=1, L=1 << 18, K=16), dict(B=20000, H=2, L=2, K=1)], ids=str)
def test_a_long_sum_over_windows_or_rows_errs_no_more_than_a_short_one(case):
    agree(draws=2, extras=(), **case)

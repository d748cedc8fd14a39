"""The spectral modules against the expressions their authors run, direct sums and the symmetry they are made for."""

import copy
import itertools

import numpy as np
import pytest
import spectral_models as sm
import torch
import torch.nn.functional as F
from spectral_oracle import convolved
from spectralops import nn
from spectralops.nn.spectral_conv import choose_ranks, factor_shapes
from spectralops.testing import Tally
from torch import nn as tn


@pytest.fixture(autouse=True)
def _one_thread():
    """Grids this small gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- expressions ----------------------------------------------------------------------------------------------------------


def whole(conv):
    """The weight of a SpectralConv as one complex tensor."""
    if conv.weight is not None:
        return torch.view_as_complex(conv.weight)
    first, *others = (torch.view_as_complex(f) for f in conv.factors)
    letters = "abcdef"[: len(others)]
    if conv.factorization == "cp":
        return torch.einsum(f"r,{','.join(f'{c}r' for c in letters)}->{letters}", first, *others)
    if conv.factorization == "tucker":
        return torch.einsum(f"{letters},{','.join(f'{c.upper()}{c}' for c in letters)}->{letters.upper()}", first, *others)
    total = first[0]
    for core in others:
        total = torch.tensordot(total, core, 1)
    return total[..., 0]


def conv(m, x, activation=None):
    """Every mode written into a spectrum of zeros; grids that carry all the modes."""
    size, w = x.shape[2:], whole(m)
    dims = tuple(range(2, x.dim()))
    X = torch.fft.rfftn(x, dim=dims, norm=m.norm)
    Y = X.new_zeros(x.shape[0], m.out_channels, *X.shape[2:])
    counts = w.shape[-len(size) :]
    for index in itertools.product(*map(range, counts)):
        f = [r - n // 2 if m.layout == "neuralop" else r if r < n // 2 else r - n for r, n in zip(index[:-1], counts)] + [index[-1]]
        at, mode = (slice(None), slice(None), *f), w[(..., *index)]
        Y[at] = X[at] * mode if m.separable else X[at] @ mode
    y = torch.fft.irfftn(Y, s=size, dim=dims, norm=m.norm)
    if m.skip is not None:
        y = y + torch.einsum("oi,bi...->bo...", m.skip, x)
    if m.bias is not None:
        y = y + m.bias.reshape(-1, *(1,) * len(size))
    return F.gelu(y) if (activation or m.activation) == "gelu" else y


def fno(m, x):
    grid = torch.meshgrid(*(torch.arange(n) / n for n in x.shape[2:]), indexing="ij")
    x = m.lift(torch.cat([x, torch.stack(grid).to(x.dtype).expand(len(x), *(-1,) * (x.dim() - 1))], 1))
    for block in m.blocks:
        x = conv(block, x)
    return m.project(x)


def fftnet(m, x):
    z = torch.fft.rfft(x.unflatten(2, (m.num_heads, -1)).transpose(1, 2), dim=2, norm="ortho")  # (B, heads, K, d)
    z = z * (m.base_filter + (m.adaptive_mlp(x.mean(1)).unflatten(1, m.base_filter.shape) if m.adaptive else 0))
    z = z * F.relu(z.abs() + m.modrelu_bias) / (z.abs() + 1e-6)
    y = torch.fft.irfft(z, n=x.shape[1], dim=2, norm="ortho").transpose(1, 2).flatten(2)
    return m.norm(x + y)


def biased(module):
    """Parameters that start as constants would hide errors."""
    for parameter in (module.base_filter, module.modrelu_bias):
        tn.init.normal_(parameter, 0.2, 0.3)
    return module


def loud(module):
    """Weights whose results survive the threshold."""
    for parameter in module.parameters():
        parameter.data *= 20
    return module


def published(theirs, **kwargs):
    """The stand-in's forward with this module's parameters."""
    return lambda m, x: torch.func.functional_call(theirs(), dict(m.named_parameters()), (x,), kwargs)


CASES = {
    "GlobalFilter": (lambda: nn.GlobalFilter(4, 6, 4), published(lambda: sm.GlobalFilter(4, 6, 4)), (2, 36, 4)),
    "GlobalFilter, oblong": (lambda: nn.GlobalFilter(4, 5, 4), published(lambda: sm.GlobalFilter(4, 5, 4), spatial_size=(5, 7)), (2, 35, 4)),
    "SpectralConv": (lambda: nn.SpectralConv(3, 4, (4, 6)), conv, (2, 3, 9, 10)),
    "SpectralConv, 1-D": (lambda: nn.SpectralConv(3, 2, 5, bias=False, skip=True, norm="ortho"), conv, (2, 3, 11)),
    "SpectralConv, corner": (lambda: nn.SpectralConv(2, 3, (2, 1, 3), layout="corner", norm="backward"), conv, (2, 2, 5, 4, 6)),
    "SpectralConv, CP": (lambda: nn.SpectralConv(3, 4, (4, 6), factorization="cp"), conv, (2, 3, 8, 9)),
    "SpectralConv, Tucker": (lambda: nn.SpectralConv(3, 4, (3, 2, 4), factorization="tucker", rank=(2, 3, 2, 2, 2)), conv, (1, 3, 5, 4, 6)),
    "SpectralConv, TT": (lambda: nn.SpectralConv(3, 4, (4, 6), factorization="tt", rank=2), conv, (2, 3, 8, 9)),
    "SpectralConv, separable": (lambda: nn.SpectralConv(3, 3, (3, 4), factorization="tt", separable=True), conv, (2, 3, 6, 7)),
    "FNO": (lambda: nn.FNO(2, 1, (4, 4), 5, 2, separable=False, factorization="tucker"), fno, (2, 2, 8, 9)),
    "AFNO2D": (lambda: loud(nn.AFNO2D(8, 2)), published(lambda: sm.NVlabs.AFNO2D(8, 2)), (2, 36, 8)),
    "AFNO2D, PhysicsNeMo": (lambda: loud(nn.AFNO2D(8, 2, 0.02, 0.5, 2, variant="physicsnemo")),
                            published(lambda: sm.AFNO2DLayer(8, 2, 0.02, 0.5, 2)), (2, 6, 7, 8)),
    "AFNO2D, DPOT": (lambda: nn.AFNO2D(8, 2, variant="dpot", modes=3, channels_first=True),
                     published(lambda: sm.DPOT.AFNO2D(8, 2, True, modes=3)), (2, 8, 6, 7)),
    "AFNO2D, AFFNet": (lambda: loud(nn.AFNO2D(8, 2, variant="aff", channels_first=True)),
                       published(lambda: sm.AFNO2D_channelfirst(8, 2)), (2, 8, 5, 6)),
    "FNetMixing": (lambda: nn.FNetMixing(), lambda m, x: torch.fft.fft2(x).real, (2, 7, 6)),
    "SpectralGate1d": (lambda: biased(nn.SpectralGate1d(8, 13, 2, 0.0)), fftnet, (2, 13, 8)),
    "SpectralGate1d, fixed": (lambda: biased(nn.SpectralGate1d(6, 10, 3, 0.0, adaptive=False)), fftnet, (2, 10, 6)),
}  # fmt: skip


def make(name, seed=0):
    torch.manual_seed(seed)
    module, _, shape = CASES[name]
    return module(), torch.randn(shape)


def results(f, module, x):
    x = x.clone().requires_grad_()
    named = {"x": x, **dict(module.named_parameters())}
    y = f(module, x)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    return {"y": y, **{f"gradient of {n}": g for n, g in zip(named, torch.autograd.grad(y, list(named.values()), cotangent))}}


@pytest.mark.parametrize("name", CASES)
def test_the_published_expression(name):
    tally, expression = Tally(), CASES[name][1]
    for seed in range(3):
        module, x = make(name, seed)
        wide = copy.deepcopy(module).double()
        truth = results(expression, wide, x.double())
        got = results(lambda m, u: m(u), wide, x.double())
        for key, value in got.items():
            torch.testing.assert_close(value, truth[key], msg=lambda text: f"{key}: {text}")
        plain, ours = results(expression, module, x), results(lambda m, u: m(u), module, x)
        for key, value in ours.items():
            assert value.dtype == torch.float32 and value.shape == truth[key].shape
            tally.add(key, value, plain[key], truth[key])
    tally.check()
    assert not any(p.is_complex() for p in module.parameters())


@pytest.mark.parametrize("theirs, ours, shape", [
    (lambda: sm.GlobalFilter(6, 8, 5), lambda: nn.GlobalFilter(6, 8, 5), (2, 64, 6)),
    (lambda: sm.SpectralGatingNetwork(6, 7, 4), lambda: nn.SpectralGating(6, 7, 4), (2, 49, 6)),
    (lambda: sm.NVlabs.AFNO2D(8, 4, 0.003, 0.6, 2), lambda: nn.AFNO2D(8, 4, 0.003, 0.6, 2), (2, 64, 8)),
    (lambda: sm.AFNO2DLayer(8, 2), lambda: nn.AFNO2D(8, 2, variant="physicsnemo"), (2, 6, 9, 8)),
    (lambda: sm.DPOT.AFNO2D(8, 2, modes=4), lambda: nn.AFNO2D(8, 2, variant="dpot", modes=4), (2, 6, 9, 8)),
    (lambda: sm.AFNO2D_channelfirst(8, 2), lambda: nn.AFNO2D(8, 2, variant="aff", channels_first=True), (2, 8, 6, 7)),
])  # fmt: skip
def test_states_of_the_published_modules_load(theirs, ours, shape):
    torch.manual_seed(0)
    published, module = theirs(), ours()
    module.load_state_dict(published.state_dict())
    x = 20 * torch.randn(shape)
    torch.testing.assert_close(module(x), published(x), rtol=1e-5, atol=1e-4)


def test_half_precision_rounds_like_its_input():
    for name in ("GlobalFilter", "SpectralConv", "AFNO2D", "FNetMixing", "SpectralGate1d"):
        module, x = make(name)
        with torch.no_grad():
            y, narrow = module(x), module.bfloat16()(x.bfloat16())
        assert narrow.dtype == torch.bfloat16 and (narrow - y).norm() < 0.06 * y.norm(), name


# ---- SpectralConv and FNO ---------------------------------------------------------------------------------------------------


def test_other_grids_keep_frequencies():
    torch.manual_seed(0)
    module, x = nn.SpectralConv(2, 3, (4, 4), bias=False).double(), torch.randn(1, 2, 6, 5, dtype=torch.float64)
    for size in ((9, 8), (3, 4)):
        truth = convolved(x.numpy(), whole(module).detach().numpy(), size, "neuralop", "forward")
        np.testing.assert_allclose(module(x, size).detach().numpy(), truth, atol=1e-12)
    skip = torch.randn(1, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x, (9, 8), skip), module(x, (9, 8)) + skip)


@pytest.mark.parametrize("kind", ["cp", "tucker", "tt"])
@pytest.mark.parametrize("rank", [0.1, 0.4, 1.0])
def test_ranks_use_the_part_of_the_numbers_that_they_may(kind, rank):
    shape = (16, 12, 8, 5)
    numbers = sum(int(np.prod(s)) for s in factor_shapes(kind, shape, choose_ranks(kind, shape, rank)))
    assert 0.75 * rank * 7680 < numbers <= rank * 7680


@pytest.mark.parametrize("kind", [None, "cp", "tucker", "tt"])
def test_fresh_weights_have_the_variance_of_a_dense_one(kind):
    torch.manual_seed(0)
    drawn = [whole(nn.SpectralConv(16, 16, (8, 8), factorization=kind, rank=0.5)).detach() for _ in range(8)]
    assert 0.5 < torch.stack(drawn).abs().square().mean() * 16 < 2


def test_an_fno_learns_on_one_grid_and_runs_on_another():
    torch.manual_seed(0)
    model = nn.FNO(1, 1, 6, 8, 2)
    n = torch.arange(16) / 16
    shift = torch.rand(8, 1, 1)
    x, target = torch.sin(2 * torch.pi * (n + shift)), torch.cos(2 * torch.pi * (n + shift))
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    with torch.no_grad():
        fine = torch.sin(2 * torch.pi * (torch.arange(48) / 48 + shift))
        assert (model(fine)[..., ::3] - model(x)).norm() < 0.1 * model(x).norm()


# ---- the others -------------------------------------------------------------------------------------------------------------


def test_a_filter_resized():
    torch.manual_seed(0)
    module = nn.SpectralGating(3, 4, 3)
    same, larger = module.resized(4, 3), module.resized(8, 5)
    assert type(larger) is nn.SpectralGating and larger.complex_weight.shape == (8, 5, 3, 2)
    torch.testing.assert_close(same.complex_weight, module.complex_weight)
    torch.testing.assert_close(larger.complex_weight[[0, 0, -1], [0, -1, -1]], module.complex_weight[[0, 0, -1], [0, -1, -1]])
    grid = torch.randn(2, 8, 9, 3)  # two widths have one half spectrum
    torch.testing.assert_close(larger(grid).flatten(1, 2), larger(grid.flatten(1, 2)))
    assert larger(grid[:, :, :8]).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("reflection", [False, True])
def test_a_group_convolution_commutes_with_the_group(reflection):
    torch.manual_seed(0)
    module, n = nn.GroupSpectralConv(2, 3, 3, reflection=reflection).double(), 8 if reflection else 4
    x = torch.randn(2, 2 * n, 7, 7, dtype=torch.float64)

    def turned(u):  # r r^a = r^(a+1), with and without the reflection
        u = u.unflatten(1, (-1, n // 4, 4)).roll(1, 3)
        return torch.rot90(u.flatten(1, 3), 1, (-2, -1))

    def reflected(u):  # f r^a = r^-a f
        u = u.unflatten(1, (-1, 2, 4)).flip(2)[:, :, :, [0, 3, 2, 1]]
        return u.flatten(1, 3).flip(-2)

    y = module(x)
    assert y.shape == (2, 3 * n, 7, 7)
    for act in (turned, reflected) if reflection else (turned,):
        torch.testing.assert_close(module(act(x)), act(y))


@pytest.mark.parametrize("name", ["GlobalFilter", "SpectralConv", "AFNO2D, PhysicsNeMo"])
def test_compiles_into_one_graph(name):
    torch._dynamo.reset()
    module, x = make(name)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("name", ["GlobalFilter", "SpectralConv", "AFNO2D", "FNetMixing", "SpectralGate1d"])
def test_exports_without_complex_numbers(name):
    module, x = make(name)
    exported = torch.export.export(module.eval(), (x,))
    values = [node.meta.get("val") for node in exported.graph.nodes]
    assert not any(isinstance(v, torch.Tensor) and v.is_complex() for v in values)
    torch.testing.assert_close(exported.module()(x), module(x), rtol=1e-5, atol=1e-5)


BAD = {
    "x must have shape": [
        lambda: nn.GlobalFilter(4, 6, 4)(torch.zeros(2, 36, 5)), lambda: nn.SpectralConv(2, 2, (4, 4))(torch.zeros(1, 2, 8)),
        lambda: nn.FNO(2, 1, 4, 4)(torch.zeros(1, 1, 8)), lambda: nn.AFNO2D(8, channels_first=True)(torch.zeros(1, 4, 8)),
        lambda: nn.SpectralGate1d(8, 12)(torch.zeros(1, 11, 8)), lambda: nn.GroupSpectralConv(1, 1, 2)(torch.zeros(1, 4, 5, 6)),
    ],
    "is not that of x": [lambda: nn.GlobalFilter(4, 6, 4)(torch.zeros(2, 35, 4)), lambda: nn.GlobalFilter(4, 6, 4)(torch.zeros(2, 6, 5, 4))],
    "modes must have": [lambda: nn.SpectralConv(2, 2, (1,) * 4), lambda: nn.FNO(1, 1, (2,) * 4)],
    "separable needs": [lambda: nn.SpectralConv(2, 3, 4, separable=True)],
    "rank must": [lambda: nn.SpectralConv(2, 3, 4, factorization="cp", rank=0.0), lambda: nn.SpectralConv(2, 3, 4, factorization="tt", rank=(1,))],
    "skip is given": [lambda: nn.FNOBlock(2, 4)(torch.zeros(1, 2, 8), skip=torch.zeros(1, 2, 8))],
    "must divide": [lambda: nn.AFNO2D(9, 2), lambda: nn.SpectralGate1d(9, 4, 2)],
    "spatial_size must": [lambda: nn.AFNO2D(8)(torch.zeros(1, 35, 8))],
    "must be positive": [lambda: nn.GlobalFilter(0), lambda: nn.SpectralConv(1, 1, 0), lambda: nn.GroupSpectralConv(1, 1, 0)],
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_bad_input(text):
    for call in BAD[text]:
        with pytest.raises(ValueError, match=text):
            call()


def test_they_show_what_they_are():
    for name in CASES:
        assert repr(make(name)[0])
    assert "modes=(4, 6)" in repr(nn.SpectralConv(3, 4, (4, 6)))

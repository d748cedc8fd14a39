"""`spectral_conv`: against direct sums, factors, resolutions, upstream's placement, derivatives, compile and export, bad input."""

import numpy as np
import pytest
import spectral_oracle as oracle
import torch
from torch.nn import functional as F

import spectralops as so
from spectralops import testing
from spectralops.ops import modes as operators

D = torch.float64
BACKENDS = ["reference", None]


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other take longer than these sizes do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def complex_of(w):
    return w.numpy()[..., 0] + 1j * w.numpy()[..., 1]


def box(modes):
    return (*modes[:-1], modes[-1] // 2 + 1)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["neuralop", "corner"])
@pytest.mark.parametrize(
    "grid, modes, out",
    [((9,), (6,), None), ((8,), (8,), (11,)), ((8, 7), (4, 6), None), ((7, 8), (4, 8), (5, 6)), ((6, 5), (6, 4), (9, 12)),
     ((5, 4, 6), (4, 2, 4), None), ((4, 4), (8, 8), None)],
)  # fmt: skip
def test_direct_sum(grid, modes, out, layout, backend):
    x, w = torch.randn(2, 3, *grid, dtype=D), torch.randn(3, 2, *box(modes), 2, dtype=D)
    for norm in ("forward", "ortho", "backward"):
        y = so.spectral_conv(x, w, modes=modes, norm=norm, output_size=out, layout=layout, backend=backend)
        np.testing.assert_allclose(y.numpy(), oracle.convolved(x.numpy(), complex_of(w), out or grid, layout, norm), atol=1e-12)


def test_the_usual_corner_code():
    """Two blocks of weights at the corners of rfft2, as FNO code of many projects has it."""
    m1, m2 = 3, 4
    x, w = torch.randn(2, 3, 12, 10, dtype=D), torch.randn(3, 2, 2 * m1, m2, 2, dtype=D)
    a, b = torch.view_as_complex(w).split(m1, 2)
    spectrum, out = torch.fft.rfft2(x), torch.zeros(2, 2, 12, 6, dtype=torch.complex128)
    out[:, :, :m1, :m2] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m1, :m2], a)
    out[:, :, -m1:, :m2] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m1:, :m2], b)
    y = so.spectral_conv(x, w, modes=(m1, m2), layout="corner", norm="backward")
    torch.testing.assert_close(y, torch.fft.irfft2(out, s=(12, 10)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_plane_waves_keep_their_frequency(scale):
    """Of either sign, on every resolution: where neuraloperator is out by 2."""
    n, m = 16, int(16 * scale)
    w = torch.zeros(1, 1, 6, 4, 2, dtype=D)
    w[..., 0] = 1
    for sign in (1, -1):
        wave = [torch.cos(2 * torch.pi * (sign * torch.arange(s)[:, None] + torch.arange(s)) / s)[None, None].double() for s in (n, m)]
        torch.testing.assert_close(so.spectral_conv(wave[0], w, modes=(6, 6), output_size=(m, m)), wave[1], atol=1e-6, rtol=0)


def upstream(x, w, modes, out):
    """neuraloperator 2.0.0 on a real grid: shift, window, shift again, pad or crop at the end."""
    grid, last = x.shape[2:], x.dim() - 1
    dims = tuple(range(2, x.dim()))
    shift = (lambda t: torch.fft.fftshift(t, dim=dims[:-1])) if len(dims) > 1 else (lambda t: t)
    spectrum = shift(torch.fft.rfftn(x, dim=dims, norm="forward"))
    kept = [min(m, n) for m, n in zip(modes[:-1], grid)]
    columns = min(modes[-1] // 2 + 1, grid[-1] // 2 + 1)
    window = (..., *(slice(n // 2 - k // 2, n // 2 + k // 2 + k % 2) for n, k in zip(grid, kept)), slice(columns))
    cut = [slice((m - k) // 2, m - (m - k + 1) // 2) for m, k in zip(w.shape[2:-2], kept)]
    part = torch.view_as_complex(w[:, :, *cut, :columns].contiguous())
    full = spectrum.new_zeros(x.shape[0], w.shape[1], *spectrum.shape[2:])
    full[window] = torch.einsum("bi...,io...->bo...", spectrum[window], part)
    return torch.fft.irfftn(shift(full), s=out or grid, dim=tuple(range(2, last + 1)), norm="forward")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "grid, modes, out",
    [((16, 12), (6, 6), None), ((15, 13), (6, 5), None), ((16, 12), (6, 6), (32, 24)), ((16, 16), (6, 6), (8, 8)), ((7, 7), (6, 6), (4, 4)),
     ((5, 6, 7), (4, 3, 4), (8, 6, 9)), ((9,), (6,), (18,)), ((4, 4), (7, 7), None), ((5, 5), (1, 1), (3, 3))],
)  # fmt: skip
def test_compat(grid, modes, out, backend):
    x, w = torch.randn(2, 3, *grid, dtype=D), torch.randn(3, 2, *box(modes), 2, dtype=D)
    y = so.spectral_conv(x, w, modes=modes, output_size=out, compat="neuralop", backend=backend)
    torch.testing.assert_close(y, upstream(x, w, modes, out), rtol=0, atol=1e-12)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["cp", "tucker", "tt"])
def test_factors(kind, rank, separable):
    modes = (4, 5, 4)[:rank]
    sizes = ((3,) if separable else (3, 2)) + box(modes)
    c = lambda *shape: torch.randn(*shape, dtype=torch.complex128)  # noqa: E731
    letters = "abcde"[: len(sizes)]
    if kind == "cp":
        factors = (c(4), *(c(s, 4) for s in sizes))
        full = torch.einsum(f"r,{','.join(k + 'r' for k in letters)}->{letters}", *factors)
    elif kind == "tucker":
        factors = (c(*(2, 3, 2, 3, 2)[: len(sizes)]), *(c(s, r) for s, r in zip(sizes, (2, 3, 2, 3, 2))))
        ranks = "vwxyz"[: len(sizes)]
        full = torch.einsum(f"{ranks},{','.join(map(''.join, zip(letters, ranks)))}->{letters}", *factors)
    else:
        ranks = [1, *(3, 2, 3, 2)[: len(sizes) - 1], 1]
        factors = tuple(c(a, s, b) for a, s, b in zip(ranks, sizes, ranks[1:]))
        names = "uvwxyz"[: len(sizes) + 1]
        full = torch.einsum(f"{','.join(a + k + b for a, k, b in zip(names, letters, names[1:]))}->{letters}", *factors)
    x = torch.randn(2, 3, *(8, 6, 7)[:rank], dtype=D)
    for layout in ("neuralop",) if rank > 1 and modes[1] % 2 and rank > 2 else ("neuralop", "corner"):
        expected = so.spectral_conv(x, full.contiguous(), modes=modes, layout=layout)
        torch.testing.assert_close(so.spectral_conv(x, factors, modes=modes, layout=layout), expected, rtol=0, atol=1e-12)
        fewer = tuple(m - 2 if m > 2 else m for m in modes) if layout == "neuralop" else modes
        expected = so.spectral_conv(x, full.contiguous(), modes=fewer, layout=layout)
        torch.testing.assert_close(so.spectral_conv(x, factors, modes=fewer, layout=layout, factorization=kind), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_skip_bias_activation(backend):
    x, w, b = torch.randn(2, 3, 8, 6, dtype=D), torch.randn(3, 4, 4, 3, 2, dtype=D), torch.randn(4, dtype=D)
    z = so.spectral_conv(x, w, modes=(4, 4), backend="reference")
    matrix, add = torch.randn(4, 3, dtype=D), torch.randn(2, 4, 8, 6, dtype=D)
    call = dict(modes=(4, 4), backend=backend)
    torch.testing.assert_close(so.spectral_conv(x, w, skip=add, **call), z + add)
    expected = F.gelu(z + torch.einsum("oi,bixy->boxy", matrix, x) + b[:, None, None])
    torch.testing.assert_close(so.spectral_conv(x, w, skip=matrix, bias=b, activation="gelu", **call), expected)
    torch.testing.assert_close(so.spectral_conv(x, w, skip=matrix[..., None, None], bias=b[:, None, None], activation="gelu", **call), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    tally = testing.Tally()
    for weight_dtype in (torch.float32, torch.bfloat16):
        for _ in range(6):
            x, w = torch.randn(2, 5, 20, 18, dtype=D).to(dtype), torch.randn(5, 3, 6, 5, 2, dtype=D).to(weight_dtype)
            y = so.spectral_conv(x, w, modes=(6, 8), activation="gelu")
            assert y.dtype == dtype
            exact = so.spectral_conv(x.double(), w.double(), modes=(6, 8), activation="gelu", backend="reference")
            tally.add("y", y, so.spectral_conv(x, w, modes=(6, 8), activation="gelu", backend="reference"), exact)
    tally.check()


def test_layouts_and_nan():
    x, w = torch.randn(3, 2, 8, 6, dtype=D), torch.randn(2, 2, 4, 3, 2, dtype=D)
    expected = so.spectral_conv(x, w, modes=4)
    for name, same in testing.layouts(x):
        torch.testing.assert_close(so.spectral_conv(same, w, modes=4), expected, msg=name)
    x[1, 0, 2, 3] = float("nan")
    y = so.spectral_conv(x, w, modes=4)
    assert y[1].isnan().all() and not y[[0, 2]].isnan().any()
    assert so.spectral_conv(x[:0], w, modes=4, output_size=9).shape == (0, 2, 9, 9)


def test_wide_boxes_take_the_fast_transform():
    """The reference has two forms; they agree, and each is the other's adjoint."""
    from spectralops.ops import modes_reference as spec

    for last in (False, True):
        modes = spec.Modes((1, 70, 80), (0, -20, 0), (0, 3, 0), (1, 40, 41))
        assert spec.wide(modes)
        x = torch.randn(*((2, 1, 70, 80, 2) if last else (2, 2, 1, 70, 80)), dtype=D)
        slow = spec.Modes((1, 70, 80), (0, -20, 1), (0, 3, 40), (1, 40, 41))  # the same frequencies and one more, out of half
        for doubled in (False, True):
            a = spec.dft(x, modes, last, 0.5, doubled)
            b = spec.dft(x, slow._replace(starts=(0, -20, -1), shifts=(0, 3, 1)), last, 0.5, doubled)  # 0 .. 39, -1
            take = (lambda t: t[:, :, :, :40]) if last else (lambda t: t[:, :, :, :, :40])
            torch.testing.assert_close(take(a), take(b), rtol=0, atol=1e-10)
            g = torch.randn_like(a)
            y = spec.idft(g, modes, last, 0.5, doubled, None, None, None, "identity", D)
            torch.testing.assert_close((a * g).sum(), (x * y).sum())


# ---- derivatives and transforms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("compat", [None, "neuralop"])
def test_derivatives(activation, compat, backend):
    x, w = torch.randn(2, 2, 5, 6, dtype=D, requires_grad=True), torch.randn(2, 3, 4, 3, 2, dtype=D, requires_grad=True)
    s, b = torch.randn(3, 2, dtype=D, requires_grad=True), torch.randn(3, dtype=D, requires_grad=True)

    def f(x, w, s, b):
        return so.spectral_conv(x, w, modes=4, skip=s, bias=b, activation=activation, compat=compat, backend=backend)

    assert torch.autograd.gradcheck(f, (x, w, s, b), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, w, s, b), fast_mode=True)


@pytest.mark.parametrize("names", ["x", "w", "x s", "b", "s"])
def test_derivatives_in_some_arguments(names):
    every = dict(x=torch.randn(2, 2, 5, dtype=D), w=torch.randn(2, 2, 3, 2, dtype=D), s=torch.randn(2, 2, 5, dtype=D), b=torch.randn(2, dtype=D))
    for name in names.split():
        every[name].requires_grad_()
    wanted = [every[n] for n in names.split()]

    def f(*given):
        e = every | dict(zip(names.split(), given))
        return so.spectral_conv(e["x"], e["w"], modes=4, skip=e["s"], bias=e["b"], activation="gelu")

    assert torch.autograd.gradcheck(f, wanted, fast_mode=True) and torch.autograd.gradgradcheck(f, wanted, fast_mode=True)


def test_vmap_and_func():
    x, w = torch.randn(3, 2, 2, 6, 5, dtype=D), torch.randn(2, 2, 4, 3, 2, dtype=D)
    f = lambda x, w: so.spectral_conv(x, w, modes=4, activation="gelu")  # noqa: E731
    torch.testing.assert_close(torch.vmap(f, (0, None))(x, w), torch.stack([f(a, w) for a in x]))
    grads = torch.vmap(torch.func.grad(lambda x, w: f(x, w).square().sum(), argnums=1), (0, None))(x, w)
    for a, g in zip(x, grads):
        one = lambda w: so.spectral_conv(a, w, modes=4, activation="gelu", backend="reference").square().sum()  # noqa: B023, E731
        torch.testing.assert_close(g, torch.func.grad(one)(w))


def test_operators():
    x, m = torch.randn(2, 2, 1, 5, 6), ((1, 5, 6), (0, -2, 0), (0, 1, 0), (1, 4, 3))
    ops = torch.ops.spectralops
    spectrum = ops.mode_dft(x, *m, False, 1.0, True)
    torch.library.opcheck(ops.mode_dft.default, (x, *m, False, 0.5, True))
    torch.library.opcheck(ops.mode_idft.default, (spectrum, *m, False, 0.5, True, x, x[0, :, 0, 0, 0], x, "gelu", torch.bfloat16))
    a, w = spectrum.flatten(2, 4), torch.randn(2, 3, 12, 2)
    torch.library.opcheck(ops.mode_mix.default, (a, w, False))
    torch.library.opcheck(ops.mode_mix_gradient.default, (a, a))
    with pytest.raises(ValueError, match="do not fit"):
        ops.mode_dft(x[..., :5], *m, False, 1.0, True)
    with pytest.raises(ValueError, match="weight must have shape"):
        ops.mode_mix(a, w[:, :, 1:], False)
    assert operators.dft is ops.mode_dft.default


def test_compile_and_export():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(3, 3, 4, 3, 2))
            self.s = torch.nn.Parameter(torch.randn(3, 3))

        def forward(self, x):
            return so.spectral_conv(x, self.w, modes=4, skip=self.s, activation="gelu")

    net, x = Net(), torch.randn(2, 3, 12, 10)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for some in (x, torch.randn(3, 3, 9, 14)):
        torch.testing.assert_close(compiled(some), net(some))
        (expected,) = torch.autograd.grad(net(some).sum(), net.w)
        torch.testing.assert_close(torch.autograd.grad(compiled(some).sum(), net.w)[0], expected)
    program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2)}})
    assert not any("spectralops" in str(n.target) for n in program.graph.nodes)
    values = [n.meta["val"] for n in program.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not any(v.is_complex() for v in values)
    torch.testing.assert_close(program.module()(torch.cat([x, x])), net(torch.cat([x, x])))


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(x=None), TypeError, "x must be a torch.Tensor"),
        (dict(x=torch.zeros(2, 3)), ValueError, "x must have shape"),
        (dict(x=torch.zeros(2, 3, 0, 6)), ValueError, "no empty dimension"),
        (dict(x=torch.zeros(2, 4, 8, 6)), ValueError, "weight takes 3 channels"),
        (dict(weight=torch.zeros(3, 4, 4, 3)), ValueError, "weight must be complex or end"),
        (dict(weight=torch.zeros(3, 4, 2)), ValueError, "weight must have shape"),
        (dict(weight=torch.zeros(3, 2, 4, 3, 2, dtype=D)), TypeError, "weight is float64"),
        (dict(weight=torch.zeros(3, 2, 4, 3, 2, device="meta")), ValueError, "on meta"),
        (dict(weight=(torch.zeros(2, 2), torch.zeros(3, 2, 2))), ValueError, "must be the factors"),
        (dict(weight=torch.zeros(3, 2, 5, 3, 2), layout="corner"), ValueError, "as many positive"),
        (dict(modes=(4, 4, 4)), ValueError, "modes must have 2"),
        (dict(modes=(0, 4)), ValueError, "positive"),
        (dict(modes=4.0), TypeError, "."),
        (dict(norm="none"), ValueError, "norm must be one of"),
        (dict(layout="other"), ValueError, "layout must be one of"),
        (dict(activation="tanh"), ValueError, "activation must be one of"),
        (dict(compat="other"), ValueError, "compat must be one of"),
        (dict(compat="neuralop", layout="corner"), ValueError, "compat"),
        (dict(output_size=(4,)), ValueError, "output_size must have 2"),
        (dict(bias=torch.zeros(3)), ValueError, "bias must have shape"),
        (dict(skip=torch.zeros(2, 2, 8, 5)), ValueError, "skip must have"),
        (dict(skip=torch.zeros(2, 3), output_size=(9, 9)), ValueError, "unchanged grid"),
        (dict(factorization="cp"), ValueError, "takes a tuple"),
        (dict(backend="gpu"), ValueError, "backend must be"),
    ],
)
def test_bad_input(change, error, text):
    call = dict(x=torch.zeros(2, 3, 8, 6), weight=torch.zeros(3, 2, 4, 3, 2), modes=4) | change
    with pytest.raises(error, match=text):
        so.spectral_conv(call.pop("x"), call.pop("weight"), **call)

"""`spectral_mlp` against the four upstream modules' expressions, written out with torch.fft and einsum in float64."""

import pytest
import torch
from torch.nn import functional as F

import spectralops as so
from spectralops import testing

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ops = torch.ops.spectralops


def upstream(x, w1, b1, w2, b2, variant="afno", keep=1.0, modes=None, threshold=0.01, act=F.relu):
    """Slices and zeros as the modules have them."""
    B, H, W, C = x.shape
    nb, bs, hs = w1.shape[1:]
    X = torch.fft.rfft2(x, dim=(1, 2), norm="ortho").reshape(B, H, W // 2 + 1, nb, bs)
    if variant == "physicsnemo":
        total = H // 2 + 1
        km = int(total * keep)
        where = (slice(None), slice(total - km, total + km), slice(None, km))
    elif variant == "dpot":
        where = (slice(None), slice(None, modes), slice(None, modes))
    else:
        where = (slice(None), slice(None), slice(None, int((W // 2 + 1) * keep)))
    o1 = x.new_zeros(2, B, H, W // 2 + 1, nb, hs)
    o2 = x.new_zeros(2, *X.shape)
    e = lambda a, b: torch.einsum("...bi,bio->...bo", a, b)  # noqa: E731
    k = X[where]
    o1[(0, *where)] = act(e(k.real, w1[0]) - e(k.imag, w1[1]) + b1[0])
    o1[(1, *where)] = act(e(k.imag, w1[0]) + e(k.real, w1[1]) + b1[1])
    k = o1[(slice(None), *where)]
    o2[(0, *where)] = e(k[0], w2[0]) - e(k[1], w2[1]) + b2[0]
    o2[(1, *where)] = e(k[1], w2[0]) + e(k[0], w2[1]) + b2[1]
    z = torch.stack(list(o2), -1)
    if variant != "dpot":
        z = F.softshrink(z, threshold)
    z = torch.view_as_complex(z).reshape(B, H, W // 2 + 1, C)
    if variant == "aff":
        z = z * X.reshape(z.shape)
    return torch.fft.irfft2(z, s=(H, W), dim=(1, 2), norm="ortho") + x


def operands(shape, nb=2, factor=1, dtype=torch.float64, scale=0.3):
    bs = shape[-1] // nb
    shapes = (2, nb, bs, bs * factor), (2, nb, bs * factor), (2, nb, bs * factor, bs), (2, nb, bs)
    weights = (scale * torch.randn(s, dtype=torch.float64).to(dtype) for s in shapes)
    return [torch.randn(shape, dtype=torch.float64).to(dtype), *weights]


CALLS = [
    ("afno", {}), ("afno", {"keep": 0.5}), ("afno", {"keep": 0.0}),
    ("physicsnemo", {}), ("physicsnemo", {"keep": 0.6}), ("physicsnemo", {"keep": 0.1}),
    ("dpot", {"modes": 3}), ("dpot", {"modes": 50}), ("dpot", {"modes": None}), ("aff", {}),
]  # fmt: skip


@pytest.mark.parametrize("variant, kwargs", CALLS)
@pytest.mark.parametrize("shape, factor", [((2, 6, 8, 4), 1), ((1, 7, 5, 6), 2), ((2, 5, 12, 4), 1), ((1, 1, 1, 2), 3)])
def test_upstream_values_and_gradients(variant, kwargs, shape, factor):
    leaves = [t.requires_grad_() for t in operands(shape, factor=factor)]
    act = F.gelu if variant == "dpot" else F.relu
    expect = upstream(*leaves, variant, act=act, **kwargs)
    got = so.spectral_mlp(*leaves, variant=variant, **kwargs)
    torch.testing.assert_close(got, expect, rtol=1e-11, atol=1e-11)
    g = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(expect, leaves, g)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(so.spectral_mlp(*leaves, variant=variant, **kwargs), got)
        torch.testing.assert_close(so.spectral_mlp(*leaves, variant=variant, backend="reference", **kwargs), got)


@pytest.mark.parametrize("activation, act", [("gelu", F.gelu), ("silu", F.silu), ("tanh", torch.tanh), ("identity", lambda t: t)])
def test_activations_and_threshold(activation, act):
    leaves = [t.requires_grad_() for t in operands((2, 4, 6, 4))]
    got = so.spectral_mlp(*leaves, activation=activation, threshold=0.2, variant="aff")
    expect = upstream(*leaves, "aff", threshold=0.2, act=act)
    torch.testing.assert_close(got, expect)
    g = torch.randn_like(got)
    torch.testing.assert_close(torch.autograd.grad(got, leaves, g), torch.autograd.grad(expect, leaves, g))


@pytest.mark.parametrize("variant", ["afno", "aff"])
def test_gradcheck_and_gradgradcheck(variant):
    leaves = [t.requires_grad_() for t in operands((1, 1, 3, 2), nb=1, scale=0.7)]
    f = lambda *t: so.spectral_mlp(*t, variant=variant, threshold=0.05, activation="gelu")  # noqa: E731
    torch.autograd.gradcheck(f, leaves)
    torch.autograd.gradgradcheck(f, leaves)
    every = torch.autograd.grad(f(*leaves).square().sum(), leaves)
    for i in range(5):  # any subset of the gradients
        some = [t.detach().requires_grad_(i == j) for j, t in enumerate(leaves)]
        assert torch.equal(torch.autograd.grad(f(*some).square().sum(), some[i])[0], every[i])


@pytest.mark.parametrize("dtype", FLOATS)
def test_errors_within_twice_those_of_the_expression(dtype):
    tally = testing.Tally()
    narrow = torch.float32 if dtype == torch.float64 else dtype
    for shape, variant in [((3, 14, 14, 32), "afno"), ((2, 9, 12, 16), "aff"), ((2, 12, 10, 16), "dpot")] * 3:
        tensors = operands(shape, dtype=dtype, scale=0.1)
        weights = tensors[1:] if dtype.itemsize > 2 else [t.float() for t in tensors[1:]]  # float32 under 16-bit x
        leaves = [t.requires_grad_() for t in (tensors[0], *weights)]
        act = F.gelu if variant == "dpot" else F.relu
        y = so.spectral_mlp(*leaves, variant=variant)
        g = torch.randn_like(y)

        def run(to, out):
            again = [t.detach().to(to).requires_grad_() for t in leaves]
            z = upstream(*again, variant, act=act)
            return [t.to(out) for t in (z, *torch.autograd.grad(z, again, g.to(to)))]

        exact = run(torch.float64, torch.float64)
        found = [y, *torch.autograd.grad(y, leaves, g)]
        for i, (a, b, e) in enumerate(zip(found, run(torch.float32, torch.float32), exact)):
            tally.add(f"output {i}", a, b.to(narrow if i < 2 else torch.float32), e)
    tally.check()


def test_what_is_saved_layouts_empty_nan_and_two_runs():
    x, *weights = operands((3, 5, 6, 4), dtype=torch.float32)
    expect = so.spectral_mlp(x, *weights)
    for name, view in testing.layouts(x):
        torch.testing.assert_close(so.spectral_mlp(view, *weights), expect, msg=name)
    torch.testing.assert_close(so.spectral_mlp(x[:1].expand(4, 5, 6, 4), *weights), expect[:1].expand(4, 5, 6, 4))
    leaves, saved = [t.clone().requires_grad_() for t in (x, *weights)], []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = so.spectral_mlp(*leaves, keep=0.5)
    modes = 3 * 5 * 2 * 4 * 2
    assert sum(t.numel() for t in saved) == modes + sum(t.numel() for t in weights)
    runs = [torch.autograd.grad(so.spectral_mlp(*leaves).square().sum(), leaves) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs)) and y.shape == x.shape
    for shape in [(0, 5, 6, 4), (2, 0, 6, 4)]:
        z = torch.empty(shape, requires_grad=True)
        found = torch.autograd.grad(so.spectral_mlp(z, *leaves[1:]).sum(), [z, *leaves[1:]])
        assert found[0].shape == z.shape and all(d.eq(0).all() for d in found[1:])
    z = x.clone()
    z[1, 2, 3, 0] = float("nan")
    y = so.spectral_mlp(z, *weights)
    assert y[1, ..., :2].isnan().all() and torch.equal(y[::2], so.spectral_mlp(x, *weights)[::2])


def test_transforms_compile_export_autocast_and_opcheck():
    x, *weights = operands((2, 3, 4, 4))
    loss = lambda *t: so.spectral_mlp(*t, activation="gelu").square().sum()  # noqa: E731
    many = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    got = torch.func.vmap(torch.func.grad(loss, (0, 1, 4)), (0, *(None,) * 4))(many, *weights)
    for i, one in enumerate(many):
        torch.testing.assert_close([t[i] for t in got], list(torch.func.grad(loss, (0, 1, 4))(one, *weights)))
    torch._dynamo.reset()
    leaves = [t.clone().requires_grad_() for t in (x, *weights)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(*leaves), leaves))
    z = torch.randn(6, 2, 2, 2, dtype=torch.float64)
    static = (*weights, 0.01, "relu", True)
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.spectral_mlp_core, (z, *static))
    torch.library.opcheck(ops.spectral_mlp_core_backward, (z, z, *static, [True, False, True, True, True]), test_utils=quick)
    got = torch.func.vmap(lambda t: ops.spectral_mlp_core(t, *static))(z[None])
    torch.testing.assert_close(got, ops.spectral_mlp_core(z, *static)[None])
    single = [t.float() for t in (x, *weights)]
    expect = so.spectral_mlp(*single)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(so.spectral_mlp(*single), expect)
        got = ops.spectral_mlp_core(z.float(), *single[1:], 0.01, "relu", False)
    assert torch.equal(got, ops.spectral_mlp_core(z.float(), *single[1:], 0.01, "relu", False))

    class Mixer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.ParameterList([t.clone() for t in weights])

        def forward(self, x):
            return so.spectral_mlp(x, *self.w)

    program = torch.export.export(Mixer(), (x,), dynamic_shapes=({0: torch.export.Dim("b")},))
    calls = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert {t.namespace for t in calls if isinstance(t, torch._ops.OpOverload)} == {"aten"}
    values = [n.meta["val"] for n in program.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not any(v.is_complex() for v in values)
    torch.testing.assert_close(program.module()(x[:1]), so.spectral_mlp(x[:1], *weights))
    program = torch.export.export(Mixer(), (torch.randn(1, 2, 70, 4, dtype=torch.float64),))  # where the operators take an FFT
    values = [n.meta["val"] for n in program.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not any(v.is_complex() for v in values)


X, *P = operands((1, 3, 4, 4), dtype=torch.float32)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.spectral_mlp([1.0], *P), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: so.spectral_mlp(X[0, 0], *P), ValueError, r"x must have shape \(.., h, w, C\); got \(4, 4\)"),
        (lambda: so.spectral_mlp(X[..., :3], *P), ValueError, "w1 must have shape .* nb bs = C = 3; got"),
        (lambda: so.spectral_mlp(X, P[0], P[1][:1], *P[2:]), ValueError, r"b1 must have shape \(2, 2, 2\) for w1 of"),
        (lambda: so.spectral_mlp(X, *P[:2], P[2][:1], P[3]), ValueError, "w2 must have shape"),
        (lambda: so.spectral_mlp(X, *P[:3], P[3][..., :1]), ValueError, "b2 must have shape"),
        (lambda: so.spectral_mlp(X, P[0].double(), *P[1:]), TypeError, "w1 is float64 but x is float32"),
        (lambda: so.spectral_mlp(X, *P, variant="fno"), ValueError, "variant must be one of 'afno'.*got 'fno'"),
        (lambda: so.spectral_mlp(X, *P, activation="mish"), ValueError, "activation must be one of"),
        (lambda: so.spectral_mlp(X, *P, threshold=-1), ValueError, "threshold must be finite and at least 0; got -1"),
        (lambda: so.spectral_mlp(X, *P, threshold="0"), TypeError, "threshold must be a number, got str"),
        (lambda: so.spectral_mlp(X, *P, keep=1.5), ValueError, r"keep must be in \[0, 1\]; got 1.5"),
        (lambda: so.spectral_mlp(X, *P, keep=0.5, variant="aff"), ValueError, "keep is for the variants"),
        (lambda: so.spectral_mlp(X, *P, modes=3), ValueError, "modes is for the variant 'dpot'; got 3 with 'afno'"),
        (lambda: so.spectral_mlp(X, *P, modes=1.5, variant="dpot"), TypeError, "modes must be an int"),
        (lambda: so.spectral_mlp(X, *P, backend="mkl"), ValueError, "backend must be None or one of"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_operators_check_what_graphs_bring():
    z = torch.randn(6, 2, 2, 2)
    with pytest.raises(ValueError, match="w2 must have shape"):
        ops.spectral_mlp_core(z, P[0], P[1], P[2][:, :1], P[3], 0.01, "relu", False)
    with pytest.raises(ValueError, match="grad must have shape"):
        ops.spectral_mlp_core_backward(z[:3], z, *P, 0.01, "relu", False, [True] * 5)

"""KANConv2d, KANAttention, GRKAN, KAF, FAN and SIREN against formulas written here; what they keep in memory."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectralops.nn import FAN, GRKAN, KAF, SIREN, KANAttention, KANConv2d, Rational
from spectralops.nn.grkan import mean_square
from spectralops.profile.timing import peak_bytes, saved_bytes

F64 = torch.float64
CPU = torch.device("cpu")


def rms(t):
    return t.square().mean().sqrt().item()


# ---- convolution -----------------------------------------------------------------------------------------------------


def basis_convolution(conv, x):
    """The same as a plain convolution of the materialised basis."""
    (top, left), each = conv.padding, conv.in_channels // conv.groups
    x = F.pad(x, (left, left, top, top), mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    where = dict(stride=conv.stride, dilation=conv.dilation)
    y = []
    for g, edge in enumerate(conv.edges):
        z, basis = x[:, g * each : (g + 1) * each], edge.basis
        c = edge.coeff.unflatten(1, (each, *conv.kernel_size)).permute(0, 1, 4, 2, 3).flatten(1, 2)  # (O, c K, kh, kw)
        part = F.conv2d(basis(z).permute(0, 1, 4, 2, 3).flatten(1, 2), c, edge.bias, **where)
        if edge.base_weight is not None:
            part = part + F.conv2d(F.silu(z), edge.base_weight.unflatten(1, (each, *conv.kernel_size)), **where)
        y.append(part)
    return torch.cat(y, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(kernel_size=3),
        dict(kernel_size=(2, 3), stride=(2, 1), padding=(1, 2), bias=True, basis="rbf"),
        dict(kernel_size=3, dilation=(1, 2), padding=2, groups=2, bias=True, padding_mode="reflect"),
        dict(kernel_size=1, groups=4, base_activation=None, basis="fourier"),
        dict(kernel_size=3, stride=3, padding=1, padding_mode="circular", basis=["chebyshev", "rbf"]),
    ],
)
@pytest.mark.parametrize("chunk", [None, 1, 300, 2000])
def test_a_kan_convolution_is_a_convolution_of_the_basis(arguments, chunk):
    conv = KANConv2d(4, 8, chunk=chunk, dtype=F64, **arguments)
    x = torch.randn(3, 4, 9, 8, dtype=F64, requires_grad=True)
    got, want = conv(x), basis_convolution(conv, x)
    plain = {k: v for k, v in arguments.items() if k not in ("basis", "base_activation", "bias")}
    assert got.shape == nn.Conv2d(4, 8, dtype=F64, **plain)(x).shape
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    targets = [x, *conv.parameters()]
    weight = torch.randn_like(got)
    for a, b in zip(*(torch.autograd.grad((t * weight).sum(), targets) for t in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(conv(x[0]), want[0], rtol=1e-11, atol=1e-11)
    assert conv(x[:0]).shape == (0, *got.shape[1:])


@pytest.mark.parametrize("chunk", [None, 60])
def test_second_derivatives_of_a_convolution(chunk):
    conv = KANConv2d(2, 2, 2, padding=1, scale=1.0, chunk=chunk, dtype=F64)
    x = torch.randn(1, 2, 3, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(conv, (x,), fast_mode=True)


def test_a_convolution_keeps_its_input_and_no_patches():
    conv = KANConv2d(8, 8, 5, padding=2, chunk=1 << 15)
    x = torch.randn(2, 8, 32, 32, requires_grad=True)
    whole = copy.deepcopy(conv)
    whole.chunk = None
    patches = 25 * x.numel() * 4
    saved = [saved_bytes(lambda x, *p, m=m: m(x), (x, *m.parameters())) for m in (conv, whole)]
    assert saved[0] < patches / 5 and saved[1] >= patches
    with torch.no_grad():
        peak = [peak_bytes(lambda m=m: m(x), CPU) for m in (conv, whole)]
    assert peak[0] < peak[1] / 3


def test_grid_and_edges_of_a_convolution():
    conv = KANConv2d(4, 6, 3, padding=1, groups=2, dtype=F64)
    x = torch.rand(8, 4, 6, 6, dtype=F64) * 3
    norms = conv.edge_norms(x)
    assert norms.shape == (6, 2, 3, 3)
    patch = F.unfold(x[:, 2:], 3, padding=1).transpose(1, 2).reshape(-1, 18)
    edge = conv.edges[1]
    phi = torch.einsum("nik,oik->noi", edge.basis(patch), edge.coeff) + torch.einsum("ni,oi->noi", F.silu(patch), edge.base_weight)
    torch.testing.assert_close(norms[3:].flatten(1), phi.abs().sum(0))
    conv.update_grid(x)
    assert all(edge.grid.shape == (18, 12) for edge in conv.edges) and torch.isfinite(conv(x)).all()
    fresh = KANConv2d(4, 6, 3, padding=1, groups=2, dtype=F64)
    fresh.load_state_dict(conv.state_dict())
    assert torch.equal(fresh(x), conv(x)) and torch.equal(copy.deepcopy(conv)(x), conv(x))
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(conv, fullgraph=True, backend="aot_eager")(x), conv(x))


def test_bad_convolutions_are_named():
    for arguments, error, text in [
        (dict(groups=3), ValueError, "groups must divide in_channels and out_channels; got 3, 4 and 8"),
        (dict(kernel_size=0), ValueError, "kernel_size must be one or two integers, at least 1; got 0"),
        (dict(stride=(1, 2, 3)), ValueError, "stride must be one or two integers"),
        (dict(padding_mode="same"), ValueError, "padding_mode must be one of"),
        (dict(layer_norm=True), TypeError, "takes no layer_norm"),
    ]:
        with pytest.raises(error, match=text):
            KANConv2d(4, 8, **{"kernel_size": 3, **arguments})
    with pytest.raises(ValueError, match=r"x must be \(B, 4, H, W\)"):
        KANConv2d(4, 8, 3)(torch.ones(1, 3, 5, 5))
    with pytest.raises(ValueError, match="is larger than x"):
        KANConv2d(4, 8, 3)(torch.ones(1, 4, 2, 5))


# ---- attention -------------------------------------------------------------------------------------------------------


def materialised_attention(layer, x):
    """With the (B, N, N, K) basis and the (B, N, N) weights."""
    q, k, v = (t.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for t in layer.qkv(x).chunk(3, -1))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    phi = torch.einsum("bhnmk,hjmk->bhnj", layer.basis(scores), layer.coeff)
    weights = torch.einsum("bhnj,hmj->bhnm", phi, layer.project)
    return layer.out((weights @ v).transpose(1, 2).flatten(2)), weights


@pytest.mark.parametrize("basis", [None, "rbf", {"name": "bspline", "grid_size": 4}])
@pytest.mark.parametrize("chunk", [None, 1, 70])
def test_attention_is_the_materialised_formula(basis, chunk):
    layer = KANAttention(12, 3, 7, rank=4, basis=basis, chunk=chunk, dtype=F64)
    x = torch.randn(2, 7, 12, dtype=F64, requires_grad=True)
    got, (want, _) = layer(x), materialised_attention(layer, x)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    targets = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad(t.square().sum(), targets) for t in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"x must be \(B, 7, 12\)"):
        layer(x[:, :5])
    with pytest.raises(ValueError, match="num_heads must divide dim"):
        KANAttention(12, 5, 7)


def test_attention_starts_like_an_average_and_keeps_no_scores():
    layer = KANAttention(16, 2, 256)
    x = torch.randn(4, 256, 16, requires_grad=True)
    _, weights = materialised_attention(layer, x)
    assert 0.7 < rms(weights) * math.sqrt(256) < 1.4
    layer.chunk = 1 << 13
    scores = 4 * 2 * 256 * 256 * 4
    assert saved_bytes(lambda x, *p: layer(x), (x, *layer.parameters())) < scores / 2
    whole = copy.deepcopy(layer)
    whole.chunk = None
    assert saved_bytes(lambda x, *p: whole(x), (x, *whole.parameters())) >= scores
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    fresh = KANAttention(16, 2, 256)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), copy.deepcopy(fresh)(x))
    torch.testing.assert_close(fresh(x), layer(x))


# ---- GRKAN -----------------------------------------------------------------------------------------------------------


def rational_a(x, num, den, groups):
    """Version A, group by group, as a quotient of powers."""
    out = []
    for g, z in enumerate(x.chunk(groups, -1)):
        a, b = num[g % len(num)], den[g]
        p = sum(a[i] * z**i for i in range(len(a)))
        out.append(p / (1 + sum(b[i].abs() * z.abs() ** (i + 1) for i in range(len(b)))))
    return torch.cat(out, -1)


def test_grkan_is_rational_linear_rational_linear():
    layer = GRKAN(16, 24, 5, groups=4, inits=("identity", "silu"), dtype=F64)
    nn.init.normal_(layer.fc1.bias)
    with torch.no_grad():
        layer.act2.denominator.add_(0.1 * torch.rand_like(layer.act2.denominator))
    x = torch.randn(3, 6, 16, dtype=F64, requires_grad=True)
    h = layer.fc1(rational_a(x, layer.act1.numerator, layer.act1.denominator, 4))
    want = layer.fc2(rational_a(h, layer.act2.numerator, layer.act2.denominator, 4))
    torch.testing.assert_close(layer(x), want, rtol=1e-11, atol=1e-11)
    loss = layer(x).square().sum()
    grads = torch.autograd.grad(loss, list(layer.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)  # the identity's zeros learn too
    assert GRKAN(16).fc2.out_features == 16 and len(GRKAN(16).act1.numerator) == 1
    with pytest.raises(ValueError, match="groups must divide hidden_features; got 8 and 20"):
        GRKAN(16, 20)


@pytest.mark.parametrize("version", ["A", "B", "C", "smooth"])
def test_grkan_keeps_the_variance_whatever_the_version(version):
    for inits in (("identity", "gelu"), ("silu", "tanh")):
        layer = GRKAN(512, 1024, 512, version=version, inits=inits)
        x = torch.randn(512, 512)
        h = layer.fc1(layer.act1(x))
        assert 0.93 < rms(h) < 1.07 and 0.93 < rms(layer.fc2(layer.act2(h))) < 1.07
    x = torch.randn(400000, dtype=F64)
    assert abs(mean_square(Rational(init="gelu", version=version)) / F.gelu(x).square().mean() - 1) < 0.03
    # a group of its own for each function
    act = Rational(2, init="gelu", version=version)
    with torch.no_grad():
        act.numerator[1] *= 3
    assert abs(mean_square(act) / mean_square(Rational(init="gelu", version=version)) - 5) < 1e-6


# ---- KAF, FAN, SIREN -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [True, False])
def test_kaf_is_its_formula(norm):
    layer = KAF(6, 4, features=5, layer_norm=norm, dtype=F64)
    x = torch.randn(3, 2, 6, dtype=F64, requires_grad=True)
    assert layer.alpha.item() == 1 and layer.beta.item() == 0.01
    with torch.no_grad():
        layer.beta.fill_(0.7)
    z = (F.layer_norm(x, (6,)) if norm else x) @ layer.frequencies.T + layer.phase
    features = torch.cat([torch.cos(z), torch.sin(z)], -1) @ layer.combine.weight.T + layer.combine.bias
    want = (F.gelu(x) + 0.7 * features) @ layer.linear.weight.T + layer.linear.bias
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(layer, (x,), fast_mode=True)
    wide = KAF(400, 3, 50)
    assert abs(rms(wide.frequencies) * math.sqrt(1.64 * 400) - 1) < 0.05
    assert 0 <= wide.phase.min() and wide.phase.max() <= 2 * math.pi


def test_fan_is_its_formula():
    layer = FAN(6, 20, dtype=F64)
    x = torch.randn(3, 6, dtype=F64, requires_grad=True)
    assert layer.weight_p.shape == (5, 6) and layer.weight_g.shape == (10, 6)
    z = x @ layer.weight_p.T
    want = torch.cat([torch.cos(z), torch.sin(z), F.gelu(x @ layer.weight_g.T + layer.bias_g)], -1)
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(layer, (x,), fast_mode=True)
    assert FAN(6, 7, 0.5, bias=False)(x.float()).shape == (3, 7) and FAN(6, 7, 0.0)(x.float()).shape == (3, 7)
    assert layer.weight_p.abs().max() <= 6**-0.5
    with pytest.raises(ValueError, match="p_ratio must be in"):
        FAN(6, 20, 0.6)


def test_a_loss_on_the_laplacian_of_a_siren_can_be_trained():
    net = SIREN(2, 16, 1, 2, omega_0=3.0, omega=3.0, dtype=F64)
    x = torch.rand(5, 2, dtype=F64, requires_grad=True)

    def laplacian(f):
        (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        return sum(torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))

    def plain(x):
        for layer in net.layers[:-1]:
            x = torch.sin(3 * layer(x))
        return net.layers[-1](x)

    weights = [layer.weight for layer in net.layers]
    for a, b in zip(*(torch.autograd.grad(laplacian(f).square().sum(), weights) for f in (net, plain))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert a.abs().sum() > 0


def test_siren_is_its_formula_and_keeps_its_distribution():
    net = SIREN(2, 16, 3, 2, dtype=F64)
    x = torch.rand(5, 2, dtype=F64).mul_(2).sub_(1).requires_grad_()
    h = torch.sin(30 * net.layers[0](x))
    want = net.layers[2](torch.sin(30 * net.layers[1](h)))
    torch.testing.assert_close(net(x), want, rtol=1e-12, atol=1e-12)
    ended = SIREN(2, 16, 3, 2, outermost_linear=False, omega=5.0, dtype=F64)
    want = torch.sin(5 * ended.layers[2](torch.sin(5 * ended.layers[1](torch.sin(30 * ended.layers[0](x))))))
    torch.testing.assert_close(ended(x), want, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(SIREN(2, 4, 1, 1, omega_0=3.0, omega=3.0, dtype=F64), (x,), fast_mode=True)
    deep = SIREN(2, 512, 1, 5)
    assert len(deep.layers) == 6 and deep.layers[0].weight.abs().max() <= 1 / 2
    assert all(w.abs().max() <= math.sqrt(6 / 512) / 30 for w in (layer.weight for layer in deep.layers[1:]))
    h = torch.sin(30 * deep.layers[0](torch.rand(256, 2) * 2 - 1))
    for layer in deep.layers[1:-1]:
        assert 0.9 < rms(30 * h @ layer.weight.T) < 1.1
        h = torch.sin(30 * layer(h))
    with pytest.raises(ValueError, match="layers must be at least 1"):
        SIREN(2, 16, 3, 0)


OTHERS = [lambda: GRKAN(8, 16), lambda: KAF(8, 3), lambda: FAN(8, 6), *(lambda b=b: SIREN(8, 16, 2, backend=b) for b in ("reference", None))]


@pytest.mark.parametrize("make", OTHERS)
def test_others_compile_copy_and_load(make):
    torch._dynamo.reset()
    model, fresh, x = make(), make(), torch.randn(5, 8)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x)) and torch.equal(copy.deepcopy(model)(x), model(x))
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    assert model.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())

"""KANLinear and KAN: values against formulas written here, derivatives, state, moving grids, edge statistics, pruning."""

import copy
import math

import pytest
import torch
from scipy.interpolate import BSpline as ScipySpline
from torch import nn

from spectralops import basis as B
from spectralops.nn import KAN, KANLinear, kan_grid
from spectralops.profile.timing import peak_bytes

F64 = torch.float64
CPU = torch.device("cpu")


def edges(layer, x, z=None):
    """phi_oi(x_n), (N, O, I), the materialised formula; no bias."""
    c, w = layer.weights()
    phi = torch.einsum("nik,oik->noi", layer.current_basis()(x if z is None else z), c)
    return phi if w is None else phi + torch.einsum("ni,oi->noi", nn.functional.silu(x), w)


def rms(t):
    return t.square().mean().sqrt().item()


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["bspline", "rbf", "chebyshev", "fourier", {"name": "relu_power", "power": 3}, ["rbf", "sech"]])
@pytest.mark.parametrize("base", ["silu", None])
def test_values_are_the_formula(basis, base):
    layer = KANLinear(4, 3, basis, base_activation=base, bias=True, dtype=F64)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 4, dtype=F64)
    want = edges(layer, x.reshape(-1, 4)).sum(-1).reshape(2, 5, 3) + layer.bias
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    assert layer(x[:0]).shape == (0, 5, 3) and layer(x[0, 0]).shape == (3,)


def test_the_spline_is_scipys():
    layer = KANLinear(1, 1, B.BSpline(6, 3, -2, 2), base_activation=None, dtype=F64)
    knots = -2 + (torch.arange(13, dtype=F64) - 3) * (4 / 6)
    x = torch.linspace(-2, 2, 101, dtype=F64)[:, None]
    want = ScipySpline(knots.numpy(), layer.coeff.detach().numpy().ravel(), 3)(x.numpy())
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(want), rtol=1e-12, atol=1e-12)


def test_layer_norm_is_seen_by_the_basis_alone():
    layer = KANLinear(6, 3, "rbf", layer_norm=True, bias=True, dtype=F64)
    nn.init.normal_(layer.norm.weight)
    x = torch.randn(7, 6, dtype=F64)
    z = nn.functional.layer_norm(x, (6,), layer.norm.weight, layer.norm.bias)
    torch.testing.assert_close(layer(x), edges(layer, x, z).sum(-1) + layer.bias, rtol=1e-12, atol=1e-12)
    alone = KANLinear(6, 3, "rbf", layer_norm=True, base_activation=None, dtype=F64)
    torch.testing.assert_close(alone(x), edges(alone, x, alone.norm(x)).sum(-1), rtol=1e-12, atol=1e-12)


def test_selector_weights_each_basis_by_its_share():
    layer = KANLinear(4, 3, ["bspline", "chebyshev", "fourier"], selector=True, base_activation=None, dtype=F64)
    x = torch.randn(5, 4, dtype=F64)
    with torch.no_grad():
        layer.selection.copy_(torch.tensor([1.0, -2.0, 0.5]))
    share, want, at = layer.selection.softmax(0), 0, 0
    for s, b in zip(share, layer.basis.bases):
        want = want + s * torch.einsum("nik,oik->no", b(x), layer.coeff[..., at : at + b.size])
        at += b.size
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), layer.selection)
    assert grad.abs().min() > 0
    with pytest.raises(ValueError, match="selector chooses among the bases of a Mix"):
        KANLinear(4, 3, "rbf", selector=True)


def test_initial_scale_is_what_it_says():
    for basis in ("bspline", "rbf", "chebyshev", "fourier", "hermite", {"name": "bspline", "grid_size": 30, "low": 0, "high": 9}):
        layer = KANLinear(64, 256, basis, base_activation=None)
        low, high = getattr(layer.basis, "low", -1), getattr(layer.basis, "high", 1)
        x = torch.rand(4096, 64) * (high - low) + low
        assert 0.85 < rms(layer(x)) < 1.15, basis
        assert abs(rms(KANLinear(64, 256, basis).coeff) / rms(layer.coeff) - 0.1) < 0.01
    far = B.RBF(centres=torch.linspace(90, 110, 6), width=4.0)
    starts = torch.linspace(40, 60, 5)
    bumps, x = B.ReLUPower(starts=starts, ends=starts + 9), torch.rand(4096, 64)
    for basis, x in ((far, x * 20 + 90), (bumps, x * 29 + 40)):
        assert 0.85 < rms(KANLinear(64, 256, basis, base_activation=None)(x)) < 1.15
    assert KANLinear(64, 8).base_weight.abs().max() <= 1 / 8  # kaiming as nn.Linear's


def test_bad_arguments_are_named():
    for arguments, error, text in [
        (dict(in_features=0), ValueError, "in_features must be at least 1; got 0"),
        (dict(out_features=2.0), TypeError, "out_features must be an int"),
        (dict(basis="splines"), ValueError, "basis must be one of 'bspline', .*; got 'splines'"),
        (dict(basis=3), TypeError, "basis must be a Basis, a name"),
        (dict(base_activation="mish"), ValueError, "base_activation must be one of None, 'silu'"),
        (dict(precision="low"), ValueError, "precision must be one of"),
        (dict(basis=B.BSpline(knots=torch.arange(8.0).expand(3, 8))), ValueError, "knots are for 3 inputs, x has 4"),
    ]:
        with pytest.raises(error, match=text):
            KANLinear(**{**dict(in_features=4, out_features=3), **arguments})
    with pytest.raises(ValueError, match="widths must have two numbers"):
        KAN([3])
    with pytest.raises(ValueError, match=r"x must be \(..., 4\)"):
        KANLinear(4, 3).edge_norms(torch.ones(2, 5))


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, dict(basis="chebyshev", layer_norm=True), dict(basis=["rbf", "fourier"], selector=True)])
def test_first_and_second_derivatives_by_differences(options):
    model = KAN([2, 3, 2], bias=True, scale=1.0, dtype=F64, **options)
    names = [n for n, _ in model.named_parameters()]
    x = torch.rand(4, 2, dtype=F64).mul_(1.8).sub_(0.9).requires_grad_()

    def call(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters)), (x,))

    arguments = (x, *(p.detach().requires_grad_() for p in model.parameters()))
    assert torch.autograd.gradcheck(call, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


def test_laplacian_of_a_network_three_ways():
    """A PINN's Laplacian by nested autograd.grad and by torch.func, against differences of an independent formula."""
    model = KAN([2, 5, 1], {"name": "bspline", "grid_size": 4, "order": 5, "low": -1.5, "high": 1.5}, scale=1.0, dtype=F64)
    x = torch.rand(6, 2, dtype=F64).mul_(1.6).sub_(0.8).requires_grad_()

    def plain(x):
        for layer in model.layers:
            x = edges(layer, x).sum(-1)
        return x[:, 0]

    h, want = 1e-3, torch.zeros(6, dtype=F64)
    for i in range(2):
        step = h * torch.eye(2, dtype=F64)[i]
        f = [plain(x.detach() + n * step) for n in (-2, -1, 0, 1, 2)]
        want += (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h * h)
    assert rms(want) > 0.1

    (first,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    nested = sum(torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
    torch.testing.assert_close(nested.detach(), want.detach(), rtol=1e-6, atol=1e-6)

    def laplacian(point):
        return torch.func.jacrev(torch.func.grad(lambda p: model(p)[0]))(point).trace()

    torch.testing.assert_close(torch.func.vmap(laplacian)(x.detach()), nested.detach(), rtol=1e-10, atol=1e-10)
    # and the loss on it has gradients in the parameters
    grads = torch.autograd.grad(nested.square().mean(), list(model.parameters()))
    exact = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert all(torch.isfinite(g).all() for g in grads) and len(grads) == len(exact) and rms(grads[0]) > 0


def test_training_lowers_the_loss_and_survives_grid_updates():
    model = KAN([2, 6, 1], "bspline")
    x = torch.rand(256, 2) * 2 - 1
    y = torch.sin(math.pi * x[:, :1]) * x[:, 1:].exp()
    optimizer, losses = torch.optim.Adam(model.parameters(), 2e-2), []
    for step in range(60):
        if step == 20:
            model.update_grid(x)
        loss = (model(x) - y).square().mean() + 1e-4 * model.regularization_loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


# ---- module behaviour ------------------------------------------------------------------------------------------------


def test_state_copies_and_dtypes():
    model = KAN([3, 4, 2], "bspline", bias=True)
    x = torch.rand(50, 3) * 4
    model.update_grid(x)
    model.prune(x, 0.02)
    state = model.state_dict()
    assert {f"layers.0.{name}" for name in ("coeff", "base_weight", "bias", "grid", "mask")} <= state.keys()
    fresh = KAN([3, 4, 2], "bspline", bias=True)
    assert "layers.0.grid" not in fresh.state_dict()
    fresh.load_state_dict(state)
    twin = copy.deepcopy(model)
    assert torch.equal(fresh(x), model(x)) and torch.equal(twin(x), model(x))
    model.layers[0].coeff.data.zero_()
    assert torch.equal(twin(x), fresh(x))  # a copy of its own
    twin.load_state_dict(KAN([3, 4, 2], "bspline", bias=True).state_dict())  # without a grid: back to the first one
    assert twin.layers[0].grid is None and twin.layers[0].mask is None

    want = fresh(x)
    torch.testing.assert_close(copy.deepcopy(fresh).double()(x.double()).float(), want, rtol=1e-4, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = copy.deepcopy(fresh).to(dtype)
        assert narrow.layers[0].grid.dtype == torch.float32 and torch.equal(narrow.layers[0].grid, fresh.layers[0].grid)
        assert narrow(x.to(dtype)).dtype == dtype and rms(narrow(x.to(dtype)).float() - want) < 0.05 * rms(want) + 0.05
        narrow.update_grid(x.to(dtype))
        assert torch.isfinite(narrow(x.to(dtype))).all()
    assert "grid=adapted" in repr(fresh) and "BSpline" in repr(fresh)
    meta = KANLinear(3, 4, "rbf", device="meta", dtype=torch.bfloat16)
    assert meta.coeff.is_meta and meta.coeff.dtype == torch.bfloat16
    with torch.device("meta"):
        later = KANLinear(3, 4, "rbf")
    later.to_empty(device="cpu").reset_parameters()
    assert torch.isfinite(later(x)).all() and rms(later.coeff) > 0
    with pytest.raises(RuntimeError, match="Unexpected key.*grid"):
        KAN([3, 4, 2], "rbf").load_state_dict({**KAN([3, 4, 2], "rbf").state_dict(), "layers.0.grid": state["layers.0.grid"]})


def test_knots_of_the_basis_become_a_buffer():
    knots = torch.linspace(-2, 2, 12)
    layer = KANLinear(3, 2, B.BSpline(knots=knots, order=3))
    assert layer.grid.shape == (1, 12) and layer.double().grid.dtype == F64
    learnable = torch.linspace(-2, 2, 12).requires_grad_()
    layer = KANLinear(3, 2, B.BSpline(knots=learnable, order=3))
    layer(torch.randn(5, 3)).sum().backward()
    assert layer.grid is None and learnable.grad.abs().sum() > 0
    with pytest.raises(TypeError, match="not learnable"):
        layer.update_grid(torch.randn(5, 3))


@pytest.mark.parametrize("adapted", [False, True])
def test_compiles_whole(adapted):
    torch._dynamo.reset()
    x = torch.randn(9, 3)
    layer, model = KANLinear(3, 4, bias=True), KAN([3, 4, 2], ["rbf", "chebyshev"], selector=True, layer_norm=True)
    if adapted:
        layer.update_grid(x)
        model.prune(x, 0.05)
    for module in (layer, model):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager" if adapted else "inductor")
        given = [x.clone().requires_grad_() for _ in range(2)]
        results = [f(g) for f, g in zip((module, compiled), given)]
        torch.testing.assert_close(*results)
        for y in results:
            y.square().sum().backward()
        torch.testing.assert_close(given[0].grad, given[1].grad)


def test_a_basis_is_not_spoilt_by_inference_mode_or_a_tracer():
    x = torch.randn(5, 3)
    layer = KANLinear(3, 2, "rbf")
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()  # the table made in inference mode cannot be saved for backward
    layer = KANLinear(3, 2, "rbf")
    torch.export.export(layer, (x,))
    assert type(layer(x).detach()) is torch.Tensor
    layer(x).sum().item()


# ---- moving the grid -------------------------------------------------------------------------------------------------


def fitted(target, intervals=40, low=-1.0, high=1.0, order=3, inputs=1, **kwargs):
    """A layer without base branch whose every edge is close to `target` on [low, high]."""
    basis = B.BSpline(intervals, order, low, high, **kwargs)
    layer = KANLinear(inputs, 1, basis, base_activation=None, dtype=F64)
    z = torch.linspace(low, high, 1201, dtype=F64)[:-1, None]
    c = torch.linalg.lstsq(basis(z)[:, 0], target(z)).solution[:, 0]
    with torch.no_grad():
        layer.coeff.copy_(c.expand_as(layer.coeff))
    return layer


def target(x):
    return torch.sin(3 * x) + 0.3 * x


def test_the_function_is_kept_where_the_data_is_and_where_it_is_not():
    layer = fitted(target)
    clusters = torch.cat([torch.rand(300, 1, dtype=F64) * 0.2 - 1, torch.rand(300, 1, dtype=F64) * 0.2 + 0.8])
    before = layer.current_basis()
    layer.update_grid(clusters, margin=0.0)
    knots = layer.grid[0, 3:-3]
    assert ((knots < -0.75) | (knots > 0.75)).float().mean() > 0.8 and knots.diff().min() > 0  # where the data is
    everywhere = torch.linspace(-0.99, 0.99, 500, dtype=F64)[:, None]
    assert rms(layer(clusters) - target(clusters)) < 1e-3 * rms(target(clusters))
    assert rms(layer(everywhere) - target(everywhere)) < 0.05 * rms(target(everywhere))
    assert before is layer.basis and layer.grid.dtype == F64
    c = layer.coeff.detach().clone()
    for _ in range(5):  # again on the same data: it stays
        layer.update_grid(clusters, margin=0.0)
    torch.testing.assert_close(layer.coeff.detach(), c, rtol=1e-6, atol=1e-6)


def test_the_refit_is_the_least_squares_solution():
    """Against QR of the whole problem: points of the data, and in every interval points with a small weight."""
    layer = fitted(target, 12)
    x = torch.cat([torch.rand(50, 1, dtype=F64) * 0.1, torch.rand(50, 1, dtype=F64) * 0.1 - 0.7])
    old = layer.current_basis()
    c = layer.coeff.detach().clone()[0, 0]
    layer.update_grid(x)
    new, knots = layer.current_basis(), layer.grid[0, 3:-3]
    inner = (torch.arange(5, dtype=F64) + 0.5) / 5
    points = torch.cat([a + (b - a) * inner for a, b in zip(knots, knots[1:])])[:, None]
    rows = torch.cat([new(x)[:, 0] / len(x) ** 0.5, new(points)[:, 0] * (kan_grid.ELSEWHERE / len(points)) ** 0.5])
    values = torch.cat([old(x)[:, 0] / len(x) ** 0.5, old(points)[:, 0] * (kan_grid.ELSEWHERE / len(points)) ** 0.5]) @ c
    want = torch.linalg.lstsq(rows, values[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(layer.coeff.detach()[0, 0], want, rtol=1e-6, atol=1e-6)


def test_the_same_knots_give_the_same_coefficients():
    for order in (0, 1, 3, 5):
        layer = fitted(target, 8, order=order, inputs=2)
        c = layer.coeff.detach().clone()
        x = torch.linspace(-1, 1, 200, dtype=F64)[:, None].expand(-1, 2)
        layer.update_grid(x, margin=0.0, grid_eps=1.0)  # uniform between the ends
        torch.testing.assert_close(layer.grid[0], -1 + (torch.arange(9 + 2 * order, dtype=F64) - order) / 4)
        torch.testing.assert_close(layer.coeff.detach(), c, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("order", [0, 1, 3, 7])
@pytest.mark.parametrize("outside, edge", [("zero", "knots"), ("linear", "grid")])
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_nothing_makes_the_refit_nan(order, outside, edge, dtype):
    columns = {
        "normal": lambda n: torch.randn(n),
        "constant": lambda n: torch.full((n,), 0.3),
        "constant outside": lambda n: torch.full((n,), 7.0),
        "zeros and a few": lambda n: torch.where(torch.rand(n) < 0.9, 0, torch.randn(n)),
        "two values": lambda n: (torch.rand(n) < 0.5) * 2.0 - 1,
        "huge": lambda n: torch.randn(n) * 1e8,
        "tiny": lambda n: torch.randn(n) * 1e-8,
        "far": lambda n: torch.randn(n) + 1e6,
        "outlier": lambda n: torch.cat([torch.randn(n - 1), torch.tensor([1e6])]),
        "not finite": lambda n: torch.cat([torch.randn(n), torch.tensor([float("nan"), float("inf")][: n - 1])])[-n:],
    }  # fmt: skip
    basis = B.BSpline(5, order, outside=outside, edge=edge)
    for n in (1, 3, 100):
        for options in ({}, dict(grid_eps=0.0), dict(grid_eps=1.0, margin=0.0), dict(fence=None)):
            layer = KANLinear(len(columns), 3, basis, dtype=dtype)
            x = torch.stack([make(n) for make in columns.values()], 1).to(dtype)
            layer.update_grid(x, **options)
            assert torch.isfinite(layer.coeff).all(), (n, options)
            if layer.grid is not None:
                assert torch.isfinite(layer.grid).all() and (layer.grid.diff(dim=1) >= 0).all(), (n, options)
            assert torch.isfinite(layer(x[torch.isfinite(x).all(1)])).all()


def test_a_column_without_spread_keeps_its_function():
    layer = fitted(target, inputs=3)
    c = layer.coeff.detach().clone()
    layer.update_grid(torch.randn(1, 3, dtype=F64))  # one row: no column has spread
    assert layer.grid is None and torch.equal(layer.coeff, c)
    x = torch.randn(100, 3, dtype=F64).clamp(-1, 1)
    x[:, 1] = 0.4
    layer.update_grid(x)
    assert torch.equal(layer.coeff[:, 1], c[:, 1]) and not torch.equal(layer.coeff[:, 0], c[:, 0])
    layer.update_grid(torch.full((4, 3), float("nan"), dtype=F64))  # no row at all
    layer.update_grid(x[:0])
    assert torch.isfinite(layer.coeff).all()


def test_an_outlier_does_not_take_the_grid_with_it():
    layer = fitted(target, 20)
    x = torch.rand(400, 1, dtype=F64) * 2 - 1
    spoilt = torch.cat([x, torch.tensor([[1e6]], dtype=F64)])
    layer.update_grid(spoilt)
    assert layer.grid.max() < 20 and rms(layer(x) - target(x)) < 0.02
    other = fitted(target, 20)
    other.update_grid(spoilt, fence=None)
    assert other.grid.max() > 1e5


def test_update_grid_of_a_network_and_of_what_has_none():
    model = KAN([3, 5, 2], dtype=F64)
    x = torch.rand(300, 3, dtype=F64) * 3
    model.update_grid(x)
    assert all(layer.grid.shape == (layer.in_features, 12) for layer in model.layers)
    hidden = model.layers[0](x)
    inner = model.layers[1].grid[:, 3:-3]
    assert (inner[:, 0] <= hidden.min(0).values).all() and (inner[:, -1] >= hidden.max(0).values - 1e-9).all()
    with pytest.raises(TypeError, match="update_grid needs a BSpline"):
        KANLinear(3, 2, "rbf").update_grid(x)
    with pytest.raises(ValueError, match="grid_eps must be in"):
        model.layers[0].update_grid(x, grid_eps=2)
    seen = KANLinear(3, 2, layer_norm=True, dtype=F64)
    seen.update_grid(100 * x)
    assert seen.grid.abs().max() < 5  # the basis sees the norm of x


def test_update_grid_never_holds_all_values():
    layer = KANLinear(16, 128)
    x = torch.randn(20000, 16)
    assert peak_bytes(lambda: layer.update_grid(x), CPU) < 20000 * 16 * 128 * 4 / 2  # half of (N, O, I) in float32


# ---- edge statistics -------------------------------------------------------------------------------------------------

KINDS = {
    "bspline": {},
    "no base": dict(base_activation=None),
    "norm": dict(basis="rbf", layer_norm=True),
    "mix": dict(basis=["chebyshev", "bspline"], selector=True),
}


@pytest.mark.parametrize("kind", [*KINDS, "adapted"])
@pytest.mark.parametrize("rows, block", [(512, 1 << 20), (7, 1 << 20), (16, 1)])
def test_edge_norms_are_the_materialised_sum(kind, rows, block, monkeypatch):
    monkeypatch.setattr("spectralops.nn.kan_edges.ROWS", rows)
    monkeypatch.setattr("spectralops.nn.kan_edges.BLOCK", block)
    layer = KANLinear(5, 3, dtype=F64, **KINDS.get(kind, {}))
    x = torch.randn(40, 5, dtype=F64, requires_grad=True)
    if kind == "adapted":
        layer.update_grid(x)
        layer.prune(x, 0.1)
    z = x if layer.norm is None else layer.norm(x)
    want, got = edges(layer, x, z).abs().sum(0), layer.edge_norms(x)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    weight = torch.randn(3, 5, dtype=F64)
    targets = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad((t * weight).sum(), targets, allow_unused=True) for t in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    q = want.detach() / 40
    p = q / q.sum()
    loss = layer.regularization_loss(x, l1=0.5, entropy=2.0)
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    torch.testing.assert_close(loss.detach(), 0.5 * q.sum() + 2.0 * entropy, rtol=1e-10, atol=1e-10)
    assert layer.edge_norms(x[:0]).eq(0).all()


def test_edge_norms_need_little_memory_with_their_gradient():
    layer = KANLinear(64, 96)
    x = torch.randn(2048, 64, requires_grad=True)
    whole = 2048 * 64 * 96 * 4

    def step():
        layer.regularization_loss(x).backward()

    step()  # the gradients themselves exist from here on
    assert peak_bytes(step, CPU) < whole / 2
    with torch.no_grad():
        first, twice = (peak_bytes(lambda z=z: layer.edge_norms(z), CPU) for z in (x, torch.cat([x, x])))
    assert twice < 1.1 * first < whole / 4  # and no more for more rows


def test_a_layer_that_is_zero_has_a_finite_loss_and_gradient():
    layer = KANLinear(3, 2)
    with torch.no_grad():
        layer.coeff.zero_()
        layer.base_weight.zero_()
    loss = layer.regularization_loss(torch.randn(5, 3))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(layer.coeff.grad).all()
    half = KANLinear(3, 2)
    half.prune(torch.randn(20, 3), 0.15)
    half.regularization_loss(torch.randn(5, 3)).backward()
    assert torch.isfinite(half.coeff.grad).all()


def test_pruned_edges_are_off_and_stay_off():
    layer = KANLinear(6, 4, dtype=F64)
    x = torch.randn(200, 6, dtype=F64)
    means = edges(layer, x).abs().mean(0)
    threshold = means.median().item()
    left = layer.prune(x, threshold)
    assert left == int((means >= threshold).sum()) and 0 < left < 24
    torch.testing.assert_close(layer(x), (edges(layer, x) * layer.mask).sum(-1))
    layer(x).sum().backward()
    assert layer.coeff.grad[~layer.mask].eq(0).all() and layer.coeff.grad[layer.mask].abs().sum() > 0
    assert layer.prune(x, 0.0) == left  # off stays off
    layer.mask = None
    torch.testing.assert_close(layer(x), edges(layer, x).sum(-1))
    layer.prune(torch.full((2, 6), float("nan"), dtype=F64))
    assert layer.mask.all()  # not by a batch that tells nothing
    model = KAN([3, 4, 2])
    y = torch.randn(50, 3)
    assert model.prune(y, 1e9) == 0 and model(y).eq(0).all() and len(model.edge_norms(y)) == 2

"""replace() on the layers of KAN packages, by the stand-ins of kan_models.py."""

import copy
import sys

import kan_models as km
import numpy as np
import pytest
import spectralops as so
import torch
from kan_models import Efficient, I, O, Wavelet, assert_as_good, break_originals, data, results, speedy
from scipy.interpolate import BSpline
from scipy.special import eval_chebyt
from spectralops.replace import restore
from spectralops.replace.verify import relative_l2
from third_party import assert_untouched, only, snapshot
from torch import nn
from torch.nn.utils import parametrize

LAYERS = {
    "efficient": lambda: Efficient.KANLinear(I, O),
    "efficient unscaled quadratic": lambda: Efficient.KANLinear(I, O, 4, 2, scaled=False),
    "efficient gelu": lambda: Efficient.KANLinear(I, O, activation=nn.GELU),
    "efficient other activation": lambda: Efficient.KANLinear(I, O, activation=nn.PReLU),
    "fast": lambda: km.FastKANLayer(I, O),
    "fast plain": lambda: km.FastKANLayer(I, O, 5, use_base_update=False, use_layernorm=False),
    "faster": lambda: km.FasterKANLayer(I, O, inverse=1.0),
    "faster, first generation": lambda: km.FasterKANLayer(I, O, inverse=2.0, first=True),
    "chebyshev": lambda: km.ChebyKANLayer(I, O),
    "fourier": lambda: km.NaiveFourierKANLayer(I, O),
    "fourier without bias": lambda: km.NaiveFourierKANLayer(I, O, 1, addbias=False),
    "mexican hat": lambda: Wavelet.KANLinear(I, O),
    "morlet": lambda: Wavelet.KANLinear(I, O, "morlet"),
    "dog": lambda: Wavelet.KANLinear(I, O, "dog"),
    "pykan": lambda: speedy(km.MultKAN([I, [3, 2], O])),
    "pykan without symbols": lambda: speedy(km.MultKAN([I, O], base_fun=lambda x: 0 * x), symbols=False),
}
RANKS = {"efficient": (2, 3, O), "fast": (2, 3, O), "chebyshev": (6, O), "fourier": (2, 3, O)}


def make(name):
    torch.manual_seed(3)
    return LAYERS[name]()


# ---- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_results_stay_and_the_new_forward_is_what_runs(name, monkeypatch):
    layer, x = make(name), data()
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    truth, before = results(copy.deepcopy(layer).double(), x.double()), results(copy.deepcopy(layer), x)
    report = so.replace(nn.Sequential(layer), example=x)
    row = only(report)
    assert row.status == "replaced" and row.verified_on == "random data, example" and row.backend
    assert layer.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    break_originals(monkeypatch)
    after = results(layer, x)
    assert after[0].abs().max() > 0
    assert_as_good(after, before, truth)


@pytest.mark.parametrize("name", LAYERS)
def test_undo_dry_run_and_copies(name, monkeypatch):
    model, x = nn.Sequential(make(name)).eval(), data()
    expected = model(x)
    before = snapshot(model)
    assert only(so.replace(model, example=x, dry_run=True)).status == "would be replaced"
    assert_untouched(model, before)
    report = so.replace(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1.5)
    again = nn.Sequential(make(name)).eval()
    again.load_state_dict(twin.state_dict())
    assert relative_l2(twin(x), again(x)) < 1e-5 < relative_l2(twin(x), expected)
    assert restore(twin) == 1
    assert report.undo() == 1
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", ["efficient", "fast", "chebyshev", "fourier", "mexican hat", "pykan"])
def test_training_goes_on_alike(name, monkeypatch):
    def losses(model, dtype):
        optimizer, x = torch.optim.Adam(model.parameters(), lr=0.02), data().to(dtype)
        found = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = (model(x) - torch.sin(x[:, :O])).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    model = make(name)
    truth, before = losses(copy.deepcopy(model).double(), torch.float64), losses(copy.deepcopy(model), torch.float32)
    so.replace(model)
    break_originals(monkeypatch)
    after = losses(model, torch.float32)
    assert truth[-1] < truth[0]
    assert relative_l2(after, truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["efficient", "fast", "fourier", "mexican hat"])
def test_other_dtypes(name, dtype):
    row = only(so.replace(make(name).to(dtype), example=data().to(dtype)))
    assert row.status == "replaced" and row.errors["output"][1] <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "pykan"])
def test_autocast_gives_the_dtype_it_gave(name):
    layer, x = make(name), data()
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        so.replace(layer, allow_hooks=True)
        after = layer(x)
    assert "forward" in layer.__dict__ and after.dtype == before.dtype
    assert relative_l2(after, before) < 8 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("name", ["efficient", "fast", "chebyshev", "pykan without symbols"])
def test_compiles_into_one_graph(name):
    layer, x = make(name), data()
    so.replace(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("name", RANKS)
def test_leading_dimensions_as_the_published_module_has_them(name, monkeypatch):
    layer, x = make(name), data().reshape(-1, 3, I)[:2]
    before = layer(x)
    assert before.shape == RANKS[name]
    so.replace(layer, example=x)
    break_originals(monkeypatch)
    assert layer(x).shape == before.shape
    assert relative_l2(layer(x), before) < 1e-5


def test_what_the_published_module_does_not_take_still_fails_as_it_did():
    layer = make("efficient")
    so.replace(layer)
    for x, message in ((data().double(), "dtype"), (data()[:, :4], "shape|size|multiplied")):
        with pytest.raises(RuntimeError, match=message):
            layer(x)
    with pytest.raises(TypeError):
        layer(data(), 3)


# ---- values, against scipy and numpy -------------------------------------------------------------


def bsplines(x, knots, order):
    """(N, I, K) in float64."""
    columns = []
    for i, t in enumerate(knots.double().numpy()):
        functions = [BSpline.basis_element(t[j : j + order + 2], extrapolate=False) for j in range(len(t) - order - 1)]
        columns.append(np.stack([np.nan_to_num(f(x[:, i].double().numpy())) for f in functions], -1))
    return np.stack(columns, 1)


def silu(x):
    return x / (1 + np.exp(-x))


def scipy_efficient(m, x):
    z, (w, s, b) = x.double().numpy(), (p.detach().double().numpy() for p in (m.spline_weight, m.spline_scaler, m.base_weight))
    return silu(z) @ b.T + np.einsum("nik,oik,oi->no", bsplines(x, m.grid, 3), w, s)


def scipy_pykan(m, x):
    p = {k: v.detach().double().numpy() for k, v in m.named_parameters()}
    edges = p["scale_base"] * silu(x.double().numpy())[..., None]
    edges += p["scale_sp"] * np.einsum("nik,iok->nio", bsplines(x, m.grid.detach(), 3), p["coef"])
    return (p["mask"] * edges).sum(1)


def scipy_chebyshev(m, x):
    z = np.tanh(x.double().numpy())[..., None]
    return np.einsum("nid,iod->no", eval_chebyt(np.arange(m.degree + 1), z), m.cheby_coeffs.detach().double().numpy())


def numpy_fourier(m, x):
    angle, c = x.double().numpy()[..., None] * np.arange(1, m.gridsize + 1), m.fouriercoeffs.detach().double().numpy()
    y = np.einsum("nik,oik->no", np.cos(angle), c[0]) + np.einsum("nik,oik->no", np.sin(angle), c[1])
    return y + m.bias.detach().double().numpy()


def numpy_gaussians(m, x):
    g, w = m.rbf.grid.double().numpy(), m.spline_linear.weight.detach().double().numpy()
    return np.exp(-(((x.double().numpy()[..., None] - g) / m.rbf.denominator) ** 2)).reshape(len(x), -1) @ w.T


ORACLES = {
    "efficient": (LAYERS["efficient"], scipy_efficient),
    "pykan": (lambda: km.KANLayer(I, O), scipy_pykan),
    "chebyshev": (LAYERS["chebyshev"], scipy_chebyshev),
    "fourier": (LAYERS["fourier"], numpy_fourier),
    "fast": (lambda: km.FastKANLayer(I, O, use_base_update=False, use_layernorm=False), numpy_gaussians),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ORACLES)
def test_values_against_scipy(name, dtype):
    torch.manual_seed(3)
    build, oracle = ORACLES[name]
    layer, x, first = build().to(dtype), data(200).to(dtype), lambda y: y[0] if isinstance(y, tuple) else y
    truth, before = torch.from_numpy(oracle(layer, x)), first(layer(x))
    assert only(so.replace(layer)).status == "replaced"
    assert relative_l2(first(layer(x)), truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(dtype).eps


# ---- recognition ---------------------------------------------------------------------------------


def test_two_packages_call_their_layer_kanlinear():
    report = so.replace(nn.ModuleList([Efficient.KANLinear(I, O), Wavelet.KANLinear(I, O)]))
    assert [row.package for row in report.rows] == ["efficient-kan", "Wav-KAN"]
    assert [row.status for row in report.rows] == ["replaced"] * 2
    assert so.replace(Wavelet.KANLinear(I, O), ops="kan_linear").rows == []


def test_the_name_alone_is_not_enough():
    class KANLinear(nn.Linear):
        pass

    class ChebyKANLayer(nn.Module):
        pass

    assert so.replace(nn.Sequential(KANLinear(2, 3), ChebyKANLayer())).rows == []


def test_our_own_layers_are_nobodys_copy(monkeypatch):
    monkeypatch.setattr(Efficient.KANLinear, "__module__", "spectralops.nn.kan")
    assert so.replace(Efficient.KANLinear(I, O)).rows == []


def test_the_name_and_the_tensors_prove_nothing():
    class KANLinear(nn.Module):  # a copy that somebody changed
        def __init__(self):
            super().__init__()
            source = Efficient.KANLinear(I, O)
            for kept in ("_parameters", "_buffers", "_modules"):
                setattr(self, kept, getattr(source, kept))
            self.enable_standalone_scale_spline, self.spline_order = True, 3

        def forward(self, x):
            return 2 * Efficient.KANLinear.forward(self, x)

        in_features, out_features, scaled_spline_weight = I, O, Efficient.KANLinear.scaled_spline_weight

    layer = KANLinear()
    row = only(so.replace(layer))
    assert row.status == "failed verification" and "output" in row.reason
    row = only(so.replace(layer, verify=False))
    assert row.status == "skipped" and "only verification proves" in row.reason
    assert "forward" not in layer.__dict__


class Derived(Efficient.KANLinear):
    pass


class SameName:
    class KANLinear(Efficient.KANLinear):
        pass


def changed(name, **attributes):
    layer = make(name)
    for key, value in attributes.items():
        setattr(layer, key, value)
    return layer


def with_buffer():
    layer = make("efficient")
    layer.register_buffer("mask", torch.ones(O))
    return layer


def parametrized(name, part, parameter):
    layer = make(name)
    parametrize.register_parametrization(layer.get_submodule(part), parameter, nn.Softplus(), unsafe=True)
    return layer


def hooked(name, part):
    layer = make(name)
    layer.get_submodule(part).register_forward_hook(lambda *_: None)
    return layer


def learned_knots():
    layer = km.KANLayer(I, O)
    layer.grid.requires_grad_()
    return layer


REFUSED = {
    "subclass": (lambda: Derived(I, O), "Derived is a subclass of efficient_kan.kan.KANLinear"),
    "subclass of the same name": (lambda: SameName.KANLinear(I, O), "subclass"),
    "more children": (lambda: changed("chebyshev", norm=nn.LayerNorm(O)), "a child norm that the published module has not"),
    "more parameters": (lambda: changed("fourier", gain=nn.Parameter(torch.ones(O))), "a parameter gain"),
    "more buffers": (with_buffer, "a buffer mask"),
    "order": (lambda: changed("efficient", spline_order=2), "not those of splines of order 2"),
    "high order": (lambda: Efficient.KANLinear(I, O, 5, 8), "orders 0 to 7"),
    "shape": (lambda: changed("efficient", base_weight=nn.Parameter(torch.ones(O, 2))), r"base_weight is \(5, 2\)"),
    "in place": (lambda: changed("efficient", base_activation=nn.SiLU(inplace=True)), "works in place"),
    "parametrized": (lambda: parametrized("efficient", "", "spline_weight"), r"parametrized \(spline_weight\)"),
    "parametrized child": (lambda: parametrized("fast", "spline_linear", "weight"), "a ParametrizedSplineLinear"),
    "hooked": (lambda: hooked("efficient", ""), "1 forward hook"),
    "hooked child": (lambda: hooked("fast", "rbf"), "its rbf is hooked"),
    "hooked layer": (lambda: hooked("pykan", "act_fun.0"), "its act_fun.0 is hooked"),
    "learned knots": (learned_knots, "requires a gradient"),
    "learned centres": (lambda: km.FasterKANLayer(I, O, train_grid=True), "requires a gradient"),
    "learned width": (lambda: km.FasterKANLayer(I, O, train_inverse=True), "inv_denominator requires a gradient"),
    "wrong backward": (lambda: km.FasterKANLayer(I, O), "inv_denominator = 0.5.*fix_gradients=True replaces it"),
    "wavelet": (lambda: changed("morlet", wavelet_type="shannon"), "wavelet 'shannon'"),
    "CPU function": (lambda: km.KAT_Group(device="cpu"), "is another function"),
    "kernels on a CPU": (km.KAT_Group, "on a CPU"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_and_says_why(case):
    build, message = REFUSED[case]
    model = build()
    before = [dict(m.__dict__) for m in model.modules()]
    row = only(so.replace(model))
    assert row.status == "skipped"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row.reason)
    assert [dict(m.__dict__) for m in model.modules()] == before


def test_hooks_hung_on_a_part_later_run():
    layer, x, seen = make("fast"), data(), []
    so.replace(layer)
    layer.rbf.register_forward_hook(lambda *_: seen.append(1))
    layer(x)
    assert seen == [1]


# ---- what is particular to one package -----------------------------------------------------------


def test_efficient_kan_grid_updates_and_regularisation(monkeypatch):
    layer, x = make("efficient"), data(200, 2.0)
    so.replace(layer)
    layer.update_grid(x)
    assert not torch.equal(layer.grid, make("efficient").grid)
    before, truth = type(layer).forward(layer, x), torch.from_numpy(scipy_efficient(layer, x))
    assert layer.regularization_loss() > 0
    break_originals(monkeypatch)
    assert relative_l2(layer(x), truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(x.dtype).eps


def test_a_copy_that_takes_two_dimensions_alone_is_left_to_say_so():
    class KANLinear(Efficient.KANLinear):
        def forward(self, x):
            assert x.dim() == 2, "two dimensions"
            return super().forward(x)

    KANLinear.__mro__[1].__name__ = "Base"
    try:
        layer = KANLinear(I, O)
        assert only(so.replace(layer)).status == "replaced"
        with pytest.raises(AssertionError, match="two dimensions"):
            layer(data().reshape(2, -1, I))
    finally:
        KANLinear.__mro__[1].__name__ = "KANLinear"


def test_fast_kan_arguments_of_its_forward():
    layer, x = make("fast"), data()
    expected = layer(x, use_layernorm=False)
    so.replace(layer)
    assert torch.equal(layer(x, use_layernorm=False), expected)


def test_faster_kan_gradients_become_those_of_its_formula(monkeypatch):
    layer, x = km.FasterKANLayer(I, O), data()
    exact = copy.deepcopy(layer).double()
    del exact.rbf.inv_denominator
    exact.rbf.inv_denominator = 1.0  # autograd, of what the forward computes
    truth, was = results(exact, x.double()), results(layer, x)
    row = only(so.replace(layer, fix_gradients=True, example=x))
    assert row.status == "replaced" and "no longer upstream's" in row.reason
    break_originals(monkeypatch)
    now = results(layer, x)
    eps = torch.finfo(x.dtype).eps
    assert relative_l2(now[0], truth[0]) <= 2 * relative_l2(was[0], truth[0]) + 2 * eps
    assert relative_l2(was[1], truth[1]) > 0.1
    assert all(relative_l2(n, t) < 16 * eps for n, t in zip(now[1:], truth[1:]))


def test_chebyshev_gradients_of_large_inputs_are_zero_not_nan():
    layer, x = make("chebyshev"), data()
    x[3, 2] = 12.0
    assert results(layer, x)[1][:, 3, 2].isnan().all()
    row = only(so.replace(layer, example=x))
    assert row.status == "replaced" and "example" in row.verified_on
    gradient = results(layer, x)[1]
    assert gradient.isfinite().all() and (gradient[:, 3, 2] == 0).all()


def test_kat_on_a_gpu(monkeypatch):
    """Its kernels in PyTorch, under a GPU's flag."""
    group, x = km.KAT_Group(4), torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(1)) * 2
    with torch.no_grad():
        group.weight_denominator[1] = 0  # learns with sgn(0) = 1 alone
    x[0, 0] = 0
    before = results(group, x)
    truth = results(copy.deepcopy(group).double(), x.double())
    with monkeypatch.context() as gpu:
        gpu.setattr(sys.modules["spectralops.replace.kat_rational"], "_on_gpu", lambda t: True)
        row = only(so.replace(group, example=x, verify=True))
        assert row.status == "replaced"
        break_originals(gpu)
        after = results(group, x)
    assert_as_good(after, before, truth)
    assert after[3][:, 1].abs().min() > 0
    assert torch.equal(group(x), before[0])  # back on a CPU it is the old forward

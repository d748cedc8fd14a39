"""replace() on spectral layers: the stand-ins of spectral_models.py, and neuraloperator and transformers where they are installed."""

import copy
import itertools
import warnings

import pytest
import spectral_models as sm
import spectralops as so
import torch
from spectral_models import LAYERS, break_originals
from spectralops.replace import Refused, restore
from spectralops.replace.verify import relative_l2
from third_party import assert_untouched, only, snapshot
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:Determining the tt-rank")


@pytest.fixture(autouse=True)
def _one_thread():
    """Grids this small gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(name):
    torch.manual_seed(3)
    build, shape = LAYERS[name]
    return build(), 20 * torch.randn(shape)


def results(layer, x):
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], g)]


@pytest.mark.parametrize("name", LAYERS)
def test_results_stay_and_the_new_forward_is_what_runs(name, monkeypatch):
    layer, x = make(name)
    before, untouched = results(layer, x), snapshot(layer)
    assert only(so.replace(layer, dry_run=True)).status == "would be replaced"
    assert_untouched(layer, untouched)
    report = so.replace(nn.Sequential(layer), example=x)
    row = only(report)
    assert row.status == "replaced" and row.verified_on == "random data, example" and row.backend, row.reason
    twin = copy.deepcopy(layer)
    with monkeypatch.context() as broken:
        break_originals(broken)
        for now, was in zip(results(layer, x), before, strict=True):
            assert now.dtype == was.dtype and relative_l2(now, was) < 2e-6
    assert restore(twin) == 1 and report.undo() == 1
    assert torch.equal(layer(x), before[0])


@pytest.mark.parametrize("name", ["GFNet", "Surya", "AFNO", "PhysicsNeMo", "AFFNet"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_data(name, dtype, monkeypatch):
    layer, x = make(name)
    x = (x / 20).to(dtype)
    before, truth = layer(x), layer(x.float())
    assert only(so.replace(layer)).status == "replaced"
    break_originals(monkeypatch)
    after = layer(x)
    assert after.dtype == before.dtype == (torch.float32 if name == "GFNet" else dtype)
    assert relative_l2(after, truth) <= 1.01 * relative_l2(before, truth) + 1e-6


def test_other_grids(monkeypatch):
    gf, afno = sm.GlobalFilter(4, 6, 6), sm.NVlabs.AFNO2D(8, 2)
    x, y = torch.randn(2, 60, 4), torch.randn(1, 35, 8)
    grids, expected = ((6, 10), (5, 7)), (gf(x, (6, 10)), afno(y, spatial_size=(5, 7)))
    for layer in (gf, afno):
        assert only(so.replace(layer)).status == "replaced"
    with pytest.raises(RuntimeError):  # the old forward, as before
        gf(x[:, :48], (6, 8))
    break_originals(monkeypatch)
    assert relative_l2(gf(x, grids[0]), expected[0]) < 1e-6
    assert relative_l2(afno(y, spatial_size=grids[1]), expected[1]) < 1e-6


@pytest.mark.parametrize("name", ["GFNet", "PhysicsNeMo"])
def test_a_replaced_layer_compiles_into_one_graph(name):
    layer, x = make(name)
    if name == "PhysicsNeMo":
        layer.register_buffer("device_buffer", torch.empty(0))
    assert only(so.replace(layer)).status == "replaced"
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    assert torch.equal(compiled(x), layer(x))


def reason(layer):
    row = only(so.replace(layer))
    assert row.status in ("skipped", "failed verification"), row.status
    return row.reason


def test_what_is_left_alone():
    class SpectralGatingNetwork(nn.Module):  # a variant of the same tensors
        __init__ = sm.gate

        def forward(self, x, spatial_size=None):
            return sm.filtered(self, x, spatial_size) * 1.01

    assert "off its formula" in reason(SpectralGatingNetwork(4, 6, 4))
    assert "float64" in reason(sm.GlobalFilter(4, 6, 4).double())
    assert "LeakyReLU" in reason(sm.AFNO2D_channelfirst(8, 2, act=nn.LeakyReLU))
    assert "hard_thresholding_fraction" in reason(_without(sm.AFNO2DLayer(8, 2), "hard_thresholding_fraction"))
    assert "not by its path" in only(so.replace(sm.GlobalFilter(4, 6, 4), verify=False)).reason


def _without(layer, name):
    delattr(layer, name)
    return layer


# ---- transformers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fnet():
    modeling = pytest.importorskip("transformers.models.fnet.modeling_fnet")
    from transformers import FNetConfig

    def model(**more):
        torch.manual_seed(0)
        sizes = {"vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "intermediate_size": 16, "max_position_embeddings": 16}
        return modeling.FNetModel(FNetConfig(**sizes, **more)).eval()

    return model


def test_fnet(fnet):
    model, tokens = fnet(), torch.arange(22).reshape(2, 11)
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, model(tokens).last_hidden_state
    report = so.replace(model, example={"input_ids": tokens})
    assert [row.status for row in report.rows] == ["replaced"] * 2, report
    after = model(tokens).last_hidden_state
    assert relative_l2(after, before) < 2e-6 and all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor))
    after.sum().backward()
    for dtype in (torch.bfloat16, torch.float16):  # upstream's transform refuses both on a CPU
        narrow = copy.deepcopy(model).to(dtype)(tokens).last_hidden_state
        assert narrow.dtype == dtype and relative_l2(narrow.float(), before) < 16 * torch.finfo(dtype).eps
    assert report.undo() == 2 and torch.equal(model(tokens).last_hidden_state, before)


def test_fnet_by_matrices_is_left_alone(fnet):
    pytest.importorskip("scipy")
    model = fnet(use_tpu_fourier_optimizations=True, tpu_short_seq_length=11)
    assert all("matrices" in row.reason for row in so.replace(model).rows)


# ---- neuraloperator -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def neuralop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("neuralop")


def spectral_conv(*args, **kwargs):
    from neuralop.layers.spectral_convolution import SpectralConv

    torch.manual_seed(1)
    return SpectralConv(*args, **kwargs)


CONVS = [
    (2, 3, (4, 6), {}),
    (2, 3, (5,), {"fft_norm": "ortho"}),
    (2, 2, (4, 3, 4), {"fft_norm": "backward", "bias": False}),
    (3, 3, (4, 5), {"separable": True}),
    (2, 3, (4, 6), {"resolution_scaling_factor": 0.5}),
    (2, 3, (4, 5), {"resolution_scaling_factor": 2}),
    (2, 3, (4, 5), {"max_n_modes": (7, 6)}),
    *((3, 3, (4, 6), {"factorization": f, "implementation": i, "separable": s, "rank": 0.7})
      for f, i, s in itertools.product(("cp", "tucker", "tt"), ("factorized", "reconstructed"), (False, True)) if i == "factorized" or not s),
    (2, 3, (4, 4, 4), {"factorization": "tucker", "implementation": "factorized", "rank": 0.5}),
    (2, 3, (4, 5), {"factorization": "ComplexCP", "implementation": "reconstructed", "rank": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize("case", CONVS, ids=lambda c: f"{c[2]} {c[3]}")
def test_neuraloperator_layer(neuralop, case, monkeypatch):
    ins, outs, modes, more = case
    layer = spectral_conv(ins, outs, modes, **more)
    x = torch.randn(2, ins, *(9, 8, 6)[: len(modes)])
    before, state = results(layer, x), {k: v.clone() for k, v in layer.state_dict().items()}
    other = [x[..., :5], (None if "resolution_scaling_factor" in more else (7, 10, 5)[: len(modes)])]
    expected = layer(*other)
    row = only(so.replace(layer, example=x))
    assert row.status == "replaced" and row.verified_on == "random data, example", row.reason
    assert layer.state_dict().keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    monkeypatch.setattr(torch.fft, "rfftn", None)  # the operators look theirs up on their own
    monkeypatch.setattr(torch.fft, "irfftn", None)
    now = results(layer, x)
    for a, b in zip(now, before, strict=True):
        assert a.dtype == b.dtype and relative_l2(pairs(a), pairs(b)) < 3e-6
    assert relative_l2(layer(*other), expected) < 3e-6


def pairs(t):
    return torch.view_as_real(t) if t.is_complex() else t


def test_neuraloperator_follows_the_modes(neuralop):
    layer = spectral_conv(2, 2, (6, 6))
    twin = copy.deepcopy(layer)
    assert only(so.replace(layer)).status == "replaced"
    x = torch.randn(1, 2, 8, 9)
    for modes in ((4, 4), (3, 1), (6, 6)):
        layer.n_modes, twin.n_modes = modes, modes
        assert relative_l2(layer(x), twin(x)) < 1e-6
    assert relative_l2(layer(x.bfloat16().float()), twin(x.bfloat16().float())) < 1e-6


def test_what_of_neuraloperator_is_left_alone(neuralop):
    assert "order" in reason(spectral_conv(1, 1, (2, 2, 2, 2))) or "4 dimensions" in reason(spectral_conv(1, 1, (2, 2, 2, 2)))
    assert "complex_data" in reason(spectral_conv(1, 1, (4, 4), complex_data=True))
    assert "fno_block_precision" in reason(spectral_conv(1, 1, (4, 4), fno_block_precision="mixed"))
    assert "complex64" in reason(spectral_conv(1, 1, (4, 4)).double())
    later = spectral_conv(1, 1, (4, 4))
    later.enforce_hermitian_symmetry = True
    assert "version" in reason(later)
    hooked = spectral_conv(1, 1, (4, 4))
    hooked.weight.register_forward_hook(lambda *_: None)
    assert "hook" in reason(hooked)


def networks():
    from neuralop.models import FNO, TFNO, UNO

    wide = {"in_channels": 2, "out_channels": 1, "hidden_channels": 4}
    yield FNO(n_modes=(6,), n_layers=2, **wide), (2, 2, 15)
    yield FNO(n_modes=(4, 4), n_layers=2, **wide), (2, 2, 9, 8)
    yield TFNO(n_modes=(4, 4), n_layers=2, factorization="tucker", implementation="factorized", rank=0.4, **wide), (2, 2, 8, 8)
    yield UNO(n_layers=3, uno_out_channels=[4, 4, 4], uno_n_modes=[[4, 4]] * 3, uno_scalings=[[0.5, 0.5], [1, 1], [2, 2]],
              channel_mlp_skip="linear", **wide), (2, 2, 12, 12)  # fmt: skip


def test_neuraloperator_networks(neuralop, capsys):
    torch.manual_seed(0)
    for model, shape in networks():
        x, state = torch.randn(shape), {k: copy.deepcopy(v) for k, v in model.state_dict().items()}
        before = results(model, x)
        report = so.replace(model, example=x)
        assert len(report.rows) > 1 and all(row.status == "replaced" for row in report.rows), report
        for now, was in zip(results(model, x), before, strict=True):
            assert relative_l2(pairs(now), pairs(was)) < 1e-5
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor))
        assert report.undo() == len(report.rows) and torch.equal(model(x), before[0])


def test_refused_is_what_a_plan_raises(neuralop):
    from spectralops.replace.neuraloperator import NeuralOperatorSpectralConv

    with pytest.raises(Refused):
        NeuralOperatorSpectralConv().plan(spectral_conv(1, 1, (4, 4), complex_data=True))

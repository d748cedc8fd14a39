"""replace() on pykan's MultKAN and KANLayer: the stand-ins of kan_models.py, and pykan itself where it is installed."""

import copy
import functools
import sys

import kan_models as km
import numpy as np
import pytest
import spectralops as so
import torch
from kan_models import I, O, assert_as_good, break_originals, data, results, speedy
from spectralops.replace.verify import relative_l2
from test_replace_packages import _has
from third_party import only


def network():
    torch.manual_seed(3)
    return speedy(km.MultKAN([I, [3, 2], O]))


# ---- the stand-ins -------------------------------------------------------------------------------


def test_pykan_model_with_activations_is_as_before_and_without_is_fused(monkeypatch):
    model, x = network(), data()
    model.save_act = True
    before = model(x)
    scales, acts = model.acts_scale_spline, [a.clone() for a in model.acts]
    row = only(so.replace(model, example=data(20)))  # one row: its layers are computed by it
    assert row.status == "replaced" and "save_act" in row.new_op and "fit(lamb=0)" in row.reason
    assert model.acts_scale_spline is scales and torch.equal(model.cache_data, x)
    assert torch.equal(model(x), before) and model.acts_scale_spline is not scales
    model.save_act = False
    break_originals(monkeypatch)
    calls = km.Symbolic_KANLayer.calls
    assert relative_l2(model(x), before) < 1e-6
    assert all(relative_l2(a, b) < 1e-6 for a, b in zip(model.acts, acts, strict=True)) and model.acts_scale_spline == []
    assert km.Symbolic_KANLayer.calls == calls


def test_pykan_symbolic_edges_are_asked_as_soon_as_there_is_one():
    model, x = network(), data()
    so.replace(model)
    layer = model.symbolic_fun[0]
    with torch.no_grad():
        layer.affine[1, 2] = torch.tensor([1.0, 0.5, 2.0, 0.1])
    layer.mask.data[1][2] = 1.0  # as pykan writes it: no version counter sees this
    model.act_fun[0].mask.data[2][1] = 0.0
    plain = restored(model)
    truth, before = results(copy.deepcopy(plain).double(), x.double()), results(plain, x)
    assert_as_good(results(model, x), before, truth)


def restored(model):
    twin = copy.deepcopy(model)
    for m in twin.modules():
        m.__dict__.pop("forward", None)
    return twin


def test_pykan_layers_with_hooks_hung_on_later_run():
    model, x, seen = network(), data(), []
    so.replace(model)
    model.act_fun[1].register_forward_hook(lambda *_: seen.append(1))
    model(x)
    assert seen == [1]


def test_pykan_layer_alone_gives_its_four_tensors_and_their_gradients(monkeypatch):
    torch.manual_seed(3)
    layer, x = km.KANLayer(I, O), data()

    def graded(m, which, x):
        x = x.clone().requires_grad_()
        out = m(x)
        leaves = [x, m.coef, m.scale_base, m.scale_sp]
        return [*(t.detach() for t in out), *torch.autograd.grad(sum(out[i].square().sum() for i in which), leaves)]

    for which in ([0], [0, 1, 2], [0, 1, 2, 3]):
        plain = copy.deepcopy(layer)
        truth, before = graded(copy.deepcopy(plain).double(), which, x.double()), graded(plain, which, x)
        with so.replace(plain, example=x) as report:
            assert only(report).status == "replaced" and "training alone" in only(report).reason
            assert_as_good(graded(plain, which, x), before, truth)
    so.replace(layer)
    y, _, edges, _ = layer(x)
    break_originals(monkeypatch)
    y.sum().backward()  # nothing is computed again
    with pytest.raises(AssertionError, match="the old forward ran"):
        edges.sum().backward()


# ---- the package ---------------------------------------------------------------------------------


@pytest.fixture
def kan():
    if not _has("kan"):
        pytest.skip("pykan is not installed")
    import kan

    return functools.partial(kan.KAN, grid=5, k=3, auto_save=False)


def test_pykan_itself(kan, monkeypatch):
    from kan.KANLayer import KANLayer

    model, x = kan([I, [3, 2], 1]), data(60)
    before = model(x)
    assert only(so.replace(model, example=x)).status == "replaced"
    assert torch.equal(model(x), before)
    truth = restored_pykan(kan, model).double()(x.double())
    model.speed()
    model.update_grid_from_samples(x)  # turns save_act on for itself, and off again
    moved, expected = model(x), restored_pykan(kan, model)(x)
    assert relative_l2(moved, expected) < 1e-5
    model.fix_symbolic(0, 1, 2, "sin", fit_params_bool=False, log_history=False)
    model.symbolic_enabled = True
    assert relative_l2(model(x), restored_pykan(kan, model)(x)) < 1e-5
    assert relative_l2(before, truth) < 1e-5
    monkeypatch.setattr(sys.modules["kan.KANLayer"], "coef2curve", None)
    model(x).sum().backward()
    assert model.act_fun[0].coef.grad.abs().max() > 0
    monkeypatch.undo()
    assert only(so.replace(KANLayer(I, O))).status == "replaced"


def restored_pykan(kan, model):
    twin = kan([I, [3, 2], 1])
    for mine, theirs in zip(twin.act_fun, model.act_fun):
        mine.grid.data = theirs.grid.data.clone()
    twin.load_state_dict(model.state_dict())
    for mine, theirs in zip(twin.symbolic_fun, model.symbolic_fun):
        mine.funs = theirs.funs
    return twin


def test_pykan_trains_alike(kan, capsys):
    x = data(80)
    labels = torch.sin(x.sum(1, keepdim=True))
    dataset = {"train_input": x, "test_input": x, "train_label": labels, "test_label": labels}
    found = []
    for replaced in (False, True):
        model = kan([I, 4, 1], seed=0)
        model.log_history = lambda *_: None
        if replaced:
            assert only(so.replace(model, example=x)).status == "replaced"
        torch.manual_seed(0)
        np.random.seed(0)
        found.append(model.fit(dataset, opt="Adam", lr=0.02, steps=8, update_grid=False)["train_loss"])
    assert found[0][-1] < found[0][0]
    assert np.allclose(*found, rtol=1e-4)

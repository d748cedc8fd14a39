"""replace(): what it changes, that it can all be taken back, and what goes on as before.

The modules are the stand-ins of third_party.py; test_replace_packages.py uses the real packages.
"""

import copy
import json
import pickle

import pytest
import spectralops as so
import third_party
import torch
from spectralops.replace import MATCHERS, restore
from spectralops.replace.verify import relative_l2
from third_party import Rational, assert_untouched, break_originals, network, only, snapshot
from torch import nn


@pytest.fixture(autouse=True)
def _disguise(monkeypatch):
    third_party.disguise(monkeypatch)


# ---- replacing and taking it back ----------------------------------------------------------------


def test_results_stay_and_the_new_forwards_are_what_runs(monkeypatch):
    model, x = network(), torch.randn(16, 8)
    truth = copy.deepcopy(model).double()(x.double())
    before = model(x)
    report = so.replace(model, example=x)
    assert [row.status for row in report.rows] == ["replaced"] * 4
    assert [row.path for row in report.rows] == ["1", "2.rotate", "3", "5"]
    assert {row.backend for row in report.rows} <= {"cpu", "reference", "cuda", "triton", "cupy"}
    assert all(row.verified_on == "random data, example" and row.errors for row in report.rows)
    break_originals(monkeypatch)
    after = model(x)
    assert after.abs().max() > 0
    eps = torch.finfo(x.dtype).eps
    assert relative_l2(after, truth) <= 2 * relative_l2(before, truth) + 2 * eps


def test_undo_restores_exactly():
    model = network()
    before = snapshot(model)
    report = so.replace(model)
    assert snapshot(model)[0] != before[0]
    assert report.undo() == 4
    assert_untouched(model, before)
    assert report.undo() == 0


def test_context_manager_undoes_on_exit_and_on_error():
    model = network()
    before = snapshot(model)
    with so.replace(model) as report:
        assert report.counts == {"replaced": 4}
        assert "forward" in model[1].__dict__
    assert_untouched(model, before)
    with pytest.raises(KeyError, match="mine"), so.replace(model):
        raise KeyError("mine")
    assert_untouched(model, before)


def test_undo_leaves_a_forward_that_was_rebound_since():
    model = nn.Sequential(Rational())
    report = so.replace(model)
    mine = model[0].forward = lambda x: x
    with pytest.warns(UserWarning, match="left a Rational alone"):
        assert report.undo() == 0
    assert model[0].forward is mine


def test_dry_run_touches_nothing_and_says_what_would_happen():
    model, x = network(), torch.randn(4, 8)
    before = snapshot(model)
    report = so.replace(model, example=x, dry_run=True)
    assert report.counts == {"would be replaced": 4} and all(row.errors for row in report.rows)
    assert_untouched(model, before)
    assert report.undo() == 0


def test_verification_leaves_state_mode_gradients_and_random_state():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), Rational())
    model(torch.randn(4, 8)).sum().backward()
    model[3].eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    so.replace(model, example=torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == [m.training for m in model.modules()]
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients))
    assert not model[3]._forward_pre_hooks


def test_replacing_twice_changes_nothing_more():
    model = network()
    first = so.replace(model)
    before = snapshot(model)
    second = so.replace(model)
    assert second.counts == {"already replaced": 4}
    assert second.undo() == 0
    assert_untouched(model, before)
    assert first.undo() == 4


def test_shared_instances_are_replaced_once_and_reported_everywhere():
    unit = Rational()
    model = nn.ModuleDict({"a": unit, "b": nn.Sequential(nn.Linear(4, 4), unit)})
    report = so.replace(model)
    assert [row.path for row in report.rows] == ["a", "b.1"]
    assert report.counts == {"replaced": 2} and "same module as a" in report.rows[1].reason
    assert report.undo() == 1
    assert "forward" not in unit.__dict__


def test_the_model_itself_may_be_a_known_module():
    unit = Rational()
    assert only(so.replace(unit)).path == ""
    assert "(model)" in str(so.replace(unit))


def test_deep_copies_keep_the_new_forward_on_their_own_parameters(monkeypatch):
    model, x = network(), torch.randn(4, 8)
    report = so.replace(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[1].numerator.zero_()
    expected = model(x)
    break_originals(monkeypatch)
    assert torch.equal(model(x), expected)
    hidden = twin[:2](x)
    assert hidden.count_nonzero() == 0 and model[:2](x).count_nonzero() > 0
    assert restore(twin) == 4
    assert "forward" not in twin[1].__dict__ and "forward" in model[1].__dict__
    assert report.undo() == 4


def test_a_pickle_comes_back_as_the_original_and_can_be_replaced_again():
    model, x = nn.Sequential(nn.Linear(8, 8), Rational()), torch.randn(4, 8)
    expected = model(x)
    so.replace(model)
    back = pickle.loads(pickle.dumps(model))
    assert torch.equal(back(x), expected)
    report = so.replace(back)
    assert report.counts == {"replaced": 1}
    report.undo()
    assert torch.equal(back(x), expected)


def test_report_prints_and_is_json():
    model = nn.Sequential(Rational(), Rational("D"))
    report = so.replace(model)
    text = str(report)
    assert "rational(version='A')" in text and "random noise" in text and "1 replaced, 1 skipped" in text
    again = json.loads(json.dumps(report.to_dict()))
    assert again["counts"] == {"replaced": 1, "skipped": 1}
    assert again["rows"][0]["errors"]["output"][1] < 1e-6
    assert len(report.replaced) == len(report.skipped) == 1
    assert "no module of a known class" in str(so.replace(nn.Linear(2, 2)))


# ---- what goes on as before ----------------------------------------------------------------------


def losses(model, dtype, steps=12):
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(64, 8, generator=g).to(dtype), torch.randint(8, (64,), generator=g)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def test_training_runs_alike(monkeypatch):
    torch.manual_seed(1)
    start = network()
    truth = losses(copy.deepcopy(start).double(), torch.float64)
    before = losses(copy.deepcopy(start), torch.float32)
    so.replace(start)
    break_originals(monkeypatch)
    after = losses(start, torch.float32)
    assert truth[-1] < truth[0]
    assert relative_l2(after, truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(torch.float32).eps


def test_live_parameters_are_read_at_every_call():
    model, x = nn.Sequential(Rational()), torch.randn(5, 7)
    so.replace(model)
    other = nn.Sequential(Rational(seed=9))
    model.load_state_dict(other.state_dict())
    assert relative_l2(model(x), other.double()(x.double())) < 1e-6
    model[0].numerator = nn.Parameter(torch.zeros(6))
    assert model(x).count_nonzero() == 0
    model.double()
    assert model(x.double()).dtype == torch.float64


def test_upstreams_own_switch_of_version_is_followed():
    unit, x = Rational("A"), torch.randn(4, 6)
    so.replace(unit)
    unit.change_version("B")
    assert torch.equal(unit(x), type(unit).forward(unit, x))


@pytest.mark.parametrize("version", ["A", "B", "C"])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_result_has_the_dtype_it_had(version, x_dtype, dtype, monkeypatch):
    unit = Rational(version).to(dtype)
    x = (torch.randn(33, 5) * 3).to(x_dtype)
    expected, exact = unit(x), Rational(version).to(dtype).double()(x.double())
    assert only(so.replace(unit)).status == "replaced"
    break_originals(monkeypatch)
    found = unit(x)
    assert found.dtype == expected.dtype
    if found.dtype != torch.float64:
        assert (
            relative_l2(found, exact) <= 2 * relative_l2(expected, exact) + 2 * torch.finfo(found.dtype).eps
        )


def test_scalars_strides_and_empty_inputs():
    unit = Rational("B")
    so.replace(unit)
    original = Rational("B").double()
    for x in (torch.tensor(0.3), torch.randn(6, 4).T, torch.randn(3, 1).expand(3, 5), torch.randn(0, 4)):
        assert unit(x).shape == x.shape
        assert relative_l2(unit(x), original(x.double())) < 1e-6


@pytest.mark.parametrize("version", ["A", "B", "C"])
def test_second_derivative(version, monkeypatch):
    unit, x = Rational(version).double(), torch.randn(9, 4, dtype=torch.float64)

    def second(module):
        leaf = x.clone().requires_grad_()
        leaves = [leaf, module.numerator, module.denominator]
        first = torch.autograd.grad(module(leaf).sin().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), leaves)

    expected = second(unit)
    so.replace(unit)
    break_originals(monkeypatch)
    for found, exact in zip(second(unit), expected, strict=True):
        assert relative_l2(found, exact) < 1e-12  # closed form against nested autograd, both float64


def test_frozen_coefficients_stay_frozen():
    unit, x = Rational(), torch.randn(4, 4)
    unit.denominator.requires_grad_(False)
    so.replace(unit)
    unit(x).sum().backward()
    assert unit.numerator.grad is not None and unit.denominator.grad is None
    with torch.no_grad():
        assert not unit(x).requires_grad


def test_compiles_without_a_graph_break(monkeypatch):
    model, x = network(), torch.randn(6, 8)
    expected = model(x)
    so.replace(model)
    break_originals(monkeypatch)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(x)
    found.sum().backward()
    assert relative_l2(found, expected) < 1e-6
    assert model[1].numerator.grad.count_nonzero() > 0


# ---- arguments -----------------------------------------------------------------------------------


def test_example_may_be_a_tuple_or_a_dict_and_may_miss_a_module():
    class Picks(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = Rational(), Rational()

        def forward(self, x, scale):
            return self.used(x=x * scale)

    for example in ((torch.randn(3, 4), 2.0), {"x": torch.randn(3, 4), "scale": 2.0}):
        rows = so.replace(Picks(), example=example).rows
        assert [row.verified_on for row in rows] == ["random data, example", "random data"]
        assert [row.status for row in rows] == ["replaced", "replaced"]


def test_bad_arguments():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got list"):
        so.replace([Rational()])
    with pytest.raises(
        TypeError, match="example must be a tensor, a tuple of arguments or a dict .* got int"
    ):
        so.replace(network(), example=3)
    with pytest.raises(ValueError, match="ops must be 'all' or among .*'rational'.*; got 'kan'"):
        so.replace(network(), ops=["rational", "kan"])


def test_a_model_that_fails_on_the_example_stays_as_it_was():
    model = network()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        so.replace(model, example=torch.randn(3, 5))
    assert_untouched(model, before)


def test_ops_select_by_op_and_by_package():
    for ops, count in (
        ("rational", 3),
        ("hadamard_transform", 1),
        (["compressed-tensors"], 1),
        (["rational", "hadamard_transform"], 4),
    ):
        assert len(so.replace(network(), ops=ops, dry_run=True).rows) == count


def test_registry_names_are_public_ops():
    assert all(m.op in so.OPS for m in MATCHERS)

"""replace() on rotations: locations, inverses, permutations, dtypes, and a weight that changes
afterwards."""

import copy

import pytest
import spectralops as so
import third_party
import torch
from spectralops.replace.verify import relative_l2
from third_party import HadamardTransform, break_originals, only, sylvester
from torch import nn


@pytest.fixture(autouse=True)
def _disguise(monkeypatch):
    third_party.disguise(monkeypatch)


def signs(n, seed=0):
    return torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


PLACES = [
    ("input", nn.Linear, (3, 64)),
    ("output", nn.Linear, (2, 5, 128)),  # two heads
    ("q_attn", nn.Module, (2, 3, 7, 64)),
    ("weight_input", nn.Linear, (5, 64)),
    ("weight_output", nn.Linear, (128, 5)),
    ("weight_input", nn.Embedding, (64, 5)),
    ("weight_output", nn.Embedding, (5, 128)),
]


@pytest.mark.parametrize("location, module_type, shape", PLACES)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["plain", "signs", "signs and perm"])
def test_hadamard_at_every_location(location, module_type, shape, inverse, kind, monkeypatch):
    weight = sylvester(64)
    if kind != "plain":
        weight = signs(64)[:, None] * weight * signs(64, 1)
    perm = torch.randperm(64) if kind == "signs and perm" else None
    unit = HadamardTransform(weight, location, inverse, perm, module_type)
    value = torch.randn(shape, requires_grad=True)
    cotangent = torch.randn(shape)
    before = unit(value)
    (before_grad,) = torch.autograd.grad(before, value, cotangent)
    wide = copy.deepcopy(unit).double()
    truth = wide(value.double())
    assert only(so.replace(unit)).status == "replaced"
    break_originals(monkeypatch)
    after = unit(value)
    (after_grad,) = torch.autograd.grad(after, value, cotangent)
    assert after.shape == before.shape and after.dtype == before.dtype
    assert relative_l2(after, truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(after.dtype).eps
    assert relative_l2(after_grad, before_grad) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_hadamard_rounds_where_upstream_rounds(dtype, x_dtype, monkeypatch):
    unit = HadamardTransform(sylvester(64).to(dtype))
    value = torch.randn(50, 64).to(x_dtype)
    before, truth = unit(value), value.double() @ sylvester(64).double() / 8
    assert only(so.replace(unit)).status == "replaced"
    break_originals(monkeypatch)
    after = unit(value)
    assert after.dtype == before.dtype
    assert relative_l2(after, truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(after.dtype).eps


def test_a_weight_that_changes_is_noticed():
    unit, value = HadamardTransform(sylvester(16)), torch.randn(3, 16)
    so.replace(unit)
    with torch.no_grad():
        unit.weight[2, 3] *= -1
    assert torch.equal(unit(value), HadamardTransform.forward(unit, value))
    assert relative_l2(unit(value), value.double() @ unit.weight.double() / 4) < 1e-6
    unit.weight.data = 2 * sylvester(16)  # another storage under the same version counter
    assert relative_l2(unit(value), value.double() @ sylvester(16).double() / 2) < 1e-6
    unit.weight = nn.Parameter(sylvester(16), requires_grad=False)
    assert relative_l2(unit(value), value.double() @ sylvester(16).double() / 4) < 1e-6


def test_a_flipped_inverse_and_a_foreign_size_run_the_old_forward():
    unit, value = HadamardTransform(signs(16)[:, None] * sylvester(16)), torch.randn(3, 16)
    so.replace(unit)
    unit.args.inverse = True
    assert torch.equal(unit(value), HadamardTransform.forward(unit, value))
    unit.args.inverse = False
    with pytest.raises(RuntimeError):
        unit(torch.randn(3, 24))

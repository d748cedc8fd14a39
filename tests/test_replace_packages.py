"""replace() on the packages themselves, where they are installed."""

import copy
import importlib
import sys

import pytest
import spectralops as so
import torch
from spectralops.replace.verify import relative_l2
from torch import nn


def _has(module):
    try:
        importlib.import_module(module)
    except Exception:
        return False
    return True


@pytest.mark.skipif(not _has("rational.torch"), reason="rational-activations is not installed")
@pytest.mark.parametrize("version", ["A", "B", "C", "D"])
def test_rational_activations(version, monkeypatch):
    from rational.torch import Rational

    unit, x = Rational("gelu", degrees=(5, 4), cuda=False, version=version), torch.randn(70, 9) * 2
    before = unit(x)
    truth = copy.deepcopy(unit).double()(x.double())
    report = so.replace(nn.Sequential(unit), example=x)
    if version == "D":
        assert report.rows[0].status == "skipped" and "noise" in report.rows[0].reason
        return
    assert report.rows[0].status == "replaced"
    monkeypatch.setattr("rational.torch.rational_pytorch_functions._get_xps", None)  # the old forward calls it
    after = unit(x)
    assert relative_l2(after, truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(x.dtype).eps


@pytest.mark.skipif(not _has("rational.torch"), reason="rational-activations is not installed")
def test_rational_activations_recurrent_wrapper_shares_one_unit():
    from rational.torch import RecurrentRational

    make = RecurrentRational("tanh", cuda=False)
    report = so.replace(nn.Sequential(make(), nn.Linear(3, 3), make()))
    assert [row.path for row in report.rows] == ["0.rational", "2.rational"]
    assert report.undo() == 1


@pytest.mark.skipif(not _has("compressed_tensors.transform"), reason="compressed-tensors is not installed")
@pytest.mark.parametrize(
    "kind, inverse, randomize",
    [
        ("hadamard", False, False),
        ("hadamard", True, True),
        ("random-hadamard", False, False),
        ("random-hadamard", True, False),
    ],
)
def test_compressed_tensors(kind, inverse, randomize, monkeypatch):
    from compressed_tensors.transform import (
        TransformArgs,
        TransformConfig,
        TransformScheme,
        apply_transform_config,
    )

    model, x = nn.Sequential(nn.Linear(16, 256), nn.GELU(), nn.Linear(256, 256)), torch.randn(20, 16)
    plain = copy.deepcopy(model).double()(x.double())
    where = [
        TransformArgs(targets=["2"], location="input", inverse=inverse),
        TransformArgs(targets=["2"], location="weight_input", inverse=not inverse),
    ]
    scheme = TransformScheme(type=kind, apply=where, randomize=randomize, precision=torch.float32)
    apply_transform_config(model, TransformConfig(config_groups={"rotation": scheme}))
    before = model(x)
    report = so.replace(model, example=x)
    assert [row.status for row in report.rows] == ["replaced"]
    monkeypatch.setattr(sys.modules[type(model[2].rotation_input).__module__], "apply_transform_weight", None)
    after = model(x)
    # upstream's rotation of the weight rounds once more: the truth is the network without any rotation
    assert relative_l2(after, plain) <= 2 * relative_l2(before, plain) + 2 * torch.finfo(x.dtype).eps


@pytest.mark.skipif(not _has("compressed_tensors.transform"), reason="compressed-tensors is not installed")
def test_compressed_tensors_learned_rotation_is_left():
    from compressed_tensors.transform import (
        TransformArgs,
        TransformConfig,
        TransformScheme,
        apply_transform_config,
    )

    model = nn.Sequential(nn.Linear(16, 16))
    scheme = TransformScheme(
        type="hadamard", requires_grad=True, apply=[TransformArgs(targets=["0"], location="input")]
    )
    apply_transform_config(model, TransformConfig(config_groups={"rotation": scheme}))
    row = so.replace(model).rows[0]
    assert row.status == "skipped" and "requires a gradient" in row.reason

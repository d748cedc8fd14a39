"""replace(): what it refuses to touch, and the wrong replacements that verification finds."""

import sys
import warnings

import pytest
import spectralops as so
import third_party
import torch
from spectralops.replace import Matcher, Plan
from spectralops.replace.matcher import mark
from third_party import HadamardTransform, Rational, assert_untouched, only, snapshot, sylvester
from torch import nn
from torch.nn.utils import parametrize


@pytest.fixture(autouse=True)
def _disguise(monkeypatch):
    third_party.disguise(monkeypatch)


# ---- refusals ------------------------------------------------------------------------------------


class Doubled(Rational):
    def forward(self, x):
        return 2 * super().forward(x)


class Halved(nn.Module):
    def forward(self, x):
        return x / 2


def _parametrized():
    unit = Rational()
    parametrize.register_parametrization(unit, "numerator", Halved())
    return unit


def _hooked(register):
    unit = Rational()
    getattr(unit, register)(lambda *_: None)
    return unit


def _changed(**attributes):
    unit = Rational()
    for name, value in attributes.items():
        setattr(unit, name, value)
    return unit


def _compiled_in_place():
    model = nn.Sequential(Rational())
    model.compile(backend="eager")
    return model


def _hadamard(weight=None, **attributes):
    unit = HadamardTransform(sylvester(16) if weight is None else weight)
    for name, value in attributes.items():
        setattr(unit, name, value)
    return unit


def _learned():
    unit = _hadamard()
    unit.weight.requires_grad_()
    return unit


def _one_flipped():
    weight = sylvester(16)
    weight[5, 6] *= -1
    return weight


REFUSED = {
    "version D": (lambda: Rational("D"), "random noise"),
    "version N": (lambda: _changed(version="N"), "may divide by zero"),
    "unknown version": (lambda: _changed(version="Z"), "'Z' is not one of A, B, C"),
    "other function": (
        lambda: _changed(activation_function=torch.relu),
        "activation_function is not upstream's",
    ),
    "function of another version": (lambda: _changed(version="B"), "not upstream's for version B"),
    "sizes": (lambda: _changed(denominator=nn.Parameter(torch.ones(6))), "6 numerator and 6 denominator"),
    "rank": (lambda: _changed(numerator=nn.Parameter(torch.ones(2, 3))), "two one-dimensional parameters"),
    "subclass": (Doubled, "is a subclass of rational.torch.rationals.Rational"),
    "parametrized": (_parametrized, r"parametrized \(numerator\)"),
    "forward hook": (lambda: _hooked("register_forward_hook"), "1 forward hook"),
    "pre-hook": (lambda: _hooked("register_forward_pre_hook"), "1 forward pre-hook"),
    "backward hook": (lambda: _hooked("register_full_backward_hook"), "1 backward hook"),
    "rebound": (lambda: _changed(forward=torch.relu), "already rebound, to .*relu"),
    "compiled": (
        lambda: torch.compile(nn.Sequential(Rational()), backend="eager"),
        "compiled by torch.compile",
    ),
    "compiled in place": (_compiled_in_place, "compiled by torch.compile"),
    "meta": (lambda: Rational().to("meta"), "numerator is on the meta device"),
    "buffer subclass": (
        lambda: _changed(
            numerator=nn.Parameter(torch.ones(6).as_subclass(type("Mine", (torch.Tensor,), {})))
        ),
        "not a plain parameter",
    ),
    "learned rotation": (_learned, "requires a gradient"),
    "not Hadamard": (lambda: _hadamard(_one_flipped()), "not Sylvester's matrix up to signs"),
    "not signs": (lambda: _hadamard(torch.randn(16, 16)), r"entries other than \+-1"),
    "unknown size": (lambda: _hadamard(torch.ones(6, 6)), "another Hadamard matrix"),
    "not square": (
        lambda: _hadamard(weight=nn.Parameter(torch.ones(16, 8), requires_grad=False)),
        "not a square",
    ),
    "scale": (lambda: _hadamard(_scale=torch.tensor(16.0)), r"does not divide by sqrt\(n\)"),
    "perm": (
        lambda: _hadamard(perm=nn.Parameter(torch.zeros(16, dtype=torch.int64), False)),
        "not a permutation",
    ),
    "location": (
        lambda: HadamardTransform(sylvester(16), "weight_input", module_type=nn.Conv1d),
        "on Conv1d is none",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_and_says_why(case):
    make, message = REFUSED[case]
    model = make()
    before = [dict(m.__dict__) for m in model.modules()]
    row = so.replace(model).rows[0]
    assert row.status == "skipped"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row.reason)
    assert [dict(m.__dict__) for m in model.modules()] == before


def test_refuses_scripted_modules():
    class Rational(nn.Module):
        def forward(self, x):
            return x / (1 + x.abs())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(Rational())
    row = only(so.replace(nn.Sequential(scripted)))
    assert row.status == "skipped" and "scripted" in row.reason


def test_hooks_can_be_allowed_and_go_on_running():
    unit, seen = Rational(), []
    unit.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert only(so.replace(unit, allow_hooks=True)).status == "replaced"
    assert not seen  # verification does not run them
    unit(torch.randn(2, 3))
    assert seen == [(2, 3)]


def test_other_modules_are_not_looked_at():
    class Rational(nn.Module):  # the name alone is not enough
        def forward(self, x):
            return x

    assert so.replace(nn.Sequential(Rational(), nn.GELU())).rows == []


# ---- verification --------------------------------------------------------------------------------


@pytest.fixture
def only_matcher(monkeypatch):
    """only_matcher(m): the registry holds nothing but m."""
    return lambda matcher: monkeypatch.setattr(sys.modules["spectralops.replace"], "MATCHERS", [matcher])


class Wrong(Matcher):
    """A matcher whose new forward is not the old one's."""

    package, op, classes = "wrong", "wrong", ("rational.torch.rationals.Rational",)

    def __init__(self, forward):
        self.forward = mark(forward, "wrong")

    def plan(self, module):
        def probe(generator):
            return (torch.randn(40, 6, generator=generator, dtype=torch.float64),)

        return Plan(self.forward, "old", "new", probe, lambda x, elements: x, lambda x: "none")


def _original(self, x):
    return Rational.forward(self, x)


def _raises(self, x):
    raise IndexError("no such thing")


def _loses_a_gradient(self, x):
    return self.activation_function(x, self.numerator.detach(), self.denominator, self.training)


def _half_gradient(self, x):
    return _original(self, x.detach() + 0.5 * (x - x.detach()))


WRONG = {
    "zeros": (lambda self, x: _original(self, x) * 0, "output: relative L2 error 1.00e"),
    "slightly": (lambda self, x: _original(self, x) * (1 + 1e-5), "output: relative L2 error 1.0.e-05"),
    "gradient": (_half_gradient, "gradient of input: relative L2 error 5.0.e-01"),
    "no gradient": (_loses_a_gradient, "gradient of numerator: one of the two forwards gives none"),
    "dtype": (lambda self, x: _original(self, x).double(), "was .* float32 on cpu, would be .* float64"),
    "shape": (lambda self, x: _original(self, x)[1:], r"was \(40, 6\) .*, would be \(39, 6\)"),
    "raises": (_raises, "the new forward raised IndexError: no such thing"),
    "nan": (lambda self, x: _original(self, x) + float("nan"), "output: relative L2 error nan"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_replacement_is_found_and_not_made(case, only_matcher):
    forward, message = WRONG[case]
    only_matcher(Wrong(forward))
    model = nn.Sequential(nn.Linear(6, 6), Rational())
    before = snapshot(model)
    row = only(so.replace(model, example=torch.randn(40, 6)))
    assert row.status == "failed verification"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row.reason)
    assert_untouched(model, before)
    row = only(so.replace(model, verify=False))
    assert row.status == "replaced" and row.verified_on == "" and not row.errors


def test_a_right_replacement_passes_the_same_matcher(only_matcher):
    only_matcher(Wrong(lambda self, x: _original(self, x)))
    assert only(so.replace(Rational())).status == "replaced"


def test_an_original_that_is_not_finite_proves_nothing():
    unit = Rational()
    model = nn.Sequential(nn.Linear(4, 4), unit)
    row = only(so.replace(model, example=torch.full((2, 4), float("inf"))))
    assert row.status == "failed verification" and "not finite" in row.reason and "example" in row.reason


def test_an_original_that_raises_proves_nothing():
    unit = Rational("C", (3, 2))

    def fails(x, a, b, training):
        raise RuntimeError("two devices")

    fails.__name__ = "Rational_PYTORCH_C_F"
    unit.activation_function = fails
    row = only(so.replace(unit))
    assert (
        row.status == "failed verification"
        and "the original itself raised RuntimeError: two devices" in row.reason
    )


def test_too_large_to_verify_is_said(monkeypatch):
    monkeypatch.setattr(sys.modules["spectralops.replace.verify"], "_WIDE_BYTES", 16)
    assert "verify=False" in only(so.replace(Rational())).reason

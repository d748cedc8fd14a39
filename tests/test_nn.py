"""Modules: initial values that are what they say, KAT's weights and the warning about them, rotations that undo."""

import warnings

import pytest
import torch

import spectralops as so
from spectralops.nn import HadamardRotation, Rational, rational_init
from spectralops.nn.rational_init import TARGETS, evaluate, fit
from spectralops.ops.rational_reference import VERSIONS

X = torch.linspace(-3, 3, 401, dtype=torch.float64)
LIMITS = {"identity": 1e-6, "relu": 0.05, "leaky_relu": 0.05, "gelu": 5e-3, "silu": 2e-3, "tanh": 1e-2, "sigmoid": 2e-3}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", TARGETS)
def test_initial_values_are_the_named_activation(name, version):
    num, den = rational_init(name, version=version)
    assert num.shape == (6,) and den.shape == (5 if version == "C" else 4,)
    error = (evaluate(X, num, den, version) - TARGETS[name](X)).abs().max().item()
    assert error < LIMITS[name], error
    module = Rational(groups=2, init=name, version=version)
    y = module(X.float()[:, None].expand(-1, 4))
    assert (y.double() - TARGETS[name](X)[:, None]).abs().max() < LIMITS[name] + 1e-5


def test_other_degrees_are_fitted_when_asked_for():
    num, den = rational_init("gelu", degrees=(3, 2), version="A")
    assert num.shape == (4,) and den.shape == (2,)
    assert (evaluate(X, num, den, "A") - TARGETS["gelu"](X)).abs().max() < 0.05
    first, second = fit(TARGETS["tanh"], (3, 2), "smooth"), fit(TARGETS["tanh"], (3, 2), "smooth")
    assert abs(first[2] - second[2]) < 1e-9  # the coefficients may differ in a sign that does not matter


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name must be one of 'identity'.*; got 'mish'"):
        rational_init("mish")
    with pytest.raises(ValueError, match="version must be one of .*; got 'D'"):
        rational_init("gelu", version="D")


def test_from_kat_keeps_the_numbers_and_warns_where_they_were_fitted_for_b():
    num, den = rational_init("gelu", version="B")
    state = {"act.weight_numerator": num[None], "act.weight_denominator": den.repeat(8, 1)}
    with pytest.warns(UserWarning, match="are gelu under version B .* evaluate version A"):
        module = Rational.from_kat(state, "act.")
    assert module.version == "A" and module.sign_at_zero == 1 and module.groups == 8
    assert torch.equal(module.numerator, num[None]) and torch.equal(module.denominator, den.repeat(8, 1))
    num, den = rational_init("silu", version="A")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Rational.from_kat({"weight_numerator": num[None], "weight_denominator": den.repeat(8, 1)})
    with pytest.raises(ValueError, match="KAT's weights have shapes"):
        Rational.from_kat({"weight_numerator": num, "weight_denominator": den[None]})
    with pytest.raises(KeyError):
        Rational.from_kat({})


def test_identity_start_learns_with_sign_at_zero_one():
    for at_zero, moves in ((0, False), (1, True)):
        module = Rational(groups=2, init="identity", sign_at_zero=at_zero)
        module(torch.randn(16, 8)).square().sum().backward()
        assert bool(module.denominator.grad.abs().sum() > 0) == moves


def test_state_dict_round_trip_and_repr():
    module, other = Rational(4, version="C", init="tanh"), Rational(4, version="C", init="relu")
    other.load_state_dict(module.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(module(x), other(x)) and "groups=4" in repr(module) and "version='C'" in repr(module)
    assert Rational(4, share_numerator=True).numerator.shape == (1, 6)


def test_a_rotation_leaves_a_linear_layer_as_it_is():
    rotate = HadamardRotation(48, block=12)
    x, w = torch.randn(5, 48), torch.randn(7, 48)
    torch.testing.assert_close(rotate(x) @ rotate(w).T, x @ w.T)
    torch.testing.assert_close(rotate(x).norm(dim=-1), x.norm(dim=-1))
    again = HadamardRotation(48, block=12)
    assert torch.equal(again.signs, rotate.signs) and not torch.equal(HadamardRotation(48, seed=1).signs, rotate.signs)
    plain = HadamardRotation(64, seed=None)
    assert torch.equal(plain(torch.ones(64)), so.hadamard_transform(torch.ones(64), 64**-0.5))
    assert rotate.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_bad_arguments_are_named_at_construction():
    for arguments, text in [
        (dict(groups=0), "groups must be at least 1; got 0"),
        (dict(sign_at_zero=3), "sign_at_zero must be 0 or 1; got 3"),
        (dict(degrees=(0, 1)), r"degrees must be at least \(1, 1\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            Rational(**arguments)
    for arguments, text in [((7,), "size 7 has no Hadamard matrix"), ((8, 3), "block must divide"), ((8, 0), "block must divide")]:
        with pytest.raises(ValueError, match=text):
            HadamardRotation(arguments[0], block=(arguments[1:] or (None,))[0])
    with pytest.raises(ValueError, match="the last dimension of x must be 8"):
        HadamardRotation(8)(torch.ones(2, 16))


def test_a_module_made_on_meta_leaves_no_meta_table_behind():
    x = torch.randn(3, 8)
    for make in (lambda: Rational(2, init="tanh"), lambda: so.nn.GRKAN(8, 8)):
        with torch.device("meta"):
            empty = make()
        whole = make()
        empty.to_empty(device="cpu").load_state_dict(whole.state_dict())
        assert torch.equal(empty(x), whole(x))

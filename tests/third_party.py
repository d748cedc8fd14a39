"""Stand-ins for the third-party modules that `replace` knows: same names, parameters and results,
written from the formulas.

They let the tests of `replace` run where the packages are not installed; where they are, the tests use
those as well.
"""

import math
import sys
import types
from types import SimpleNamespace

import torch
from torch import nn


_broken = False


def _still_allowed():
    if _broken:
        raise AssertionError("the old forward ran")


def _powers(x, first, count):
    _still_allowed()
    return torch.stack([x**i for i in range(first, first + count)], -1)


def Rational_PYTORCH_A_F(x, a, b, training):
    ones_and_b = torch.cat([torch.ones(1), b])  # as upstream's, in the wider of b's and the default dtype
    return (_powers(x, 0, len(a)) * a).sum(-1) / (_powers(x, 0, len(b) + 1) * ones_and_b).abs().sum(-1)


def Rational_PYTORCH_B_F(x, a, b, training):
    return (_powers(x, 0, len(a)) * a).sum(-1) / (1 + (_powers(x, 1, len(b)) * b).sum(-1).abs())


def Rational_PYTORCH_C_F(x, a, b, training):
    return (_powers(x, 0, len(a)) * a).sum(-1) / (0.1 + (_powers(x, 0, len(b)) * b).sum(-1).abs())


def Rational_PYTORCH_D_F(x, a, b, training):
    return Rational_PYTORCH_B_F(x, a * (0.9 + 0.2 * torch.rand(len(a))) if training else a, b, training)


class Rational(nn.Module):
    def __init__(self, version="A", degrees=(5, 4), seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        m, n = degrees
        self.numerator = nn.Parameter(torch.randn(m + 1, generator=g) / 2)
        self.denominator = nn.Parameter(torch.randn(n + (version == "C"), generator=g) / 2)
        self.version, self.degrees, self.device = version, degrees, "cpu"
        self.activation_function = globals()[f"Rational_PYTORCH_{version}_F"]

    def forward(self, x):
        return self.activation_function(x, self.numerator, self.denominator, self.training)

    def change_version(self, version):
        self.version, self.activation_function = version, globals()[f"Rational_PYTORCH_{version}_F"]


def sylvester(n):
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), h)
    return h


class HadamardTransform(nn.Module):
    def __init__(self, weight, location="input", inverse=False, perm=None, module_type=nn.Linear):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.perm = None if perm is None else nn.Parameter(perm, requires_grad=False)
        self.args = SimpleNamespace(location=location, inverse=inverse)
        self.module_type = module_type
        self._scale = torch.tensor(math.sqrt(len(weight)), dtype=torch.float64)

    def forward(self, value):
        _still_allowed()
        m = self.weight if self.perm is None else self.weight[self.perm][:, self.perm]
        m = m.T if self.args.inverse else m
        v = value.to(m.dtype)
        linear = issubclass(self.module_type, nn.Linear)
        if self.args.location == ("weight_output" if linear else "weight_input"):
            m = m.T if linear else m  # acts on the rows of a weight: m @ v
            y = (m @ v.unflatten(-2, (-1, len(m)))).flatten(-3, -2)
        else:
            m = m.T if self.args.location == "weight_input" else m
            y = (v.unflatten(-1, (-1, len(m))) @ m).flatten(-2)
        return (y / self._scale).to(value.dtype)


def disguise(monkeypatch):
    """Give the stand-ins the paths of the originals, for imports (pickle) as well."""
    paths = {
        "rational.torch.rationals": Rational,
        "compressed_tensors.transform.factory.hadamard": HadamardTransform,
    }
    for path, cls in paths.items():
        parts = path.split(".")
        for i in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        setattr(sys.modules[path], cls.__name__, cls)
        monkeypatch.setattr(cls, "__module__", path)


# ---- what the tests of replace share ------------------------------------------------------------


class Rotated(nn.Module):
    def __init__(self, n=32):
        super().__init__()
        self.rotate, self.linear = HadamardTransform(sylvester(n)), nn.Linear(n, n)

    def forward(self, x):
        return self.linear(self.rotate(x))


def network():
    layers = [
        nn.Linear(8, 32),
        Rational("A", seed=1),
        Rotated(),
        Rational("B", seed=2),
        nn.Linear(32, 8),
        Rational("C", (3, 2)),
    ]
    return nn.Sequential(*layers)


def snapshot(model):
    """All that replace could disturb but for the forwards it sets: attributes, tensors, modes,
    gradients."""
    attributes = [{k: id(v) for k, v in m.__dict__.items()} for m in model.modules()]
    tensors = [
        (t.data_ptr(), t._version, t.detach().clone()) for t in [*model.parameters(), *model.buffers()]
    ]
    return attributes, tensors, [p.grad for p in model.parameters()]


def assert_untouched(model, before):
    after = snapshot(model)
    assert after[0] == before[0]
    for (ptr, version, value), (ptr2, version2, value2) in zip(before[1], after[1], strict=True):
        assert (ptr, version) == (ptr2, version2) and torch.equal(value, value2)
    assert all(a is b for a, b in zip(before[2], after[2], strict=True))


def only(report):
    (row,) = report.rows
    return row


def break_originals(monkeypatch):
    """From here on a call that falls back on the old forward fails: the formulas themselves do."""
    monkeypatch.setitem(globals(), "_broken", True)

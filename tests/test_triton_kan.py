"""The KAN kernels in Triton's interpreter, in two worker processes; the cases are in interpret_kan.py.

SPECTRALOPS_COMPILE_ALL=1 runs all of them, by default one of each family and of each path through the host.
"""

import os
import subprocess
import sys

import interpret_kan
import pytest
from test_triton_interpret import pytestmark, results_of  # noqa: F401


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, interpret_kan)


@pytest.mark.parametrize("name", interpret_kan.CASES if interpret_kan.EVERYTHING else interpret_kan.QUICK)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)


SCRIPT = """
import torch
import spectralops as so
from spectralops import basis as B, testing

def derivatives(tensors, basis, backend):
    x, c, w, b = (t.detach().requires_grad_() for t in tensors)
    y = so.kan_linear(x, c, basis, base_weight=w, bias=b, backend=backend)
    first = torch.autograd.grad(y.square().sum(), (x, c, w, b), create_graph=True)
    return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, c, w, b))]

torch.manual_seed(0)
tally = testing.Tally()
for basis in (B.BSpline(5, 3), B.RBF(4), B.Fourier(2), B.Mix(B.Chebyshev(3), B.DoG(3))):
    x, c, w, b = tensors = [torch.randn(s) for s in ((2, 3, 4), (17, 4, basis.size), (17, 4), (17,))]
    exact = derivatives([t.double() for t in tensors], basis, "reference")
    for i, each in enumerate(zip(derivatives(tensors, basis, "triton"), derivatives(tensors, basis, "reference"), exact)):
        assert each[0].any()
        tally.add(f"result {i}", *each)
tally.check()
assert "triton     chosen" in so.explain("kan_linear", x, c, basis, backend="triton")
z = so.kan_linear(x, c[..., :4], B.Chebyshev(3), derivative=4, backend="triton")
try:
    so.kan_linear(x, c[..., :4], B.Chebyshev(3), derivative=5, backend="triton")
except RuntimeError as error:
    assert "up to order 4, got 5" in str(error)
    print("all right")
"""


def test_the_public_function_reaches_the_kernels():
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "all right" in done.stdout, done.stderr[-3000:]


def test_what_is_not_supported_says_so():
    import torch

    from spectralops import basis as B
    from spectralops.backends import backend

    x, c = torch.randn(3, 4), torch.randn(5, 4, 8)
    code = B.BSpline(5, 3).code(torch.float32, "cpu")
    yes, reason = backend("triton").supports("kan_forward", x, None, c, None, None, code, 0, 0, "highest")
    assert not yes and "runs on GPU tensors" in reason
    wrong = {"order 7, got 8": {"a": 8}, "family 9": {"family": 9}, "grid": {"c": 1, "size": 3}}
    for text, change in wrong.items():
        changed = code._replace(**change)
        assert text in backend("triton").supports("kan_dcoeff", c[0], x, None, changed, 0, 0, "highest")[1]
    given = B.BSpline(knots=torch.arange(14.0), order=5).code(torch.float64, "cpu")
    reason = backend("triton").supports("kan_forward", x.double(), None, c, None, None, given, 0, 0, "highest")[1]
    assert "up to order 4, got 5" in reason
    assert "order 4, got 5" in backend("triton").supports("kan_dx", c[0], x, None, c, None, code, 0, 5, "highest")[1]

"""The spectral_filter kernels in Triton's interpreter, in a worker process; the cases are in interpret_spectral_filter.py.

SPECTRALOPS_COMPILE_ALL=1 runs all of them, by default each row of the launch table and each path through the host once.
"""

import os
import subprocess
import sys

import interpret_spectral_filter
import pytest
from test_triton_interpret import pytestmark, results_of  # noqa: F401


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, interpret_spectral_filter)


@pytest.mark.parametrize(
    "name", interpret_spectral_filter.CASES if interpret_spectral_filter.EVERYTHING else interpret_spectral_filter.QUICK
)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)


SCRIPT = """
import torch
import spectralops as so
from spectralops import testing

def derivatives(x, w, residual, backend, **kw):
    leaves = [t.detach().requires_grad_() for t in (x, w, residual)]
    y = so.spectral_filter(leaves[0], leaves[1], residual=leaves[2], norm_eps=1e-5, backend=backend, **kw)
    first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)]

torch.manual_seed(0)
tally = testing.Tally()
x, w = torch.randn(2, 3, 4, 6), torch.randn(3, 3, 6, 2)
residual = torch.randn_like(x)
exact = derivatives(x.double(), w.double(), residual.double(), "reference")
for i, each in enumerate(zip(derivatives(x, w, residual, "triton"), derivatives(x, w, residual, "reference"), exact)):
    assert each[0].any()
    tally.add(f"result {i}", *each)
tally.check()
assert "triton     chosen" in so.explain("spectral_filter", x, w, backend="triton")
print("all right")
"""


def test_the_public_function_reaches_the_kernels():
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "all right" in done.stdout, done.stderr[-3000:]


def test_what_is_not_supported_says_so():
    import torch

    from spectralops.backends import backend

    def reason(x):
        weight = torch.empty(1, *x.shape[1:3], x.shape[3] // 2 + 1, x.shape[4], 2)
        both = [
            backend("triton").supports("spectral_filter", x, weight, None, None, None, -1.0, False),
            backend("triton").supports("spectral_filter_gradient", x, x, None, None, -1.0, 1, x.shape[4]),
        ]
        assert both[0] == both[1] and not both[0][0]
        return both[0][1]

    x = torch.empty(2, 1, 4, 4, 3)
    assert "runs on GPU tensors" in reason(x)
    assert "float64" in reason(x.double())
    long = reason(x[:, :, :, :1].expand(2, 1, 4, 257, 3))
    assert "up to 256 points" in long and "1x4x257" in long

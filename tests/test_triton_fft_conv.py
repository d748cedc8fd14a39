"""The fft_conv kernels in Triton's interpreter, in two worker processes; the cases are in interpret_fft_conv.py.

SPECTRALOPS_COMPILE_ALL=1 runs all of them, by default each size and each path through the host once.
"""

import os
import subprocess
import sys

import interpret_fft_conv
import pytest
from test_triton_interpret import pytestmark, results_of  # noqa: F401


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, interpret_fft_conv)


@pytest.mark.parametrize("name", interpret_fft_conv.CASES if interpret_fft_conv.EVERYTHING else interpret_fft_conv.QUICK)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)


SCRIPT = """
import torch
import spectralops as so
from spectralops import testing

def derivatives(tensors, backend, **kw):
    u, k, d, p, q = (t.detach().requires_grad_() for t in tensors)
    y = so.fft_conv(u, k, skip=d, gate_in=p, gate_out=q, backend=backend, **kw)
    first = torch.autograd.grad(y.square().sum(), (u, k, d, p, q), create_graph=True)
    return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), (u, k, d, p, q))]

torch.manual_seed(0)
for kw in ({"activation": "silu"}, {"mode": "same", "layout": "blh"}):
    tally = testing.Tally()
    shape = (2, 40, 4) if "layout" in kw else (2, 4, 40)
    for draw in range(4):  # the gradient of skip is four numbers
        tensors = [torch.randn(s) for s in (shape, (2, 40), (4,), shape, shape)]
        exact = derivatives([t.double() for t in tensors], "reference", **kw)
        for i, each in enumerate(zip(derivatives(tensors, "triton", **kw), derivatives(tensors, "reference", **kw), exact)):
            assert each[0].any()
            tally.add(f"result {i}", *each)
    tally.check()
u, k = tensors[0].transpose(1, 2), tensors[1]
spectrum = so.KernelSpectrum(k, 40)
assert "triton     chosen" in so.explain("fft_conv", u, k, backend="triton")
try:
    so.fft_conv(u, spectrum, backend="triton")
except RuntimeError as error:
    assert "grid" in str(error)
long = torch.randn(1, 1, 300)
spectrum = so.KernelSpectrum(long[0, :, :100], 300)
got, plain = (so.fft_conv(long, spectrum, backend=b) for b in ("triton", "reference"))
assert spectrum.grid == 256 and testing.relative_error(got, plain) < 1e-6
print("all right")
"""


def test_the_public_function_reaches_the_kernels():
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "all right" in done.stdout, done.stderr[-3000:]


def test_what_is_not_supported_says_so():
    import torch

    from spectralops.backends import backend
    from spectralops.ops.fft_conv_reference import Call

    def reason(u, kernel, call, shape=None):
        shape = shape or tuple(kernel.shape)
        rest = (kernel, None, None, None, None, None)
        both = [
            backend("triton").supports("fft_conv", u, *rest, call),
            backend("triton").supports("fft_conv_backward", u[:, None], u, *rest, shape, call, (True,) * 6),
        ]
        assert both[0] == both[1] and not both[0][0]
        return both[0][1]

    u, k = torch.empty(2, 3, 40), torch.empty(1, 1, 3, 40)
    call = Call(0, 0, "identity", "highest", False, 40)
    assert "runs on GPU tensors" in reason(u, k, call)
    assert "float64" in reason(u.double(), k.double(), call)
    grid = torch.empty(1, 1, 3, 48, 2)
    assert "got 48" in reason(u, grid, call._replace(grid=48), (1, 1, 3, 48))
    huge = torch.empty(1, 1, 1, 1).expand(1, 1, 1, 1 << 24)
    assert "got" in reason(huge[0], huge, call._replace(length=1 << 24))

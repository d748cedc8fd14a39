"""The public functions with backend="triton" in Triton's interpreter: the seam between the op layer and the kernels."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

try:
    VERSION = tuple(map(int, metadata.version("triton").split(".")[:2]))
except metadata.PackageNotFoundError:
    VERSION = (0, 0)

SCRIPT = """
import torch
import spectralops as so
from spectralops import testing
from spectralops.ops.hadamard_reference import quantize

torch.manual_seed(0)
x = torch.randn(6, 24, requires_grad=True)
a, b = torch.randn(1, 6, requires_grad=True), torch.randn(3, 4, requires_grad=True)
for version in ("A", "smooth"):
    results = []
    for backend in ("triton", "reference"):
        y = so.rational(x, a, b, version=version, backend=backend)
        first = torch.autograd.grad(y.square().sum(), (x, a, b), create_graph=True)
        results.append((y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, a, b))))
    for u, v in zip(*results):
        assert testing.relative_error(u, v) < 1e-4 and v.abs().sum() > 0
z = torch.randn(5, 64)
for kw in (dict(), dict(order="sequency"), dict(block=16, signs=torch.ones(16)), dict(dim=0, block=1)):
    got, plain = (so.hadamard_transform(z, backend=b, **kw) for b in ("triton", "reference"))
    assert testing.relative_error(got, plain) < 1e-6
q, s = so.hadamard_quantize(z, format="mxfp4", backend="triton")
p, t = quantize(so.hadamard_transform(z, backend="triton"), 32, "mxfp4")
assert torch.equal(q, p) and torch.equal(s.view(torch.uint8), t.view(torch.uint8))
rows, signs = torch.tensor([3, 1, 63]), torch.ones(64)
assert testing.relative_error(so.srht(z, signs, rows, backend="triton"), so.srht(z, signs, rows, backend="reference")) < 1e-6
plan = so.SparseWHTPlan(6, 2, groups=2)
given = so.SparseSpectrum(6, torch.tensor([[5], [40]]), torch.tensor([1.0, -2.0]))
samples = given.evaluate(plan.queries(), backend="triton")
assert testing.relative_error(samples, given.evaluate(plan.queries(), backend="reference")) < 1e-6
got, plain = (plan.decode(torch.stack([samples, 3 * samples]), backend=b) for b in ("triton", "reference"))
for u, v in zip(got, plain):
    assert torch.equal(u.keys, v.keys) and len(u) == 2 and not len(u.unresolved)
    assert testing.relative_error(u.values, v.values) < 1e-6
assert "triton     chosen" in so.explain("rational", x, a, b, backend="triton")
print("all right")
"""


@pytest.mark.skipif(VERSION < (3, 9), reason="needs the interpreter of Triton 3.9")
def test_every_function_reaches_its_kernel():
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "all right" in done.stdout, done.stderr[-3000:]

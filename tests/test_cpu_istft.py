"""csrc/cpu/istft*: the head and its gradient against the reference in float64, on every instruction set of this machine."""

import math

import pytest
import torch
from cpu_isas import as_before, instruction_sets  # noqa: F401  (as_before is a fixture)

from spectralops import backends
from spectralops.ops import istft_head_reference as spec
from spectralops.ops.fft_conv_reference import compute_dtype
from spectralops.testing import Tally, guard_bands, poison

CPU = backends.backend("cpu")


class Problem:
    def __init__(self, n, hop, frames, variant="vocos", limit=100.0, dtype=torch.float32, layout=0, rows=2, seed=0):
        g = torch.Generator().manual_seed(seed)
        bins, start = n // 2 + 1, min(n // 2, 3)
        length = (frames - 1) * hop + n - 2 * start
        x = torch.randn(rows, frames, 4 * bins, generator=g)
        self.x = x[..., : 2 * bins].to(dtype)
        if layout == 1:
            self.x = self.x.mT.contiguous().mT
        if layout == 2:
            self.x = x.to(dtype)[..., ::2]
        self.grad = torch.randn(rows, length, generator=g).to(dtype)
        self.window = torch.hann_window(n, dtype=torch.float64) + 0.1
        e = spec.envelope(self.window, frames, hop)[start : start + length].reciprocal()
        compute = compute_dtype(self.x)
        self.window, self.scale = self.window.to(compute), e.to(compute)
        self.call, self.static = (hop, start, length, variant, limit), (frames, hop, start, variant, limit)

    def run(self, forward, backward, dtype=None):
        x, grad, w, s = (t if dtype is None else t.to(dtype) for t in (self.x, self.grad, self.window, self.scale))
        return forward(x, w, s, *self.call), backward(grad, x, w, s, *self.static)

    def kernel(self):
        return self.run(CPU.istft_head, CPU.istft_head_backward)


@pytest.mark.parametrize(
    ("n", "hop", "frames", "variant", "limit", "dtype"),
    [
        (16, 4, 300, "istftnet", math.inf, torch.float32), (1024, 256, 70, "vocos", 100.0, torch.float32),
        (20, 5, 30, "vocos", 2.0, torch.float64), (60, 60, 7, "cartesian", math.inf, torch.float32),
        (2, 1, 3, "vocos", 100.0, torch.float32),
        (30, 7, 200, "istftnet", 2.0, torch.bfloat16), (400, 100, 40, "vocos", 1.0, torch.float16),
        (18, 1, 40, "vocos", 100.0, torch.float32),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", [0, 1, 2])
def test_agrees(n, hop, frames, variant, limit, dtype, layout):
    problems = [Problem(n, hop, frames, variant, limit, dtype, layout, seed=s) for s in range(3 if n > 2 else 16)]
    wide = dtype == torch.float64
    truths = [p.run(spec.forward, spec.backward, torch.float64) for p in problems]
    references = [p.run(spec.forward, spec.backward, torch.float32 if wide else None) for p in problems]
    for _ in instruction_sets():
        tally = Tally()
        for p, truth, reference in zip(problems, truths, references):
            with poison():
                got = p.kernel()
            for name, *three in zip(("y", "dx"), got, reference, truth):
                tally.add(name, *three)
        tally.check(factor=5**0.5 if wide else 2)


def test_threads_and_bounds():
    p = Problem(64, 16, 700, rows=3)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        with guard_bands():
            found.append(p.kernel())
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0]))


def test_nan_stays_in_its_frame():
    p = Problem(64, 16, 50)
    good, _ = p.kernel()
    p.x = p.x.clone()
    p.x[1, 20, 5] = float("nan")
    got, _ = p.kernel()
    inside = torch.zeros_like(good, dtype=torch.bool)
    inside[1, 20 * 16 - 3 : 20 * 16 - 3 + 64] = True
    assert got[inside].isnan().all() and torch.equal(got[~inside], good[~inside])


def test_declines():
    p = Problem(15, 5, 4)
    for n in (15, 14):
        assert not CPU.supports("istft_head", p.x, torch.ones(n), p.scale, *p.call)[0]
    assert CPU.supports("istft_head", p.x, torch.ones(30), p.scale, *p.call)[0]

"""csrc/cpu/walsh_sum*: against the reference in float64, on every instruction set of this machine."""

import pytest
import torch
from cpu_isas import agree_on, as_before, instruction_sets  # noqa: F401  (as_before is a fixture)

from spectralops import backends
from spectralops.ops import bits, sparse_wht_reference as spec
from spectralops.testing import guard_bands, poison

CPU = backends.backend("cpu")


class Problem:
    def __init__(self, count, n, terms, dtype=torch.float32, seed=0):
        g = torch.Generator().manual_seed(seed)
        points, keys = (torch.randint(0, 2, (rows, n), generator=g, dtype=torch.uint8) for rows in (count, terms))
        keys[: terms // 2] &= torch.randint(0, 2, (terms // 2, n), generator=g, dtype=torch.uint8)
        self.points, self.keys = bits.pack(points), bits.pack(keys)
        self.values = torch.randn(terms, generator=g, dtype=torch.float64).to(dtype)

    def run(self, walsh_sum, dtype=None):
        with poison():
            return {"y": walsh_sum(self.points, self.keys, self.values if dtype is None else self.values.to(dtype))}


@pytest.mark.parametrize(
    ("count", "n", "terms"),
    [
        (1500, 20, 40), (513, 64, 300), (127, 130, 33), (700, 500, 100), (40, 1100, 20),
        (512, 2100, 290), (30, 70, 2000), (3, 500, 5000), (200, 1100, 700), (512, 10, 1024), (513, 10, 1026),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees(count, n, terms, dtype):
    agree_on(Problem, CPU.walsh_sum, spec.walsh_sum, count=count, n=n, terms=terms, dtype=dtype)


@pytest.mark.parametrize(("count", "n", "terms"), [(1, 1, 1), (2, 3, 1), (1, 64, 3), (1, 5, 600), (130, 1, 2)])
def test_small_whole_numbers_are_exact(count, n, terms):
    p = Problem(count, n, terms)
    p.values = torch.randint(-9, 9, (terms,)).to(torch.float32)
    expected = p.run(spec.walsh_sum, torch.float64)["y"]
    for _ in instruction_sets():
        assert torch.equal(p.run(CPU.walsh_sum)["y"].double(), expected)


@pytest.mark.parametrize(("count", "terms"), [(3000, 50), (100, 9000)])
def test_threads_and_bounds(count, terms):
    p = Problem(count, 90, terms)
    for _ in instruction_sets():
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with guard_bands():
                found.append(CPU.walsh_sum(p.points, p.keys, p.values))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_values_that_are_not_finite_stay_what_they_are():
    p = Problem(600, 20, 5)
    p.values[3] = torch.inf
    sign = 1 - 2 * bits.parity(p.points, p.keys[3])
    for _ in instruction_sets():
        assert torch.equal(CPU.walsh_sum(p.points, p.keys, p.values), sign * torch.inf)


def test_declines():
    p = Problem(4, 3, 2)
    assert CPU.supports("walsh_sum", p.points, p.keys, p.values)[0]
    assert not CPU.supports("walsh_sum", p.points, p.keys, p.values.half())[0]

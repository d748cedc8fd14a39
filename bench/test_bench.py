"""The registry through pytest-benchmark: `pytest bench`. The same cases and gate as `python -m spectralops profile`."""

import pytest
import torch

from spectralops.profile.cases import find
from spectralops.profile.run import gate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("contender", ["ours", "eager", "floor"])
@pytest.mark.parametrize("case", find(None, DEVICE), ids=lambda c: c.name)
def test_case(benchmark, case, contender):
    inputs = case.make(torch.device(DEVICE))
    ok, why = gate(case, inputs)
    assert ok, why

    def call():
        result = case.contenders[contender](*inputs)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    benchmark.group = case.name
    benchmark.pedantic(call, rounds=10, warmup_rounds=2)

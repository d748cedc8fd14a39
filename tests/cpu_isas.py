"""What the tests of the CPU kernels share: every instruction set of this machine in turn, and the rule over several draws."""

import contextlib

import pytest
import torch

from spectralops._loader import core
from spectralops.testing import Tally


def instruction_sets():
    """Those this machine has; the portable one always, so that nothing passes untested."""
    for name in ("avx512", "avx2"):
        with contextlib.suppress(RuntimeError):
            core().set_cpu_capability(name)
            yield name
    core().set_cpu_capability("portable")
    yield "portable"
    core().set_cpu_capability(None)


@pytest.fixture(autouse=True)
def as_before():
    """One thread: the machine may be shared, and the problems are small; import it to use it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    core().set_cpu_capability(None)
    torch.set_num_threads(threads)


def agree_on(problem, kernels, spec, draws=3, isas=None, **settings):
    """Every result, by name, of every instruction set within twice the reference's error, in the mean over some draws.

    problem(seed, **settings).run(kernels or spec, dtype or None) -> {name: result}.
    """
    dtype = settings.get("dtype", torch.float32)
    problems = [problem(seed=s, **settings) for s in range(draws)]
    truths = [p.run(spec, torch.float64) for p in problems]
    references = [p.run(spec, torch.float32 if dtype == torch.float64 else None) for p in problems]
    for isa in instruction_sets():
        if isas is not None and isa not in isas:
            continue
        tally = Tally()
        for p, truth, reference in zip(problems, truths, references):
            for name, got in p.run(kernels).items():
                assert got.shape == truth[name].shape
                assert got.dtype == (dtype if dtype == torch.float64 else reference[name].dtype)
                tally.add(name, got, reference[name], truth[name])
        # A float64 truth has an error of the reference's size itself: 2 and 1 in quadrature.
        tally.check(factor=5**0.5 if dtype == torch.float64 else 2)

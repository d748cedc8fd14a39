"""The kernels of the truncated transforms and what is built like them in Triton's interpreter, in two worker processes; the
cases are in interpret_modes.py.

SPECTRALOPS_COMPILE_ALL=1 runs all of them, by default each size and each path through the host once.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import interpret_modes
import pytest
import test_triton_interpret
from test_triton_interpret import pytestmark  # noqa: F401


@pytest.fixture(scope="module")
def results(request):
    names = [item.callspec.params["name"] for item in request.session.items if item.path == Path(__file__)
             and "name" in getattr(getattr(item, "callspec", None), "params", {})]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_triton_interpret, "WORKER", Path(interpret_modes.__file__))
        with ThreadPoolExecutor(2) as pool:  # two workers for two cores
            halves = list(pool.map(test_triton_interpret.run_worker, (names[::2], names[1::2])))
    return {**halves[0], **halves[1]}


@pytest.mark.parametrize("name", interpret_modes.CASES if interpret_modes.EVERYTHING else interpret_modes.QUICK)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)

"""The kernels of the truncated transforms and what is built like them in Triton's interpreter, in two worker processes; the
cases are in interpret_modes.py.

SPECTRALOPS_COMPILE_ALL=1 runs all of them, by default each size and each path through the host once.
"""


import interpret_modes
import pytest
from test_triton_interpret import pytestmark, results_of  # noqa: F401


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, interpret_modes)


@pytest.mark.parametrize("name", interpret_modes.CASES if interpret_modes.EVERYTHING else interpret_modes.QUICK)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)

"""The sparse Walsh-Hadamard kernels in Triton's interpreter, in two worker processes; the cases are in
interpret_sparse_wht.py.
"""

import interpret_sparse_wht
import pytest
import torch
from test_triton_interpret import pytestmark, results_of  # noqa: F401


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, interpret_sparse_wht)


@pytest.mark.parametrize("name", interpret_sparse_wht.CASES)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)


def test_what_is_not_supported_says_so():
    from spectralops.backends import backend
    from spectralops.ops.sparse_wht_plan import SparseWHTPlan

    plan = SparseWHTPlan(20, 3, offsets="bch", degree=2)
    call, values = plan._call("auto"), torch.empty(2, plan.num_queries)

    def reason(values=values, **changes):
        yes, why = backend("triton").supports("sparse_wht_decode", values, plan._index, plan.tables, call._replace(**changes))
        assert not yes
        return why

    assert "runs on GPU tensors" in reason()
    assert "float64" in reason(values.double())
    assert "got 1000" in reason(repeats=1000)
    assert "a chase" in reason(chase=17) and "32 bits" in reason(b=26)
    points, keys = torch.empty(2, 3, 1, dtype=torch.int64)
    assert "float64" in backend("triton").supports("walsh_sum", points, keys, torch.empty(3, dtype=torch.float64))[1]
    assert "GPU" in backend("triton").supports("walsh_sum", points, keys, torch.empty(3))[1]

"""Triton kernels of wavelet_linear: run by Triton's interpreter on the CPU (cases in interpret_wavelet.py, in a worker
process), and compiled for GPUs that are not here.
"""

from pathlib import Path

import interpret_wavelet
import pytest
import torch

pytest.importorskip("triton")

import test_triton_interpret as interpreter  # noqa: E402
from test_triton_compile import BF16, DOUBLE, FLOAT, TARGETS, check_amd, check_nvidia, empty  # noqa: E402

from spectralops.kernels import common, configs, wavelet  # noqa: E402


@pytest.fixture(scope="module")
def results(request):
    names = [item.callspec.params["name"] for item in request.session.items if item.path == Path(__file__)
             and "name" in getattr(getattr(item, "callspec", None), "params", {})]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "WORKER", Path(interpret_wavelet.__file__))
        return interpreter.run_worker(names)


@interpreter.pytestmark
@pytest.mark.parametrize("name", interpret_wavelet.CASES)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)


def launches(kind, dtype):
    """Of all three functions, as they would be made."""
    x, g = empty(4096, 96, dtype=dtype), empty(4096, 160, dtype=dtype)
    parameters = [empty(160, 96, dtype=common.COMPUTE[dtype]) for _ in range(6)]
    with common.record() as found:
        wavelet.wavelet_forward(x, *parameters[:3], kind)
        wavelet.wavelet_backward(g, x, *parameters[:3], kind)
        wavelet.wavelet_double_backward(x, *parameters[3:], g, x, *parameters[:3], kind)
    return found


COMPILED = [("sm_90", kind, FLOAT) for kind in range(3)] + [("sm_90", 1, DOUBLE), ("sm_90", 0, BF16)]
COMPILED += [(target, 1, BF16) for target in TARGETS if target != "sm_90"]


@pytest.mark.skipif(common.INTERPRETED, reason="TRITON_INTERPRET is set: there is nothing to compile")
@pytest.mark.parametrize("target, kind, dtype", COMPILED, ids=str)
def test_compiles_without_spilling(target, kind, dtype):
    gpu, shared_limit = TARGETS[target]
    for planned in launches(kind, dtype):
        if target != "sm_90" and not planned.arguments["SECOND"]:
            continue  # the first order is a part of the second
        compiled = common.compile_ahead(planned, gpu)
        assert compiled.metadata.shared <= shared_limit
        if gpu.backend == "cuda":
            check_nvidia(compiled, "wavelet", False)
        else:
            check_amd(compiled)


def test_every_row_of_the_table_is_compiled():
    used = {(p.kernel.__name__.removesuffix("_kernel"), dtype.itemsize) for dtype in (FLOAT, DOUBLE) for p in launches(0, dtype)}
    assert set(configs.WAVELET) <= used


def test_the_partition_depends_on_sizes_alone_and_covers_the_rows():
    constants = {"BLOCK_R": 32, "BLOCK_C": 32}
    for rows in (1, 127, 128, 129, 4096, 1_000_003):
        for inputs, outputs in ((1, 1), (64, 64), (1024, 1024)):
            chunk, chunks = wavelet._partition(rows, inputs, outputs, constants)
            assert chunk % configs.WAVELET_STEP == 0 and (chunks - 1) * chunk < rows <= chunks * chunk
            assert chunks <= 2 * configs.WAVELET_PROGRAMS


def test_a_call_on_the_cpu_says_why_not():
    yes, reason = wavelet.supports_wavelet_forward(torch.ones(2, 3))
    assert common.INTERPRETED or not yes and "GPU" in reason

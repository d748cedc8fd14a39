"""The activations, poly_norm and fan in Triton: run by its interpreter on the CPU, and compiled for GPUs that are not here.

By default the double backward passes, which hold most, for sm_90 and a few for the other targets, and a part of the
interpreter's cases; SPECTRALOPS_COMPILE_ALL=1 compiles and runs everything.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import interpret_activations
import pytest
import torch

triton = pytest.importorskip("triton")

import test_triton_compile as compiling  # noqa: E402
import test_triton_interpret as interpreting  # noqa: E402
from test_triton_compile import EVERYTHING, TARGETS, empty  # noqa: E402

from spectralops.kernels import activations, common, configs, fan, poly_norm  # noqa: E402


# ---- in the interpreter ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(request):
    names = [item.callspec.params["case"] for item in request.session.items if item.path == Path(__file__)
             and "case" in getattr(getattr(item, "callspec", None), "params", {})]  # fmt: skip
    worker, interpreting.WORKER = interpreting.WORKER, Path(interpret_activations.__file__)
    try:
        return interpreting.run_worker(names)
    finally:
        interpreting.WORKER = worker


@interpreting.pytestmark
@pytest.mark.parametrize("case", interpret_activations.CASES if EVERYTHING else interpret_activations.QUICK)
def test_in_the_interpreter(case, results):
    if results[case] is not None:
        pytest.fail(results[case], pytrace=False)


# ---- ahead of time ---------------------------------------------------------------------------------------------------

OF_SIZE = compiling.OF_SIZE
KERNELS = ("forward", "backward", "double_backward")


def activation_call(kernel, function, layout, dtype, count=None):
    (outer, channels, inner), own = {
        "shared": ((1, 1, 1 << 20), 1), "narrow": ((4096, 768, 1), 768), "wide": ((16, 96, 4096), 96)}[layout]  # fmt: skip
    x = empty(outer, channels, inner, *((2,) if function == 7 else ()), dtype=dtype)
    g = empty(outer, channels, inner, *((2,) if function >= 6 else ()), dtype=dtype)
    p = empty(interpret_activations.COUNTS[function] if count is None else count, own, dtype=common.COMPUTE[dtype])
    return {
        "forward": lambda: activations.activation_forward(x, p, function),
        "backward": lambda: activations.activation_backward(g, x, p, function, True),
        "double_backward": lambda: activations.activation_double_backward(x, p, g, x, p, function, True),
    }[kernel]


def poly_norm_call(kernel, n, degree, dtype):
    x, w, b = empty(4096, n, dtype=dtype), *(empty(k, dtype=common.COMPUTE[dtype]) for k in (degree, 1))
    return {
        "forward": lambda: poly_norm.poly_norm_forward(x, w, b, 1e-6),
        "backward": lambda: poly_norm.poly_norm_backward(x, x, w, 1e-6),
        "double_backward": lambda: poly_norm.poly_norm_double_backward(x, w, b, x, x, w, 1e-6),
    }[kernel]


def fan_call(kernel, dtype):
    h, e, y = (empty(4096, c, dtype=dtype) for c in (256, 512, 1024))
    return {
        "forward": lambda: fan.fan_forward(h, e),
        "backward": lambda: fan.fan_backward(y, h, e),
        "double_backward": lambda: fan.fan_double_backward(h, e, y, h, e),
    }[kernel]


def plans():
    """name -> (call, whether its loads are 16 bytes wide, whether it belongs to the small set of the other targets)."""
    found = {}
    for (kernel, size), tile in configs.ACTIVATION.items():
        wide = tile.vector * size == 16
        for layout in ("shared", "narrow", "wide"):
            call = activation_call(kernel, 0, layout, OF_SIZE[size])
            found[f"activation snake {kernel} {layout} {size}"] = (call, wide, size == 2 and layout == "narrow")
    for kernel, size in configs.ACTIVATION_PAIRS:
        call = activation_call(kernel, 7, "narrow", OF_SIZE[size])
        found[f"activation wire_complex {kernel} {size}"] = (call, False, size == 2)
    for function in range(1, 8):
        for kernel in KERNELS if function != 5 else KERNELS[:1]:
            call = activation_call(kernel, function, "narrow", torch.float32)
            found[f"activation {interpret_activations.NAMES[function]} {kernel}"] = (call, function != 6, False)
    call = activation_call("double_backward", 4, "shared", torch.bfloat16, 16)
    found["activation poly_relu double_backward of degree 15"] = (call, False, False)
    for (kernel, size), tile in configs.POLY_NORM.items():
        for n in (512, 32768):
            wide = tile.elements // (32 * tile.warps) * size >= 16
            found[f"poly_norm {kernel} {n} {size}"] = (poly_norm_call(kernel, n, 3, OF_SIZE[size]), wide, size == 2 and n == 512)
    for kernel in KERNELS:
        call = poly_norm_call(kernel, 1024, configs.POLY_NORM_MAX_DEGREE, torch.float32)
        found[f"poly_norm {kernel} of degree 8"] = (call, True, False)
    for (kernel, size), tile in configs.FAN.items():
        found[f"fan {kernel} {size}"] = (fan_call(kernel, OF_SIZE[size]), tile.vector * size == 16, size == 4)
    return found


PLANS, SUMS = plans(), "activation snake backward shared 4"  # the second: where the kernel that adds partial sums is compiled
COMPILED = [
    pytest.param(name, target, id=f"{target}-{name}")
    for name, (_, _, small) in PLANS.items()
    for target in TARGETS
    if EVERYTHING or "double_backward" in name and (small or target == "sm_90") or (name, target) == (SUMS, "sm_90")
]


def spills(ptx: str) -> int:
    """Bytes that ptxas says it spilled. The sine of a double has a stack of its own, for large arguments."""
    arch = re.search(r"\.target (sm_\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas-blackwell"  # the newer one takes every target
        command = [tool, "-v", f"--gpu-name={arch}", source, "-o", source.with_suffix(".cubin")]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
    return sum(map(int, re.findall(r"(\d+) bytes spill", out.stderr)))


def check_nvidia(compiled, name: str, wide: bool):
    used, ptx = compiling.resources(compiled.asm["cubin"]), compiled.asm["ptx"]
    assert used["LOCAL"] == 0 and (used["STACK"] == 0 or name.endswith(" 8") and spills(ptx) == 0), f"spills: {used}"
    assert not re.findall(r"\b(?:atom|red)\.\w+", ptx), "atomics"
    assert not re.findall(r"\b(?:sin|cos|div)\.approx", ptx), "approximate functions"
    if wide:
        assert re.search(r"ld\.global\S*\.(v4\.[bfu]32|v2\.[bfu]64)", ptx), "no 16-byte load"
        assert re.search(r"st\.global\S*\.(v[24]\.[bfu]32|v2\.[bfu]64)", ptx), "no wide store"


@compiling.pytestmark
@pytest.mark.parametrize("name, target", COMPILED)
def test_compiles_without_spilling(name, target):
    call, wide, _ = PLANS[name]
    gpu, shared_limit = TARGETS[target]
    with common.record() as launches:
        call()
    assert launches
    for planned in launches:
        if planned.kernel is activations.reduce_kernel and name != SUMS:
            continue
        compiled = common.compile_ahead(planned, gpu)
        assert compiled.metadata.shared <= shared_limit
        if gpu.backend == "cuda":
            check_nvidia(compiled, name, wide and planned.kernel is not activations.reduce_kernel)
        else:
            compiling.check_amd(compiled)


def test_the_worker_is_a_script_of_its_own():
    command, env = [sys.executable, interpret_activations.__file__, "nothing"], {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout.startswith("BEGIN nothing\nFAIL nothing")

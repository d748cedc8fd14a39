"""Every Triton kernel, for every row of its launch table, compiled for GPUs that are not here.

The launches are recorded from the host functions, so what is compiled is what would be launched.  Checked:
nothing spills, shared memory fits, 16-byte loads where rows allow them, no atomics anywhere, IEEE division in
the quantiser.  By default every row is compiled for sm_90 and one storage type for the other targets;
SPECTRALOPS_COMPILE_ALL=1 compiles everything for every target.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402

from spectralops.kernels import common, configs, hadamard, hadamard_quantize, rational  # noqa: E402

pytestmark = pytest.mark.skipif(common.INTERPRETED, reason="TRITON_INTERPRET is set: there is nothing to compile")

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 << 10),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 << 10),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 << 10),
    "sm_120": (GPUTarget("cuda", 120, 32), 99 << 10),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 << 10),
}
PRODUCT = {
    "sm_80": r"mma\.sync",
    "sm_90": r"wgmma|mma\.sync",
    "sm_100": r"tcgen05\.mma|mma\.sync",
    "sm_120": r"mma\.sync",
    "gfx942": r"v_mfma",
}
HALF, BF16, FLOAT, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
OF_SIZE = {2: BF16, 4: FLOAT, 8: DOUBLE}


def empty(*shape, dtype=FLOAT):
    return torch.empty(*shape, dtype=dtype, device="meta")


class Base:
    """As much of a HadamardBase as a launch needs."""

    def __init__(self, size):
        self.size = size

    def packed(self, device):
        return empty(self.size, -(-self.size // 64), dtype=torch.int64)


# ---- what is compiled ------------------------------------------------------------------------------------------------


def rational_launches(kernel, kind, dtype, version=0, degrees=(5, 4)):
    dim, groups = (768, 8) if kind == "wide" else (96, 12)
    compute = common.COMPUTE[dtype]
    x = empty(4096, dim, dtype=dtype)
    num, den = empty(1, degrees[0] + 1, dtype=compute), empty(groups, degrees[1] + (version == 2), dtype=compute)
    ggnum = empty(groups, degrees[0] + 1, dtype=compute)
    calls = {
        "forward": lambda: rational.rational_forward(x, num, den, version),
        "backward": lambda: rational.rational_backward(x, x, num, den, version, 0),
        "double_backward": lambda: rational.rational_double_backward(x, ggnum, den, x, x, num, den, version, 0),
    }
    return calls[kernel]


def hadamard_launches(dtype, n, inner=1, base=None, orders=(0, 0), signs=True):
    x = empty(64, n, inner, dtype=dtype)
    s = empty(1, n, dtype=common.COMPUTE[dtype]) if signs else None
    return lambda: hadamard.hadamard(x, s, s, base, 1.0, *orders)


def quantize_launches(dtype, dim, block, group, format):
    return lambda: hadamard_quantize.hadamard_quantize(
        empty(64, dim, dtype=dtype), empty(1, block), None, 1.0, block, group, format, True
    )


def srht_launches(dtype, n):
    rows = empty(5000, dtype=torch.int64)
    return lambda: hadamard.srht(empty(64, n, dtype=dtype), empty(1, n, dtype=common.COMPUTE[dtype]), rows, None, 1.0)


def plans():
    """name -> (call, whether its loads are 16 bytes wide, whether it belongs to the small set of the other targets)."""
    found = {}
    for (kernel, kind, size), tile in configs.RATIONAL.items():
        wide = kind == "wide" and tile.vector * size == 16
        found[f"rational {kernel} {kind} {size}"] = (rational_launches(kernel, kind, OF_SIZE[size]), wide, size == 2)
    for version in (1, 2, 3):
        for kernel in ("forward", "backward", "double_backward"):
            call = rational_launches(kernel, "wide", FLOAT, version)
            found[f"rational {kernel} version {version}"] = (call, True, False)
    for degrees in ((3, 2), (7, 6), (16, 16)):
        call = rational_launches("double_backward", "wide", BF16, 0, degrees)
        found[f"rational double_backward {degrees[0]}/{degrees[1]}"] = (call, False, False)
    for size, table in configs.HADAMARD_ROWS.items():
        for row in table:
            for dtype in (BF16, FLOAT) if size == 4 else (DOUBLE,):
                call = hadamard_launches(dtype, 1 << row.log2)
                found[f"hadamard rows 2^{row.log2} {str(dtype)[6:]}"] = (call, True, dtype == BF16)
    for size, table in configs.HADAMARD_STRIDED.items():
        dtype = OF_SIZE[size]
        for row in table:
            call = hadamard_launches(dtype, 1 << row.bits, inner=1 << row.tile)
            found[f"hadamard strided {row.bits} bits aligned {size}"] = (call, True, size == 4)
            found[f"hadamard strided {row.bits} bits any {size}"] = (
                hadamard_launches(dtype, 1 << row.bits, inner=3), False, False)  # fmt: skip
    for row in configs.HADAMARD_BASE:
        m = row.size - 4
        found[f"hadamard base {m}"] = (hadamard_launches(FLOAT, m * 128, base=Base(m)), True, True)
    found["hadamard integers"] = (hadamard_launches(torch.int64, 1 << 12), True, False)
    found["hadamard orders"] = (hadamard_launches(FLOAT, 1 << 12, orders=(2, 1)), False, False)
    found["hadamard two passes"] = (hadamard_launches(BF16, 1 << 15, orders=(0, 2), signs=False), False, False)
    for index, row in enumerate(configs.HADAMARD_QUANTIZE):
        n = 1 << row.log2
        found[f"quantize rows of 2^{row.log2}"] = (quantize_launches(BF16, n, n, n, 0), True, True)
        found[f"quantize 2^{row.log2} in groups"] = (quantize_launches(FLOAT, n, n, 32, index % 4), True, False)
    for format in range(4):
        call = quantize_launches(BF16, 4096, 128, 32, format)
        found[f"quantize blocks of 128, format {format}"] = (call, True, False)
    found["quantize long"] = (quantize_launches(BF16, 1 << 16, 1 << 16, 1 << 16, 3), True, False)
    found["srht 2^10"] = (srht_launches(BF16, 1 << 10), True, False)
    found["srht 2^14"] = (srht_launches(FLOAT, 1 << 14), True, True)
    return found


PLANS = plans()
EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
CASES = [
    pytest.param(name, target, id=f"{target}-{name}")
    for name, (_, _, small) in PLANS.items()
    for target in TARGETS
    if EVERYTHING or target == "sm_90" or small
]


# ---- what is checked -------------------------------------------------------------------------------------------------


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory, as cuobjdump reads them from the machine code."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        out = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", out.stdout)}


def check_nvidia(compiled, name: str, wide: bool):
    used, ptx = resources(compiled.asm["cubin"]), compiled.asm["ptx"]
    assert used["STACK"] == 0 and used["LOCAL"] == 0, f"spills: {used}"
    assert not re.findall(r"\b(?:atom|red)\.\w+", ptx), "atomics"
    assert "div.approx" not in ptx and (not name.startswith("quantize") or "div.full" not in ptx)
    if wide:
        assert re.search(r"ld\.global\S*\.(v4\.[bfu]32|v2\.[bfu]64)", ptx), "no 16-byte load"
        assert re.search(r"st\.global\S*\.(v[24]\.[bfu]32|v2\.[bfu]64)", ptx) or "quantize" in name, "no wide store"


def check_amd(compiled):
    text = compiled.asm["amdgcn"]
    assert set(re.findall(r"private_segment_fixed_size: (\d+)", text)) == {"0"}, "scratch memory"
    assert set(re.findall(r"\.vgpr_spill_count:\s+(\d+)", text)) == {"0"}, "spills"
    assert not re.findall(r"(?:global|flat|buffer)_atomic\w+", text), "atomics"


def check_product(planned, target, product=True):
    """A planned launch compiled: no spill, registers and shared memory within the target's, no atomics, tensor cores for a product."""
    gpu, shared_limit = TARGETS[target]
    compiled, kernel = common.compile_ahead(planned, gpu), planned.kernel.__name__
    assert compiled.metadata.shared <= shared_limit, f"{kernel}: {compiled.metadata.shared} bytes of shared memory"
    text = compiled.asm["ptx" if gpu.backend == "cuda" else "amdgcn"]
    if gpu.backend == "cuda":
        used = resources(compiled.asm["cubin"])
        assert used["STACK"] == 0 and used["LOCAL"] == 0, f"{kernel} spills: {used}"
        assert used["REG"] * 32 * planned.options["num_warps"] <= 65536, f"{kernel}: {used['REG']} registers a thread"
        assert not re.findall(r"\b(?:atom|red)\.\w+", text), "atomics"
    else:
        check_amd(compiled)
    assert not product or re.search(PRODUCT[target], text), f"{kernel}: no product on tensor cores"
    return compiled


@pytest.mark.parametrize("name, target", CASES)
def test_compiles_without_spilling(name, target):
    call, wide, _ = PLANS[name]
    gpu, shared_limit = TARGETS[target]
    with common.record() as launches:
        call()
    assert launches
    for planned in launches:
        compiled = common.compile_ahead(planned, gpu)
        kernel = planned.kernel.__name__
        assert compiled.metadata.shared <= shared_limit, f"{kernel}: {compiled.metadata.shared} bytes of shared memory"
        if gpu.backend == "cuda":
            check_nvidia(compiled, name, wide and kernel not in ("reduce_kernel", "srht_kernel"))
        else:
            check_amd(compiled)


def test_quantiser_divides_exactly():
    with common.record() as launches:
        PLANS["quantize blocks of 128, format 1"][0]()
    assert "div.rn.f32" in common.compile_ahead(launches[0], TARGETS["sm_90"][0]).asm["ptx"]


def test_every_row_of_every_table_is_compiled():
    """A row added to a table is compiled without anyone listing it: count them from the recorded launches."""
    warps = {}
    for call, _, _ in PLANS.values():
        with common.record() as launches:
            call()
        for planned in launches:
            constants = planned.arguments
            size = constants.get("SIZE") or constants.get("BLOCK_R", 0) * constants.get("BLOCK_C", 0)
            warps.setdefault(planned.kernel.__name__, set()).add((size, planned.options["num_warps"]))
    rows = {(1 << r.tile, r.warps) for table in configs.HADAMARD_ROWS.values() for r in table}
    assert rows <= warps["rows_kernel"]
    for kernel in ("forward", "backward", "double_backward"):
        tiles = {(t.elements, t.warps) for (k, _, _), t in configs.RATIONAL.items() if k == kernel}
        assert tiles <= warps[f"{kernel}_kernel"]

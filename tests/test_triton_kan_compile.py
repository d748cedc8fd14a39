"""The KAN kernels compiled for GPUs that are not here: what test_triton_compile.py checks, and the tensor cores they are for.

By default the cubic spline's rows in 16 bits and float32 for sm_90, and one call for each of the other targets;
SPECTRALOPS_COMPILE_ALL=1 compiles every row of the table and every family, to the fourth derivative, for every target.
"""

import os
import re
import struct

import pytest
import torch

triton = pytest.importorskip("triton")

from test_triton_compile import BF16, DOUBLE, FLOAT, HALF, OF_SIZE, PRODUCT, TARGETS, check_amd, empty, resources  # noqa: E402

from spectralops import basis as B  # noqa: E402
from spectralops.kernels import common, configs, kan  # noqa: E402

pytestmark = pytest.mark.skipif(common.INTERPRETED, reason="TRITON_INTERPRET is set: there is nothing to compile")

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
KERNELS = ("forward", "dx", "dcoeff")


def knots(order, inputs=256):
    t = torch.arange(order + 10, dtype=torch.float64).repeat(inputs, 1)
    return B.BSpline(knots=t, order=order, outside="linear")


def call(kernel, basis, dtype, m=0, outputs=256, u=False, precision="highest", base=1):
    compute = common.COMPUTE[dtype]
    x, g, w = empty(4096, 256, dtype=dtype), empty(4096, outputs, dtype=dtype), empty(outputs, 256, dtype=compute)
    c, bias, u = empty(outputs, 256, basis.size, dtype=compute), empty(outputs, dtype=compute), x if u else None
    code = basis.code(dtype, "cpu")
    code = code if code.table is None else code._replace(table=code.table.to("meta"))
    return {
        "forward": lambda: kan.kan_forward(x, u, c, w if base else None, bias, code, base, m, precision),
        "dx": lambda: kan.kan_dx(g, x, u, c, w if base else None, code, base, m, precision),
        "dcoeff": lambda: kan.kan_dcoeff(g, x, u, code, base, m, precision),
    }[kernel]


FAMILIES = {
    "cubic": B.BSpline(5, 3),
    "order 0": B.BSpline(8, 0),
    "order 7": B.BSpline(8, 7),
    "knots": knots(3),
    "gaussian": B.RBF(8),
    "rswaf": B.RSWAF(8),
    "morlet": B.Morlet(8),
    "mexican hat": B.MexicanHat(8),
    "chebyshev": B.Chebyshev(7),
    "fourier": B.Fourier(8),
    "relu power": B.ReLUPower(5, 3, power=4),
}


def plans():
    """name -> (call, whether it uses tensor cores, targets of the small set)."""
    found, cubic = {}, FAMILIES["cubic"]
    for (kernel, kind, size), _ in configs.KAN.items():
        small = tuple(TARGETS) if (kernel, kind, size) == ("forward", "wide", 2) else ("sm_90",) if kind == "wide" else ()
        found[f"{kernel} {kind} {size}"] = (
            call(kernel, cubic, OF_SIZE[size], int(kernel == "dx"), 32 if kind == "narrow" else 256),
            size < 8,
            small if size < 8 else (),
        )
    for kernel in KERNELS:
        found[f"{kernel} high"] = (call(kernel, cubic, FLOAT, precision="high"), True, ())
        found[f"{kernel} half"] = (call(kernel, FAMILIES["chebyshev"], HALF, u=True), True, ())
        for size in (FLOAT, DOUBLE, BF16):
            found[f"{kernel} sparse {str(size)[6:]}"] = (call(kernel, B.BSpline(100, 3), size, int(kernel == "dx")), False, ())
            found[f"{kernel} sparse knots {str(size)[6:]}"] = (call(kernel, knots(2), size, 1, outputs=8), False, ())
        for name, basis in FAMILIES.items():
            for dtype in (BF16, FLOAT, DOUBLE):
                for m in (0, 1, 4):
                    key = f"{kernel} {name} {m} {str(dtype)[6:]}"
                    found[key] = (call(kernel, basis, dtype, m, u=m > 1, base=1 + m), dtype != DOUBLE, ())
    return found


PLANS = plans()
CASES = [
    pytest.param(name, target, id=f"{target}-{name}")
    for name, (_, _, small) in PLANS.items()
    for target in TARGETS
    if EVERYTHING or target in small
]


@pytest.mark.parametrize("name, target", CASES)
def test_compiles_without_spilling(name, target, monkeypatch):
    plan, matrix, _ = PLANS[name]
    gpu, shared_limit = TARGETS[target]
    monkeypatch.setattr(common, "AMD", gpu.backend == "hip")
    with common.record() as launches:
        plan()
    assert launches
    for planned in launches:
        compiled = common.compile_ahead(planned, gpu)
        kernel = planned.kernel.__name__
        assert compiled.metadata.shared <= shared_limit, f"{kernel}: {compiled.metadata.shared} bytes of shared memory"
        text = compiled.asm["ptx" if gpu.backend == "cuda" else "amdgcn"]
        if gpu.backend == "cuda":
            used = resources(compiled.asm["cubin"])
            assert used["STACK"] == 0 and used["LOCAL"] == 0, f"{kernel} spills: {used}"
            assert not re.findall(r"\b(?:atom|red)\.\w+", text), "atomics"
        else:
            check_amd(compiled)
        if matrix and kernel in ("forward_kernel", "dx_kernel", "dcoeff_kernel"):
            assert re.search(PRODUCT[target], text), f"{kernel}: no product on tensor cores"


def test_every_row_of_the_table_is_launched():
    """A row that no plan reaches would never be compiled."""
    seen = set()
    for plan, _, _ in PLANS.values():
        with common.record() as launches:
            plan()
        for planned in launches:
            seen.add((planned.kernel.__name__, planned.options["num_warps"], planned.arguments.get("BO")))
    for (kernel, _, _), tile in configs.KAN.items():
        assert (f"{kernel}_kernel", tile.warps, tile.outputs) in seen, (kernel, tile)
    for kernel, _ in configs.KAN_SPARSE:
        assert any(name == f"sparse_{kernel}_kernel" for name, *_ in seen)


def test_batch_size_compiles_nothing_new():
    """Rows, and the chunks that follow from them, are no part of what a kernel is specialised for."""
    for function in (kan.forward_kernel, kan.dx_kernel, kan.kan_dcoeff.__globals__["dcoeff_kernel"]):
        kept = {p.name for p in function.params if p.do_not_specialize}
        assert "rows" in kept and ("steps" in kept or not any(p.name == "steps" for p in function.params))


def test_doubles_keep_their_constants():
    """No constant of a double kernel has passed through float, which would leave it exact in float but not short."""
    for name, m in (("cubic", 2), ("morlet", 4)):
        with common.record() as launches:
            call("forward", FAMILIES[name], DOUBLE, m)()
        text = common.compile_ahead(launches[0], TARGETS["sm_90"][0]).asm["ttir"]
        values = {float(v) for v in re.findall(r"arith\.constant (?:dense<)?(-?\d\S+[eE][+-]?\d+)>? : (?:tensor<\S*x)?f64", text)}
        assert values
        for value in values:
            assert struct.unpack("f", struct.pack("f", value))[0] != value or value * 4096 == int(value * 4096), value

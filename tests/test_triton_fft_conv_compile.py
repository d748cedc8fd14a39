"""The fft_conv kernels compiled for GPUs that are not here: what test_triton_compile.py checks, and tensor cores.

By default a plain call forward for each target, for sm_90 backward too; SPECTRALOPS_COMPILE_ALL=1 compiles every row of the
table, longer rows, each type and each path for every target.
"""

import os

import pytest
import torch

triton = pytest.importorskip("triton")

from test_triton_compile import BF16, FLOAT, HALF, TARGETS, check_product, empty  # noqa: E402

from spectralops.kernels import common, configs, fft_conv, fft_conv_backward  # noqa: E402
from spectralops.ops.fft_conv_reference import Call  # noqa: E402

pytestmark = pytest.mark.skipif(common.INTERPRETED, reason="TRITON_INTERPRET is set: there is nothing to compile")

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"


def call(n, dtype, around=True, long=False, filters=1, precision="highest", blh=False, cu=False, grid=False, backward=True):
    """A forward and a backward on N = n points; long: more times than points.  -> their launches."""
    length, taps = (2 * n - 64, 32) if long else (n, n)
    b, h, act = 4, 16, "gelu" if around else "identity"
    u, y = empty(b, h, length, dtype=dtype), empty(b, filters, h, length, dtype=dtype)
    if blh:
        u, y = empty(b, length, h, dtype=dtype).transpose(1, 2), empty(b, length, filters, h, dtype=dtype).permute(0, 2, 3, 1)
    if cu:
        u, y = empty(1, h, 3 * length, dtype=dtype), empty(1, filters, h, 3 * length, dtype=dtype)
    kernel = empty(1, filters, h, n, 2) if grid else empty(1, filters, h, taps)
    given = (empty(filters, h), u, y, empty(b, h)) if around else (None,) * 4
    rest = (u, kernel, *given, empty(b + 1, dtype=torch.int64) if cu else None)
    static = Call(0, n if grid else 0, act, precision, blh, length)
    needs = (True, True, around, around, around, around)

    def run():
        with common.record() as launches:
            fft_conv.fft_conv(*rest, static)
            if backward:
                fft_conv_backward.fft_conv_backward(y, *rest, tuple(kernel.shape[:4]), static, needs)
        seen = {}
        for planned in launches:  # the kernel's spectrum is asked for twice
            seen.setdefault((planned.kernel.__name__, planned.arguments.get("MODE"), planned.arguments.get("HIGH")), planned)
        return list(seen.values())

    return run


def plans():
    """name -> (call, targets of the small set)."""
    found = {}
    others = tuple(t for t in TARGETS if t != "sm_90")
    for n in (*configs.FFT_CONV, 1 << 13, 1 << 15, 1 << 16):
        for dtype in (FLOAT, HALF, BF16):
            if n == 1 << 16 and dtype != BF16:
                continue
            kind = str(dtype)[6:]
            found[f"{n} {kind} plain"] = (call(n, dtype, around=False), ("sm_90",) if (n, dtype) == (256, FLOAT) else ())
            found[f"{n} {kind} plain long"] = (call(n, dtype, around=False, long=True), ())
            found[f"{n} {kind}"] = (call(n, dtype), ())
            found[f"{n} {kind} long"] = (call(n, dtype, long=True), ())
        found[f"{n} forward"] = (call(n, BF16, around=False, backward=False), others if n == 256 else ())
        if n <= 1 << 13:
            found[f"{n} high"] = (call(n, FLOAT, precision="high"), ())
            found[f"{n} filters"] = (call(n, FLOAT, filters=3), ())
            found[f"{n} blh"] = (call(n, BF16, blh=True), ())
            found[f"{n} stretches"] = (call(n, FLOAT, cu=True), ())
            found[f"{n} spectrum"] = (call(n, FLOAT, grid=True, long=True), ())
    return found


PLANS = plans()
CASES = [
    pytest.param(name, target, id=f"{target}-{name}")
    for name, (_, small) in PLANS.items()
    for target in TARGETS
    if EVERYTHING or target in small
]


@pytest.mark.parametrize("name, target", CASES)
def test_compiles_without_spilling(name, target, monkeypatch):
    monkeypatch.setattr(common, "AMD", TARGETS[target][0].backend == "hip")
    for planned in PLANS[name][0]():
        check_product(planned, target)


def test_every_row_of_the_table_is_launched():
    """A row that no plan reaches would never be compiled."""
    seen = set()
    for name in PLANS:
        for planned in () if name.endswith(("long", "blh", "stretches")) else PLANS[name][0]():
            a, name = planned.arguments, planned.kernel.__name__
            if "N1" in a:
                seen.add((name, a.get("MODE"), a["N1"] * a["N2"] * a["N3"], planned.options["num_warps"]))
    for n, row in configs.FFT_CONV.items():
        assert row.n1 * row.n2 * row.n3 == n and row.n1 * row.pairs == row.n2 == 16 and row.n3 in (1, 16)
        for kernel in ("spectrum", "forward", "products", "gradient", "adjoint", "taps"):
            assert (f"{kernel}_kernel", None, n, row.warps) in seen, (kernel, n)
        if n in (256, 512, 2048, 4096):  # of 1 << 12, 1 << 13, 1 << 15 and 1 << 16
            assert ("gradient_rows_kernel", None, n, row.warps) in seen
            assert {("rows_kernel", mode, n, row.warps) for mode in range(4)} <= seen


def test_batch_and_length_compile_nothing_new():
    """Rows, lengths and the chunks that follow from them are no part of what a kernel is specialised for."""
    for function in (fft_conv.forward_kernel, fft_conv_backward.adjoint_kernel, fft_conv_backward.products_kernel):
        assert "length" in {p.name for p in function.params if p.do_not_specialize}
    kept = {p.name for p in fft_conv_backward.gradient_kernel.params if p.do_not_specialize}
    assert {"length", "rows", "steps"} <= kept

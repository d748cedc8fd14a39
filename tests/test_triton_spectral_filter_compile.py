"""The spectral_filter kernels compiled for GPUs that are not here: what test_triton_compile.py checks, and tensor cores.

By default the smallest grid forward for each target; SPECTRALOPS_COMPILE_ALL=1 compiles every row of the tables, each type and
each pass for every target.
"""

import os

import pytest
import torch

triton = pytest.importorskip("triton")

from test_triton_compile import BF16, FLOAT, HALF, TARGETS, check_product, empty  # noqa: E402

from spectralops.kernels import common, configs, spectral_filter, spectral_filter_gradient  # noqa: E402

pytestmark = pytest.mark.skipif(common.INTERPRETED, reason="TRITON_INTERPRET is set: there is nothing to compile")

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
POINTWISE = ("moments_kernel", "products_kernel", "sum_kernel")
GRIDS = {  # a grid for each row of SPECTRAL_FILTER
    (16, 16, 8): (14, 14),
    (32, 16, 8): (28, 14),
    (16, 16, 16): (14, 16),
    (32, 16, 16): (28, 16),
    (16, 32, 16): (14, 28),
    (32, 32, 16): (28, 28),
    (16, 32, 32): (14, 32),
    (32, 32, 32): (32, 32),
}
PASSES = ((40,), (12, 40), (20, 40), (56, 56), (90, 180), (6, 8, 40))  # each row of SPECTRAL_FILTER_COLUMNS, and beyond


def call(grid, dtype, around=True, gradient=True, samples=4, groups=384):
    """Both functions, or the first alone, with a norm and a residual `around`.  -> their launches."""
    n1, n2, n3 = (1,) * (3 - len(grid)) + tuple(grid)
    x, weight = empty(samples, n1, n2, n3, 384, dtype=dtype), empty(1, n1, n2, n3 // 2 + 1, groups, 2)
    norm, residual, eps = (empty(384), x, 1e-5) if around else (None, None, -1.0)

    def run():
        with common.record() as launches:
            spectral_filter.spectral_filter(x, weight, norm, norm, residual, eps, False)
            if gradient:
                spectral_filter_gradient.spectral_filter_gradient(x, x, norm, norm, eps, 1, groups)
        seen = {}
        for planned in launches:
            a = planned.arguments
            constants = (a.get(name) for name in ("BM", "INVERSE", "TERMS"))
            key = (planned.kernel.__name__, *constants, *(a.get(name) is None for name in ("p_q", "p_mean")))
            seen.setdefault(key, planned)
        return list(seen.values())

    return run


def plans():
    """name -> (call, targets of the small set)."""
    found = {}
    for grid in GRIDS.values():
        side = "x".join(map(str, grid))
        for dtype in (FLOAT, HALF, BF16):
            first = (grid, dtype) == ((14, 14), BF16)
            found[f"{side} {str(dtype)[6:]} forward"] = (call(grid, dtype, False, False), tuple(TARGETS) if first else ())
            found[f"{side} {str(dtype)[6:]}"] = (call(grid, dtype, groups=384 if dtype == FLOAT else 12), ())
    found["14x14 float32 forward"] = (found["14x14 float32 forward"][0], ("sm_90",))
    for grid in PASSES:
        for dtype in (FLOAT, BF16):
            found[f"{'x'.join(map(str, grid))} {str(dtype)[6:]}"] = (call(grid, dtype), ())
    found["40 bfloat16 forward"] = (call((40,), BF16, False, False), ("sm_90",))
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
        check_product(planned, target, planned.kernel.__name__ not in POINTWISE)


def test_every_row_of_the_tables_is_launched():
    """A row that no plan reaches would never be compiled."""
    seen, columns = set(), set()
    for run, _ in PLANS.values():
        for planned in run():
            a, name = planned.arguments, planned.kernel.__name__
            if "P2" in a:
                kind = "gradient" if name == "gradient_kernel" else "one" if a["PRECISION"] == "tf32" else "three"
                seen.add((a["P2"], a["P3"], a["B"], kind, a["TC"], planned.options["num_warps"]))
            if name == "there_and_back_kernel":
                columns.add((a["BM"], a["TN"], planned.options["num_warps"]))
    for key, kinds in configs.SPECTRAL_FILTER.items():
        assert key in GRIDS and kinds.keys() == {"three", "one", "gradient"}
        for kind, row in kinds.items():
            assert (*key, kind, row.channels, row.warps) in seen, (key, kind)
    assert columns == {(rows, *row) for rows, row in configs.SPECTRAL_FILTER_COLUMNS.items()}


def test_sizes_compile_nothing_new():
    """Sides, samples and the chunks that follow from them are no part of what a kernel is specialised for."""
    for function in (spectral_filter.filter_kernel, spectral_filter_gradient.gradient_kernel):
        assert {"n2", "n3", "points"} <= {p.name for p in function.params if p.do_not_specialize}

"""The sparse Walsh-Hadamard kernels compiled for GPUs that are not here: what test_triton_compile.py checks,
and their barriers.

By default the loop of small problems for sm_90 and gfx942, the kernels of large ones for the others;
SPECTRALOPS_COMPILE_ALL=1 compiles every row of the table with each scheme for every target.
"""

import os

import pytest
import torch

triton = pytest.importorskip("triton")

from test_triton_compile import TARGETS, check_product, empty  # noqa: E402

from spectralops.kernels import common, configs, sparse_wht  # noqa: E402
from spectralops.ops.sparse_wht_groups import Tables  # noqa: E402
from spectralops.ops.sparse_wht_plan import SparseWHTPlan  # noqa: E402

pytestmark = pytest.mark.skipif(common.INTERPRETED, reason="TRITON_INTERPRET is set: there is nothing to compile")

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
OWN = ("loop_kernel", "visit_kernel", "refuse_kernel", "settle_kernel")


def decodes(n, k, only=None, **plan):
    """-> the launches of a decode, by way of `loop` alone and by that of large problems."""

    def run(monkeypatch):
        made = SparseWHTPlan(n, k, **plan)
        maps, words = made.groups, -(-n // 64)
        shapes = [(maps, n, words)] * 4 + [(maps, made.repeats, words), (made.checks, words), (n, -(-made.checks // 64))]
        field = empty(2, 1 << n.bit_length(), dtype=torch.int32)
        tables = Tables(*(empty(*shape, dtype=torch.int64) for shape in shapes), field)
        launches = {}
        for whole in (1 << 40, 0):
            monkeypatch.setattr(configs, "SPARSE_WHT_WHOLE", whole)
            with common.record() as found:
                values = empty(1000, made.groups * made.bins * made.num_offsets)
                sparse_wht.sparse_wht_decode(values, None, tables, made._call("auto"))
            for planned in found:
                name = planned.kernel.__name__
                which = (name, planned.arguments.get("START"))
                if name in OWN and (only is None or which in only):
                    launches.setdefault(which, planned)
        return list(launches.values())

    return run


def sums(words):
    def run(monkeypatch):
        with common.record() as launches:
            points, keys = (empty(1000, words, dtype=torch.int64) for _ in range(2))
            sparse_wht.walsh_sum(points, keys, empty(1000))
        return launches

    return run


def plans():
    """name -> (call, targets of the small set)."""
    found, all_rounds, spread = {}, [("loop_kernel", True)], [("visit_kernel", False), ("refuse_kernel", None)]
    each = all_rounds + spread  # what differs from scheme to scheme
    found["walsh_sum 1"], found["walsh_sum 8"] = (sums(1), ("sm_120", "gfx942")), (sums(8), ())
    found["small loop"] = (decodes(30, 20, all_rounds), ("sm_90", "gfx942"))
    found["large visits"] = (decodes(500, 500, spread), ("sm_80",))
    found["large settlements"] = (decodes(500, 500, [("settle_kernel", True), ("settle_kernel", False)]), ("sm_120",))
    found["syndromes visited"] = (decodes(500, 50, spread, offsets="bch", degree=5), ("sm_100",))
    kinds = (20, 1, "soft"), (20, 3, "soft"), (31, 5, "hard"), (100, 3, "soft"), (100, 3, "hard"), (500, 64, "soft")
    for n, repeats, majority in kinds:
        call = decodes(n, 40, each, offsets="nso", repeats=repeats, majority=majority, b=7)
        found[f"nso {n} {repeats} {majority}"] = (call, ())
    for n, k in ((30, 20), (60, 50), (500, 500), (4000, 20)):
        found[f"exact {n} {k}"] = (decodes(n, k, None if n == 500 else each), ())
    for n, degree, repeats, chase in ((100, 2, 1, 6), (500, 5, 1, 6), (500, 5, 3, 6), (500, 5, 1, 0), (4000, 16, 1, 16)):
        call = decodes(n, 50, each, offsets="bch", degree=degree, repeats=repeats, chase=chase)
        found[f"bch {n} {degree} {repeats} {chase}"] = (call, ())
    found["bch hard"] = (decodes(200, 50, each, offsets="bch", degree=3, repeats=3, majority="hard"), ())
    return found


PLANS = plans()
CASES = [
    pytest.param(name, target, id=f"{target}-{name}")
    for name, (_, small) in PLANS.items()
    for target in TARGETS
    if (EVERYTHING and not name.endswith(("loop", "visits", "settlements", "visited"))) or (not EVERYTHING and target in small)
]


@pytest.mark.parametrize("name, target", CASES)
def test_compiles_without_spilling(name, target, monkeypatch):
    monkeypatch.setattr(common, "AMD", TARGETS[target][0].backend == "hip")
    planned = PLANS[name][0](monkeypatch)
    assert planned
    for each in planned:
        compiled = check_product(each, target, False)
        if target == "gfx942" and each.kernel.__name__ == "loop_kernel":
            # A barrier between steps orders all memory; those that the compiler puts around shared memory order that alone.
            lines = compiled.asm["llir"].splitlines()
            assert sum("fence" in line and "release" in line and "mmra" not in line for line in lines) >= 5


def test_every_row_of_the_table_is_launched(monkeypatch):
    """A row that no plan reaches would never be compiled."""
    seen = set()
    for name in PLANS:
        for planned in PLANS[name][0](monkeypatch):
            a = planned.arguments
            if "SCHEME" in a:
                seen.add((planned.kernel.__name__, a["SCHEME"], a["TP"], a["T"], planned.options["num_warps"]))
    for kernel in ("loop_kernel", "visit_kernel"):
        for row in configs.SPARSE_WHT:
            assert {(kernel, scheme, row.samples, row.bins, row.warps) for scheme in (0, 1)} <= seen
        row = configs.SPARSE_WHT_BCH
        assert (kernel, 2, row.samples, row.bins, row.warps) in seen
    assert all(r.samples < s.samples for r, s in zip(configs.SPARSE_WHT, configs.SPARSE_WHT[1:]))


def test_problems_and_levels_compile_nothing_new():
    """How many problems, variables, bins and rounds there are, and the thresholds, are no part of what a
    kernel is specialised for.
    """
    for name in OWN:
        parameters = getattr(sparse_wht, name).params
        assert {"bits", "n", "capacity", "tau"} <= {p.name for p in parameters if p.do_not_specialize}
        assert all(p.do_not_specialize for p in parameters if p.name in sparse_wht.VARIES)

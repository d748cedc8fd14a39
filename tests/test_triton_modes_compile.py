"""The kernels of the truncated transforms and of the mixing compiled for GPUs that are not here: what test_triton_compile.py
checks, and tensor cores where there are products.

By default one call for each target and the table's rows for sm_90; SPECTRALOPS_COMPILE_ALL=1 compiles everything for every target.
"""

import os

import pytest
import torch

triton = pytest.importorskip("triton")

from test_triton_compile import BF16, FLOAT, HALF, TARGETS, check_product, empty  # noqa: E402

from spectralops.kernels import common, configs, fourier_mix, modes, modes_mix, spectral_mlp  # noqa: E402
from spectralops.ops.modes_reference import Modes  # noqa: E402

pytestmark = pytest.mark.skipif(common.INTERPRETED, reason="TRITON_INTERPRET is set: there is nothing to compile")

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
FNO = Modes((1, 128, 128), (0, -16, 0), (0, 0, 0), (1, 32, 17))
AFNO = Modes((1, 90, 180), (0, 0, 0), (0, 0, 0), (1, 90, 91))
LONG = Modes((1, 512, 1024), (0, -16, 0), (0, 16, 0), (1, 32, 17))
VOLUME = Modes((32, 32, 32), (-4, -4, 0), (0, 0, 0), (8, 8, 5))


def on_meta(function):
    """Tables are built on the device of the call, and there is none."""

    def run():
        with common.record() as launches:
            function()
        return launches

    return run


def transforms(box, last, dtype, ends, b=4, c=64):
    def run():
        x = empty(b, *box.sizes, c, dtype=dtype) if last else empty(b, c, *box.sizes, dtype=dtype)
        s = empty(b, *box.counts, c, 2) if last else empty(b, c, *box.counts, 2)
        given = (x, empty(c)) if ends else (None, None)
        if not ends:
            modes.mode_dft(x, box, last, 1.0, True)
        modes.mode_idft(s, box, last, 1.0, True, *given, None, "gelu" if ends else "identity", dtype)
        if ends:
            modes.mode_idft(s, box, last, 1.0, True, *given, x, "gelu", dtype)

    return on_meta(run)


def products(rows, dtype, ci=64, co=64, p=544, gradient=False):
    def run():
        x, y, w = empty(rows, ci, p, 2), empty(rows, co, p, 2), empty(ci, co, p, 2, dtype=dtype)
        modes_mix.mode_mix(x, w, False)
        modes_mix.mode_mix(y, w, True)
        if gradient:
            modes_mix.mode_mix_gradient(x, y)

    return on_meta(run)


def mixes(s, h, dtype):
    return on_meta(lambda: fourier_mix.fourier_mix(empty(8, s, h, dtype=dtype)))


def mlps(blocks, channels, hidden, activation):
    given = (empty(1000, blocks, channels, 2), empty(2, blocks, channels, hidden), empty(2, blocks, hidden),
             empty(2, blocks, hidden, channels), empty(2, blocks, channels))  # fmt: skip
    return on_meta(lambda: spectral_mlp.spectral_mlp_core(*given, 0.01, activation, True))


def plans():
    """name -> (call, targets of the small set)."""
    found, others = {}, tuple(t for t in TARGETS if t != "sm_90")
    for last in (False, True):
        for box, kind in ((FNO, "plane"), (AFNO, "full"), (LONG, "long"), (VOLUME, "volume")):
            for dtype in (FLOAT, HALF, BF16):
                name = f"{kind} {'last' if last else 'first'} {str(dtype)[6:]}"
                small = others if name == "plane first bfloat16" else ()
                if name in ("plane first float32", "plane last bfloat16", "long first float32"):
                    small = ("sm_90",)
                found[name] = (transforms(box, last, dtype, False), small)
                found[name + " gelu"] = (transforms(box, last, dtype, True), ("sm_90",) if name == "plane first bfloat16" else ())
    for rows in configs.MODE_MIX:
        for dtype in (FLOAT, HALF, BF16):
            small = tuple(TARGETS) if (rows, dtype) == (16, BF16) else ("sm_90",) if (rows, dtype) == (1, FLOAT) else ()
            found[f"mix {rows} {str(dtype)[6:]}"] = (products(rows, dtype, gradient=rows == 16), small)
    found["mix narrow"] = (products(3, FLOAT, ci=3, co=1, p=5, gradient=True), ())
    for s, h in ((512, 768), (20, 1024), (1024, 30), (509, 2048)):
        for dtype in (FLOAT, HALF, BF16):
            small = ("sm_80", "sm_90") if (s, dtype) == (512, BF16) else ("gfx942", "sm_120") if (s, dtype) == (20, FLOAT) else ()
            found[f"fourier {s} {h} {str(dtype)[6:]}"] = (mixes(s, h, dtype), small)
    for activation in ("relu", "gelu", "silu", "tanh", "identity"):
        found[f"mlp {activation}"] = (mlps(8, 96, 96, activation), ())
    found["mlp wide"] = (mlps(1, 768, 768, "gelu"), ())
    found["mlp narrow"] = (mlps(16, 16, 32, "relu"), ("sm_90", "gfx942"))
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
    distinct = {}
    for planned in PLANS[name][0]():
        constants = tuple((k, v) for k, v in planned.arguments.items() if k.isupper())
        distinct.setdefault((planned.kernel.__name__, constants), planned)
    for planned in distinct.values():
        check_product(planned, target, "PRECISION" in planned.arguments)

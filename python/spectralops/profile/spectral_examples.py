"""Typical calls of the spectral operators and of the sparse transform for `inspect`: (label, backend function, its arguments, the fewest bytes)."""

from __future__ import annotations

import torch

from ..ops.modes_reference import Modes


def _spectral_filter_examples(dtype: torch.dtype, label: str) -> list[tuple]:
    """GFNet's grids: x in, y out; the gradient reads x and the incoming gradient."""
    found = []
    for shape in ((128, 1, 14, 14, 384), (128, 1, 56, 56, 64)):
        x, w = torch.empty(shape, dtype=dtype), torch.empty(1, 1, shape[2], shape[3] // 2 + 1, shape[4], 2)
        where = f"({shape[0]}, {shape[2]}, {shape[3]}, {shape[4]}) {label}"
        found += [
            (f"forward {where}", "spectral_filter", (x, w, None, None, None, -1.0, False), 2 * x.nbytes + w.nbytes),
            (f"gradient {where}", "spectral_filter_gradient", (x, x, None, None, -1.0, 1, shape[4]), 2 * x.nbytes + w.nbytes),
        ]
    return found


def _spectral_conv_examples(dtype: torch.dtype, label: str) -> list[tuple]:
    """The three kernels of an FNO layer, 64 channels, 128 x 128, 16 modes."""
    x, modes = torch.empty(16, 64, 1, 128, 128, dtype=dtype), Modes((1, 128, 128), (0, -8, 0), (0, 0, 0), (1, 16, 9))
    spectrum, w = torch.empty(16, 64, 1, 16, 9, 2), torch.empty(64, 64, 144, 2)
    flat, where = spectrum.flatten(2, 4), f"(16, 64, 128, 128), 16 modes, {label}"
    tail = (None, None, None, "identity", dtype)
    return [
        (f"truncated transform {where}", "mode_dft", (x, modes, False, 1.0, False), x.nbytes + spectrum.nbytes),
        (f"mixing {where}", "mode_mix", (flat, w, False), 2 * flat.nbytes + w.nbytes),
        (f"inverse {where}", "mode_idft", (spectrum, modes, False, 1.0, True, *tail), x.nbytes + spectrum.nbytes),
        (f"weight gradient {where}", "mode_mix_gradient", (flat, flat), 2 * flat.nbytes + w.nbytes),
    ]


def _fourier_mix_examples(dtype: torch.dtype, label: str) -> list[tuple]:
    """FNet's base model."""
    x = torch.empty(32, 512, 768, dtype=dtype)
    return [(f"(32, 512, 768) {label}", "fourier_mix", (x,), 2 * x.nbytes)]


def _spectral_mlp_examples(dtype: torch.dtype, label: str) -> list[tuple]:
    """AFNO on 14 x 14, 768 channels in 8 blocks: the product in the spectrum, which is float32 for every dtype."""
    x, w, b = torch.empty(32 * 14 * 8, 8, 96, 2), torch.empty(2, 8, 96, 96), torch.empty(2, 8, 96)
    return [(f"blocks of 96, {label}", "spectral_mlp_core", (x, w, b, w, b, 0.01, "relu", False), 2 * x.nbytes + 2 * w.nbytes)]


def _sparse_wht_examples(dtype: torch.dtype, label: str) -> list[tuple]:
    """The issue's decodes and an evaluation, float32 whatever the type: the samples are read once, coefficients are few."""
    from ..ops.sparse_wht_plan import SparseWHTPlan

    found = []
    for many, n, k, how in ((10000, 30, 20, {}), (1, 500, 500, {}), (100, 20, 40, dict(offsets="nso", repeats=3, b=7)),
                            (100, 500, 50, dict(offsets="bch", degree=5))):  # fmt: skip
        plan = SparseWHTPlan(n, k, **how)
        values = torch.empty(many, plan.num_queries)
        args = (values, plan._index, plan.tables, plan._call("auto"))
        found.append((f"{many} of n = {n}, K = {k}, {plan.offsets}, float32", "sparse_wht_decode", args, values.nbytes))
    points, keys, values = torch.empty(378000, 8, dtype=torch.int64), torch.empty(100, 8, dtype=torch.int64), torch.empty(100)
    moved = points.nbytes + 4 * points.shape[0]
    return [*found, ("100 terms at 378000 points, n = 500, float32", "walsh_sum", (points, keys, values), moved)]


EXAMPLES = {
    "sparse_wht": _sparse_wht_examples,
    "spectral_filter": _spectral_filter_examples,
    "spectral_conv": _spectral_conv_examples,
    "fourier_mix": _fourier_mix_examples,
    "spectral_mlp": _spectral_mlp_examples,
}

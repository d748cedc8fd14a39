"""The decoder as an operator, and the spectra it gives. Formulas: `sparse_wht_reference.py`.

Fewest operations of a decode: C B P b additions for the transforms, C B P for the tests of the bins, K C P for the peeling.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import bits
from .sparse_spectrum import Batch, SparseSpectrum
from .sparse_wht_groups import OFFSETS, Tables, num_checks
from .sparse_wht_reference import Call
from .. import _check, backends
from .._ops import implement

if TYPE_CHECKING:
    from .sparse_wht_plan import SparseWHTPlan

DTYPES = (*_check.FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
SAFE = {torch.float32: 30, torch.float64: 400}  # |values| from 2^-x to 2^x have squares, and roundings of squares, in range


# ---- the operator ------------------------------------------------------------------------------------------------------


def _described(t: Tensor) -> str:
    return f"{t.dtype} {tuple(t.shape)} on {t.device}"


def _sound(tables: Tables, call: Call) -> str | None:
    """What is wrong with them, or None. A graph may bring others than the plan made, and kernels trust them."""
    groups, w = tables.base.shape[0], bits.words(max(call.n, 1))
    if not (1 <= call.n <= 65535 and 0 <= call.b <= min(call.n, 30) and 1 <= groups <= 16 and 1 <= call.repeats <= 1 << 20):
        return "n, b, groups or repeats are out of range"
    kept = 1 <= call.capacity <= groups << call.b and 1 <= call.rounds <= 1 << 20
    if not (0 <= call.scheme < len(OFFSETS) and 0 <= call.chase <= 16 and kept):
        return "scheme, chase, capacity or rounds are out of range"
    scheme = OFFSETS[call.scheme]
    coded = scheme == "bch"
    if coded and not 1 <= call.degree <= min(call.n, 16) or call.checks != num_checks(call.n, call.b, scheme, call.degree):
        return f"degree {call.degree} and checks {call.checks} are not those of {scheme!r}"
    if any(math.isnan(level) for level in call[10:]):
        return "a level is NaN"
    rows, m = (call.checks, call.checks // call.degree) if coded else (0, 0)
    square = (groups, call.n, w)
    code = (rows, w), (call.n * coded, max(bits.words(rows), 1)), (2, (1 << m) * coded)
    shapes = (square, square, square, square, (groups, call.repeats, w), *code)
    for name, table, shape in zip(Tables._fields, tables, shapes):
        dtype = torch.int32 if name == "field" else torch.int64
        if tuple(table.shape) != shape or table.dtype != dtype or table.device != tables.base.device:
            return f"{name} must be {dtype} of shape {shape} on {tables.base.device}; got {_described(table)}"
    if coded and tables.field.device.type == "cpu" and not 0 <= int(tables.field.min()) <= int(tables.field.max()) < 1 << m:
        return "field has entries that are none of its elements"
    return None


@implement("sparse_wht_decode")
def sparse_wht_decode(values, index, tables, sizes, levels, backend=None):
    if len(tables) != len(Tables._fields) or len(sizes) != 10 or len(levels) != len(Call._fields) - 10:
        counts = f"{len(tables)}, {len(sizes)} and {len(levels)}"
        raise ValueError(f"tables, sizes and levels must have 8, 10 and 6 entries; got {counts}")
    tables, call = Tables(*tables), Call(*sizes[:5], bool(sizes[5]), *sizes[6:], *levels)
    if problem := _sound(tables, call):
        raise ValueError(problem)
    if values.dim() != 2 or values.dtype not in SAFE or values.device != tables.base.device:
        raise ValueError(f"values must be (R, Q), float32 or float64 on {tables.base.device}; got {_described(values)}")
    shape = (tables.base.shape[0], 1 << call.b, call.repeats * (call.checks + 1))
    if index is None and values.shape[1] != math.prod(shape):
        raise ValueError(f"values of {tuple(values.shape)} are not those of (groups, bins, offsets) = {shape}")
    if index is not None and (tuple(index.shape) != shape or index.dtype != torch.int32 or index.device != values.device):
        raise ValueError(f"index must be int32 of shape {shape} on {values.device}; got {_described(index)}")
    tables = Tables(*(t.contiguous() for t in tables))
    args = (values.contiguous(), None if index is None else index.contiguous(), tables, call)
    return tuple(backends.select("sparse_wht_decode", backend, *args)(*args))


# ---- what the plan calls -----------------------------------------------------------------------------------------------


def real(values: Tensor) -> Tensor:
    """As a decoder takes them: float32 or float64."""
    if not values.is_floating_point():
        return values.to(torch.float64)
    return values.to(torch.float32) if values.dtype in (torch.float16, torch.bfloat16) else values


def check_noise(noise_std: object) -> None:
    if isinstance(noise_std, str) and noise_std == "auto":
        return
    number = isinstance(noise_std, (int, float)) and not isinstance(noise_std, bool)
    if not number or not 0 <= noise_std <= sys.float_info.max:
        raise ValueError(f'noise_std must be "auto" or a finite number of at least 0; got {noise_std!r}')


def _peaks(values: Tensor) -> tuple[Tensor, bool]:
    """(R, Q) -> the largest |value| of each row, and whether all are safe to square; ValueError where one is not finite."""
    low, high = values.detach().aminmax(dim=1)
    peak = torch.maximum(-low, high)
    reach = SAFE[values.dtype]
    safe = (peak == 0) | ((peak >= 2.0**-reach) & (peak <= 2.0**reach))
    finite, all_safe = torch.stack([torch.isfinite(peak).all(), safe.all()]).tolist()
    if not finite:
        raise ValueError("values must be finite; got NaN or infinity")
    return peak, all_safe


def decode(plan: "SparseWHTPlan", values: Tensor, noise_std, refit: bool, backend: str | None) -> list[SparseSpectrum]:
    """(R, num_queries), float32 or float64 -> R spectra."""
    if values.shape[0] == 0:
        return []
    peak, safe = _peaks(values)
    if safe:
        return _decode(plan, values, noise_std, refit, backend, 1.0)
    # Rows whose squares would leave the type's range are multiplied by a power of two, those of like size together.
    step = SAFE[values.dtype]
    exponent = torch.where(peak == 0, 0, torch.frexp(peak).exponent.to(torch.int64))
    share = torch.div(exponent, step, rounding_mode="floor")
    spectra: list = [None] * values.shape[0]
    for s in share.unique().tolist():
        rows = (share == s).nonzero().squeeze(1)
        half = 2.0 ** (-s * step / 2)  # twice: the whole power may be out of range itself
        noise = noise_std if noise_std == "auto" else noise_std * half * half
        part = _decode(plan, values[rows] * half * half, noise, refit, backend, 1 / half)
        for row, spectrum in zip(rows.tolist(), part):
            spectra[row] = spectrum
    return spectra


def _decode(plan: "SparseWHTPlan", values: Tensor, noise_std, refit: bool, backend, root: float) -> list[SparseSpectrum]:
    """Of values that are those asked for divided by root^2."""
    learned = torch.is_grad_enabled() and values.requires_grad
    call = plan._call(noise_std)
    with torch.no_grad():
        done = sparse_wht_decode(values.detach(), plan._index, plan.tables, call[:10], call[10:], backend)
    batch = Batch(plan, call, *done, samples=values if learned else values.detach() if refit else None, root=root)
    return [SparseSpectrum._of(batch, r) for r in range(values.shape[0])]


def solve(plan: "SparseWHTPlan", f, noise_std, chunk: int, max_queries: int | None, format: str, refit: bool, backend):
    """Ask, decode, and grow while something is unresolved -> (spectrum, the plan that gave it)."""
    answers: list[Tensor] = []
    asked = 0
    while True:
        for points in plan.queries(chunk, format, start=asked):
            got = torch.as_tensor(f(points), device=plan.device)
            if got.shape != points.shape[:1]:
                raise ValueError(f"f must give ({points.shape[0]},) values for {points.shape[0]} points; got {tuple(got.shape)}")
            answers.append(got)
        asked = plan.num_queries
        spectrum = plan.decode(torch.cat(answers), noise_std, refit, backend=backend)
        if not spectrum.unresolved.numel() or plan.b == plan.n:
            return spectrum, plan
        larger = plan.grow()
        if max_queries is not None and larger.num_queries > max_queries:
            return spectrum, plan
        plan = larger

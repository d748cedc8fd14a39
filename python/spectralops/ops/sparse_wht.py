"""`sparse_wht`: the sparse spectrum of a tensor in memory. The decoder is that of `SparseWHTPlan`; where reading everything is
quicker, and where the decoder leaves something unresolved, the dense transform and a threshold take its place.
"""

from __future__ import annotations

import contextlib
import math
from functools import lru_cache

import torch
from torch import Tensor

from .hadamard import hadamard_transform
from .sparse_spectrum import LEAST, SparseSpectrum
from .sparse_wht_decode import DTYPES, check_noise, real
from .sparse_wht_levels import FALSE_ALARM, chi_square_tail
from .sparse_wht_plan import SparseWHTPlan
from .sparse_wht_reference import FLOOR, noise_of
from .. import _check

OFFSETS = ("auto", "exact", "nso", "dense")
REPEATS = 3  # of "nso"
SMALLEST = {torch.float32: 1e-24, torch.float64: 1e-240}  # a sum of squares down to which their rounding is in range
SAMPLED = 1 << 16  # coefficients from which a dense transform's noise is estimated
# n -> the largest k for which decoding is quicker than the dense transform of one function, two cores with AVX-512; beyond
# the last n k <= 2^(n - 9). Not measured on a GPU: from n = 26 on by the bytes that each of them moves.
SPARSE_BELOW = {
    "cpu": {
        12: 32, 13: 64, 14: 256, 15: 512, 16: 1024, 17: 1024, 18: 2048, 19: 2048, 20: 2048, 21: 4096, 22: 8192, 23: 16384, 24: 32768,
    },
    "cuda": {},
}  # fmt: skip
FIRST = {"cpu": 12, "cuda": 26}  # no n below


@lru_cache(maxsize=64)
def _plan(n: int, k: int, groups: int, offsets: str, seed: int, device: torch.device) -> SparseWHTPlan:
    repeats = REPEATS if offsets == "nso" else 1
    return SparseWHTPlan(n, k, groups=groups, offsets=offsets, repeats=repeats, seed=seed, device=device)


@lru_cache(maxsize=64)
def _positions(plan: SparseWHTPlan, device: torch.device) -> Tensor:
    return plan.queries(format="packed").squeeze(1)


def _sparse_is_quicker(n: int, k: int, device: str) -> bool:
    if n < FIRST.get(device, 1 << 30):
        return False
    return k <= SPARSE_BELOW[device].get(n, 1 << (n - 9))


def _dense(x: Tensor, k: int, noise_std: float | str, backend: str | None) -> SparseSpectrum:
    """All 2^n coefficients F, and of them those that noise of variance v = sigma^2 / 2^n does not explain."""
    size = x.shape[0]
    n = size.bit_length() - 1
    coefficients = hadamard_transform(x, 1 / size, backend=backend)
    with torch.no_grad():
        energy = coefficients.square()
        total = energy.sum()
        if not SMALLEST[x.dtype] <= float(total) <= 1 / SMALLEST[x.dtype]:  # squares that are zero, infinite or inexact
            peak = float(x.detach().abs().amax())
            if not math.isfinite(peak):
                raise ValueError("x must be finite; got NaN or infinity")
            if peak:
                with torch.enable_grad() if coefficients.requires_grad else contextlib.nullcontext():
                    return _scaled(x, peak, k, noise_std, backend)
        floor = (FLOOR * torch.finfo(x.dtype).eps / 2) ** 2 * total
        tail = chi_square_tail(FALSE_ALARM / size, 1)
        if noise_std == "auto":
            places = torch.arange(min(size, SAMPLED), device=x.device) * 2654435769 % size  # odd: all places, none twice
            v = noise_of(energy[places][None], floor, chi_square_tail(FALSE_ALARM / places.numel(), 1))
        else:
            v = torch.maximum(floor, floor.new_tensor(min(noise_std, 1e150) ** 2 / size))
        keys = (energy > tail * v).nonzero().squeeze(1)
        keys = keys[energy[keys].argsort(descending=True, stable=True)]
        limit = max(32 * k, 4096)
        alone = not bool((keys != 0).any()) or size < LEAST
        doubtful = noise_std == "auto" and bool(v > floor) and alone
        unresolved = keys.new_zeros((int(doubtful or keys.numel() > limit), 2))
        keys = keys[:limit]
        left = energy.index_fill(0, keys, 0.0).sum().item()
        noise = (v * size).sqrt().item() if v > floor else 0.0
    return SparseSpectrum(n, keys[:, None], coefficients[keys], unresolved, left, noise)


def _scaled(x: Tensor, peak: float, k: int, noise_std: float | str, backend: str | None) -> SparseSpectrum:
    """The same of x / root^2, a power of four near its peak, in two steps: root^2 may be out of the type's range."""
    root = 2.0 ** (math.frexp(peak)[1] // 2)
    noise = noise_std if noise_std == "auto" else noise_std / root / root
    s = _dense(x / root / root, k, noise, backend)
    values, energy = s.values * root * root, s.residual_energy * root * root * root * root
    return SparseSpectrum(s.n, s.keys, values, s.unresolved, energy, s.noise_std * root * root)


def _one(x: Tensor, k: int, noise_std, groups: int, offsets: str, seed: int, backend: str | None) -> SparseSpectrum:
    n = x.shape[0].bit_length() - 1
    noisy = noise_std not in ("auto", 0)
    if offsets == "dense" or offsets == "auto" and (noisy or not _sparse_is_quicker(n, k, x.device.type)):
        return _dense(x, k, noise_std, backend)
    plan = _plan(n, k, groups, "exact" if offsets == "auto" else offsets, seed, x.device)
    spectrum = plan.decode(x[_positions(plan, x.device)], noise_std, backend=backend)
    if offsets == "auto" and (spectrum.unresolved.numel() or spectrum.noise_std):
        return _dense(x, k, noise_std, backend)
    return spectrum


def sparse_wht(
    x: Tensor, k: int, *, noise_std: float | str = "auto", groups: int = 3, offsets: str = "auto", seed: int = 0,
    backend: str | None = None,
) -> SparseSpectrum | list:
    r"""The largest Walsh-Hadamard coefficients of x: keys k and :math:`F[k] = 2^{-n} \sum_m x[m] (-1)^{\langle m, k \rangle}`.

    Args:
        x: (..., 2^n), n from 1 to 28; variable i of n is axis i of ``x.reshape([2] * n)``, that is bit n - 1 - i of
            the index. float32 and float64 are worked on as they are, 16-bit types as float32, integers as float64.
        k: the number of coefficients expected, at most 2^n. A few more are found as well.
        noise_std: standard deviation of independent noise on x, a number, or "auto": estimated.
        groups, seed: of the :class:`SparseWHTPlan`.
        offsets: "exact" or "nso", as there (three repeats), read about groups 2k (n + 1) entries of x; "dense" transforms all of
            x and keeps what stands out of the noise: all entries see smaller coefficients through it than a few. "auto" takes
            "exact" where that is quicker by a measured table, large n and small k, and "dense" elsewhere, where there
            is noise, and where something was left unresolved.

    Returns: a :class:`SparseSpectrum`, largest coefficient first; for leading dimensions a list, nested like them.
        Its `unresolved` is not empty where x is not sparse: more than max(32 k, 4096) coefficients stand out, or,
        with noise_std="auto" and something taken for noise, none but the mean does, or n is below 7. A dense
        transform counts as one bin, (0, 0).

    Derivatives: of `values` with respect to x, to every order, the keys held fixed. Deterministic. The host waits for the device.

    Raises: TypeError or ValueError for a size that is no power of two, k above 2^n, x that is not finite (where it
        was read), and as :class:`SparseWHTPlan` and :func:`hadamard_transform` do.

    Source: as :class:`SparseWHTPlan`.
    """
    _check.tensor("x", x, DTYPES)
    size = x.shape[-1] if x.dim() else 0
    if size < 2 or size & (size - 1):
        raise ValueError(f"x must have 2^n entries, n at least 1, in its last dimension; got {_check.shape(x)}")
    if not 1 <= _check.integer("k", k) <= size:
        raise ValueError(f"k must be at least 1 and at most 2^n = {size}; got {k}")
    _check.choice("offsets", offsets, OFFSETS)
    if not 1 <= _check.integer("groups", groups) <= 16:
        raise ValueError(f"groups must be at least 1 and at most 16; got {groups}")
    _check.integer("seed", seed)
    check_noise(noise_std)
    x = real(x)

    def each(part: Tensor) -> SparseSpectrum | list:
        if part.dim() > 1:
            return [each(row) for row in part]
        return _one(part, k, noise_std, groups, offsets, seed, backend)

    return each(x)

"""Initial coefficients of rational activations: least-squares fits of known activations, per version and
degrees.

The same coefficients mean different functions under different versions: coefficients fitted with Q = 1 +
|sum b_i x^i| (B) are wrong by up to 1.5 on [-3, 3] when evaluated with Q = 1 + sum |b_i x^i| (A), as
happens to the "gelu", "geglu" and "swishglu" values that KAT ships (fitted as B, evaluated by its kernels
as A). So every fit here names its version, and `load_kat` warns.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Callable

import torch
from torch import Tensor

from ..ops import rational_reference as spec

TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, 0.01),
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
RANGE, POINTS = 3.0, 1001  # the interval upstream fits on


def evaluate(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> Tensor:
    """F(x) in float64, x (points,)."""
    code = spec.VERSIONS.index(version)
    return spec.forward(x.double()[:, None], numerator.double()[None], denominator.double()[None], code)[:, 0]


def fit(target: Callable[[Tensor], Tensor], degrees=(5, 4), version: str = "A") -> tuple[Tensor, Tensor, float]:
    """Coefficients (m + 1,), (n or n + 1,) in float64 that fit `target` on [-3, 3] by least squares, and
    the largest error there.

    Levenberg-Marquardt on the closed-form Jacobian from a few fixed starts.
    """
    m, n = degrees
    code = spec.VERSIONS.index(version)
    count = n + (code == spec.C)
    x = torch.linspace(-RANGE, RANGE, POINTS, dtype=torch.float64, device="cpu")
    y = target(x)
    basis = x[:, None] ** torch.arange(m + 1, dtype=torch.float64)

    def residual(p: Tensor) -> Tensor:
        return evaluate(x, p[: m + 1], p[m + 1 :], version) - y

    best, least = None, math.inf
    powers = torch.arange(count, dtype=torch.float64) + (code != spec.C)
    even = (powers % 2 == 0).double()
    for start, mask in ((0.1, 1 + 0 * even), (0.5, 1 + 0 * even), (0.5, even), (5.0, even), (-0.3, 1 + 0 * even)):
        den = start * mask / torch.lgamma(powers + 1).exp()
        if code == spec.C:
            den[0] = 0.9
        q = evaluate(x, torch.ones(1, dtype=torch.float64), den, version)[:, None]  # 1 / Q
        num = torch.linalg.lstsq(basis * q, y[:, None]).solution[:, 0]
        p, damping = torch.cat([num, den]), 1e-3
        error = residual(p).square().sum()
        for _ in range(200):
            # Jacobian: one row of gradients for each point, from the batched closed form (each point its
            # own group)
            groups = p[None].expand(POINTS, -1)
            _, da, db = spec.backward(
                torch.ones(1, POINTS, dtype=torch.float64, device="cpu"), x[None], groups[:, : m + 1], groups[:, m + 1 :], code, 1
            )
            jacobian = torch.cat([da, db], 1)
            normal = jacobian.T @ jacobian
            step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal() + 1e-12), jacobian.T @ residual(p))
            tried = residual(p - step).square().sum()
            if tried < error:
                done = error - tried < 1e-12 * error
                p, error, damping = p - step, tried, damping / 3
                if done:
                    break
            else:
                damping *= 4
                if damping > 1e12:
                    break
        if error < least:
            best, least = p, error
    return best[: m + 1], best[m + 1 :], residual(best).abs().max().item()


@lru_cache(maxsize=None)
def _fitted(name: str, degrees: tuple[int, int], version: str) -> tuple[Tensor, Tensor]:
    from .rational_tables import TABLES

    table = TABLES.get((name, degrees, version))
    if table is not None:
        return tuple(torch.tensor(t, dtype=torch.float64, device="cpu") for t in table)
    with torch.device("cpu"):  # kept for all callers, wherever the first builds its modules
        return fit(TARGETS[name], degrees, version)[:2]


def rational_init(name: str = "gelu", *, degrees: tuple[int, int] = (5, 4), version: str = "A") -> tuple[Tensor, Tensor]:
    """Numerator (m + 1,) and denominator (n,), n + 1 for version C, in float32, that make `rational` the
    named activation on [-3, 3].

    name: "identity" (exact), "relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid". Degrees (5, 4) come
    from a table, others are fitted on first use (some tenths of a second). Raises ValueError for another
    name or version.
    """
    if name not in TARGETS:
        raise ValueError(f"name must be one of {', '.join(map(repr, TARGETS))}; got {name!r}")
    if version not in spec.VERSIONS:
        raise ValueError(f"version must be one of {', '.join(map(repr, spec.VERSIONS))}; got {version!r}")
    m, n = degrees
    if m < 1 or n < 1:
        raise ValueError(f"degrees must be at least (1, 1) for a fit; got {tuple(degrees)}")
    if name == "identity":
        num, den = torch.zeros(m + 1), torch.zeros(n + (version == "C"))
        num[1] = 1.0
        if version == "C":
            den[0] = 0.9
        return num, den
    num, den = _fitted(name, tuple(degrees), version)
    return num.float(), den.float()


def warn_if_fitted_for_b(numerator: Tensor, denominator: Tensor, where: str) -> None:
    """Warn where version-A coefficients are really an activation under version B."""
    x = torch.linspace(-RANGE, RANGE, POINTS, dtype=torch.float64, device="cpu")
    for row in range(denominator.shape[0]):
        a, b = numerator[row % numerator.shape[0]], denominator[row]
        as_a, as_b = (evaluate(x, a.detach().cpu(), b.detach().cpu(), v) for v in "AB")
        for name, target in TARGETS.items():
            error_a, error_b = ((v - target(x)).abs().max().item() for v in (as_a, as_b))
            if error_b < 0.02 and error_a > 0.05:
                warnings.warn(
                    f"{where}: these coefficients are {name} under version B (error {error_b:.2g}) but KAT's kernels, and this module, "
                    f"evaluate version A, which is off by {error_a:.2g} on [-3, 3]. The checkpoint's numbers are kept; for a new model use "
                    f"version='B' or rational_init({name!r}, version='A').",
                    stacklevel=3,
                )
                return

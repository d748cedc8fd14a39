"""The bases of KAN layers: small classes that say what a basis is; the kernels read only its code.

    basis = so.basis.BSpline(grid_size=5, order=3)
    basis(x)                    # (..., I) -> (..., I, K), plain PyTorch
    basis.derivative(x, 2)      # its second derivative in x
    so.kan_linear(x, coeff, basis)

A basis is a value, not a module: it holds no parameters and may be shared. Tables (knots, centres, recurrence
coefficients) may be tensors; one that requires a gradient gets it from the plain PyTorch formula, to which `kan_linear`
then falls back. Formulas are those of `ops/kan_basis.py`; sources are named class by class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _check
from .ops import kan_basis
from .ops.kan_basis import BasisCode, evaluate

__all__ = [
    "Basis", "BSpline", "Chebyshev", "DoG", "Fourier", "Gram", "Haar", "Hermite", "Jacobi", "Legendre", "MexicanHat", "Mix",
    "Morlet", "RBF", "RSWAF", "ReLUPower", "Sech",
]  # fmt: skip


def _compute(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Basis:
    """K functions of one variable.

    `size` is K. `code(dtype, device)` is what kernels read. `differentiable` tells that a table requires a gradient.
    """

    family: int
    size: int

    def __init__(self, size: int, *, a: int = 0, b: int = 0, c: int = 0, scalars=(), given: tuple[Tensor, ...] = ()):
        self.size = size
        self._numbers = (a, b, c)
        self._scalars = tuple(float(s) for s in scalars)
        self._given = given  # the caller's tensors: they may change in place, so a table is made of them at every call
        self._made = None if given else self._make_table()
        self._cached: dict[tuple, BasisCode] = {}

    def _make_table(self) -> Tensor | None:
        """The table, from the caller's tensors as they are now."""
        return None

    @property
    def _table(self) -> Tensor | None:
        return self._make_table() if self._given else self._made

    @property
    def differentiable(self) -> bool:
        return any(t.requires_grad for t in self._given)

    def code(self, dtype: torch.dtype, device: torch.device | str) -> BasisCode:
        """The code for data of this dtype: its table in the compute dtype, on the device."""
        key = (_compute(dtype), torch.device(device))
        found = self._cached.get(key)
        if found is not None:
            return found
        table = self._table
        if table is not None:
            table = table.to(dtype=key[0], device=key[1]).contiguous()
        found = BasisCode(self.family, self.size, *self._numbers, self._scalars, table)
        # What a tracer or inference mode made is of no use outside them
        passing = torch.compiler.is_compiling() or (table is not None and (type(table) is not Tensor or table.is_inference()))
        if table is None or not (passing or self._given):
            self._cached[key] = found
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """B_k(x): (..., I) -> (..., I, K) in x's dtype, computed in float32 (float64 for float64)."""
        return self.derivative(x, 0)

    def derivative(self, x: Tensor, order: int = 1) -> Tensor:
        """The order-th derivative of each function in x: (..., I) -> (..., I, K)."""
        _check.tensor("x", x)
        if _check.integer("order", order) < 0:
            raise ValueError(f"order must not be negative; got {order}")
        code = self.code(x.dtype, x.device)
        self.check_inputs(x.shape[-1] if x.dim() else 1)
        return evaluate(x.to(_compute(x.dtype)), code, order).to(x.dtype)

    def check_inputs(self, inputs: int) -> None:
        """Raise where the basis has tables for another number of inputs."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.__dict__.items() if not k.startswith("_") and not isinstance(v, Tensor))
        return f"{type(self).__name__}({shown})"


def _positive(name: str, value: int, least: int = 1) -> int:
    if _check.integer(name, value) < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return value


def _interval(low: float, high: float) -> tuple[float, float]:
    low, high = float(low), float(high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low must be less than high and both finite; got {low} and {high}")
    return low, high


class BSpline(Basis):
    r"""B-splines of any order: :math:`B_{j,0} = [t_j \le x < t_{j+1}]`,
    :math:`B_{j,p} = \frac{x - t_j}{t_{j+p} - t_j} B_{j,p-1} + \frac{t_{j+p+1} - x}{t_{j+p+1} - t_{j+1}} B_{j+1,p-1}`.

    Args:
        grid_size: intervals between `low` and `high`; `order` more are added on each side, so that
            K = grid_size + order, as in efficient-kan and pykan.
        order: degree of the pieces, 0 to 7; 3 is cubic.
        knots: instead of the uniform grid, (T,) or (I, T) non-decreasing, K = T - order - 1; repeated knots are allowed.
        outside: beyond the first and last knot: "zero", "clamp" (the value at the edge) or "linear" (its tangent). Between
            `high` and the last knot the truncated spline holds, as in efficient-kan.
        edge: where outside begins: "knots" (the first and last knot) or "grid" (`low` and `high`), where clamp and linear
            continue the full basis.

    The last knot itself is outside for "zero". NaN gives NaN; infinity is outside (upstream gives NaN).
    Source: C. de Boor, A Practical Guide to Splines; Z. Liu et al., KAN, 2024.
    """

    def __init__(self, grid_size: int | None = None, order: int = 3, low: float = -1, high: float = 1, *,
                 knots: Tensor | None = None, outside: str = "zero", edge: str = "knots"):  # fmt: skip
        self.order = _positive("order", order, 0)
        if order > 7:
            raise ValueError(f"order must be at most 7; got {order}")
        _check.choice("outside", outside, kan_basis.OUTSIDE)
        _check.choice("edge", edge, kan_basis.EDGES)
        self.outside, self.edge = outside, edge
        numbers = {"a": order, "b": kan_basis.OUTSIDE.index(outside), "c": kan_basis.EDGES.index(edge)}
        if knots is not None:
            if grid_size is not None:
                raise ValueError("give grid_size or knots, not both")
            _check.tensor("knots", knots)
            if knots.dim() not in (1, 2) or knots.shape[-1] < order + 2:
                raise ValueError(f"knots must be (T,) or (I, T) with T at least order + 2 = {order + 2}; got {_check.shape(knots)}")
            self.family = kan_basis.SPLINE
            self.knots = knots
            super().__init__(knots.shape[-1] - order - 1, **numbers, given=(knots,))
            return
        if grid_size is None:
            raise ValueError("BSpline takes grid_size or knots")
        self.grid_size = _positive("grid_size", grid_size)
        self.low, self.high = _interval(low, high)
        self.family = kan_basis.UNIFORM
        step = (self.high - self.low) / grid_size
        super().__init__(grid_size + order, **numbers, scalars=(self.low - order * step, step))

    def _make_table(self):
        return self._given[0].reshape(-1, self._given[0].shape[-1]) if self._given else None

    def check_inputs(self, inputs: int) -> None:
        if self._given and self.knots.dim() == 2 and self.knots.shape[0] not in (1, inputs):
            raise ValueError(f"knots are for {self.knots.shape[0]} inputs, x has {inputs}")


class _Radial(Basis):
    """psi((x - g_k) / h): `num` centres from low to high, h their spacing, or `centres` (K,) and `width` h."""

    family = kan_basis.RADIAL
    shape: str

    def __init__(self, num: int | None = None, low: float = -2, high: float = 2, *,
                 centres: Tensor | None = None, width: float | Tensor | None = None):  # fmt: skip
        if centres is None:
            if num is None:
                raise ValueError(f"{type(self).__name__} takes num or centres")
            self.num = _positive("num", num)
            self.low, self.high = _interval(low, high)
            spacing = (self.high - self.low) / max(num - 1, 1)
        else:
            if num is not None:
                raise ValueError("give num or centres, not both")
            _check.tensor("centres", centres)
            if centres.dim() != 1 or len(centres) < 1 or width is None:
                raise ValueError(f"centres must be (K,) and come with a width; got {_check.shape(centres)} and width {width!r}")
            self.num, spacing = len(centres), None
        width = spacing if width is None else width
        if isinstance(width, Tensor):
            if width.numel() != 1 and width.shape != (self.num,):
                raise ValueError(f"width must have one element or shape (K,) = ({self.num},); got {_check.shape(width)}")
        elif not (width > 0 and math.isfinite(width)):
            raise ValueError(f"width must be positive and finite; got {width}")
        self._centres, self._width = centres, width
        given = tuple(t for t in (centres, width) if isinstance(t, Tensor))
        super().__init__(self.num, a=kan_basis.SHAPES.index(self.shape), given=given)

    def _make_table(self):
        centres = self._centres
        if centres is None:
            at = self._width.device if self._given else None
            centres = torch.linspace(self.low, self.high, self.num, dtype=torch.float64, device=at)
        # float64 on the side, so that every compute dtype rounds once
        inverse = 1 / torch.as_tensor(self._width, dtype=torch.float64, device=centres.device)
        return torch.stack([centres.to(torch.float64), inverse.reshape(-1).expand(centres.shape)])


class RBF(_Radial):
    """exp(-((x - g_k) / h)^2), g = linspace(low, high, num), h = (high - low) / (num - 1). Source: Z. Li, fast-kan, 2024."""

    shape = "gaussian"


class RSWAF(_Radial):
    """1 - tanh^2((x - g_k) / h), with the gradient of that formula, which faster-kan's own backward is not.
    Source: A. Delis, FasterKAN, 2024."""

    shape = "rswaf"


class Sech(_Radial):
    """1 / cosh((x - g_k) / h). Source: H.-T. Ta et al., SechKAN."""

    shape = "sech"


class MexicanHat(_Radial):
    r""":math:`\frac{2}{\sqrt3 \pi^{1/4}} (u^2 - 1) e^{-u^2/2}`, u = (x - g_k) / h. Source: Wav-KAN, 2024."""

    shape = "mexican_hat"


class Morlet(_Radial):
    """cos(5 u) exp(-u^2 / 2), u = (x - g_k) / h. Source: Wav-KAN, 2024."""

    shape = "morlet"


class DoG(_Radial):
    """-u exp(-u^2 / 2), u = (x - g_k) / h: the derivative of a Gaussian. Source: Wav-KAN, 2024."""

    shape = "dog"


class Haar(_Radial):
    """1 for 0 <= u < 1/2, -1 for 1/2 <= u < 1, u = (x - g_k) / h; its derivative is zero."""

    shape = "haar"


class _Polynomial(Basis):
    """p_0 = 1, p_{k+1}(z) = (A_k z + B_k) p_k(z) - C_k p_{k-1}(z), k < degree; z = tanh(x) or x. Never an arc cosine."""

    family = kan_basis.POLYNOMIAL

    def __init__(self, degree: int, *, squash: str | None = "tanh", given: tuple[Tensor, ...] = ()):
        self.degree = _positive("degree", degree, 0)
        if squash not in ("tanh", None):
            raise ValueError(f"squash must be 'tanh' or None; got {squash!r}")
        self.squash = squash
        super().__init__(degree + 1, a=int(squash == "tanh"), given=given)

    def _make_table(self):
        table = self._recurrence(self.degree)
        return torch.cat([table, table.new_zeros(3, 1)], 1)

    def _recurrence(self, degree: int) -> Tensor:
        """(3, degree): A, B, C in float64."""
        rows = [self._coefficients(k) for k in range(degree)]
        return torch.tensor(rows, dtype=torch.float64).reshape(degree, 3).T.contiguous()

    def _coefficients(self, k: int) -> tuple[float, float, float]:
        raise NotImplementedError


class Chebyshev(_Polynomial):
    """First kind, T_{k+1} = 2 z T_k - T_{k-1}. Source: SynodicMonth, ChebyKAN, 2024."""

    def _coefficients(self, k):
        return (1.0, 0.0, 0.0) if k == 0 else (2.0, 0.0, 1.0)


class Legendre(_Polynomial):
    """(k + 1) P_{k+1} = (2k + 1) z P_k - k P_{k-1}."""

    def _coefficients(self, k):
        return (2 * k + 1) / (k + 1), 0.0, k / (k + 1)


class Jacobi(_Polynomial):
    """P_k^(a, b), a, b > -1. Source: DLMF 18.9.2; SpaceLearner, JacobiKAN, 2024."""

    def __init__(self, degree: int, a: float = 1.0, b: float = 1.0, *, squash: str | None = "tanh"):
        if not (a > -1 and b > -1):
            raise ValueError(f"a and b must be greater than -1; got {a} and {b}")
        self.a, self.b = float(a), float(b)
        super().__init__(degree, squash=squash)

    def _coefficients(self, k):
        a, b = self.a, self.b
        if k == 0:
            return (a + b + 2) / 2, (a - b) / 2, 0.0
        n, s = k + 1, 2 * (k + 1) + a + b
        below = 2 * n * (n + a + b) * (s - 2)
        return s * (s - 1) * (s - 2) / below, (s - 1) * (a * a - b * b) / below, 2 * (n + a - 1) * (n + b - 1) * s / below


class Hermite(_Polynomial):
    """Physicists': H_{k+1} = 2 z H_k - 2 k H_{k-1}."""

    def _coefficients(self, k):
        return 2.0, 0.0, 2.0 * k


class Gram(_Polynomial):
    """Monic: p_{k+1} = z p_k - beta_k p_{k-1}. `beta` (degree,), beta_0 unused, may be learnable; by default the
    Gram (discrete Chebyshev) polynomials of `points` equidistant points on [-1, 1], or with points=None their limit,
    the monic Legendre polynomials, beta_k = k^2 / (4 k^2 - 1)."""

    def __init__(self, degree: int, *, beta: Tensor | None = None, points: int | None = None, squash: str | None = "tanh"):
        if points is not None and points <= degree:
            raise ValueError(f"points must be more than degree, {degree}; got {points}")
        if beta is not None:
            _check.tensor("beta", beta)
            if beta.shape != (degree,):
                raise ValueError(f"beta must have shape (degree,) = ({degree},); got {_check.shape(beta)}")
        self.points = points
        super().__init__(degree, squash=squash, given=() if beta is None else (beta,))

    def _coefficients(self, k):
        beta = k * k / (4 * k * k - 1) if k else 0.0
        if self.points is not None:
            beta *= (self.points**2 - k * k) / (self.points - 1) ** 2
        return 1.0, 0.0, beta

    def _recurrence(self, degree):
        if not self._given:
            return super()._recurrence(degree)
        (beta,) = self._given
        return torch.stack([torch.ones_like(beta), torch.zeros_like(beta), beta])


class Fourier(Basis):
    """cos(k omega x) for k = 1..terms, then sin(k omega x): K = 2 terms. Source: GistNoesis, FourierKAN, 2024."""

    family = kan_basis.FOURIER

    def __init__(self, terms: int, *, omega: float = 1.0):
        self.terms, self.omega = _positive("terms", terms), float(omega)
        super().__init__(2 * terms, scalars=(omega,))


class ReLUPower(Basis):
    r""":math:`(r\,\mathrm{relu}(x - s_k)\,\mathrm{relu}(e_k - x))^{q}`, bell-shaped with peak 1.

    K = grid_size + order; with h = (high - low) / grid_size, s_k = low + (k - order) h, e_k = s_k + (order + 1) h and
    r = 4 / ((order + 1) h)^2. `power` q is 2 in ReLU-KAN, more in HRKAN for higher derivatives.
    combination: "power" as above, or AF-KAN's "product" (q = 1), "sum" (relu + relu) and "sum_product" (their sum plus their
    product), each times r^0. `starts` and `ends` (K,) replace the grid. Source: ReLU-KAN, 2024; HRKAN, 2024; AF-KAN, 2025.
    """

    family = kan_basis.RELU_POWER

    def __init__(self, grid_size: int | None = None, order: int = 3, low: float = 0, high: float = 1, *, power: int = 2,
                 combination: str = "power", starts: Tensor | None = None, ends: Tensor | None = None,
                 scaling: float | None = None):  # fmt: skip
        _check.choice("combination", combination, kan_basis.COMBINATIONS)
        self.power, self.combination = _positive("power", power), combination
        if power > 8:
            raise ValueError(f"power must be at most 8; got {power}")
        if (starts is None) != (ends is None):
            raise ValueError("starts and ends go together")
        if starts is None:
            if grid_size is None:
                raise ValueError("ReLUPower takes grid_size, or starts and ends")
            self.grid_size, self.order = _positive("grid_size", grid_size), _positive("order", order, 0)
            self.low, self.high = _interval(low, high)
            size, given = grid_size + order, ()
        else:
            _check.tensor("starts", starts)
            _check.tensor("ends", ends)
            if starts.dim() != 1 or starts.shape != ends.shape:
                raise ValueError(f"starts and ends must both be (K,); got {_check.shape(starts)} and {_check.shape(ends)}")
            size, given = len(starts), (starts, ends)
        self._scaling = scaling
        super().__init__(size, a=kan_basis.COMBINATIONS.index(combination), b=power if combination == "power" else 1, given=given)

    def _make_table(self):
        if self._given:
            starts, ends = self._given
            ends = ends.to(starts)
        else:
            step = (self.high - self.low) / self.grid_size
            starts = self.low + (torch.arange(self.size, dtype=torch.float64) - self.order) * step
            ends = starts + (self.order + 1) * step
        if self.combination != "power":
            r = torch.ones_like(starts)
        elif self._scaling is not None:
            r = torch.full_like(starts, float(self._scaling))
        else:
            r = 4 / (ends - starts) ** 2
        return torch.stack([starts, ends, r])


class Mix(Basis):
    """Several bases side by side: K is the sum of theirs, B the concatenation (S-KAN's selection among functions)."""

    family = -1

    def __init__(self, *bases: Basis):
        if not bases or not all(isinstance(b, Basis) for b in bases):
            raise TypeError("Mix takes bases")
        self.bases = tuple(b for basis in bases for b in (basis.bases if isinstance(basis, Mix) else (basis,)))
        super().__init__(sum(b.size for b in self.bases))

    @property
    def differentiable(self) -> bool:
        return any(b.differentiable for b in self.bases)

    def code(self, dtype, device):
        raise TypeError("a Mix has one code for each of its bases")

    def check_inputs(self, inputs: int) -> None:
        for b in self.bases:
            b.check_inputs(inputs)

    def derivative(self, x: Tensor, order: int = 1) -> Tensor:
        return torch.cat([b.derivative(x, order) for b in self.bases], -1)

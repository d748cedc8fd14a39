"""`Rational`: the learnable activation as a module, and the loader for KAT's group-rational weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.rational import rational
from .kan_spec import chosen
from .rational_init import rational_init, warn_if_fitted_for_b


class Rational(nn.Module):
    """y = P(x) / Q(x) with learnable coefficients; the formula, dtypes and derivatives are
    :func:`spectralops.rational`'s.

    Args:
        groups: contiguous slices of the last dimension that have a denominator (and, unless
        `share_numerator`, a numerator) of their own.
        degrees: (m, n). init: a name :func:`rational_init` knows. version: "A", "B", "C" or "smooth".
        share_numerator: one numerator for all groups, as KAT has.
        sign_at_zero: see :func:`spectralops.rational`; 1 lets coefficients that start at zero ("identity")
        learn.

    Parameters: `numerator` (G or 1, m + 1) and `denominator` (G, n), n + 1 for version C; float32 by default.
    """

    def __init__(
        self,
        groups: int = 1,
        *,
        degrees: tuple[int, int] = (5, 4),
        version: str = "A",
        init: str = "gelu",
        share_numerator: bool = False,
        sign_at_zero: int = 0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups must be at least 1; got {groups}")
        if sign_at_zero not in (0, 1):
            raise ValueError(f"sign_at_zero must be 0 or 1; got {sign_at_zero}")
        num, den = (t.to(device=device, dtype=dtype) for t in rational_init(init, degrees=degrees, version=version))
        self.groups, self.degrees, self.version, self.sign_at_zero = groups, tuple(degrees), version, sign_at_zero
        self.numerator = nn.Parameter(num.repeat(1 if share_numerator else groups, 1))
        self.denominator = nn.Parameter(den.repeat(groups, 1))

    def forward(self, x: Tensor) -> Tensor:
        how = {"version": self.version, "sign_at_zero": self.sign_at_zero, "backend": chosen(None)}
        return rational(x, self.numerator, self.denominator, **how)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, degrees={self.degrees}, version={self.version!r}, sign_at_zero={self.sign_at_zero}"

    @classmethod
    def from_kat(cls, state_dict: dict[str, Tensor], prefix: str = "") -> "Rational":
        """The module that computes what KAT's kernels compute for `weight_numerator` (1, 6) and
        `weight_denominator` (8, 4) of a checkpoint.

        Version A and sign(0) = 1, as those kernels have it (its CPU code is another function: it multiplies
        |b_i| by x^i, not |x|^i). Warns where the values are an activation fitted for version B. Raises
        KeyError without the two entries, ValueError on their shapes.
        """
        num, den = (state_dict[f"{prefix}weight_{name}"] for name in ("numerator", "denominator"))
        if num.dim() != 2 or den.dim() != 2 or num.shape[0] not in (1, den.shape[0]):
            raise ValueError(
                "KAT's weights have shapes (1 or groups, m + 1) and (groups, n); "
                f"got {tuple(num.shape)} and {tuple(den.shape)} under {prefix!r}"
            )
        warn_if_fitted_for_b(num, den, f"{prefix or 'checkpoint'}: rational activation")
        degrees = (num.shape[1] - 1, den.shape[1])
        module = cls(den.shape[0], degrees=degrees, init="identity", share_numerator=num.shape[0] == 1, sign_at_zero=1)
        module.to(device=num.device, dtype=num.dtype)
        with torch.no_grad():
            module.numerator.copy_(num)
            module.denominator.copy_(den)
        return module



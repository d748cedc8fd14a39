"""kat_rational: `KAT_Group`, the group rational of the Kolmogorov-Arnold Transformer.

    y = P(x) / (1 + sum_i |b_gi| |x|^i)    for the group g of the channel

weight_numerator (1, 6) is shared, weight_denominator (G, 4) is not; sgn(0) = 1 in the derivatives of |.|. That is what
its GPU kernels compute, and only modules on a GPU, which run them, are replaced. The fall-back that the package has for
a CPU multiplies |b_i| by x^i instead, another function, whose results no replacement could both keep and mend: use
`spectralops.nn.Rational.from_kat` for KAT's weights on a CPU. The kernels round to float32, so that the truth of the
verification is the formula.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .kan_common import autocast
from .matcher import Matcher, Plan, Refused, backend_of, has_tensors, mark, require

_KERNELS = ("RationalTriton1DGroup", "rational_1dgroup")


def _on_gpu(t: Tensor) -> bool:
    return t.is_cuda


def _runs_kernels(module: nn.Module) -> bool:
    """Whether the forward ends in the package's GPU kernels; the older CUDA module has no choice."""
    function = getattr(module, "rational", None)
    owner = getattr(function, "__self__", None)
    return function is None or getattr(owner, "__name__", "") in _KERNELS


def _formula(self: nn.Module, x: Tensor) -> Tensor:
    from .. import rational

    return rational(x, self.weight_numerator, self.weight_denominator, version="A", sign_at_zero=1, backend="reference")


def _forward(original):
    from .. import rational

    def forward(self, input: Tensor, *args, **kwargs) -> Tensor:  # noqa: A002, the published name
        num, den = self.weight_numerator, self.weight_denominator
        x = input.float() if isinstance(input, Tensor) and autocast(input) else input  # as its custom_fwd does
        fits = (
            not args and not kwargs and isinstance(x, Tensor) and x.dim() == 3 and _on_gpu(x) and _runs_kernels(self)
            and x.dtype == num.dtype == den.dtype == torch.float32 and x.shape[2] % len(den) == 0
        )  # fmt: skip
        if not fits:
            return original(self, input, *args, **kwargs)
        return rational(x, num, den, version="A", sign_at_zero=1)

    return forward


class KATRational(Matcher):
    package = "kat_rational"
    op = "rational"
    classes = ("kat_rational.kat_1dgroup_triton.KAT_Group", "kat_rational.kat_1dgroup.KAT_Group")
    names = ("KAT_Group",)

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, weight_numerator=2, weight_denominator=2)

    def plan(self, module: nn.Module) -> Plan:
        groups = getattr(module, "num_groups", 0)
        require(module, {"weight_numerator": (1, 6), "weight_denominator": (groups, 4)})
        if not _on_gpu(module.weight_numerator) or not _runs_kernels(module):
            raise Refused(
                "on a CPU: its fall-back there has x^i where its GPU kernels have |x|^i and is another function; "
                "replace on the GPU, or take nn.Rational.from_kat"
            )
        if module.weight_numerator.dtype != torch.float32:
            raise Refused(f"its kernels take float32 coefficients, these are {module.weight_numerator.dtype}")

        def probe(generator: torch.Generator) -> tuple[Tensor]:
            return (2 * torch.randn(4, 16, 8 * groups, generator=generator, dtype=torch.float64, device="cpu"),)

        def trim(x: Tensor, elements: int) -> Tensor:
            if x.dim() != 3 or x.numel() <= elements:
                return x
            return x.reshape(1, -1, x.shape[-1])[:, : max(1, elements // x.shape[-1])]

        def backend(x: Tensor) -> str:
            return backend_of("rational", x.float(), module.weight_numerator, module.weight_denominator, version="A")

        return Plan(
            mark(_forward(type(module).forward), "rational"),
            old=f"KAT_Group 5/4, {groups} groups",
            new="rational(version='A', sign_at_zero=1)",
            probe=probe,
            trim=trim,
            backend=backend,
            formula=_formula,
        )

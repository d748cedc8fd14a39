"""ChebyKAN: `ChebyKANLayer`.

    y_o = sum_{i,d} cheby_coeffs_iod T_d(tanh x_i)

Upstream has T_d as cos(d acos z) or by recurrence; of the first the gradient is NaN where tanh rounds to 1, in float32
for |x| above 9, where the derivative is 0 and ours is too. Rows with such inputs prove nothing and are left out of
the verification.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from .kan_common import as_linear, kan_plan, leading, normal, rank_taken, shaped, takes
from .matcher import Matcher, Plan, Refused, has_tensors, require

_SATURATED = 7.0  # beyond it 1 - tanh^2 is a few eps of float32


def _basis(coeffs: Tensor):
    from ..basis import Chebyshev

    return Chebyshev(coeffs.shape[2] - 1)


def _forward(lead: str, original):
    from .. import kan_linear

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        coeffs = self.cheby_coeffs
        if args or kwargs or not takes(x, coeffs, coeffs.shape[0]) or not rank_taken(x, lead):
            return original(self, x, *args, **kwargs)
        return shaped(as_linear(kan_linear(x, coeffs.transpose(0, 1), _basis(coeffs))), lead)

    return forward


class ChebyKAN(Matcher):
    package = "ChebyKAN"
    op = "kan_linear"
    names = ("ChebyKANLayer",)

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, cheby_coeffs=3)

    def plan(self, module: nn.Module) -> Plan:
        coeffs = module._parameters.get("cheby_coeffs")
        if coeffs is None or coeffs.dim() != 3 or getattr(module, "degree", -1) != coeffs.shape[2] - 1:
            raise Refused("its cheby_coeffs are no parameter (I, O, degree + 1)")
        inputs, outputs, size = coeffs.shape
        require(module, {"cheby_coeffs": coeffs.shape}, {"arange": (size,)}, optional=["arange"])
        lead = leading(module, inputs, outputs)
        plan = kan_plan(
            _forward(lead, type(module).forward),
            old=f"ChebyKANLayer({inputs}, {outputs}), degree {size - 1}",
            new="kan_linear(Chebyshev)",
            probe=normal(inputs, lead),
            operands=lambda: (coeffs.detach().transpose(0, 1), _basis(coeffs)),
            inputs=inputs,
        )

        def trim(x: Tensor, elements: int) -> Tensor:
            if x.dim() < 1 or x.shape[-1] != inputs:
                return x
            rows = x.reshape(-1, inputs)
            differentiable = rows[(rows.abs() < _SATURATED).all(-1)]
            return plan.trim(differentiable if len(differentiable) else rows, elements)

        return replace(plan, trim=trim)

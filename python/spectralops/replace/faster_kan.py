"""faster-kan: `FasterKANLayer`, 1 - tanh^2 of the normalised input around a grid.

    y = spline_linear(1 - tanh^2((LayerNorm(x) - g) r)),   g = rbf.grid (K,)

There are two generations. In the first r is a number, rbf.inv_denominator, and autograd differentiates. In the second
inv_denominator is a parameter that the forward does not use, r = 1, while the hand-written backward multiplies the
input's gradient by it: unless it is 1, that is not the derivative of the forward, and the module is replaced only
with fix_gradients=True. A trainable grid or inv_denominator, whose gradients upstream gives are none of its formula's
either, is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fast_kan import check_parts, coefficients
from .kan_common import as_linear, kan_plan, leading, normal, rank_taken, shaped, takes
from .matcher import Matcher, Plan, Refused, has_tensors, require, untouched


def _factor(module: nn.Module) -> float:
    """r."""
    inverse = module.rbf.inv_denominator
    return 1.0 if isinstance(inverse, Tensor) else float(inverse)


def _basis(module: nn.Module):
    from ..basis import RSWAF

    return RSWAF(centres=module.rbf.grid, width=1 / _factor(module))


def _formula(self: nn.Module, x: Tensor) -> Tensor:
    z = (self.layernorm(x)[..., None] - self.rbf.grid) * _factor(self)
    return self.spline_linear((1 - torch.tanh(z) ** 2).flatten(-2))


def _forward(lead: str, original):
    from .. import kan_linear

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        coeff, plain = coefficients(self), untouched(self.rbf) and untouched(self.spline_linear)
        if args or kwargs or not plain or not takes(x, coeff, coeff.shape[1]) or not rank_taken(x, lead):
            return original(self, x, *args, **kwargs)
        return shaped(as_linear(kan_linear(self.layernorm(x), coeff, _basis(self))), lead)

    return forward


class FasterKAN(Matcher):
    package = "faster-kan"
    op = "kan_linear"
    classes = ("fasterkan.fasterkan.FasterKANLayer",)
    names = ("FasterKANLayer",)

    def resembles(self, module: nn.Module) -> bool:
        rbf, linear = getattr(module, "rbf", None), getattr(module, "spline_linear", None)
        return has_tensors(rbf, grid=1) and has_tensors(linear, weight=2)

    def plan(self, module: nn.Module) -> Plan:
        outputs, inputs, size = check_parts(module, "ReflectionalSwitchFunction")
        require(module, {}, {}, {"layernorm": nn.LayerNorm, "rbf": nn.Module, "spline_linear": nn.Linear})
        inverse = getattr(module.rbf, "inv_denominator", None)
        if isinstance(inverse, Tensor) and inverse.requires_grad:
            raise Refused("its inv_denominator requires a gradient, and the one upstream gives is not its formula's")
        if not isinstance(inverse, (int, float, Tensor)) or not 0 < float(inverse) < float("inf"):
            raise Refused(f"the inv_denominator of its rbf is {inverse!r}, not a positive number")
        wrong = isinstance(inverse, Tensor) and float(inverse) != 1
        lead = leading(module, inputs, outputs)
        return kan_plan(
            _forward(lead, type(module).forward),
            old=f"FasterKANLayer({inputs}, {outputs}), {size} of 1 - tanh^2",
            new="kan_linear(RSWAF)",
            probe=normal(inputs, lead),
            operands=lambda: (coefficients(module).detach(), _basis(module)),
            inputs=inputs,
            formula=_formula,
            wrong_gradients=f"its backward multiplies by inv_denominator = {float(inverse):.3g}, which its forward does not "
            "use, so that its gradient is not its formula's" if wrong else "",
            note="gradients are the formula's now, no longer upstream's" if wrong else "",
        )  # fmt: skip

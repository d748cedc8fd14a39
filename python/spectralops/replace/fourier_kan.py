"""FourierKAN: `NaiveFourierKANLayer`.

    y_o = sum_{i,k} fouriercoeffs_0oik cos(k x_i) + fouriercoeffs_1oik sin(k x_i) + bias_0o,   k = 1 .. gridsize

Upstream multiplies out all (N, O, I, gridsize) products before it sums them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .kan_common import kan_plan, leading, normal, rank_taken, shaped, takes
from .matcher import Matcher, Plan, Refused, has_tensors, require


def _basis(coeffs: Tensor):
    from ..basis import Fourier

    return Fourier(coeffs.shape[3])


def _coefficients(coeffs: Tensor) -> Tensor:
    """(2, O, I, g) -> (O, I, 2 g), the cosines first."""
    return torch.cat([coeffs[0], coeffs[1]], -1)


def _forward(lead: str, original):
    from .. import kan_linear

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        coeffs = self.fouriercoeffs
        if args or kwargs or not takes(x, coeffs, coeffs.shape[2]) or not rank_taken(x, lead):
            return original(self, x, *args, **kwargs)
        x = x.to(coeffs.dtype)  # under autocast the products are of the parameters' dtype
        bias = self.bias[0] if self.addbias else None
        return shaped(kan_linear(x, _coefficients(coeffs), _basis(coeffs), bias=bias), lead)

    return forward


class FourierKAN(Matcher):
    package = "FourierKAN"
    op = "kan_linear"
    names = ("NaiveFourierKANLayer",)

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, fouriercoeffs=4)

    def plan(self, module: nn.Module) -> Plan:
        coeffs = module._parameters.get("fouriercoeffs")
        if coeffs is None or coeffs.dim() != 4 or len(coeffs) != 2 or coeffs.shape[3] != getattr(module, "gridsize", 0):
            raise Refused("its fouriercoeffs are no parameter (2, O, I, gridsize)")
        _, outputs, inputs, terms = coeffs.shape
        biased = getattr(module, "addbias", None)
        if biased not in (True, False):
            raise Refused("it has not the addbias of the published module")
        require(module, {"fouriercoeffs": coeffs.shape} | ({"bias": (1, outputs)} if biased else {}))
        lead = leading(module, inputs, outputs)
        return kan_plan(
            _forward(lead, type(module).forward),
            old=f"NaiveFourierKANLayer({inputs}, {outputs}), {terms} terms",
            new="kan_linear(Fourier)",
            probe=normal(inputs, lead, spread=2.0),
            operands=lambda: (_coefficients(coeffs.detach()), _basis(coeffs)),
            inputs=inputs,
            cost=outputs * inputs * terms,
        )

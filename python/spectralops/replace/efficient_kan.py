"""efficient-kan: `KANLinear`, B-splines on a grid for each input plus a base branch.

    y = sigma(x) base_weight^T + sum_{i,k} spline_weight_oik spline_scaler_oi B_k(x_i)

with B of Cox and de Boor on grid (I, G + 2p + 1), zero outside, sigma SiLU or what the constructor was given,
and no spline_scaler where enable_standalone_scale_spline is off. Grid and parameters are read at every call, so
`update_grid` and `regularization_loss` work as before. At infinity the splines are zero, where upstream has NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .kan_common import (
    as_linear, check_knots, activation_name, kan_plan, kan_with_base, leading, on_grid, rank_taken, shaped, splines, takes,
)  # fmt: skip
from .matcher import Matcher, Plan, Refused, has_tensors, require


def _coefficients(module: nn.Module) -> Tensor:
    """(O, I, K)."""
    weight = module.spline_weight
    return weight * module.spline_scaler.unsqueeze(-1) if module.enable_standalone_scale_spline else weight


def _forward(lead: str, original):
    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        weight = self.spline_weight
        if args or kwargs or not takes(x, weight, weight.shape[1]) or not rank_taken(x, lead):
            return original(self, x, *args, **kwargs)
        basis = splines(self.grid, weight.shape[2])
        y = kan_with_base(x, _coefficients(self), basis, self.base_weight, self.base_activation)
        return shaped(as_linear(y), lead)

    return forward


class EfficientKAN(Matcher):
    package = "efficient-kan"
    op = "kan_linear"
    classes = ("efficient_kan.kan.KANLinear",)
    names = ("KANLinear",)

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, base_weight=2, spline_weight=3, grid=2)

    def plan(self, module: nn.Module) -> Plan:
        weight, grid = module._parameters.get("spline_weight"), module._buffers.get("grid")
        scaled = getattr(module, "enable_standalone_scale_spline", None)
        if weight is None or grid is None or weight.dim() != 3 or grid.dim() != 2 or not isinstance(scaled, bool):
            raise Refused("it has not the spline_weight (O, I, K), the grid (I, T) and the switch of the published module")
        outputs, inputs, size = weight.shape
        shapes = {"base_weight": (outputs, inputs), "spline_weight": weight.shape}
        if scaled:
            shapes["spline_scaler"] = (outputs, inputs)
        require(module, shapes, {"grid": (inputs, grid.shape[1])}, {"base_activation": nn.Module}, ["base_activation"])
        order = getattr(module, "spline_order", -1)
        check_knots(grid, size, order)
        if not callable(getattr(module, "base_activation", None)):
            raise Refused("its base_activation is no function")
        name = activation_name(module.base_activation)
        lead = leading(module, inputs, outputs)
        with torch.no_grad():
            coefficients = _coefficients(module)
        return kan_plan(
            _forward(lead, type(module).forward),
            old=f"KANLinear({inputs}, {outputs}), order {order}, {size} splines",
            new="kan_linear(BSpline)" + ("" if name else " + base branch in PyTorch"),
            probe=on_grid(grid, lead),
            operands=lambda: (coefficients, splines(grid, size)),
            inputs=inputs,
        )

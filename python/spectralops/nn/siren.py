"""`SIREN`: a network of sine layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops.activations import sine
from .kan_spec import chosen


class SIREN(nn.Module):
    r"""h_{l+1} = sin(omega (W_l h_l + b_l)), then a linear layer (or a sine layer): x (..., in) -> (..., out).

    Args:
        in_features, hidden_features, out_features; layers: how many hidden sine layers, 1 or more; the linear layers are in
            `layers`.
        omega_0: omega of the first layer, omega of the others. outermost_linear: False ends with a sine.
        backend: :func:`spectralops.sine`'s. "reference" has derivatives of every order, and a loss on second derivatives of the
            network, a Laplacian, needs the third to train; None takes the kernels, which have two.

    Initial weights: uniform on +-1 / in in the first layer, +-sqrt(6 / fan_in) / omega after it; biases as nn.Linear's. So
    omega W h is about normal with unit variance after the first layer, whatever the depth.

    Source: V. Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions, 2020.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        layers: int = 3,
        *,
        omega_0: float = 30.0,
        omega: float = 30.0,
        outermost_linear: bool = True,
        backend: str | None = "reference",
        device=None,
        dtype=None,
    ):
        if layers < 1:
            raise ValueError(f"layers must be at least 1; got {layers}")
        widths = [in_features, *[hidden_features] * layers, out_features]
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o, device=device, dtype=dtype) for i, o in zip(widths, widths[1:]))
        self.omega_0, self.omega, self.outermost_linear, self.backend = omega_0, omega, outermost_linear, backend
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for number, linear in enumerate(self.layers):
            linear.reset_parameters()
            bound = math.sqrt(6 / linear.in_features) / self.omega if number else 1 / linear.in_features
            nn.init.uniform_(linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for number, linear in enumerate(self.layers):
            x = linear(x)
            if number < len(self.layers) - 1 or not self.outermost_linear:
                x = sine(x, self.omega if number else self.omega_0, backend=chosen(self.backend))
        return x

    def extra_repr(self) -> str:
        return f"omega_0={self.omega_0}, omega={self.omega}"

"""Wav-KAN: its `KANLinear`, a wavelet on every edge and batch normalisation after the sum.

    y = BatchNorm(sum_i wavelet_weights_oi psi((x_i - translation_oi) / scale_oi))

for psi "mexican_hat", "morlet" or "dog"; `bn` is called as the module it is, and weight1, which upstream does not use,
stays unused. "meyer" and "bump" have no kernel here, "shannon" has a window that runs across the inputs, and such layers
are refused. Upstream makes several (N, O, I) tensors; `wavelet_linear` makes none.
"""

from __future__ import annotations

from torch import Tensor, nn

from .kan_common import kan_plan, normal, takes
from .matcher import Matcher, Plan, Refused, has_tensors, require

_KINDS = ("mexican_hat", "morlet", "dog")


def _operands(module: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    return module.wavelet_weights, module.scale, module.translation


def _forward(original):
    from .. import wavelet_linear

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        weight, kind = self.wavelet_weights, self.wavelet_type
        if args or kwargs or kind not in _KINDS or not takes(x, weight, weight.shape[1]) or x.dim() != 2:
            return original(self, x, *args, **kwargs)
        x = x.to(weight.dtype)  # under autocast the sums are of the parameters' dtype
        return self.bn(wavelet_linear(x, *_operands(self), kind))

    return forward


class WavKAN(Matcher):
    package = "Wav-KAN"
    op = "wavelet_linear"
    names = ("KANLinear",)

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, wavelet_weights=2, scale=2, translation=2)

    def plan(self, module: nn.Module) -> Plan:
        kind, weight = getattr(module, "wavelet_type", None), module._parameters.get("wavelet_weights")
        if kind not in _KINDS:
            raise Refused(f"wavelet {kind!r}; wavelet_linear has {', '.join(_KINDS)}")
        if weight is None:
            raise Refused("its wavelet_weights are no parameter (O, I)")
        outputs, inputs = weight.shape
        names = ("wavelet_weights", "scale", "translation", "weight1")
        children = {"base_activation": nn.Module, "bn": nn.BatchNorm1d}
        require(module, dict.fromkeys(names, weight.shape), {}, children, ["weight1", "base_activation"])
        return kan_plan(
            _forward(type(module).forward),
            old=f"KANLinear({inputs}, {outputs}), {kind}",
            new=f"wavelet_linear({kind!r})",
            probe=normal(inputs),
            operands=lambda: (*(t.detach() for t in _operands(module)), kind),
            op="wavelet_linear",
            inputs=inputs,
            cost=inputs * outputs,
        )

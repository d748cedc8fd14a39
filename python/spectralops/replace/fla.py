"""flash-linear-attention: `LongConvolution` and `ImplicitLongConvolution`.

    y_t = x_t + sum_j k_j x_{(t - j) mod 2 L},   x (B, L, H), 0 from L to 2 L - 1

with `filter` (H, max_len) as k, or k (1, H, L) from the module's method `filter`, which goes on to be called. Upstream's
transforms have 2 L points: where max_len is above L + 1, the taps beyond wrap around and y sees what comes later in the
row. A replaced module keeps to that, as results stay what they were; rows of max_len do not have it.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..compat import periodic_conv
from .conv_common import conv_plan, probe_rows, takes
from .matcher import Matcher, Plan, Refused, require

_PATHS = ("fla.modules.long_conv", "fla.modules.convolution")
_NOTE = "rows shorter than max_len see later tokens, as they did: upstream's taps beyond a row wrap around"


def _convolve(x: Tensor, k: Tensor, like: Tensor) -> Tensor:
    return periodic_conv(x, k, 2 * x.shape[1], skip=like.new_ones(x.shape[2]), layout="blh")


def _explicit(original):
    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        k = self.filter
        if not takes(x, k, k.shape[0], -1):
            return original(self, x, *args, **kwargs)
        return _convolve(x, k, k)

    return forward


def _implicit(original):
    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        weight = self.mlp[-1].weight
        if not takes(x, weight, weight.shape[0], -1):
            return original(self, x, *args, **kwargs)
        return _convolve(x, self.filter(x.shape[1]), weight)

    return forward


class FLALongConvolution(Matcher):
    package = "flash-linear-attention"
    op = "fft_conv"
    classes = tuple(f"{path}.LongConvolution" for path in _PATHS)

    def plan(self, module: nn.Module) -> Plan:
        k = module._parameters.get("filter")
        if k is None or k.dim() != 2 or k.shape[0] != getattr(module, "hidden_size", -1):
            raise Refused("its filter is no parameter (hidden_size, max_len)")
        require(module, {"filter": k.shape})
        channels, taps = k.shape
        return conv_plan(
            _explicit(type(module).forward),
            old=f"LongConvolution({channels}, {taps})",
            new="fft_conv",
            probe=probe_rows((2, min(max(2, taps * 3 // 4), 512), channels)),
            layout="blh",
            note=_NOTE,
        )


class FLAImplicitLongConvolution(Matcher):
    package = "flash-linear-attention"
    op = "fft_conv"
    classes = tuple(f"{path}.ImplicitLongConvolution" for path in _PATHS)

    def plan(self, module: nn.Module) -> Plan:
        require(module, {}, {}, {"pos_emb": "PositionalEmbedding", "mlp": nn.Sequential})
        last = module.mlp[-1] if len(module.mlp) else None
        if not isinstance(last, nn.Linear) or last.weight.shape[0] != getattr(module, "hidden_size", -1):
            raise Refused("its mlp does not end in a linear layer of hidden_size outputs")
        channels, longest = last.weight.shape[0], getattr(module.pos_emb, "seq_len", 64)
        return conv_plan(
            _implicit(type(module).forward),
            old=f"ImplicitLongConvolution({channels}, {longest})",
            new="fft_conv",
            probe=probe_rows((2, min(max(2, longest), 512), channels)),
            layout="blh",
        )

"""state-spaces/s4: `S4D` of its minimal s4d.py, and `FFTConv` of the full models.

    S4D        y = output_linear(dropout(GELU(k * u + D u))), k (H, L) from its child `kernel`; returns (y, None)
    FFTConv    y = activation(drop(k_c * x + D_c x)), k (C, H, L) from its child `kernel`, D (C, H), channels joined as (c h) or,
               with swap_channels, (h c); bidirectional: the second half of the kernels runs backwards from lag -1 on

k * u is causal. `kernel`, `dropout` or `drop` and the layers after them are called as the modules they are. GELU is part of
the convolution's call, in FFTConv where nothing is dropped before it. A call of FFTConv with a state runs the old forward.
"""

from __future__ import annotations

from torch import Tensor, nn

from .conv_common import attributes, conv_plan, probe_rows, takes
from .matcher import Matcher, Plan, Refused, has_tensors, require, untouched


def _activation(module: nn.Module) -> str | None:
    """fft_conv's name for an activation on which nothing was hung."""
    if type(module) is nn.GELU and module.approximate == "none" and untouched(module):
        return "gelu"
    return "silu" if type(module) is nn.SiLU and not module.inplace and untouched(module) else None


def _drops(module: nn.Module) -> bool:
    """Whether a dropout module does anything to its input."""
    idle = type(module) is nn.Identity or type(module) is nn.Dropout and (module.p == 0 or not module.training)
    return not (idle and untouched(module))


def _s4d(original):
    from .. import fft_conv

    def forward(self, u: Tensor, **kwargs):
        if not takes(u, self.D, len(self.D), -2 if self.transposed else -1, True) or _activation(self.activation) != "gelu":
            return original(self, u, **kwargs)
        u = u if self.transposed else u.transpose(-1, -2)
        y = fft_conv(u, self.kernel(L=u.shape[-1]), skip=self.D, activation="gelu")
        y = self.output_linear(self.dropout(y))
        return y if self.transposed else y.transpose(-1, -2), None

    return forward


class S4DMinimal(Matcher):
    package = "s4"
    op = "fft_conv"
    classes = ("models.s4.s4d.S4D",)
    names = ("S4D",)

    def resembles(self, module: nn.Module) -> bool:
        kernel = getattr(module, "kernel", None)
        return has_tensors(module, D=1) and isinstance(kernel, nn.Module) and has_tensors(kernel, C=3, log_dt=1)

    def plan(self, module: nn.Module) -> Plan:
        children = {"kernel": "S4DKernel", "activation": nn.GELU, "dropout": nn.Module, "output_linear": nn.Sequential}
        require(module, {"D": module.D.shape}, {}, children)
        if getattr(module, "transposed", None) not in (True, False):
            raise Refused("it has not the attribute transposed of the published module")
        if _activation(module.activation) != "gelu":
            raise Refused("its activation is no plain GELU")
        channels = len(module.D)
        return conv_plan(
            _s4d(type(module).forward),
            old=f"S4D({channels})",
            new="fft_conv(gelu)",
            probe=probe_rows((2, channels, 128) if module.transposed else (2, 128, channels)),
            layout="bhl" if module.transposed else "blh",
            prepare=lambda copied: copied.dropout.eval(),
        )


def _fft_conv(original):
    from .. import fft_conv

    def forward(self, x: Tensor, state=None, rate: float = 1.0, **kwargs):
        if state is not None or not takes(x, self.D, self.D.shape[1], -2 if self.transposed else -1, True):
            return original(self, x, state=state, rate=rate, **kwargs)
        x = x if self.transposed else x.transpose(-1, -2)
        length = x.shape[-1]
        taps = length if self.L is None else min(length, round(self.L / rate))
        k, _ = self.kernel(L=taps, rate=rate, state=state)  # (C, H, taps), or twice as many
        back = {}
        if self.bidirectional:
            k, k_rev = k.chunk(2)
            back = {"k_rev": k_rev, "rev_offset": 1}
        inside = None if _drops(self.drop) else _activation(self.activation)
        y = fft_conv(x, k, skip=self.D, multi=True, activation=inside, **back)  # (B, C, H, L)
        y = (y.transpose(1, 2) if self.swap_channels else y).flatten(1, 2)
        if inside is None:
            y = self.drop(y)
        y = y if self.transposed else y.transpose(-1, -2)
        return y if inside else self.activation(y), None

    return forward


class S4FFTConv(Matcher):
    package = "s4"
    op = "fft_conv"
    classes = ("src.models.sequence.kernels.fftconv.FFTConv",)
    names = ("FFTConv",)

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, D=2) and isinstance(getattr(module, "kernel", None), nn.Module)

    def plan(self, module: nn.Module) -> Plan:
        require(module, {"D": module.D.shape}, {}, {"kernel": nn.Module, "activation": nn.Module, "drop": nn.Module})
        for name in ("bidirectional", "transposed", "swap_channels"):
            if getattr(module, name, None) not in (True, False):
                raise Refused(f"it has not the attribute {name} of the published module")
        if not hasattr(module, "L"):
            raise Refused("it has not the attribute L of the published module")
        channels, width = module.D.shape
        attributes(module, d_model=width)
        return conv_plan(
            _fft_conv(type(module).forward),
            old=f"FFTConv({width}, channels={channels})",
            new="fft_conv",
            probe=probe_rows((2, width, 96) if module.transposed else (2, 96, width)),
            layout="bhl" if module.transposed else "blh",
            prepare=lambda copied: copied.drop.eval(),
        )

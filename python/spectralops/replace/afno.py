"""AFNO's mixer as it is published: NVlabs' `AFNO2D`, PhysicsNeMo's `AFNO2DLayer` and FourCastNet's `AFNO2D`, DPOT's
`AFNO2D`, AFFNet's `AFNO2D_channelfirst`. All have w1, b1, w2, b2 and are `spectral_mlp`; they differ in the modes
they keep, in the layout of x and in the activation, and are told apart by their attributes and by the arguments of
their forward:

    AFNO2D, forward(x, spatial_size)      x (B, h w, C)                 columns kept, rows all           relu
    AFNO2DLayer, AFNO2D, forward(x)       x (B, h, w, C)                rows about Nyquist               relu
    AFNO2D with `modes`, `channel_first`  x (B, h, w, C) or (B, C, h, w) the first `modes`, no shrinkage `act`
    AFNO2D_channelfirst                   x (B, C, h, w)                all; the MLP's result is a mask  `act`, `act2`

Upstream computes in float32 whatever the module's dtype and adds x after rounding to its dtype; under autocast its
products are rounded to 16 bits, which a replaced module's are not. DPOT's has no cast: it takes float32 alone.
"""

from __future__ import annotations

import inspect
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv_common import attributes, probe_rows
from .matcher import Matcher, Plan, Refused, backend_of, has_tensors, mark, require, untouched

_ACTIVATIONS = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Identity: "identity"}
_FUNCTIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "identity": lambda x: x}
_WEIGHTS = ("w1", "b1", "w2", "b2")


def _kind(module: nn.Module) -> str:
    """`spectral_mlp`'s variant."""
    name = type(module).__name__
    if name == "AFNO2D_channelfirst":
        return "aff"
    if hasattr(module, "modes") and hasattr(module, "channel_first"):
        return "dpot"
    return "afno" if name == "AFNO2D" and "spatial_size" in inspect.signature(type(module).forward).parameters else "physicsnemo"


def _activation(module: nn.Module, kind: str) -> str | None:
    """spectral_mlp's name for it, asked at every call; None where it has none."""
    if kind in ("afno", "physicsnemo"):
        return "relu"
    found = {_name(getattr(module, name, None)) for name in (("act", "act2") if kind == "aff" else ("act",))}
    return found.pop() if len(found) == 1 else None


def _name(act: object) -> str | None:
    if not isinstance(act, nn.Module) or not untouched(act) or getattr(act, "approximate", "none") != "none":
        return None
    return _ACTIVATIONS.get(type(act))


def _options(module: nn.Module, kind: str) -> dict:
    found = {"activation": _activation(module, kind), "variant": kind}
    if kind == "dpot":
        return {**found, "modes": module.modes}
    found["threshold"] = float(module.sparsity_threshold)
    return found if kind == "aff" else {**found, "keep": module.hard_thresholding_fraction}


def _channels_last(self: nn.Module, kind: str, x: Tensor, spatial_size) -> Tensor | None:
    """x (B, h, w, C), or None where x is not what the module takes."""
    if kind == "afno":
        if x.dim() != 3:
            return None
        grid = (int(math.sqrt(x.shape[1])),) * 2 if spatial_size is None else tuple(spatial_size)
        return x.reshape(x.shape[0], *grid, x.shape[2]) if len(grid) == 2 and math.prod(grid) == x.shape[1] else None
    if x.dim() != 4:
        return None
    return x.permute(0, 2, 3, 1) if kind == "aff" or kind == "dpot" and self.channel_first else x


def _back(self: nn.Module, kind: str, y: Tensor, x: Tensor) -> Tensor:
    first = kind == "aff" or kind == "dpot" and self.channel_first
    return y.permute(0, 3, 1, 2) if first else y.reshape(x.shape)


def _forward(kind: str, original):
    from .. import spectral_mlp

    floats = (torch.float32,) if kind == "dpot" else (torch.float32, torch.float16, torch.bfloat16)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        spatial_size = args[0] if args else kwargs.get("spatial_size")
        weights = [getattr(self, name) for name in _WEIGHTS]
        taken = isinstance(x, Tensor) and x.dtype in floats and x.numel() > 0 and len(args) + len(kwargs) < 2
        z = _channels_last(self, kind, x, spatial_size) if taken else None
        fits = z is not None and z.shape[3] == math.prod(weights[0].shape[1:3])
        if not fits or _activation(self, kind) is None or any(t.dtype != torch.float32 or t.device != x.device for t in weights):
            return original(self, x, *args, **kwargs)
        with torch.autocast(x.device.type, enabled=False):
            return _back(self, kind, spectral_mlp(z, *weights, **_options(self, kind)), x)

    return forward


def _formula_for(kind: str):
    def formula(self: nn.Module, x: Tensor, spatial_size=None) -> Tensor:
        """In the precision of the weights."""
        z = _channels_last(self, kind, x.to(self.w1.dtype), spatial_size)
        options, (_, h, w, channels) = _options(self, kind), z.shape
        spectrum = torch.fft.rfft2(z, dim=(1, 2), norm="ortho")
        act = _FUNCTIONS[options["activation"]]
        w1, b1, w2, b2 = (torch.complex(*getattr(self, name)) for name in _WEIGHTS)
        hidden = torch.einsum("...kb,kbo->...ko", spectrum.unflatten(-1, w1.shape[:2]), w1) + b1
        hidden = torch.complex(act(hidden.real), act(hidden.imag))
        s = (torch.einsum("...kb,kbo->...ko", hidden, w2) + b2).flatten(-2)
        threshold = options.get("threshold", 0.0)
        s = torch.complex(F.softshrink(s.real, threshold), F.softshrink(s.imag, threshold))
        kept = torch.zeros(h, w // 2 + 1, dtype=torch.bool, device=x.device)
        rows = columns = slice(None)
        if kind == "afno":
            columns = slice(int((w // 2 + 1) * options["keep"]))
        elif kind == "physicsnemo":
            total = h // 2 + 1
            count = int(total * options["keep"])
            rows, columns = slice(total - count, total + count), slice(count)
        elif kind == "dpot":
            rows, columns = slice(self.modes), slice(self.modes)
        kept[rows, columns] = True
        s = s * spectrum if kind == "aff" else s
        y = torch.fft.irfft2(torch.where(kept[..., None], s, 0), s=(h, w), dim=(1, 2), norm="ortho")
        return _back(self, kind, y + z, x)

    return formula


class AFNO(Matcher):
    package = "AFNO"
    op = "spectral_mlp"
    names = ("AFNO2D", "AFNO2DLayer", "AFNO2D_channelfirst")

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, w1=4, b1=3, w2=4, b2=3)

    def plan(self, module: nn.Module) -> Plan:
        two, blocks, size, hidden = module.w1.shape
        shapes = {
            "w1": (2, blocks, size, hidden), "b1": (2, blocks, hidden), "w2": (2, blocks, hidden, size), "b2": (2, blocks, size),
        }  # fmt: skip
        kind = _kind(module)
        children = {"aff": ("act", "act2"), "dpot": ("act",)}.get(kind, ())
        # PhysicsNeMo's own Module class has an empty buffer that tells it its device
        require(module, shapes, {"device_buffer": (0,)}, {name: nn.Module for name in children}, ["device_buffer"])
        attributes(module, num_blocks=blocks, block_size=size, hidden_size=blocks * size)
        needed = {"dpot": ("modes",), "aff": ("sparsity_threshold",)}
        needed = needed.get(kind, ("sparsity_threshold", "hard_thresholding_fraction"))
        missing = [name for name in needed if not isinstance(getattr(module, name, None), (int, float))]
        if missing:
            raise Refused(f"it has not the number {missing[0]} of the published module")
        if module.w1.dtype != torch.float32:
            raise Refused(f"its weights are {module.w1.dtype}; upstream computes in float32")
        if _activation(module, kind) is None:
            raise Refused(f"its activation is {module.act}; spectral_mlp has {', '.join(_FUNCTIONS)}")
        channels, (h, w) = blocks * size, (8, 8) if kind == "afno" else (8, 10)
        shape = {"afno": (2, h * w, channels), "aff": (2, channels, h, w)}.get(kind, (2, h, w, channels))
        if kind == "dpot" and module.channel_first:
            shape = (2, channels, h, w)
        scale = self._reach(module)

        def trim(x: Tensor, elements: int) -> Tensor:
            return x[: max(1, elements // max(x[0].numel(), 1))] if x.dim() > 2 and len(x) else x

        def backend(x: Tensor, spatial_size=None, *_, **__) -> str:
            z = _channels_last(module, kind, x, spatial_size) if isinstance(x, Tensor) and x.numel() else None
            weights = [getattr(module, name) for name in _WEIGHTS]
            return "" if z is None else backend_of("spectral_mlp", z, *weights, **_options(module, kind))

        return Plan(
            mark(_forward(kind, type(module).forward), "spectral_mlp"),
            old=f"{type(module).__name__}({channels}, {blocks} blocks), as {kind}",
            new="spectral_mlp",
            probe=lambda generator: tuple(scale * t for t in probe_rows(shape)(generator)),
            trim=trim,
            backend=backend,
            formula=_formula_for(kind),
        )

    @staticmethod
    def _reach(module: nn.Module) -> float:
        """How large x must be for the MLP's results to be ten times the threshold: fresh weights give little that survives it."""
        w1, w2 = module.w1.detach().double(), module.w2.detach().double()
        gain = 2 * math.sqrt(w1.shape[2] * w2.shape[2]) * (w1.square().mean() * w2.square().mean()).sqrt().item()
        return min(max(1.0, 10 * float(getattr(module, "sparsity_threshold", 0)) / gain), 1e4) if gain > 0 else 1.0

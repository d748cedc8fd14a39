"""PEFT: the adapter layers `FourierFTLinear`, `WaveFTLinear` and `C3ALinear`.

    FourierFT  y = base(x) + sum over active adapters of x dW^T,   dW = scaling Re ifft2(D)
    WaveFT     the same with the inverse wavelet transform; replaced where all adapters use db1
    C3A        y = base(x) + x C^T / in_features,   C of circulant blocks C[o, i] = w[(i - o) mod b]

Only forward is replaced: merge, unmerge, get_delta_weight and the rest go on as they are, and a call with adapters merged or
disabled runs the old forward. Where the base is a plain Linear of x's dtype, FourierFT's weight, update and bias are one call.

PEFT's gradient of x through C3A takes w[(i + o) mod b] for w[(i - o) mod b]: not the derivative of its own values (0.21.2; layers
below one with an adapter train on wrong gradients). Where the installed version does so, it is replaced with
fix_gradients=True alone.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from .kan_common import autocast
from .matcher import Matcher, Plan, Refused, backend_of, mark, require, untouched

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_moved = WeakTensorKeyDictionary()


def _on(indices: Tensor, device: torch.device) -> Tensor:
    """PEFT keeps indices on the CPU: one copy a device, not one a call."""
    if indices.device == device:
        return indices
    kept, version = _moved.setdefault(indices, {}), indices._version
    if device not in kept or kept[device][0] != version:
        kept[device] = version, indices.to(device)
    return kept[device][1]


def _active(module: nn.Module, x: object, parameters: nn.ParameterDict) -> list[str]:
    """The adapters that a call applies; none where the old forward is to run."""
    if not isinstance(x, Tensor) or x.dtype not in _FLOATS or x.dim() < 1 or x.shape[-1] != module.in_features or x.numel() == 0:
        return []
    if module.disable_adapters or module.merged:
        return []
    names = [name for name in module.active_adapters if name in parameters]
    wide = x.dtype == torch.float64
    alike = all(parameters[n].device == x.device and (wide or parameters[n].dtype != torch.float64) for n in names)
    return names if alike else []


def _fused(module: nn.Module, x: Tensor, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias of a base layer that may be left out."""
    base = module.base_layer
    if args or kwargs or type(base) is not nn.Linear or not untouched(base) or autocast(x) or base.weight.dtype != x.dtype:
        return None
    plain = all(type(p) in (nn.Parameter, Tensor) for p in (base.weight, base.bias) if p is not None)
    return (base.weight, base.bias) if plain and "parametrizations" not in base._modules else None


def _sum(first: Tensor, second: Tensor) -> Tensor:
    return first + second.to(torch.promote_types(first.dtype, second.dtype))


def _fourier(original):
    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        from .. import fourier_linear

        names = _active(self, x, self.fourierft_spectrum)
        if not names:
            return original(self, x, *args, **kwargs)
        found = _fused(self, x, args, kwargs)
        result = None if found else self.base_layer(x, *args, **kwargs)
        for name in names:
            spectrum = self.fourierft_spectrum[name]
            weight, bias = found if result is None else (None, None)
            y = fourier_linear(
                x, spectrum, _on(self.indices[name], x.device), out_features=self.out_features,
                scaling=float(self.fourierft_scaling[name]), weight=weight, bias=bias,
            )  # fmt: skip
            result = y if result is None else _sum(result, y)
        return result.to(x.dtype)

    return forward


def _fourier_formula(self, x: Tensor, *args, **kwargs) -> Tensor:
    result = self.base_layer(x, *args, **kwargs)
    for name in _active(self, x, self.fourierft_spectrum):
        c, (row, column) = self.fourierft_spectrum[name], self.indices[name].to(x.device)
        wide = c.to(torch.promote_types(c.dtype, torch.float32))
        dense = wide.new_zeros(self.out_features, self.in_features).index_put((row, column), wide)
        delta = torch.fft.ifft2(dense).real * self.fourierft_scaling[name]
        result = _sum(result, F.linear(x.to(wide.dtype), delta))
    return result.to(x.dtype)


def _wave(original):
    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        from .. import waveft_linear

        names = _active(self, x, self.waveft_spectrum)
        if not names or not all(self.waveft_use_idwt[n] and self.waveft_wavelet_family[n] == "db1" for n in names):
            return original(self, x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        for name in names:
            indices = _on(self.waveft_indices[name], x.device)
            scaling = float(self.waveft_scaling[name])
            y = waveft_linear(x, self.waveft_spectrum[name], indices, out_features=self.out_features, scaling=scaling)
            result = _sum(result, y)
        return result.to(x.dtype)

    return forward


def _c3a(original):
    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        from .. import circulant_linear

        names = _active(self, x, self.c3a_kernel)
        if len(names) != 1:  # of several, PEFT gives each the result of the one before
            return original(self, x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        y = circulant_linear(x, self.c3a_kernel[names[0]], scaling=1 / x.shape[-1])
        return _sum(result, y).to(x.dtype)

    return forward


def _c3a_formula(self, x: Tensor, *args, **kwargs) -> Tensor:
    (name,) = _active(self, x, self.c3a_kernel)
    w = self.c3a_kernel[name]
    w = w.to(torch.promote_types(w.dtype, torch.float32))
    z = x.to(w.dtype).unflatten(-1, w.shape[1:])
    y = torch.fft.fft(torch.einsum("...nb,mnb->...mb", torch.fft.ifft(z), torch.fft.fft(w))).real.flatten(-2) / x.shape[-1]
    return _sum(self.base_layer(x, *args, **kwargs), y).to(x.dtype)


def _wrong_gradients(cls: type) -> str:
    """What is wrong with the gradients of the installed C3A, on a block of three."""
    function = getattr(sys.modules[cls.__module__], "BlockCircularConvolution", None)
    if function is None:
        return ""  # verification will tell
    x = torch.ones(1, 3, dtype=torch.float64, device="cpu", requires_grad=True)
    w = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=torch.float64, device="cpu")
    with torch.enable_grad():
        (dx,) = torch.autograd.grad(function.apply(x, w), x, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64, device="cpu"))
    right = torch.allclose(dx, torch.tensor([[4.0, 1.0, 2.0]], dtype=torch.float64, device="cpu"))
    return "" if right else "PEFT's gradient of x is not that of its values: it takes w[i + o] for w[i - o]"


def _plan(module: nn.Module, spectra: str, forward, op: str, operands, **more) -> Plan:
    require(module, {}, {}, {"base_layer": nn.Module, spectra: nn.ParameterDict})
    if not getattr(module, spectra):
        raise Refused("it has no adapter")
    inputs, name = module.in_features, type(module).__name__

    def trim(x: Tensor, elements: int) -> Tensor:
        return x.reshape(-1, x.shape[-1])[: max(2, elements // inputs)] if x.dim() > 1 else x

    def backend(x: Tensor, *_, **__) -> str:
        return backend_of(op, x, **operands()) if op != "waveft_linear" else "reference"

    def probe(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(16, inputs, generator=generator, dtype=torch.float64, device="cpu"),)

    return Plan(mark(forward, op), f"{name}({inputs}, {module.out_features})", op, probe, trim, backend, **more)


class PEFTFourierFT(Matcher):
    package = "peft"
    op = "fourier_linear"
    classes = ("peft.tuners.fourierft.layer.FourierFTLinear",)

    def plan(self, module: nn.Module) -> Plan:
        def operands() -> dict:
            name, c = next(iter(module.fourierft_spectrum.items()))
            indices = _on(module.indices[name], c.device)
            return {"spectrum": c, "indices": indices, "out_features": module.out_features, "scaling": 1.0}

        forward = _fourier(type(module).forward)
        return _plan(module, "fourierft_spectrum", forward, self.op, operands, formula=_fourier_formula)


class PEFTWaveFT(Matcher):
    package = "peft"
    op = "waveft_linear"
    classes = ("peft.tuners.waveft.layer.WaveFTLinear",)

    def plan(self, module: nn.Module) -> Plan:
        families = {f for n, f in module.waveft_wavelet_family.items() if f != "db1" or not module.waveft_use_idwt[n]}
        if families:
            raise Refused(f"its wavelet is {min(families)} or unused; only the inverse of db1 is one formula")
        return _plan(module, "waveft_spectrum", _wave(type(module).forward), self.op, dict)


class PEFTC3A(Matcher):
    package = "peft"
    op = "circulant_linear"
    classes = ("peft.tuners.c3a.layer.C3ALinear",)

    def plan(self, module: nn.Module) -> Plan:
        return _plan(
            module, "c3a_kernel", _c3a(type(module).forward), self.op, lambda: {"weight": next(iter(module.c3a_kernel.values()))},
            formula=_c3a_formula, wrong_gradients=_wrong_gradients(type(module)),
        )  # fmt: skip

"""vocos: `ISTFTHead`, and `ISTFT` and `IMDCT` where other models use them; transformers: `Xcodec2ISTFTHead`, `NeuCodecISTFTHead`.

Vocos' tables of the IMDCT are of float32 whatever the module's dtype is; the verification's truth is the formula.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .matcher import Matcher, Plan, Refused, backend_of, mark, require, untouched

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _rows(name: str, op: str, forward, shape: tuple[int, ...], backend, **more) -> Plan:
    def trim(x: Tensor, elements: int) -> Tensor:
        return x[:1, : max(8, elements // max(x.shape[-1], 1))] if x.dim() == 3 else x

    def probe(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu"),)

    return Plan(mark(forward, op), name, op, probe, more.pop("trim", trim), backend, **more)


def _istft_backend(n: int, hop: int):
    def backend(x: Tensor, *_, **__) -> str:
        return backend_of("istft_head", torch.zeros(1, 4, 2 * (n // 2 + 1), device=x.device), n_fft=n, hop_length=hop)

    return backend


def _frames(n: int, hop: int, size: int, padding: str) -> None:
    """Refuse what the published code computes otherwise, or not at all."""
    if padding == "same" and (size != n or (n - hop) // 2 < 1):
        raise Refused(f"n_fft {n}, hop_length {hop} and win_length {size} with padding 'same': nothing remains of its result")
    if n < 2 * hop:
        raise Refused(f"hop_length {hop} is more than half of n_fft {n}: its envelope may vanish")


def _takes(x: object, window: Tensor) -> bool:
    good = isinstance(x, Tensor) and x.dim() == 3 and x.shape[0] > 0 and x.dtype in _FLOATS and x.device == window.device
    return good and (window.dtype != torch.float64 or x.dtype == torch.float64) and not window.requires_grad


def _head(original):
    def forward(self, x: Tensor) -> Tensor:
        from .. import istft_head

        istft = self.istft
        if not _takes(x, istft.window) or x.shape[1] < (2 if istft.padding == "center" else 1) or not untouched(istft):
            return original(self, x)
        z = self.out(x)
        return istft_head(z, n_fft=istft.n_fft, hop_length=istft.hop_length, padding=istft.padding, window=istft.window)

    return forward


def _istft(original):
    def forward(self, spec: Tensor) -> Tensor:
        from .. import istft_head

        kind = isinstance(spec, Tensor) and spec.dim() == 3 and spec.dtype in (torch.complex64, torch.complex128)
        if not kind or not _takes(spec.real, self.window) or spec.shape[1] != self.n_fft // 2 + 1 or spec.shape[2] < 2:
            return original(self, spec)
        parts = torch.cat([spec.real, spec.imag], 1).transpose(1, 2)
        how = {"padding": self.padding, "window": self.window, "variant": "cartesian"}
        return istft_head(parts, n_fft=self.n_fft, hop_length=self.hop_length, **how)

    return forward


def _imdct(original):
    def forward(self, X: Tensor) -> Tensor:
        from .. import imdct_head

        if not _takes(X, self.window) or X.shape[2] != self.frame_len // 2 or X.shape[1] < (2 if self.padding == "center" else 1):
            return original(self, X)
        return imdct_head(X, frame_len=self.frame_len, padding=self.padding, window=self.window)

    return forward


def _imdct_formula(self, X: Tensor) -> Tensor:
    size, length = self.frame_len // 2, self.frame_len
    n, k = (torch.arange(m, device=X.device, dtype=torch.float64) for m in (length, size))
    table = torch.cos(math.pi / size * (n + (size + 1) / 2) * (k[:, None] + 0.5)) * math.sqrt(2 / size)
    frames = X @ table.to(X.dtype) * self.window
    audio = F.fold(frames.transpose(1, 2), (1, (X.shape[1] + 1) * size), (1, length), stride=(1, size))[:, 0, 0]
    cut = length // 2 if self.padding == "center" else length // 4
    return audio[:, cut:-cut]


class VocosISTFTHead(Matcher):
    package = "vocos"
    op = "istft_head"
    classes = ("vocos.heads.ISTFTHead",)

    def plan(self, module: nn.Module) -> Plan:
        require(module, {}, {}, {"out": nn.Linear, "istft": "ISTFT"})
        istft, inputs = module.istft, module.out.in_features
        n, hop, size = istft.n_fft, istft.hop_length, istft.win_length
        require(istft, {}, {"window": (size,)})
        _frames(n, hop, size, istft.padding)
        if module.out.out_features != n + 2 or n % 2:
            raise Refused(f"{module.out.out_features} outputs for an even n_fft {n}; they must be n_fft + 2")
        forward = _head(type(module).forward)
        return _rows(f"ISTFTHead({inputs}, {n}, {hop})", self.op, forward, (2, 12, inputs), _istft_backend(n, hop))

    def covers(self, module: nn.Module):
        return (module.istft,)


class VocosISTFT(Matcher):
    package = "vocos"
    op = "istft_head"
    classes = ("vocos.spectral_ops.ISTFT",)

    def plan(self, module: nn.Module) -> Plan:
        n, hop, size = module.n_fft, module.hop_length, module.win_length
        require(module, {}, {"window": (size,)})
        _frames(n, hop, size, module.padding)
        original = type(module).forward

        def place(layer: nn.Module, probe: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            dtype = torch.promote_types(layer.window.dtype, torch.float32)
            return (torch.complex(*probe[0].to(layer.window.device, dtype).unbind()),)

        def formula(self, spec: Tensor) -> Tensor:
            return original(self, spec.to(torch.promote_types(self.window.dtype, torch.float32).to_complex()))

        def trim(x: Tensor, elements: int) -> Tensor:
            return x[:1, :, : max(8, elements // n)] if x.dim() == 3 else x

        return _rows(f"ISTFT({n}, {hop})", self.op, _istft(original), (2, 2, n // 2 + 1, 12), _istft_backend(n, hop),
                     formula=formula, place=place, trim=trim)  # fmt: skip


class VocosIMDCT(Matcher):
    package = "vocos"
    op = "imdct_head"
    classes = ("vocos.spectral_ops.IMDCT",)

    def plan(self, module: nn.Module) -> Plan:
        length = module.frame_len
        require(module, {}, {"window": (length,), "pre_twiddle": (length, 2), "post_twiddle": (length, 2)})
        if length % 4:
            raise Refused(f"frame_len {length} is no multiple of 4")
        forward = _imdct(type(module).forward)
        more = {"formula": _imdct_formula}
        return _rows(f"IMDCT({length})", self.op, forward, (2, 12, length // 2), lambda *_, **__: "reference", **more)


def _codec(original):
    def forward(self, hidden_states: Tensor) -> Tensor:
        from .. import istft_head

        window = self.window
        if not _takes(hidden_states, window) or window.dtype == torch.float64 or hidden_states.shape[1] < 1:
            return original(self, hidden_states)
        z = self.linear(hidden_states).float()
        return istft_head(z, n_fft=self.n_fft, hop_length=self.hop_length, window=window)[:, None]

    return forward


def _codec_formula(self, hidden_states: Tensor) -> Tensor:
    a, b = self.linear(hidden_states).chunk(2, -1)
    wide = torch.promote_types(a.dtype, torch.float32)
    spectrum, w = torch.polar(a.to(wide).exp().clamp(max=1e2), b.to(wide)), self.window.to(wide)
    n, hop, frames = self.n_fft, self.hop_length, a.shape[1]
    fold = {"output_size": (1, (frames - 1) * hop + n), "kernel_size": (1, n), "stride": (1, hop)}
    y = F.fold((torch.fft.irfft(spectrum, n) * w).transpose(1, 2), **fold)
    e = F.fold((w * w)[None, :, None].expand(1, n, frames), **fold)
    cut = slice(self.padding, -self.padding)
    return y[:, 0, :, cut] / e[:, 0, :, cut]


class TransformersISTFTHead(Matcher):
    package = "transformers"
    op = "istft_head"
    classes = (
        "transformers.models.xcodec2.modeling_xcodec2.Xcodec2ISTFTHead",
        "transformers.models.neucodec.modeling_neucodec.NeuCodecISTFTHead",
    )

    def plan(self, module: nn.Module) -> Plan:
        n, hop, inputs = module.n_fft, module.hop_length, module.linear.in_features
        require(module, {}, {"window": (n,)}, {"linear": nn.Linear})
        _frames(n, hop, n, "same")
        if module.linear.out_features != n + 2 or module.padding != (n - hop) // 2:
            raise Refused(f"{module.linear.out_features} outputs and padding {module.padding} for n_fft {n} and hop_length {hop}")
        forward, name = _codec(type(module).forward), f"{type(module).__name__}({inputs}, {n}, {hop})"
        return _rows(name, self.op, forward, (2, 12, inputs), _istft_backend(n, hop), formula=_codec_formula)

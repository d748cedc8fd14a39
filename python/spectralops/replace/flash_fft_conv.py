"""flash-fft-conv: `FlashFFTConv`, tensor-core convolutions in 16 bits.

    y = postgate * irfft(rfft(pregate * u, N) rfft(k, N), N)[..., :L],   N = seqlen, u and gates (B, H, L), k (H, K) in float32

Upstream works on a GPU alone, and its backward in training mode alone, so it is verified in training mode and against the
formula in float64. Where L + K - 1 > N the original wraps around (at L = N it is circular), and so does the new forward. Its
buffers stay; they are not read any more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..compat import periodic_conv
from .conv_common import conv_plan
from .matcher import Matcher, Plan, Refused

_HALVES = (torch.float16, torch.bfloat16)


def _forward(original):
    def forward(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
        operands = [t for t in (u, pregate, postgate) if t is not None]
        alike = all(isinstance(t, Tensor) and t.dtype == self.dtype and t.shape == u.shape for t in operands)
        fits = alike and isinstance(k, Tensor) and u.dim() == 3 and k.dim() == 2 and len(k) == u.shape[1] and k.device == u.device
        if not fits or (pregate is None) != (postgate is None) or not 0 < u.shape[2] <= self.seqlen or k.dtype == torch.float64:
            return original(self, u, k, pregate, postgate)
        return periodic_conv(u, k, self.seqlen, gate_in=pregate, gate_out=postgate)

    return forward


def _formula(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
    n = self.seqlen
    y = torch.fft.irfft(torch.fft.rfft(u if pregate is None else u * pregate, n) * torch.fft.rfft(k, n), n)[..., : u.shape[-1]]
    return y if postgate is None else y * postgate


def _place(module: nn.Module, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """u and the gates as the module wants them, k in float32."""
    device = next((b.device for b in module.buffers()), torch.device("cpu"))
    return tuple(t.to(device, module.dtype if t.dim() == 3 else torch.float32) for t in tensors)


class FlashFFTConv(Matcher):
    package = "flash-fft-conv"
    op = "fft_conv"
    classes = ("flashfftconv.conv.FlashFFTConv",)

    def plan(self, module: nn.Module) -> Plan:
        n, dtype = getattr(module, "seqlen", None), getattr(module, "dtype", None)
        if not isinstance(n, int) or n < 2 or dtype not in _HALVES:
            raise Refused("it has not the seqlen and the 16-bit dtype of the published module")
        if module._modules or module._parameters:
            raise Refused("it has parameters or children, which the published module has not")

        def probe(generator: torch.Generator) -> tuple[Tensor, ...]:
            shape = (2, 16, min(n // 2, 4096))
            draws = [torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") for _ in range(3)]
            k = torch.randn(shape[1:], generator=generator, dtype=torch.float64, device="cpu") * shape[2] ** -0.5
            return draws[0], k, draws[1], draws[2]

        return conv_plan(
            _forward(type(module).forward),
            old=f"FlashFFTConv({n})",
            new="fft_conv",
            probe=probe,
            formula=_formula,
            prepare=nn.Module.train,
            place=_place,
        )

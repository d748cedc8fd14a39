"""transformers: `FNetBasicFourierTransform`, FNet's mixing of tokens and channels: (Re FFT2(x),) over the last two
dimensions.

bfloat16 and float16, which upstream's transform refuses on a CPU and takes in part on a GPU, work at every size. The
variant for TPUs, which multiplies by matrices of complex64, runs the old forward.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from .._check import FLOATS
from .conv_common import probe_rows
from .matcher import Matcher, Plan, Refused, backend_of, mark, require


def _transforms(module: nn.Module) -> bool:
    """Whether it holds what the published constructor puts there."""
    chosen = getattr(module, "fourier_transform", None)
    known = isinstance(chosen, functools.partial) and chosen.func is torch.fft.fftn
    return known and not chosen.args and chosen.keywords == {"dim": (1, 2)}


def _forward(original):
    from .. import fourier_mix

    def forward(self, hidden_states: Tensor) -> tuple[Tensor]:
        x = hidden_states
        taken = isinstance(x, Tensor) and x.dim() == 3 and x.dtype in FLOATS and x.numel() > 0
        return (fourier_mix(x),) if taken and _transforms(self) else original(self, x)

    return forward


class FNet(Matcher):
    package = "transformers"
    op = "fourier_mix"
    classes = ("transformers.models.fnet.modeling_fnet.FNetBasicFourierTransform",)

    def plan(self, module: nn.Module) -> Plan:
        if not _transforms(module):
            raise Refused("it transforms by matrices or a function of its own (use_tpu_fourier_optimizations)")
        require(module, {})

        def trim(x: Tensor, elements: int) -> Tensor:
            return x[: max(1, elements // max(x[0].numel(), 1))] if x.dim() == 3 and len(x) else x

        def backend(x: Tensor, *_, **__) -> str:
            return backend_of("fourier_mix", x) if isinstance(x, Tensor) and x.dim() == 3 and x.numel() else ""

        return Plan(
            mark(_forward(type(module).forward), "fourier_mix"), old="FNetBasicFourierTransform", new="fourier_mix",
            probe=probe_rows((2, 15, 20)), trim=trim, backend=backend,
            # it has no parameter to say in which dtype
            place=lambda _, probe: tuple(t.to(torch.get_default_dtype()) for t in probe),
        )  # fmt: skip

"""What the files of the convolution packages share: which calls the new forwards take, and the parts of a plan that are
the same for all of them.

A new forward runs the old one whenever a call is not one that both answer alike: another rank, device or dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .matcher import Plan, Refused, backend_of, mark

_HALVES = (torch.float16, torch.bfloat16)


def takes(x: object, weight: Tensor, channels: int, dim: int, same_dtype: bool = False) -> bool:
    """Whether x is (B, .., ..) with `channels` along `dim` and at least one position, on the device of the parameters, in their
    dtype or, where the original casts its result back to it, in 16 bits under float32 ones."""
    if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[dim] != channels or x.numel() == 0 or x.device != weight.device:
        return False
    if x.dtype == weight.dtype:
        return x.dtype in (torch.float32, torch.float64, *_HALVES)
    return not same_dtype and x.dtype in _HALVES and weight.dtype == torch.float32


def attributes(module: nn.Module, **wanted: object) -> None:
    """Refuse a module whose attributes of these names, where it has them, have other values."""
    for name, value in wanted.items():
        found = getattr(module, name, value)
        if found is not value and found != value:
            raise Refused(f"its {name} is {found!r}; only {value!r} is known here")


def probe_rows(shape: tuple[int, ...]) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    return lambda generator: (torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu"),)


def conv_plan(forward: Callable, old: str, new: str, probe: Callable, *, layout: str = "bhl", **more) -> Plan:
    """A plan for inputs (B, H, L), or (B, L, H) with layout "blh"."""

    def trim(x: Tensor, elements: int) -> Tensor:  # fewer rows; a kernel (H, K) stays whole, and so does every row
        return x[: max(1, elements // max(x[0].numel(), 1))] if x.dim() > 2 and len(x) else x

    def backend(x: Tensor, *_, **__) -> str:
        if not isinstance(x, Tensor) or x.dim() != 3 or x.numel() == 0:
            return ""
        return backend_of("fft_conv", x, x.new_zeros(1, x.shape[-2 if layout == "blh" else -1]), layout=layout)

    return Plan(mark(forward, "fft_conv"), old, new, probe, trim, backend, **more)

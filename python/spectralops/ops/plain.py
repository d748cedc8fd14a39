"""What the plain formulas of the operators share: when they are asked for, and how they see their constants and autocast."""

from __future__ import annotations

import contextlib
import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .._ops import traced_transform


def exporting() -> bool:
    """Whether torch.export, torch.onnx or torch.jit.trace follows the call: then standard operators alone may appear."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def formula(backend: str | None) -> bool:
    """Whether a call takes the plain formula, which everything can follow, and not an operator."""
    return traced_transform(backend) or exporting() or backend == "reference"


def no_autocast(like: Tensor):
    """A context in which products are of their operands' dtype."""
    kind = like.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # a device that autocast does not know, or nothing to do
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


@lru_cache(maxsize=64)
def _held(build, sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
        return build(*sizes).to(dtype).to(device)


def constant(build, sizes: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    """build(*sizes), float64 on the CPU, in `dtype` beside `like`: built once, and a constant of what is exported.

    While torch.compile traces, and where a size is symbolic, it is built again in the graph.
    """
    if torch.compiler.is_dynamo_compiling() or any(type(n) is not int for n in sizes):
        return build(*sizes).to(dtype).to(like.device)
    return _held(build, sizes, dtype, like.device)


def turns(rows: Tensor, columns: Tensor, period: int) -> Tensor:
    """2 pi rows columns / period in float64, the product reduced modulo the period as an integer: (R,), (C,) -> (R, C)."""
    return ((rows[:, None] * columns) % period).to(torch.float64) * (2 * math.pi / period)

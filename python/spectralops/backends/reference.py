"""Plain PyTorch: the specification, on every device and dtype, and the fall-back."""

from __future__ import annotations

from ..ops.hadamard_reference import hadamard, hadamard_quantize, srht
from ..ops.rational_reference import backward as rational_backward
from ..ops.rational_reference import double_backward as rational_double_backward
from ..ops.rational_reference import forward as rational_forward

__all__ = [
    "hadamard",
    "hadamard_quantize",
    "rational_backward",
    "rational_double_backward",
    "rational_forward",
    "srht",
    "supports",
]


def supports(function: str, *args) -> tuple[bool, str]:
    return True, "plain PyTorch"

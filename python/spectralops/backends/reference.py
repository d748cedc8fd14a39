"""Plain PyTorch: the specification, on every device and dtype, and the fall-back."""

from __future__ import annotations

from ..ops import hadamard_reference
from ..ops.hadamard_reference import hadamard_quantize, srht
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


def hadamard(x, *rest):
    y = hadamard_reference.hadamard(x, *rest)
    return y.clone() if y.data_ptr() == x.data_ptr() else y  # n = 1 may have touched nothing


def supports(function: str, *args) -> tuple[bool, str]:
    return True, "plain PyTorch"

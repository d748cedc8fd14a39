"""Triton kernels (the package spectralops.kernels) for tensors on a GPU, NVIDIA or AMD."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

_MODULES = {
    "rational_forward": "rational",
    "rational_backward": "rational",
    "rational_double_backward": "rational",
    "hadamard": "hadamard",
    "hadamard_quantize": "hadamard_quantize",
    "srht": "hadamard",
}
_installed: bool | None = None


def _module(function: str) -> ModuleType:
    return importlib.import_module(f"spectralops.kernels.{_MODULES[function]}")


def supports(function: str, *args) -> tuple[bool, str]:
    global _installed
    if _installed is None:
        _installed = importlib.util.find_spec("triton") is not None
    if not _installed:
        return False, "triton is not installed"
    return getattr(_module(function), f"supports_{function}")(*args)


def __getattr__(function: str):
    if function not in _MODULES:
        raise AttributeError(function)
    return globals().setdefault(function, getattr(_module(function), function))

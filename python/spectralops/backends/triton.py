"""Triton kernels (the package spectralops.kernels) for tensors on a GPU, NVIDIA or AMD."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from . import _core

_MODULES = {
    "rational_forward": "rational",
    "rational_backward": "rational",
    "rational_double_backward": "rational",
    "hadamard": "hadamard",
    "hadamard_quantize": "hadamard_quantize",
    "srht": "hadamard",
    "wavelet_forward": "wavelet",
    "wavelet_backward": "wavelet",
    "wavelet_double_backward": "wavelet",
    "activation_forward": "activations",
    "activation_backward": "activations",
    "activation_double_backward": "activations",
    "poly_norm_forward": "poly_norm",
    "poly_norm_backward": "poly_norm",
    "poly_norm_double_backward": "poly_norm",
    "fan_forward": "fan",
    "fan_backward": "fan",
    "fan_double_backward": "fan",
    "kan_forward": "kan",
    "kan_dx": "kan",
    "kan_dcoeff": "kan",
    "fft_conv": "fft_conv",
    "fft_conv_backward": "fft_conv_backward",
    "spectral_filter": "spectral_filter",
    "spectral_filter_gradient": "spectral_filter_gradient",
    "mode_dft": "modes",
    "mode_idft": "modes",
    "mode_mix": "modes_mix",
    "mode_mix_gradient": "modes_mix",
    "fourier_mix": "fourier_mix",
    "spectral_mlp_core": "spectral_mlp",
    "sparse_wht_decode": "sparse_wht",
    "walsh_sum": "sparse_wht",
}
# Functions that are supported alike, by what starts at x: where x stands, and how many arguments from there on tell.
_ALIKE = {
    "rational_forward": ("rational", 0, 4),
    "rational_backward": ("rational", 1, 4),
    "rational_double_backward": ("rational", 4, 4),
    "activation_forward": ("activation", 0, 3),
    "activation_backward": ("activation", 1, 3),
    "activation_double_backward": ("activation", 3, 3),
    "poly_norm_forward": ("poly_norm", 0, 2),
    "poly_norm_backward": ("poly_norm", 1, 2),
    "poly_norm_double_backward": ("poly_norm", 4, 2),
    "fan_forward": ("fan", 0, 1),
    "fan_backward": ("fan", 1, 1),
    "fan_double_backward": ("fan", 3, 1),
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
    if function not in _MODULES:
        return False, f"no Triton kernel for {function}"
    module = _module(function)
    if function in _ALIKE:
        name, at, count = _ALIKE[function]
        yes, reason = getattr(module, f"supports_{name}")(*args[at : at + count])
    else:
        yes, reason = getattr(module, f"supports_{function}")(*_coded(function, args))
    return yes, reason or "Triton kernels"


def _coded(function: str, args: tuple) -> tuple:
    """Kernels take a format by its number."""
    if function != "hadamard_quantize":
        return args
    *first, format, round_rotation = args
    return (*first, _core.FORMAT_CODES[format], round_rotation)


def hadamard_quantize(*args):
    return _module("hadamard_quantize").hadamard_quantize(*_coded("hadamard_quantize", args))


def __getattr__(function: str):
    if function not in _MODULES:
        raise AttributeError(function)
    return globals().setdefault(function, getattr(_module(function), function))

"""C++ kernels for CPU tensors: AVX-512, AVX2 or portable code, on torch's own OpenMP threads."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from . import _core, _fft_conv, _sparse_wht, _spectral
from .._loader import CoreMissing, core, core_status

_ready: bool | None = None


def _where(x: Tensor) -> tuple[int, int, int]:
    return -1, torch.get_num_threads(), 0


def _loaded() -> bool:
    global _ready
    if _ready is None:
        try:
            core()
            _ready = True
        except CoreMissing:
            _ready = False
    return _ready


def supports(function: str, *args) -> tuple[bool, str]:
    if not _loaded():
        return False, core_status()
    x = args[0]
    if x.device.type != "cpu":
        return False, f"takes CPU tensors, this one is on {x.device}"
    reason = _core.unsupported(function, *args)
    return reason is None, reason or "C++ kernels"


rational_forward = partial(_core.rational_forward, _where)
rational_backward = partial(_core.rational_backward, _where)
rational_double_backward = partial(_core.rational_double_backward, _where)
wavelet_forward = partial(_core.wavelet_forward, _where)
wavelet_backward = partial(_core.wavelet_backward, _where)
wavelet_double_backward = partial(_core.wavelet_double_backward, _where)
hadamard = partial(_core.hadamard, _where)
hadamard_quantize = partial(_core.hadamard_quantize, _where)
srht = partial(_core.srht, _where)
activation_forward = partial(_core.activation_forward, _where)
activation_backward = partial(_core.activation_backward, _where)
activation_double_backward = partial(_core.activation_double_backward, _where)
poly_norm_forward = partial(_core.poly_norm_forward, _where)
poly_norm_backward = partial(_core.poly_norm_backward, _where)
poly_norm_double_backward = partial(_core.poly_norm_double_backward, _where)
fan_forward = partial(_core.fan_forward, _where)
fan_backward = partial(_core.fan_backward, _where)
fan_double_backward = partial(_core.fan_double_backward, _where)
kan_forward = partial(_core.kan_forward, _where)
kan_dx = partial(_core.kan_dx, _where)
kan_dcoeff = partial(_core.kan_dcoeff, _where)
fft_conv = partial(_fft_conv.fft_conv, _where)
fft_conv_backward = partial(_fft_conv.fft_conv_backward, _where)
spectral_filter = partial(_spectral.spectral_filter, _where)
spectral_filter_gradient = partial(_spectral.spectral_filter_gradient, _where)
mode_dft = partial(_spectral.mode_dft, _where)
mode_idft = partial(_spectral.mode_idft, _where)
mode_mix = partial(_spectral.mode_mix, _where)
mode_mix_gradient = partial(_spectral.mode_mix_gradient, _where)
istft_head = partial(_spectral.istft_head, _where)
istft_head_backward = partial(_spectral.istft_head_backward, _where)
sparse_wht_decode = partial(_sparse_wht.sparse_wht_decode, _where)
walsh_sum = partial(_sparse_wht.walsh_sum, _where)

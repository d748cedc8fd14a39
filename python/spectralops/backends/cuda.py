"""Prebuilt CUDA kernels of the C core for CUDA tensors, on the current stream."""

from __future__ import annotations

import re
from functools import lru_cache, partial

import torch
from torch import Tensor

from . import _core, _fft_conv, _sparse_wht, _spectral
from .._loader import CoreMissing, build_info, core, core_status


def _where(x: Tensor) -> tuple[int, int, int]:
    index = x.device.index
    return index, 1, torch.cuda.current_stream(index).cuda_stream


@lru_cache(maxsize=None)
def _built() -> tuple[int, str]:
    """The lowest compute capability the core was built for (newer cards take the PTX of the last one); 0 and why, if none."""
    try:
        core()
    except CoreMissing:
        return 0, core_status()
    info = build_info()
    if not info["cuda"]:
        return 0, "the core was built without its CUDA part"
    archs = re.findall(r"\d+", info["archs"])
    return min(map(int, archs)), "CUDA kernels for sm_" + ", sm_".join(archs)


def supports(function: str, *args) -> tuple[bool, str]:
    oldest, reason = _built()
    if not oldest:
        return False, reason
    x = args[0]
    if x.device.type != "cuda" or torch.version.hip:
        return False, f"takes NVIDIA GPU tensors, this one is on {x.device}"
    major, minor = torch.cuda.get_device_capability(x.device)
    if 10 * major + minor < oldest:
        return False, f"{reason}, this GPU has compute capability {major}.{minor}"
    if function.startswith("wavelet"):
        return False, "no CUDA kernel for wavelet_linear"
    missing = _core.unsupported(function, *args) or _core.unplannable(function, *args)
    return missing is None, missing or reason


rational_forward = partial(_core.rational_forward, _where)
rational_backward = partial(_core.rational_backward, _where)
rational_double_backward = partial(_core.rational_double_backward, _where)
hadamard = partial(_core.hadamard, _where)
hadamard_quantize = partial(_core.hadamard_quantize, _where)
srht = partial(_core.srht, _where)
fft_conv = partial(_fft_conv.fft_conv, _where)
fft_conv_backward = partial(_fft_conv.fft_conv_backward, _where)
spectral_filter = partial(_spectral.spectral_filter, _where)
spectral_filter_gradient = partial(_spectral.spectral_filter_gradient, _where)
mode_dft = partial(_spectral.mode_dft, _where)
mode_idft = partial(_spectral.mode_idft, _where)
mode_mix = partial(_spectral.mode_mix, _where)
mode_mix_gradient = partial(_spectral.mode_mix_gradient, _where)
sparse_wht_decode = partial(_sparse_wht.sparse_wht_decode, _where)
walsh_sum = partial(_sparse_wht.walsh_sum, _where)

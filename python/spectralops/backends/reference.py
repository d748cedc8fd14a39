"""Plain PyTorch: the specification, on every device and dtype, and the fall-back."""

from __future__ import annotations

from ..ops import hadamard_reference, kan_reference
from ..ops.activations_reference import backward as activation_backward
from ..ops.activations_reference import double_backward as activation_double_backward
from ..ops.activations_reference import forward as activation_forward
from ..ops.dct_reference import dct
from ..ops.dct_reference import resample as dct_resample
from ..ops.circulant_linear import reference_forward as circulant_linear
from ..ops.circulant_linear import reference_gradient as circulant_linear_gradient
from ..ops.fan import reference_backward as fan_backward
from ..ops.fan import reference_double_backward as fan_double_backward
from ..ops.fan import reference_forward as fan_forward
from ..ops.fft_conv_reference import backward as fft_conv_backward
from ..ops.fft_conv_reference import forward as fft_conv
from ..ops.fourier_mix import reference as fourier_mix
from ..ops.haar import reference as haar
from ..ops.fourier_linear_reference import backward as fourier_linear_backward
from ..ops.fourier_linear_reference import forward as fourier_linear
from ..ops.fourier_linear_reference import gradient as fourier_linear_gradient
from ..ops.hadamard_reference import hadamard_quantize, srht
from ..ops.istft_head_reference import backward as istft_head_backward
from ..ops.istft_head_reference import forward as istft_head
from ..ops.modes_reference import dft as mode_dft
from ..ops.modes_reference import idft as mode_idft
from ..ops.modes_reference import mix as mode_mix
from ..ops.modes_reference import mix_gradient as mode_mix_gradient
from ..ops.poly_norm import reference_backward as poly_norm_backward
from ..ops.poly_norm import reference_double_backward as poly_norm_double_backward
from ..ops.poly_norm import reference_forward as poly_norm_forward
from ..ops.rational_reference import backward as rational_backward
from ..ops.rational_reference import double_backward as rational_double_backward
from ..ops.rational_reference import forward as rational_forward
from ..ops.spectral_filter_reference import forward as spectral_filter
from ..ops.spectral_filter_reference import gradient as spectral_filter_gradient
from ..ops.spectral_mlp_reference import backward as spectral_mlp_core_backward
from ..ops.spectral_mlp_reference import forward as spectral_mlp_core
from ..ops.sparse_wht_reference import decode as sparse_wht_decode
from ..ops.sparse_wht_reference import walsh_sum
from ..ops.wavelet_reference import backward as wavelet_backward
from ..ops.wavelet_reference import double_backward as wavelet_double_backward
from ..ops.wavelet_reference import forward as wavelet_forward

__all__ = [
    "activation_backward",
    "activation_double_backward",
    "activation_forward",
    "dct",
    "dct_resample",
    "circulant_linear",
    "circulant_linear_gradient",
    "fan_backward",
    "fan_double_backward",
    "fan_forward",
    "fft_conv",
    "fft_conv_backward",
    "fourier_mix",
    "haar",
    "fourier_linear",
    "fourier_linear_backward",
    "fourier_linear_gradient",
    "hadamard",
    "hadamard_quantize",
    "istft_head",
    "istft_head_backward",
    "kan_dcoeff",
    "kan_dx",
    "kan_forward",
    "mode_dft",
    "mode_idft",
    "mode_mix",
    "mode_mix_gradient",
    "poly_norm_backward",
    "poly_norm_double_backward",
    "poly_norm_forward",
    "rational_backward",
    "rational_double_backward",
    "rational_forward",
    "spectral_filter",
    "spectral_filter_gradient",
    "spectral_mlp_core",
    "spectral_mlp_core_backward",
    "sparse_wht_decode",
    "srht",
    "supports",
    "walsh_sum",
    "wavelet_backward",
    "wavelet_double_backward",
    "wavelet_forward",
]


def hadamard(x, *rest):
    y = hadamard_reference.hadamard(x, *rest)
    return y.clone() if y.data_ptr() == x.data_ptr() else y  # n = 1 may have touched nothing


def kan_forward(*args):
    return kan_reference.forward(*args[:-1])  # the last is the precision, which plain PyTorch does not choose


def kan_dx(*args):
    return kan_reference.dx(*args[:-1])


def kan_dcoeff(*args):
    return kan_reference.dcoeff(*args[:-1])


def supports(function: str, *args) -> tuple[bool, str]:
    return True, "plain PyTorch"

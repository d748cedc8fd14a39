"""spectralops: fused CUDA, Triton and C++ kernels for spectral and basis operators, behind plain PyTorch functions.

Importing loads neither triton nor the compiled core: a missing one is reported when it is asked for.
"""

from . import basis
from .backends import explain
from .ops.activations import cauchy, poly_relu, sine, snake, spder, square_wave, wire
from .ops.fan import fan, fourier_features
from .ops.fft_conv import fft_conv, stu_conv
from .ops.fft_conv2d import fft_conv2d
from .ops.fft_conv_stream import fft_conv_block, fft_conv_state, fft_conv_step
from .ops.hadamard import hadamard_transform, srht
from .ops.hadamard_quantize import hadamard_quantize
from .ops.kan import kan_linear
from .ops.kernel_spectrum import KernelSpectrum
from .ops.mittag_leffler import mittag_leffler
from .ops.poly_norm import poly_norm
from .ops.rational import rational
from .ops.toeplitz_ssm import toeplitz_to_ssm
from .ops.wavelet import wavelet_linear
from .replace import replace

__version__ = "0.1.0"
OPS = (  # the names that explain and profile take
    "fft_conv", "fft_conv2d", "rational", "hadamard_transform", "hadamard_quantize", "srht", "kan_linear", "wavelet_linear",
    "snake", "sine", "spder", "cauchy", "poly_relu", "square_wave", "wire", "poly_norm", "fan", "fourier_features", "mittag_leffler",
)  # fmt: skip

__all__ = [
    *OPS, "KernelSpectrum", "fft_conv_block", "fft_conv_state", "fft_conv_step", "stu_conv", "toeplitz_to_ssm", "basis", "explain",
    "replace", "nn", "testing", "distributed", "compat", "OPS",
]  # fmt: skip


def __getattr__(name: str):
    if name in ("nn", "testing", "profile", "kernels", "distributed", "compat"):
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

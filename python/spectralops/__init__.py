"""spectralops: fused CUDA, Triton and C++ kernels for spectral and basis operators, behind plain PyTorch functions.

Importing defines the operators that torch sees and nothing else: a function's file is read when its name is first used, triton
and the compiled core when a call needs them, and what is missing is reported then.
"""

import importlib
from typing import TYPE_CHECKING

from . import _ops  # noqa: F401
from .backends import explain
from .replace import replace

__version__ = "0.1.0"

_HOMES = {  # file of ops/ -> the public names in it
    "activations": ("snake", "sine", "spder", "cauchy", "poly_relu", "square_wave", "wire"),
    "circulant_linear": ("circulant_linear",),
    "dct": ("dct", "dct_resample", "idct"),
    "dtcwt": ("dtcwt", "idtcwt"),
    "fan": ("fan", "fourier_features"),
    "fft_conv": ("fft_conv", "stu_conv"),
    "fft_conv2d": ("fft_conv2d",),
    "fft_conv_stream": ("fft_conv_block", "fft_conv_state", "fft_conv_step"),
    "fourier_linear": ("fourier_linear",),
    "fourier_mix": ("fourier_mix",),
    "haar": ("haar", "ihaar", "wavelet_gate"),
    "hadamard": ("hadamard_transform", "srht"),
    "hadamard_quantize": ("hadamard_quantize",),
    "imdct_head": ("imdct_head",),
    "istft_head": ("istft_head",),
    "istft_head_stream": ("istft_head_state", "istft_head_step"),
    "kan": ("kan_linear",),
    "kernel_spectrum": ("KernelSpectrum",),
    "mittag_leffler": ("mittag_leffler",),
    "poly_norm": ("poly_norm",),
    "rational": ("rational",),
    "sparse_spectrum": ("SparseSpectrum",),
    "sparse_wht": ("sparse_wht",),
    "sparse_wht_plan": ("SparseWHTPlan",),
    "spectral_conv": ("spectral_conv",),
    "spectral_filter": ("spectral_filter",),
    "spectral_gate1d": ("spectral_gate1d", "spectral_gate1d_state", "spectral_gate1d_step"),
    "spectral_mlp": ("spectral_mlp",),
    "toeplitz_ssm": ("toeplitz_to_ssm",),
    "waveft": ("waveft_delta", "waveft_linear"),
    "wavelet": ("wavelet_linear",),
}
_HOME = {name: f".ops.{module}" for module, names in _HOMES.items() for name in names}
_SUBMODULES = ("basis", "compat", "distributed", "kernels", "nn", "profile", "testing")

OPS = (  # the names that explain and profile take
    "fft_conv", "fft_conv2d", "rational", "hadamard_transform", "hadamard_quantize", "srht", "kan_linear", "wavelet_linear",
    "snake", "sine", "spder", "cauchy", "poly_relu", "square_wave", "wire", "poly_norm", "fan", "fourier_features",
    "mittag_leffler", "spectral_conv", "spectral_filter", "fourier_mix", "spectral_mlp", "dct", "idct", "dct_resample", "haar",
    "ihaar", "wavelet_gate", "spectral_gate1d", "istft_head", "imdct_head", "fourier_linear", "circulant_linear",
    "waveft_linear", "sparse_wht",
)  # fmt: skip
__all__ = [*_HOME, "basis", "compat", "distributed", "nn", "testing", "explain", "replace", "OPS"]

if TYPE_CHECKING:
    from . import basis, compat, distributed, nn, testing  # noqa: F401
    from .ops.activations import cauchy, poly_relu, sine, snake, spder, square_wave, wire  # noqa: F401
    from .ops.circulant_linear import circulant_linear  # noqa: F401
    from .ops.dct import dct, dct_resample, idct  # noqa: F401
    from .ops.dtcwt import dtcwt, idtcwt  # noqa: F401
    from .ops.fan import fan, fourier_features  # noqa: F401
    from .ops.fft_conv import fft_conv, stu_conv  # noqa: F401
    from .ops.fft_conv2d import fft_conv2d  # noqa: F401
    from .ops.fft_conv_stream import fft_conv_block, fft_conv_state, fft_conv_step  # noqa: F401
    from .ops.fourier_linear import fourier_linear  # noqa: F401
    from .ops.fourier_mix import fourier_mix  # noqa: F401
    from .ops.haar import haar, ihaar, wavelet_gate  # noqa: F401
    from .ops.hadamard import hadamard_transform, srht  # noqa: F401
    from .ops.hadamard_quantize import hadamard_quantize  # noqa: F401
    from .ops.imdct_head import imdct_head  # noqa: F401
    from .ops.istft_head import istft_head  # noqa: F401
    from .ops.istft_head_stream import istft_head_state, istft_head_step  # noqa: F401
    from .ops.kan import kan_linear  # noqa: F401
    from .ops.kernel_spectrum import KernelSpectrum  # noqa: F401
    from .ops.mittag_leffler import mittag_leffler  # noqa: F401
    from .ops.poly_norm import poly_norm  # noqa: F401
    from .ops.rational import rational  # noqa: F401
    from .ops.sparse_spectrum import SparseSpectrum  # noqa: F401
    from .ops.sparse_wht import sparse_wht  # noqa: F401
    from .ops.sparse_wht_plan import SparseWHTPlan  # noqa: F401
    from .ops.spectral_conv import spectral_conv  # noqa: F401
    from .ops.spectral_filter import spectral_filter  # noqa: F401
    from .ops.spectral_gate1d import spectral_gate1d, spectral_gate1d_state, spectral_gate1d_step  # noqa: F401
    from .ops.spectral_mlp import spectral_mlp  # noqa: F401
    from .ops.toeplitz_ssm import toeplitz_to_ssm  # noqa: F401
    from .ops.waveft import waveft_delta, waveft_linear  # noqa: F401
    from .ops.wavelet import wavelet_linear  # noqa: F401


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return globals().setdefault(name, getattr(importlib.import_module(_HOME[name], __name__), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_SUBMODULES})

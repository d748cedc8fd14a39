"""Modules over the functions."""

from .afno import AFNO2D
from .fan import FAN
from .fdconv import FDConvWeight, FrequencyBandModulation
from .fnet import FNetMixing
from .fnet_ar import FNetARMixing
from .fno import FNO, FNOBlock
from .gaunt import GauntTensorProduct
from .global_filter import GlobalFilter, SpectralGating
from .grkan import GRKAN
from .group_spectral_conv import GroupSpectralConv
from .hadamard import HadamardRotation
from .hyena import HyenaOperator
from .hyena_filter import HyenaFilter
from .kaf import KAF
from .kan import KAN, KANLinear
from .kan_attention import KANAttention
from .kan_conv import KANConv2d
from .long_conv import LongConv
from .m2 import M2Mixer
from .mega import MegaEMA
from .rational import Rational
from .rational_init import rational_init
from .relative_attention import RelativeKernelAttention
from .rtf import RTF
from .s4d import S4D, S4DKernel
from .siren import SIREN
from .spectral_conv import SpectralConv
from .spectral_gate import SpectralGate1d
from .svt import SVTChannelMixing, SVTChannelTokenMixing
from .tnn import TNN, TNO
from .transform_once import TransformOnce, TransformOnceLayer

__all__ = [
    "AFNO2D", "FAN", "FDConvWeight", "FNO", "FNOBlock", "FNetARMixing", "FNetMixing", "FrequencyBandModulation", "GRKAN",
    "GauntTensorProduct", "GlobalFilter", "GroupSpectralConv", "HadamardRotation", "HyenaFilter", "HyenaOperator", "KAF",
    "KAN", "KANAttention", "KANConv2d", "KANLinear", "LongConv", "M2Mixer", "MegaEMA", "RTF", "Rational",
    "RelativeKernelAttention", "S4D", "S4DKernel", "SIREN", "SVTChannelMixing", "SVTChannelTokenMixing", "SpectralConv",
    "SpectralGate1d", "SpectralGating", "TNN", "TNO", "TransformOnce", "TransformOnceLayer", "rational_init",
]  # fmt: skip

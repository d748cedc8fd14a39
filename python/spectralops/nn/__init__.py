"""Modules over the functions."""

from .fan import FAN
from .fdconv import FDConvWeight, FrequencyBandModulation
from .fnet_ar import FNetARMixing
from .gaunt import GauntTensorProduct
from .grkan import GRKAN
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
from .svt import SVTChannelMixing, SVTChannelTokenMixing
from .tnn import TNN, TNO
from .transform_once import TransformOnce, TransformOnceLayer

__all__ = [
    "FAN", "FDConvWeight", "FNetARMixing", "FrequencyBandModulation", "GRKAN", "GauntTensorProduct", "HadamardRotation",
    "HyenaFilter", "HyenaOperator", "KAF", "KAN", "KANAttention", "KANConv2d", "KANLinear", "LongConv", "M2Mixer", "MegaEMA",
    "RTF", "Rational", "RelativeKernelAttention", "S4D", "S4DKernel", "SIREN", "SVTChannelMixing", "SVTChannelTokenMixing",
    "TNN", "TNO", "TransformOnce", "TransformOnceLayer", "rational_init",
]  # fmt: skip

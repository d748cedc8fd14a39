"""Modules over the functions."""

from .fan import FAN
from .gaunt import GauntTensorProduct
from .grkan import GRKAN
from .hadamard import HadamardRotation
from .kaf import KAF
from .kan import KAN, KANLinear
from .kan_attention import KANAttention
from .kan_conv import KANConv2d
from .rational import Rational
from .rational_init import rational_init
from .siren import SIREN

__all__ = [
    "FAN", "GRKAN", "GauntTensorProduct", "HadamardRotation", "KAF", "KAN", "KANAttention", "KANConv2d", "KANLinear", "Rational",
    "SIREN", "rational_init",
]  # fmt: skip

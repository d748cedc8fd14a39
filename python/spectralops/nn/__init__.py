"""Modules over the functions."""

from .fourier import FAN, KAF, SIREN
from .grkan import GRKAN
from .hadamard import HadamardRotation
from .kan import KAN, KANLinear
from .kan_attention import KANAttention
from .kan_conv import KANConv2d
from .rational import Rational
from .rational_init import rational_init

__all__ = [
    "FAN", "GRKAN", "HadamardRotation", "KAF", "KAN", "KANAttention", "KANConv2d", "KANLinear", "Rational", "SIREN", "rational_init",
]  # fmt: skip

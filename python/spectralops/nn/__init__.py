"""Modules over the functions."""

from .hadamard import HadamardRotation
from .kan import KAN, KANLinear
from .rational import Rational
from .rational_init import rational_init

__all__ = ["KAN", "HadamardRotation", "KANLinear", "Rational", "rational_init"]

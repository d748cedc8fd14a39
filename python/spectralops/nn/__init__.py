"""Modules over the functions."""

from .hadamard import HadamardRotation
from .rational import Rational
from .rational_init import rational_init

__all__ = ["HadamardRotation", "Rational", "rational_init"]

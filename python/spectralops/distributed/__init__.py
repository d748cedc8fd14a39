"""Operators on sequences that are spread over the ranks of a torch.distributed group."""

from .comm import Traffic, count_traffic
from .fft_conv import fft_conv

__all__ = ["Traffic", "count_traffic", "fft_conv"]

"""`sparse_wht`: the sparse spectrum of a tensor in memory. The decoder is that of `SparseWHTPlan`; where reading everything is
quicker, the dense transform and a threshold take its place.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .sparse_spectrum import SparseSpectrum
from .sparse_wht_plan import SparseWHTPlan
from .. import _check

OFFSETS = ("auto", "exact", "nso", "dense")

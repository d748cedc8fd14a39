"""`FNetMixing`: the mixing of tokens and channels by a Fourier transform."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops.fourier_mix import fourier_mix


class FNetMixing(nn.Module):
    r"""y = Re FFT2(x) over the tokens and the channels, unnormalised: x (.., S, H) -> the same shape. No parameters.

    Args: backend: :func:`spectralops.fourier_mix`'s. The layer is its own transpose; nothing is saved for backward.

    Source: J. Lee-Thorp et al., FNet: Mixing Tokens with Fourier Transforms, 2021.
    """

    def __init__(self, *, backend: str | None = None):
        super().__init__()
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return fourier_mix(x, backend=self.backend)

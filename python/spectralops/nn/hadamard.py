"""`HadamardRotation`: a randomised orthogonal rotation as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.hadamard import check_block, hadamard_transform


class HadamardRotation(nn.Module):
    """y = block^-1/2 H (signs * x) along the last dimension: orthogonal, so x @ W.T = rotate(x) @
    rotate(W).T.

    Args:
        size: the last dimension. block: rotate consecutive blocks of this size (default the whole). seed:
        of the random signs, a buffer (size,) that is saved with the model; None for no signs.
        Sizes and errors as :func:`spectralops.hadamard_transform`.
    """

    def __init__(self, size: int, *, block: int | None = None, seed: int | None = 0, device=None, dtype=None):
        super().__init__()
        self.size, self.block = size, check_block(size, block)
        signs = None
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            signs = torch.randint(0, 2, (size,), generator=generator).to(device=device, dtype=dtype or torch.float32) * 2 - 1
        self.register_buffer("signs", signs)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 0 or x.shape[-1] != self.size:
            raise ValueError(f"the last dimension of x must be {self.size}; got a tensor of shape {tuple(x.shape)}")
        signs = None if self.signs is None else self.signs.to(x.dtype)
        return hadamard_transform(x, self.block**-0.5, signs=signs, block=self.block)

    def extra_repr(self) -> str:
        return f"size={self.size}, block={self.block}, signs={'none' if self.signs is None else 'random'}"

"""`SVTChannelMixing`, `SVTChannelTokenMixing`: the mixers of the Scattering Vision Transformer, on dtcwt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.dtcwt import dtcwt, idtcwt
from ..ops.plain import formula
from ..ops.spectral_mlp import block_mlp
from .kan_spec import chosen
from .long_conv import positive


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    positive(height=height, width=width)
    if height % 2 or width % 2:
        raise ValueError(f"size must be even; got {height} x {width}")
    return height, width


def _small(*shape: int, **like) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(shape, **like))


class SVTChannelMixing(nn.Module):
    r"""y = idtcwt(low W, MLP(high)), (low, high) = dtcwt(x) of every channel: x (B, H W, dim) -> the same.

    W is a real weight a pixel and channel; the MLP is complex, in blocks of channels, the same for every direction
    and place, with relu of real and imaginary part: spectral_mlp_core without shrinkage.

    Args:
        dim, num_blocks: channels and their blocks. size: H = W, or (H, W), even (upstream knows 56 and 28).
        backend: of the MLP.

    Parameters as upstream, whose state loads: `complex_weight_ll` (dim, H, W), `complex_weight_lh_1`,
    `complex_weight_lh_2` (2, nb, bs, bs), `complex_weight_lh_b1`, `complex_weight_lh_b2` (2, nb, bs). The filters
    are constants, not buffers: strict=False passes over upstream's.

    forward(x, H=None, W=None), H and W as upstream has them. The transform and the MLP are in the parameters' dtype,
    float32 as upstream's; the result has x's dtype, where upstream's has float32.

    Source: B. Patro, V. Agneeswaran, Scattering Vision Transformer: Spectral Mixing Matters, 2023.
    """

    def __init__(
        self, dim: int, size: int | tuple[int, int], num_blocks: int = 4, *, backend: str | None = None, device=None, dtype=None
    ):
        super().__init__()
        positive(dim=dim, num_blocks=num_blocks)
        if dim % num_blocks:
            raise ValueError(f"num_blocks = {num_blocks} does not divide dim = {dim}")
        self.dim, self.size, self.num_blocks, self.backend = dim, _pair(size), num_blocks, backend
        like, bs = {"device": device, "dtype": dtype}, dim // num_blocks
        self.complex_weight_ll = _small(dim, *self.size, **like)
        self.complex_weight_lh_1 = _small(2, num_blocks, bs, bs, **like)
        self.complex_weight_lh_2 = _small(2, num_blocks, bs, bs, **like)
        self.complex_weight_lh_b1 = _small(2, num_blocks, bs, **like)
        self.complex_weight_lh_b2 = _small(2, num_blocks, bs, **like)

    def _mlp(self, z: Tensor, suffix: str = "") -> Tensor:
        names = ("complex_weight_lh_1", "complex_weight_lh_b1", "complex_weight_lh_2", "complex_weight_lh_b2")
        backend = chosen(self.backend)
        return block_mlp(z, *(getattr(self, n + suffix) for n in names), 0.0, "relu", False, backend, formula(backend))

    def _mixed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in the parameters' dtype."""
        low, high = dtcwt(images)  # (B, C, H, W), (B, C, 6, H/2, W/2, 2)
        z = high.movedim(1, -2)  # (B, 6, H/2, W/2, C, 2)
        z = self._mlp(z.reshape(-1, self.num_blocks, z.shape[-2] // self.num_blocks, 2)).reshape(z.shape)
        return idtcwt(low * self.complex_weight_ll, self._tokens(z.movedim(-2, 1)))

    def _tokens(self, high: Tensor) -> Tensor:
        return high

    def _images(self, x: Tensor, height, width) -> Tensor:
        _check.tensor("x", x)
        height, width = self.size[0] if height is None else height, self.size[1] if width is None else width
        if (height, width) != self.size or x.dim() != 3 or x.shape[1:] != (height * width, self.dim):
            wanted = f"(B, {self.size[0] * self.size[1]}, {self.dim})"
            raise ValueError(f"x must have shape {wanted} with H, W = {self.size}; got {_check.shape(x)} with {(height, width)}")
        return x.unflatten(1, self.size).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, H: int | None = None, W: int | None = None) -> Tensor:
        images = self._images(x, H, W)
        y = self._mixed(images.to(self.complex_weight_ll.dtype))
        return y.permute(0, 2, 3, 1).reshape(x.shape).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.dim}, size={self.size}, num_blocks={self.num_blocks}"


class SVTChannelTokenMixing(SVTChannelMixing):
    r"""The first half of the channels through a depthwise 3 x 3 convolution, the second as in
    :class:`SVTChannelMixing` with a second complex MLP after the first, along the columns of each row of the high
    bands; the halves are interleaved, channel by channel.

    Parameters of the second MLP: `complex_weight_lh_1_t`, `complex_weight_lh_2_t` (2, H/2, W/2, W/2),
    `complex_weight_lh_b1_t`, `complex_weight_lh_b2_t` (2, H/2, W/2); of the convolution `conv`. dim is that of x,
    the other parameters have dim / 2 channels.
    """

    def __init__(
        self, dim: int, size: int | tuple[int, int], num_blocks: int = 4, *, backend: str | None = None, device=None, dtype=None
    ):
        positive(dim=dim)
        if dim % 2:
            raise ValueError(f"dim must be even; got {dim}")
        super().__init__(dim // 2, size, num_blocks, backend=backend, device=device, dtype=dtype)
        self.dim = dim
        like, (rows, columns) = {"device": device, "dtype": dtype}, (n // 2 for n in self.size)
        self.conv = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2, **like)
        self.complex_weight_lh_1_t = _small(2, rows, columns, columns, **like)
        self.complex_weight_lh_2_t = _small(2, rows, columns, columns, **like)
        self.complex_weight_lh_b1_t = _small(2, rows, columns, **like)
        self.complex_weight_lh_b2_t = _small(2, rows, columns, **like)

    def _tokens(self, high: Tensor) -> Tensor:
        return self._mlp(high.reshape(-1, *high.shape[3:]), "_t").reshape(high.shape)

    def forward(self, x: Tensor, H: int | None = None, W: int | None = None) -> Tensor:
        first, second = self._images(x, H, W).chunk(2, 1)
        first = self.conv(first.to(self.conv.weight.dtype))
        second = self._mixed(second.to(self.complex_weight_ll.dtype))
        return torch.stack([first, second], 2).flatten(1, 2).permute(0, 2, 3, 1).reshape(x.shape).to(x.dtype)

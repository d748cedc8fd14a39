"""GFNet: `GlobalFilter`, and the same layer as SpectFormer's and Surya's `SpectralGatingNetwork`.

    y = irfft2(W rfft2(x)) over a grid (a, b),   x (B, a b, C),   W = complex_weight (a, b // 2 + 1, C, 2)

where (a, b) is the root of the number of tokens or what the call gives as spatial_size. Upstream brings x to float32
and returns float32, Surya's copy x's dtype; a replaced module returns what it did. A weight in float64, which acts on
that float32 x upstream, is refused; a grid that is not the weight's runs the old forward, which broadcasts or raises.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .conv_common import probe_rows
from .matcher import Matcher, Plan, Refused, backend_of, has_tensors, mark, require

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _grid(x: Tensor, spatial_size) -> tuple[int, int]:
    if spatial_size is None:
        return (int(math.sqrt(x.shape[1])),) * 2
    return tuple(spatial_size)


def _forward(casts_back: bool, original):
    from .. import spectral_filter

    def forward(self, x: Tensor, spatial_size=None) -> Tensor:
        weight = self.complex_weight
        if not isinstance(x, Tensor) or x.dim() != 3 or x.dtype not in _FLOATS or x.numel() == 0 or weight.dtype != torch.float32:
            return original(self, x, spatial_size)
        h, bins, channels, _ = weight.shape
        grid = _grid(x, spatial_size)
        fits = len(grid) == 2 and math.prod(grid) == x.shape[1] and (grid[0], grid[1] // 2 + 1) == (h, bins)
        if not fits or x.shape[2] != channels or x.device != weight.device:
            return original(self, x, spatial_size)
        x = x if casts_back else x.float()
        return spectral_filter(x.reshape(x.shape[0], *grid, channels), weight).reshape(x.shape)

    return forward


def _formula(self: nn.Module, x: Tensor, spatial_size=None) -> Tensor:
    """In the precision of the weight."""
    weight = torch.view_as_complex(self.complex_weight)
    z = x.to(self.complex_weight.dtype).reshape(x.shape[0], *_grid(x, spatial_size), x.shape[2])
    y = torch.fft.irfft2(torch.fft.rfft2(z, dim=(1, 2)) * weight, s=z.shape[1:3], dim=(1, 2))
    return y.reshape(x.shape)


class GlobalFilter(Matcher):
    package = "GFNet"
    op = "spectral_filter"
    names = ("GlobalFilter", "SpectralGatingNetwork")

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, complex_weight=4) and module.complex_weight.shape[-1] == 2

    def plan(self, module: nn.Module) -> Plan:
        weight = module.complex_weight
        require(module, {"complex_weight": weight.shape})
        h, bins, channels, _ = weight.shape
        if weight.dtype != torch.float32:
            raise Refused(f"its complex_weight is {weight.dtype}; upstream's transform is in float32")
        square = bins == h // 2 + 1
        width = h if square else 2 * (bins - 1) if bins > 1 else 1
        casts_back = self._casts_back(module, h * width, None if square else (h, width))
        like = weight

        def probe(generator: torch.Generator) -> tuple[Tensor, ...]:
            return probe_rows((2, h * width, channels))(generator)

        def trim(x: Tensor, elements: int) -> Tensor:
            return x[: max(1, elements // max(x[0].numel(), 1))] if x.dim() == 3 and len(x) else x

        def backend(x: Tensor, spatial_size=None, *_, **__) -> str:
            if not isinstance(x, Tensor) or x.dim() != 3 or x.numel() == 0:
                return ""
            grid = _grid(x, spatial_size)
            return backend_of("spectral_filter", x.reshape(x.shape[0], *grid, channels), weight)

        size = () if square else ((h, width),)
        return Plan(
            mark(_forward(casts_back, type(module).forward), "spectral_filter"),
            old=f"{type(module).__name__}({channels}, {h}, {bins})",
            new="spectral_filter",
            probe=probe,
            trim=trim,
            backend=backend,
            formula=_formula,
            place=lambda _, probe: (*(t.to(like) for t in probe), *size),
        )

    @staticmethod
    def _casts_back(module: nn.Module, tokens: int, size) -> bool:
        """Whether this copy of the module returns 16 bits for 16 bits, or, where it takes none on this device, would."""
        x = module.complex_weight.new_zeros(1, tokens, module.complex_weight.shape[2], dtype=torch.bfloat16)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            try:
                return type(module).forward(module, x, *(() if size is None else (size,))).dtype == torch.bfloat16
            except RuntimeError as error:  # torch's own transforms take no bfloat16 on a CPU
                if "BFloat16" in str(error):
                    return True
                raise Refused(f"its own forward raised {type(error).__name__} on a grid of its weight: {error}") from error
            except Exception as error:  # whatever it raises, it is another module
                raise Refused(f"its own forward raised {type(error).__name__} on a grid of its weight: {error}") from error

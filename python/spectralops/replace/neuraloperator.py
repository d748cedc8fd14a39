"""neuraloperator 2.0.0: `SpectralConv`, the layer of its FNO, TFNO and UNO, in one to three dimensions.

    y = irfftn(sum_i X_i W_io on n_modes around frequency 0, 0 elsewhere) + bias,   X = rfftn(x)

with W dense or the factors of a CP, Tucker or TT tensor in `weight`, complex64, one matrix of channels a mode or,
separable, one number. Both values of `implementation` give the same sum; here factors are never multiplied out. A
replaced module keeps upstream's placement of frequencies on odd grids and on grids that change (`spectral_conv`'s
compat="neuralop"), as results stay what they were. Left alone are complex data, precisions other than "full", more
dimensions, and modules made float64: their weight stays complex64, and so do upstream's sums.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from .conv_common import attributes, probe_rows
from .matcher import Matcher, Plan, Refused, backend_of, mark, require, require_plain

_KINDS = ("dense", "cp", "tucker", "tt")
# The constructor's arguments in the version that is known; a later one has a switch that changes the inverse transform
_ARGUMENTS = {
    "self", "in_channels", "out_channels", "n_modes", "complex_data", "max_n_modes", "bias", "separable",
    "resolution_scaling_factor", "fno_block_precision", "rank", "factorization", "implementation", "fixed_rank_modes",
    "decomposition_kwargs", "init_std", "fft_norm", "device",
}  # fmt: skip


def _kind(weight: nn.Module) -> str:
    """Dense and ComplexDense are dense, the latter as pairs of real numbers, and so for the others."""
    return str(getattr(weight, "name", "")).lower().removeprefix("complex")


def _factors(weight: nn.Module) -> Tensor | tuple[Tensor, ...]:
    """As `spectral_conv` takes them."""
    kind = _kind(weight)
    if kind == "dense":
        return weight.tensor
    first = {"cp": "weights", "tucker": "core"}.get(kind)
    factors = tuple(weight.factors)
    return (getattr(weight, first), *factors) if first else factors


def _grid(self: nn.Module, x: Tensor, output_shape) -> tuple[int, ...]:
    """Of the result."""
    if output_shape is not None:
        return tuple(output_shape)
    scale = self.resolution_scaling_factor
    return tuple(x.shape[2:]) if scale is None else tuple(round(s * r) for s, r in zip(x.shape[2:], scale))


def _takes(self: nn.Module, x: object, tensors: tuple[Tensor, ...], grid) -> bool:
    if not isinstance(x, Tensor) or x.dim() != self.order + 2 or x.dtype != torch.float32 or 0 in x.shape:
        return False
    if x.shape[1] != self.in_channels or x.device != tensors[0].device or any(t.dtype != torch.complex64 for t in tensors):
        return False
    modes, most = tuple(self.n_modes), tuple(self.max_n_modes)
    fits = most == tuple(self.weight.shape)[-self.order :] and len(modes) == self.order
    fits = fits and all(1 <= m <= n for m, n in zip(modes, most))
    known = self.fno_block_precision == "full" and not self.complex_data
    return known and fits and len(grid) == self.order and all(isinstance(n, int) and n > 0 for n in grid)


def _forward(original):
    from .. import spectral_conv

    def forward(self, x: Tensor, output_shape=None) -> Tensor:
        weight = _factors(self.weight)
        grid = _grid(self, x, output_shape) if isinstance(x, Tensor) else ()
        if not _takes(self, x, weight if isinstance(weight, tuple) else (weight,), grid):
            return original(self, x, output_shape)
        modes = (*self.n_modes[:-1], 2 * self.n_modes[-1] - 1)  # whose half spectrum has n_modes[-1] columns
        with torch.autocast(x.device.type, enabled=False):
            return spectral_conv(
                x, weight, modes=modes, norm=self.fft_norm, output_size=grid, bias=self.bias, factorization=_kind(self.weight),
                compat="neuralop",
            )  # fmt: skip

    return forward


def _formula(self: nn.Module, x: Tensor, output_shape=None) -> Tensor:
    """Upstream's sums in the precision of x and the weight, from the whole weight."""
    dims = tuple(range(2, x.dim()))
    spectrum = torch.fft.rfftn(x, dim=dims, norm=self.fft_norm)
    spectrum = torch.fft.fftshift(spectrum, dim=dims[:-1]) if self.order > 1 else spectrum
    rows, box = [], []  # of the weight, and of the spectrum with frequency 0 at the middle of all dimensions but the last
    for d, (size, have, most) in enumerate(zip(spectrum.shape[2:], self.n_modes, self.max_n_modes)):
        kept = min(size, have)
        first, start = (0, 0) if d == self.order - 1 else ((most - kept) // 2, size // 2 - kept // 2)
        rows.append(slice(first, first + kept))
        box.append(slice(start, start + kept))
    weight = self.weight.to_tensor()[(..., *rows)]
    mixed = spectrum.new_zeros(x.shape[0], self.out_channels, *spectrum.shape[2:])
    part = spectrum[(..., *box)]
    mixed[(..., *box)] = part * weight if self.separable else torch.einsum("bi...,io...->bo...", part, weight)
    mixed = torch.fft.fftshift(mixed, dim=dims[:-1]) if self.order > 1 else mixed
    y = torch.fft.irfftn(mixed, s=_grid(self, x, output_shape), dim=dims, norm=self.fft_norm)
    return y if self.bias is None else y + self.bias


class NeuralOperatorSpectralConv(Matcher):
    package = "neuraloperator"
    op = "spectral_conv"
    classes = ("neuralop.layers.spectral_convolution.SpectralConv",)

    def plan(self, module: nn.Module) -> Plan:
        unknown = set(inspect.signature(type(module).__init__).parameters) - _ARGUMENTS
        unknown |= {name for name in ("enforce_hermitian_symmetry",) if hasattr(module, name)}
        if unknown:
            raise Refused(f"of a version that is not known here: its constructor takes {min(unknown)}")
        weight, order = module._modules.get("weight"), getattr(module, "order", 0)
        if weight is None or _kind(weight) not in _KINDS:
            raise Refused("its weight is no dense, CP, Tucker or TT tensor of tensorly-torch")
        if not 1 <= order <= 3:
            raise Refused(f"{order} dimensions; spectral_conv has 1 to 3")
        attributes(module, complex_data=False, fno_block_precision="full")
        for part in weight.modules():
            require_plain(part, "weight")
        tensors = _factors(weight)
        tensors = tensors if isinstance(tensors, tuple) else (tensors,)
        bias = module.bias
        if any(t.dtype != torch.complex64 for t in tensors) or bias is not None and bias.dtype != torch.float32:
            raise Refused("its weight is not complex64, or its bias not float32: upstream's transforms are in single precision")
        channels, outputs = module.in_channels, module.out_channels
        require(module, {} if bias is None else {"bias": (outputs, *(1,) * order)}, {}, {"weight": nn.Module})
        modes, device = tuple(module.n_modes), tensors[0].device
        # odd where the rows are even; a few more points than modes, but all that a coarser result keeps
        grid = tuple(m + 3 for m in modes[:-1]) + (2 * modes[-1] + 2,)

        def trim(x: Tensor, elements: int) -> Tensor:
            return x[: max(1, elements // max(x[0].numel(), 1))] if x.dim() == order + 2 and len(x) else x

        def backend(x: Tensor, *_, **__) -> str:
            return backend_of("spectral_conv", x, _factors(weight), modes=modes, factorization=_kind(weight)) if x.numel() else ""

        return Plan(
            mark(_forward(type(module).forward), "spectral_conv"),
            old=f"SpectralConv({channels}, {outputs}, {modes}, {_kind(weight)}{', separable' if module.separable else ''})",
            new="spectral_conv",
            probe=probe_rows((2, channels, *grid)),
            trim=trim,
            backend=backend,
            formula=_formula,
            place=lambda _, probe: tuple(t.to(device, torch.float32) for t in probe),
        )

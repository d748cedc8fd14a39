"""What the Triton kernels of fft_conv are held to where tensor cores round their operands once.

bfloat16 data and precision "high" take one tf32 product for one.  Both its operands have 11 bits of significand, a format that
is part of what was asked for; everything else is float32.  So the formula whose error against float64 a kernel may reach twice
has the operands of its transforms rounded alike, to nearest, in the kernels' levels.  A result in bfloat16 hardly sees it.
"""

import math
from unittest import mock

import torch
from kan_operands import significand

from spectralops.kernels import configs
from spectralops.kernels import fft_conv_dft as dft
from spectralops.ops import fft_conv_reference as spec


def applies(dtype, precision):
    return dtype == torch.bfloat16 or dtype == torch.float32 and precision == "high"


def product(matrix, x):
    """matrix (complex128) times x, summed over x's dimension -2, operands rounded."""
    cut = lambda t: significand(t.double(), 11)  # noqa: E731
    m, x = torch.complex(cut(matrix.real), cut(matrix.imag)), torch.complex(cut(x.real), cut(x.imag))
    return m @ x


def turns(rows, columns, shift, period):
    angle = torch.outer(torch.arange(rows).double() + shift, torch.arange(columns).double()) * (-2 * math.pi / period)
    return torch.polar(torch.ones_like(angle), angle)


def levels(grid):
    """Of a row that one program holds; longer rows have one more, whose place does not matter here."""
    row = configs.FFT_CONV.get(grid)
    return (row.n1, row.n2, row.n3) if row else (16, grid // 256, 16)


def to_grid(x, grid):
    n1, n2, n3 = levels(grid)
    low, high = torch.nn.functional.pad(x, (0, 2 * grid - x.shape[-1])).split(grid, -1)
    z = product(turns(n1, n1, 0.25, n1), torch.complex(low, -high).unflatten(-1, (n1, -1)))
    z = z * turns(n1, n2 * n3, 0.25, grid)
    z = product(turns(n2, n2, 0, n2), z.unflatten(-1, (n2, n3)))  # (m1, m2, j3)
    if n3 > 1:
        z = (z * turns(n2, n3, 0, n2 * n3)).transpose(-1, -2)  # (m1, j3, m2)
        z = product(turns(n3, n3, 0, n3), z).transpose(-1, -2)  # (m1, m2, m3)
    return z.movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3).to(torch.complex64)


def from_grid(spectrum):
    grid = spectrum.shape[-1]
    n1, n2, n3 = levels(grid)
    z = spectrum.unflatten(-1, (n3, n2, n1)).movedim((-3, -2, -1), (-1, -2, -3)).to(torch.complex128)
    if n3 > 1:
        z = product(turns(n3, n3, 0, n3).conj(), z.transpose(-1, -2)).transpose(-1, -2)
        z = z * turns(n2, n3, 0, n2 * n3).conj()
    z = product(turns(n2, n2, 0, n2).conj(), z).flatten(-2)
    z = product(turns(n1, n1, 0.25, n1).conj().T, z * turns(n1, n2 * n3, 0.25, grid).conj()).flatten(-2) / grid
    return torch.cat([z.real, -z.imag], -1).float()


def run(tensors, call, needs):
    """[y, *gradients] as the kernels', taps through their spectrum."""
    grad, u, kernel, *rest = tensors
    n = call.grid or dft.points(call.length, kernel.shape[3], call.lag0)
    with mock.patch.object(spec, "to_grid", to_grid), mock.patch.object(spec, "from_grid", from_grid):
        given = kernel if call.grid else spec.spectrum(kernel, call.lag0, n)
        through = call._replace(grid=n, lag0=0)
        y = spec.forward(u, given, *rest, through)
        found = list(spec.backward(grad, u, given, *rest, tuple(given.shape[:4]), through, needs))
        if not call.grid:
            taps = from_grid(torch.view_as_complex(found[1].contiguous()) * n)
            found[1] = torch.cat([-taps[..., 2 * n - call.lag0 :], taps[..., : kernel.shape[3] - call.lag0]], -1)
    return [y, *found]

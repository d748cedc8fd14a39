"""spectral_filter_gradient in Triton: dW = c / N sum_b conj(X_b) G_b; formulas and shapes as in ops/spectral_filter_reference.py.

A program takes some channels of up to 32 samples in turn, transforms x and g and adds up conj(X) G in registers; what programs
have summed stands in a workspace (chunks, N1, N2, bins, C, 2), and a second kernel adds groups of 32 of them, as often as it
takes, and then the channels of a group likewise.  Samples a program follow from sizes alone, so every sum has one order.

Bytes, s an element and N elements of x: 2 N s, the fewest, and 4 N / samples a program twice over for the partial sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from . import spectral_filter_dft as grids
from . import spectral_filter_passes as passes
from .common import cdiv, launch, load
from .fft_conv_dft import input_precision
from .spectral_filter import tile
from .spectral_filter_dft import bins, put_pairs, transform


@triton.jit(do_not_specialize=["n2", "n3", "points", "batch", "steps"])
def gradient_kernel(
    p_x, p_mean, p_nw, p_nb, p_g, p_w, p_sum, n2, n3, channels, points, batch, steps,
    x_b, x_1, x_2, x_3, x_c, g_b, g_1, g_2, g_3, g_c, WIDE: tl.constexpr,
    P2: tl.constexpr, P3: tl.constexpr, B: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sum of conj(X) G over `steps` samples -> (chunks, N2, bins, C, 2), times c / N."""
    blocks = tl.cdiv(channels, TC)
    chunk, i_c = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    re, im = tl.zeros([P2, B * TC], tl.float32), tl.zeros([P2, B * TC], tl.float32)
    for step in tl.range(0, tl.minimum(steps, batch - chunk * steps), disable_licm=True):
        # 0, but the compiler cannot know: what hangs on it is computed anew, where it would fill registers from step to step
        b, zero = chunk.to(tl.int64) * steps + step, step >> 30
        if p_mean is not None:
            p_m = p_mean + b * (n2 * n3)
        else:
            p_m = None
        x_re, x_im = transform(p_x + b * x_b, x_2, x_3, x_c, p_m, points, p_nw, p_nb, p_w + zero, i_c + zero, n2, n3, channels,
                               WIDE, P2, P3, B, TC, PRECISION)  # fmt: skip
        tl.debug_barrier()  # nothing is loaded, or kept, for two transforms at once
        g_re, g_im = transform(p_g + b * g_b, g_2, g_3, g_c, None, points, None, None, p_w + zero, i_c + zero, n2, n3, channels,
                               WIDE, P2, P3, B, TC, PRECISION, "evict_last")  # fmt: skip
        re += x_re * g_re + x_im * g_im
        im += x_re * g_im - x_im * g_re
    o, k3, c_q, m_q = bins(i_c, n2, n3, channels, P2, B, TC)
    scale = tl.where((k3 == 0) | (2 * k3 == n3), 1.0, 2.0) / (n2 * n3)
    p = p_sum + chunk.to(tl.int64) * (n2 * (n3 // 2 + 1)) * channels * 2
    put_pairs(p, o * channels + c_q, re * scale, im * scale, m_q)


@triton.jit(do_not_specialize=["count", "sums", "outputs"])
def sum_kernel(p_x, p_y, inner, count, sums, outputs, TERMS: tl.constexpr, BLOCK: tl.constexpr):
    """(outer, count, inner) -> (outer, sums, inner), each the sum of TERMS beside each other."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    row, m = o // inner, o < outputs
    q = row % sums * TERMS + tl.arange(0, TERMS)[:, None]
    x = load(p_x + (row // sums * count + q) * inner + o % inner, m & (q < count))
    tl.store(p_y + o, tl.sum(x, 0)[None, :], mask=m)


# ---- host ----------------------------------------------------------------------------------------


def supports_spectral_filter_gradient(x, grad, norm_weight, norm_bias, eps, samples, groups) -> tuple[bool, str]:
    return grids.supports(x)


def summed(x: torch.Tensor, count: int) -> torch.Tensor:
    """(outer, count, inner) -> (outer, 1, inner)."""
    terms, block = configs.SPECTRAL_FILTER_TERMS, configs.SPECTRAL_FILTER_SUM.elements
    outer, inner = x.shape[0], x.shape[2]
    while count > 1:
        sums = cdiv(count, terms)
        y = torch.empty((outer, sums, inner), dtype=torch.float32, device=x.device)
        launch(x, sum_kernel, (cdiv(y.numel(), block),), warps=configs.SPECTRAL_FILTER_SUM.warps, fuse=True,
               p_x=x, p_y=y, inner=inner, count=count, sums=sums, outputs=y.numel(), TERMS=terms, BLOCK=block)  # fmt: skip
        x, count = y, sums
    return x


def chunked(batch: int, programs: int) -> tuple[int, int]:
    """(samples a program, chunks) where a sample by itself has so many programs."""
    steps = min(configs.SPECTRAL_FILTER_TERMS, max(1, batch * programs // configs.SPECTRAL_FILTER_PROGRAMS))
    return steps, cdiv(batch, steps)


def spectral_filter_gradient(x, grad, norm_weight, norm_bias, eps, samples, groups):
    mean, channels = grids.moments(x, eps), x.shape[4]
    if eps < 0:
        norm_weight = norm_bias = None
    shape = (samples, x.shape[1], x.shape[2], x.shape[3] // 2 + 1, groups, 2)
    mode = input_precision(torch.float32, "highest")
    if grids.whole(x):
        arguments, options = tile(x, "gradient", mode)
        blocks = cdiv(channels, arguments["TC"])
        steps, chunks = chunked(x.shape[0], blocks) if samples == 1 else (1, x.shape[0])
        sums = torch.empty((chunks, *shape[1:4], channels, 2), dtype=torch.float32, device=x.device)
        launch(x, gradient_kernel, (chunks * blocks,), **options, **arguments,
               p_x=x, p_mean=mean, p_nw=norm_weight, p_nb=norm_bias, p_g=grad, p_sum=sums, batch=x.shape[0], steps=steps,
               WIDE=grids.wide(x, grad), **grids.strides("x", x), **grids.strides("g", grad))  # fmt: skip
    else:
        sums = passes.products(x, grad, mean, norm_weight, norm_bias, samples, mode, chunked)
    if samples == 1:
        sums = summed(sums.view(1, sums.shape[0], -1), sums.shape[0])
    return summed(sums.view(-1, channels // groups, 2), channels // groups).view(shape)

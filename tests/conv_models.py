"""The long convolutions that packages publish, written from their formulas: same class names, attributes, parameters and
results. `replace` is tested on these; none of the packages is needed."""

import math
import sys
import types

import torch
import torch.nn.functional as F
from torch import nn
from torch.fft import fft, ifft, irfft, rfft

_broken = False


def break_originals(monkeypatch):
    """From here on a call that falls back on an old forward fails."""
    monkeypatch.setitem(globals(), "_broken", True)


def chain(u, k, n):
    """The transforms of n points that every one of these modules runs; u is brought to k's dtype."""
    if _broken:
        raise AssertionError("the old forward ran")
    return irfft(rfft(u.to(k.dtype), n) * rfft(k, n), n)[..., : u.shape[-1]]


# ---- flash-linear-attention --------------------------------------------------------------------------------------------


class LongConvolution(nn.Module):
    def __init__(self, hidden_size, max_len, **kwargs):
        super().__init__()
        self.hidden_size = hidden_size
        self.filter = nn.Parameter(torch.randn(hidden_size, max_len))

    def forward(self, x, *args, **kwargs):
        u = x.transpose(1, 2)
        return (chain(u, self.filter, 2 * u.shape[-1]) + u).to(x.dtype).transpose(1, 2)


class PositionalEmbedding(nn.Module):
    def __init__(self, emb_dim, seq_len):
        super().__init__()
        self.seq_len = seq_len
        bands = (emb_dim - 1) // 2
        angle = 2 * math.pi * torch.arange(seq_len)[:, None] / seq_len * torch.linspace(1e-4, bands - 1, bands)
        z = torch.cat([torch.linspace(0, 1, seq_len)[:, None], angle.cos(), -angle.sin()], 1)
        self.z = nn.Parameter(z[None], requires_grad=False)

    def forward(self, length):
        return self.z[:, :length]


class ImplicitLongConvolution(nn.Module):
    def __init__(self, hidden_size, max_len, d_emb=3, d_hidden=16, **kwargs):
        super().__init__()
        self.hidden_size, self.d_emb = hidden_size, d_emb
        self.pos_emb = PositionalEmbedding(d_emb, max_len)
        self.mlp = nn.Sequential(nn.Linear(d_emb, d_hidden), nn.ReLU(), nn.Linear(d_hidden, hidden_size))

    def filter(self, seq_len, *args, **kwargs):
        return self.mlp(self.pos_emb(seq_len)).transpose(1, 2)

    def forward(self, x, *args, **kwargs):
        u = x.transpose(1, 2)
        k = self.filter(u.shape[-1])
        return (chain(u, k, 2 * u.shape[-1]) + u).to(x.dtype).transpose(1, 2)


# ---- s4 ----------------------------------------------------------------------------------------------------------------


class S4DKernel(nn.Module):
    def __init__(self, d_model, N=8):
        super().__init__()
        self.C = nn.Parameter(torch.randn(d_model, N // 2, 2))
        self.log_dt = nn.Parameter(torch.rand(d_model) * math.log(100) + math.log(1e-3))
        self.log_A_real = nn.Parameter(torch.full((d_model, N // 2), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(N // 2).repeat(d_model, 1))

    def forward(self, L):
        a = torch.complex(-self.log_A_real.exp(), self.A_imag)
        da = a * self.log_dt.exp()[:, None]
        c = torch.view_as_complex(self.C) * (da.exp() - 1) / a
        return 2 * torch.einsum("hn,hnl->hl", c, torch.exp(da[..., None] * torch.arange(L))).real


class DropoutNd(nn.Module):
    """One mask for a whole row."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(*x.shape[:2], 1) < 1 - self.p) / (1 - self.p)


class S4D(nn.Module):
    def __init__(self, d_model, d_state=8, dropout=0.0, transposed=True):
        super().__init__()
        self.h, self.n, self.d_output, self.transposed = d_model, d_state, d_model, transposed
        self.D = nn.Parameter(torch.randn(d_model))
        self.kernel = S4DKernel(d_model, d_state)
        self.activation = nn.GELU()
        self.dropout = DropoutNd(dropout) if dropout else nn.Identity()
        self.output_linear = nn.Sequential(nn.Conv1d(d_model, 2 * d_model, 1), nn.GLU(dim=-2))

    def forward(self, u, **kwargs):
        u = u if self.transposed else u.transpose(-1, -2)
        y = chain(u, self.kernel(L=u.shape[-1]), 2 * u.shape[-1]) + u * self.D[:, None]
        y = self.output_linear(self.dropout(self.activation(y)))
        return y if self.transposed else y.transpose(-1, -2), None


class ConvKernel(nn.Module):
    """A learned kernel with the interface of s4's."""

    def __init__(self, channels, d_model, length):
        super().__init__()
        self.taps = nn.Parameter(torch.randn(channels, d_model, length) * length**-0.5)

    def forward(self, L, rate=1.0, state=None):
        return self.taps[..., :L], None if state is None else state


class FFTConv(nn.Module):
    def __init__(self, d_model, l_max=None, channels=1, swap_channels=False, bidirectional=False, activation=None,
                 transposed=True, dropout=0.0, size=64):  # fmt: skip
        super().__init__()
        self.d_model, self.L, self.channels, self.bidirectional = d_model, l_max, channels, bidirectional
        self.transposed, self.swap_channels = transposed, swap_channels
        self.activation = nn.GELU() if activation is None else activation
        self.D = nn.Parameter(torch.randn(channels, d_model))
        self.kernel = ConvKernel(channels * (1 + bidirectional), d_model, size)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x, state=None, rate=1.0, **kwargs):
        x = x if self.transposed else x.transpose(-1, -2)
        length = x.shape[-1]
        taps = length if self.L is None else min(length, round(self.L / rate))
        k, k_state = self.kernel(L=taps, rate=rate, state=state)
        n = k.shape[-1] + length
        if self.bidirectional:
            k, r = k.chunk(2)
            k = F.pad(k, (0, length)) + F.pad(r.flip(-1), (length, 0))
        y = chain(x[:, None], k, n) + x[:, None] * self.D[..., None]
        y = y if state is None else y + k_state
        y = (y.transpose(1, 2) if self.swap_channels else y).flatten(1, 2)
        y = self.drop(y)
        return self.activation(y if self.transposed else y.transpose(-1, -2)), None


# ---- safari and HyenaDNA -----------------------------------------------------------------------------------------------


class HyenaFilter(nn.Module):
    """safari's filter, with what the operator sees of it; `fixed_bias` leaves the skip in whatever use_bias says, as HyenaDNA."""

    def __init__(self, width, seq_len, use_bias=True, fixed_bias=False):
        super().__init__()
        self.use_bias, self.fixed_bias = use_bias, fixed_bias
        self.fused_fft_conv = self.use_flashfftconv = False
        self.bias = nn.Parameter(torch.randn(width))
        self.pos_emb = PositionalEmbedding(3, seq_len)
        self.implicit_filter = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, width, bias=False))

    def filter(self, L):
        return self.implicit_filter(self.pos_emb(L)) * torch.exp(-5 * self.pos_emb.z[:, :L, :1])

    def forward(self, x, L, k=None, bias=None, *args, **kwargs):
        bias = bias if self.use_bias or self.fixed_bias else 0 * bias
        return (chain(x, k, 2 * x.shape[-1]) + x * bias[..., None]).to(x.dtype)


class _Hyena(nn.Module):
    def __init__(self, d_model, l_max, order=2, dropout=0.0, use_bias=True):
        super().__init__()
        self.d_model, self.l_max, self.order = d_model, l_max, order
        width = d_model * (order + 1)
        self.dropout = nn.Dropout(dropout)
        self.in_proj, self.out_proj = nn.Linear(d_model, width), nn.Linear(d_model, d_model)
        self.short_filter = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.filter_fn = HyenaFilter(d_model * (order - 1), l_max, use_bias, not hasattr(self, "by_channel"))

    def forward(self, u, *args, **kwargs):
        length, n = min(u.shape[1], self.l_max), self.order - 1
        *x, v = self.short_filter(self.in_proj(u).transpose(1, 2))[..., :length].split(self.d_model, 1)
        k, bias = self.filter_fn.filter(length)[0].T, self.filter_fn.bias
        for o, gate in enumerate(reversed(x[1:])):
            mine = slice(o, None, n) if hasattr(self, "by_channel") else slice(o * self.d_model, (o + 1) * self.d_model)
            v = self.filter_fn(self.dropout(v * gate), length, k=k[mine], bias=bias[mine])
        y = (v * x[0]).transpose(1, 2)
        y = self.out_proj(self.activation(y) if hasattr(self, "activation") else y)
        return (y, None) if getattr(self, "return_state", False) else y


class Safari:
    class HyenaOperator(_Hyena):
        by_channel = True  # filter channel d n + o is that of order o

        def __init__(self, *args, activation=None, return_state=False, num_heads=1, **kwargs):
            super().__init__(*args, **kwargs)
            self.num_heads, self.num_blocks, self.inner_factor = num_heads, 1, 1
            self.outer_mixing = self.post_order_ffn = self.jit_filter = False
            self.activation, self.return_state = nn.Identity() if activation is None else activation, return_state


class HyenaDNA:
    class HyenaOperator(_Hyena):
        pass


# ---- flash-fft-conv ----------------------------------------------------------------------------------------------------


class FlashFFTConv(nn.Module):
    """With its conditions: 16 bits in and out, both gates or none, no derivative outside of training mode."""

    def __init__(self, seqlen, dtype=torch.float16, use_32_butterfly=True):
        super().__init__()
        assert dtype in (torch.float16, torch.bfloat16)
        self.seqlen, self.dtype, self.use_32_butterfly, self.N = seqlen, dtype, use_32_butterfly, seqlen
        self.register_buffer("f_sqrt_N_fft", torch.ones(4, 4, 2, dtype=dtype))

    def forward(self, u, k, pregate=None, postgate=None):
        if _broken:
            raise AssertionError("the old forward ran")
        assert u.dtype == self.dtype and k.dtype == torch.float32 and (pregate is None) == (postgate is None)
        assert u.shape[-1] % 2 == 0
        v = u if pregate is None else u * pregate
        y = ifft(fft(v.float(), self.seqlen) * fft(k, self.seqlen)).real[..., : u.shape[-1]].to(self.dtype)
        y = y if postgate is None else y * postgate
        return y if self.training else y.detach()


PATHS = {
    "fla.modules.long_conv": [LongConvolution, ImplicitLongConvolution, PositionalEmbedding],
    "flashfftconv.conv": [FlashFFTConv],
}


def disguise(monkeypatch):
    """Give the stand-ins the paths of the originals."""
    for path, classes in PATHS.items():
        parts = path.split(".")
        for i in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        for cls in classes:
            setattr(sys.modules[path], cls.__name__, cls)
            monkeypatch.setattr(cls, "__module__", path)

"""The expressions that authors of long-convolution models run, written out with torch.fft or as dense matrices: f(module, x) with
the parameters of one of our modules."""

import math

import torch
import torch.nn.functional as F
from torch.fft import irfft, rfft


def causal(u, k):
    """u (.., L), k (.., K) with K <= L, by transforms of 2 L."""
    n = 2 * u.shape[-1]
    return irfft(rfft(u, n) * rfft(k, n), n)[..., : u.shape[-1]]


def shared(u, k, k_rev):
    """Both directions from lag 0 on, as H3's reference: the conjugate turns the second around."""
    n = 2 * u.shape[-1]
    return irfft(rfft(u, n) * (rfft(k, n) + rfft(k_rev, n).conj()), n)[..., : u.shape[-1]]


def joined(u, k, k_rev):
    """The second direction from lag -1 on, as S4 pads and adds the two."""
    n = u.shape[-1]
    k = F.pad(k, (0, 2 * n - k.shape[-1])) + F.pad(k_rev.flip(-1), (2 * n - k_rev.shape[-1], 0))
    return irfft(rfft(u, 2 * n) * rfft(k, 2 * n), 2 * n)[..., :n]


def toeplitz(a, x):
    """a (.., 2 n - 1), lag 0 in the middle, x (.., n): the circulant matrix around it."""
    n = x.shape[-1]
    ring = torch.cat([a[..., n - 1 :], torch.zeros_like(a[..., :1]), a[..., : n - 1]], -1)
    return irfft(rfft(ring) * rfft(x, 2 * n), 2 * n)[..., :n]


def long_conv(m, x):
    u = x.mT
    y = shared(u, m.kernel, m.kernel_rev) if m.bidirectional else causal(u, m.kernel)
    return F.silu(y + u * m.skip[:, None]).mT


def hyena_filter(f, length, reverse=False):
    """(H, L), from the formula: positions, network, window."""
    t = torch.linspace(0, 1, f.seq_len, dtype=torch.float64)[:, None]
    w = 2 * math.pi * torch.arange(f.seq_len, dtype=torch.float64)[:, None] / f.seq_len
    bands = (f.emb_dim - 1) // 2
    z = torch.exp(-1j * torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64) * w)
    z = torch.cat([t, z.real, z.imag], -1)
    assert torch.allclose(f.pos_emb.z[0].double(), z, atol=1e-5)  # made in float32
    h, network = f.pos_emb.z[0], f.implicit_filter_rev if reverse else f.implicit_filter
    for layer in network:
        h = torch.sin(layer.w_mod * layer.freq * h) if hasattr(layer, "freq") else F.linear(h, layer.weight, layer.bias)
    if f.normalized:
        h = h / torch.norm(h, dim=-1, p=1, keepdim=True)
    deltas = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, f.d_model).to(h)
    return (h * (torch.exp(-f.pos_emb.t[0] * deltas.abs()) + f.modulation.shift))[:length].T


def hyena(m, u):
    length, n, d = u.shape[1], m.order - 1, m.d_model
    uc = F.conv1d(m.in_proj(u).mT, m.short_filter.weight, m.short_filter.bias, padding=2, groups=(n + 2) * d)[..., :length]
    *x, v = uc.split(d, 1)
    k, bias = hyena_filter(m.filter_fn, length), m.filter_fn.bias
    for o, gate in enumerate(reversed(x[1:])):
        v = v * gate
        v = causal(v, k[o::n]) + v * bias[o::n, None]
    return m.out_proj((v * x[0]).mT)


def s4d(m, u):
    u = u if m.transposed else u.mT
    p, length = m.kernel, u.shape[-1]

    def kernel(c):
        a, dt, c = -torch.exp(p.log_A_real) + 1j * p.A_imag, torch.exp(p.log_dt)[:, None], torch.view_as_complex(c)
        c = c * (torch.exp(a * dt) - 1) / a
        return 2 * torch.einsum("hn,hnl->hl", c, torch.exp((a * dt)[..., None] * torch.arange(length))).real

    y = joined(u, kernel(p.C), kernel(p.C_rev)) if m.bidirectional else causal(u, kernel(p.C))
    y = m.output_linear(F.gelu(y + u * m.D[:, None]))
    return y if m.transposed else y.mT


def rtf(m, u):
    period, length, rows = m.trunc_len + m.trunc_len % 2, u.shape[1], len(m.h_0)
    a, b = m.ab[:-rows], m.ab[-rows:]
    if m.constraint:
        a = a / (a.abs().sum(-1) + m.scalar.abs() + 1e-6)[:, None]
    a = a.repeat_interleave(m.d_model // m.num_a, 0)
    one = torch.cat([torch.ones_like(a[:, :1]), a], 1)
    k = irfft(rfft(F.pad(b, (1, 0)), period) / rfft(one, period) + m.h_0[:, None], period)[:, :length]
    y = joined(u.mT, k[: m.d_model], k[m.d_model :]) if m.bidirectional else causal(u.mT, k)
    return y.mT


def tno(m, x, normalize=False):
    """The Toeplitz matrix itself, lag by lag."""
    n, lags = x.shape[2], torch.arange(-x.shape[2] + 1, x.shape[2]).to(x)

    def rms(z):
        return z / (z.square().mean(-1, keepdim=True).sqrt() + 1e-8)

    scaled = lags if m.par_type == 1 else lags / (n - 1)
    z = m.rpe.pos_proj((scaled.exp() if m.par_type == 3 else scaled)[:, None])
    for layer in m.rpe.layers:
        z = layer[2](F.relu(rms(z))) + (z if m.rpe.residual else 0)
    a = m.rpe.out[2](F.relu(rms(z))).unflatten(1, (m.h, m.dim)).transpose(0, 1)  # (h, 2 n - 1, d)
    if m.use_decay or m.use_multi_decay:
        gamma = m.gamma if m.use_decay else m.lambda_ + (1 - m.lambda_) * torch.sigmoid(m.gamma)
        a = a * gamma ** lags.abs()[:, None]
    if m.causal:
        a = a * (lags >= 0)[:, None]
    i = torch.arange(n)
    if x.dtype == torch.float32:  # as upstream
        return toeplitz(a.mT, x.mT).mT
    matrix = a[:, i[:, None] - i + n - 1]  # (h, n, n, d)
    y = torch.einsum("hijd,bhjd->bhid", matrix, x)
    return y / matrix.sum(2) if normalize else y


def tnn(m, x):
    def rms(z):
        return z / (z.square().mean(-1, keepdim=True).sqrt() + 1e-8)

    u, v = F.silu(m.u_proj(rms(x))), F.silu(m.v_proj(rms(x)))
    y = tno(m.toep, v.unflatten(2, (m.num_heads, -1)).transpose(1, 2), m.normalize)
    y = u * y.transpose(1, 2).flatten(2)
    return m.o(rms(y) if m.use_norm else y) + x


def mega(m, x):
    p, q = torch.sigmoid(m.damping_factor), 1 - torch.sigmoid(m.damping_factor) * torch.sigmoid(m.decay_factor)
    size = min(x.shape[1], m.truncation or x.shape[1])
    k = p * m.ema_expansion_matrix * torch.exp(torch.arange(size).to(x) * torch.log(q))
    k = torch.einsum("dnl,dn->dl", k, m.kernel_projection_matrix * m.ndim**-0.5)
    y = shared(x.mT, *k.chunk(2)) if m.bidirectional else causal(x.mT, k)
    return F.silu(y.mT + x * m.residual_weight)


def m2(m, u):
    length = u.shape[1]
    uc = F.conv1d(m.in_linear(u).mT, m.short_filter.weight, m.short_filter.bias, padding=2, groups=3 * m.d_model)[..., :length]
    x1, x2, v = uc.chunk(3, 1)

    def conv(f, w):
        both = joined if m.rev_offset else shared
        k = hyena_filter(f, length)
        y = both(w, k, hyena_filter(f, length, reverse=True)) if m.bidirectional else causal(w, k)
        return y + w * f.bias[:, None]

    y = x2 * conv(m.filter_fn, x1 * v)
    if m.filter_fn2 is not None:
        y = y + conv(m.filter_fn2, u.mT)
    return m.out_linear(y.mT)


def fnet_ar(m, x, memory=None):
    """Upstream's matrix: row i has the DFT row i of length M on the columns i .. i + M - 1."""
    window, rows = m.window, x.shape[1]
    memory = x.new_zeros(len(x), window - 1, x.shape[2]) if memory is None else memory
    i, s = torch.arange(rows)[:, None], torch.arange(window)
    values = torch.exp(2j * math.pi * (i * s).double() / window) / math.sqrt(window)
    matrix = torch.zeros(rows, rows + window - 1, dtype=values.dtype).scatter(1, i + s, values).real.to(x)
    return m.norm(x + matrix @ torch.cat([memory, x], 1) / math.sqrt(rows + window - 1))


def attention(m, x):
    """The n x n weights."""
    n = x.shape[1]
    q, k, v = (t.unflatten(2, (m.heads, -1)).transpose(1, 2) for t in m.qkv(x).chunk(3, -1))
    if m.feature_map == "elu":
        q, k = F.elu(q) + 1, F.elu(k) + 1
    else:
        q, k = (m.scale * t / t.norm(dim=-1, keepdim=True) for t in (q, k))
        r = len(m.projection)
        q, k = (torch.exp(t @ m.projection.T - t.square().sum(-1, keepdim=True) / 2) / math.sqrt(r) for t in (q, k))
    if x.dtype == torch.float32:  # by transforms, features by channels
        a = torch.exp(m.relative_bias[:, m.max_len - n : m.max_len + n - 1])
        a = a * (torch.arange(2 * n - 1) >= n - 1) if m.causal else a
        terms = k[..., None] * F.pad(v, (0, 1), value=1.0)[..., None, :]  # (B, h, n, r, d + 1)
        z = torch.einsum("bhnr,bhrdn->bhnd", q, toeplitz(a[:, None, None], terms.permute(0, 1, 3, 4, 2)))
        return m.out((z[..., :-1] / z[..., -1:]).transpose(1, 2).flatten(2))
    i = torch.arange(n)
    weights = torch.exp(m.relative_bias[:, i[:, None] - i + m.max_len - 1]) * (q @ k.mT)
    weights = weights.tril() if m.causal else weights
    return m.out((weights @ v / weights.sum(-1, keepdim=True)).transpose(1, 2).flatten(2))

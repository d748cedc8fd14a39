"""The stand-ins for flash-fft-conv's, H3's, safari's and HyenaDNA's convolutions against the expressions those run."""

import pytest
import torch
import torch.nn.functional as F
from torch.fft import fft, ifft, irfft, rfft

import spectralops as so
from spectralops.compat import FlashFFTConv, fftconv, fftconv_func, fftconv_ref, wrapped
from spectralops.testing import Tally

B, H, L = 3, 4, 21


@pytest.fixture(autouse=True)
def _one_thread():
    """Rows this short gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def compare(ours, theirs, operands):
    """Values and gradients in float64; in float32 at most twice the published chain's error."""
    found = {}
    tally = Tally()
    for dtype in (torch.float64, torch.float32):
        given = [t.detach().to(dtype).requires_grad_() for t in operands]
        for name, f in (("ours", ours), ("theirs", theirs)):
            y = f(*given)
            cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(y)
            found[name, dtype] = [y.detach(), *torch.autograd.grad(y, given, cotangent)]
    truth = found["theirs", torch.float64]
    for i, exact in enumerate(truth):
        torch.testing.assert_close(found["ours", torch.float64][i], exact)
        tally.add(str(i), found["ours", torch.float32][i], found["theirs", torch.float32][i], exact)
    tally.check()


# ---- flash-fft-conv ----------------------------------------------------------------------------------------------------


def flash(u, k, n, pregate=None, postgate=None):
    v = u if pregate is None else u * pregate
    y = ifft(fft(v, n) * fft(k, n)).real[..., : u.shape[-1]]
    return y if postgate is None else y * postgate


# FFT size, L, K: linear, circular, wrapped a little and a lot, taps beyond the transform
SIZES = [(42, 21, 21), (41, 21, 21), (64, 21, 9), (21, 21, 21), (21, 21, 5), (32, 21, 21), (32, 21, 32), (22, 21, 22),
         (24, 21, 40), (32, 32, 32), (30, 1, 30), (7, 1, 3), (2, 2, 2)]  # fmt: skip


@pytest.mark.parametrize("n, length, taps", SIZES)
@pytest.mark.parametrize("gated", [False, True])
def test_flash_fft_conv(n, length, taps, gated):
    module = FlashFFTConv(n).eval()  # upstream's backward works in training mode alone
    shapes = [(B, H, length), (H, taps)] + ([(B, H, length)] * 2 if gated else [])
    compare(module, lambda u, k, *gates: flash(u, k, n, *gates), draw(*shapes))


def test_flash_fft_conv_of_half_precision_keeps_its_dtype():
    for dtype in (torch.float16, torch.bfloat16):
        u, g, h = draw(*[(B, H, 64)] * 3, dtype=dtype)
        (k,) = draw((H, 64), dtype=torch.float32, seed=1)
        module = FlashFFTConv(128, dtype=dtype)
        y = module(u, k, g, h)
        exact = flash(u.double(), k.double(), 128, g.double(), h.double())
        assert y.dtype == dtype and (y - exact).norm() <= torch.finfo(dtype).eps * exact.norm()
        y.float().square().sum().backward()
        assert u.grad.dtype == dtype and k.grad.dtype == torch.float32


def test_flash_fft_conv_takes_what_upstream_does_not():
    u, g, k = draw((2, B, H, L), (2, B, H, L), (2, H, L))
    module = FlashFFTConv(3 * L, use_32_butterfly=False)
    torch.testing.assert_close(module(u, k[0], pregate=g), so.fft_conv(u, k[0], gate_in=g))
    torch.testing.assert_close(module(u.mT.contiguous().mT, k[0], postgate=g), g * so.fft_conv(u, k[0]))
    small = (u[0, :1].detach().requires_grad_(), k[0].detach().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda a, b: module(a, b), small)


def test_flash_fft_conv_loads_a_state_with_tables():
    model = torch.nn.Sequential(FlashFFTConv(256), torch.nn.Linear(2, 2))
    tables = dict.fromkeys(("0.f_sqrt_N_fft", "0.twiddle_factors_fft", "0.twid"), torch.ones(3))
    state = {**model.state_dict(), **tables}
    model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected key.*0.other"):
        model.load_state_dict({**state, "0.other": torch.ones(3)})


@pytest.mark.parametrize("period", [21, 25, 30, 41, 60])
def test_wrapped_taps_are_the_circulant_matrix(period):
    (k,) = draw((1, 40))
    ahead, back = wrapped(k, L, period)
    i = torch.arange(L)
    matrix = F.pad(k[..., :period], (0, max(0, period - 40)))[0, (i[:, None] - i) % period]
    for lag in range(-L + 1, L):
        expected = matrix.diagonal(-lag)[0]
        side, j = (ahead, lag) if lag >= 0 else (back, -lag - 1)
        got = side[0, j] if side is not None and j < side.shape[-1] else 0.0
        assert got == expected


# ---- H3, safari, HyenaDNA ----------------------------------------------------------------------------------------------


def reference(u, k, d, mask=None, gelu=True, k_rev=None):
    n = 2 * u.shape[-1]
    k_f = rfft(k, n) if k_rev is None else rfft(k, n) + rfft(k_rev, n).conj()
    k_f = k_f[:, None] if u.dim() > 3 else k_f
    y = irfft(rfft(u, n) * k_f, n)[..., : u.shape[-1]] + u * d[..., None]
    y = F.gelu(y) if gelu else y
    return y if mask is None else y * mask[..., None]


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_fftconv_ref(gelu, both):
    shapes = [(B, H, L), (H, L), (H,), (B, H)] + ([(H, L)] if both else [])

    def ours(u, k, d, mask, k_rev=None):
        return fftconv_ref(u, k, d, mask, gelu, k_rev)

    compare(ours, lambda u, k, d, mask, r=None: reference(u, k, d, mask, gelu, r), draw(*shapes))


def test_fftconv_and_defaults():
    u, k, d = draw((B, H, L), (H, L), (H,))
    compare(fftconv, lambda u, k, d: reference(u, k, d, gelu=False), (u, k, d))
    torch.testing.assert_close(fftconv_ref(u, k, d, None), reference(u, k, d))
    torch.testing.assert_close(fftconv_func(u, k, d), reference(u, k, d))


def test_fftconv_with_the_shapes_of_hyena():
    """u (b, heads, v, blocks, l), k (v, l), D (1, v, 1)."""
    u, k, d = draw((B, 2, H, 3, L), (H, L), (1, H, 1))
    compare(lambda *a: fftconv_ref(*a, None, gelu=False), lambda u, k, d: reference(u, k, d, gelu=False), (u, k, d))
    u, k, d = draw((B, 2, H, 1, L), (1, H, L), (H,))
    torch.testing.assert_close(fftconv(u, k, d), reference(u, k[0], d[:, None], gelu=False))


def test_taps_beyond_the_rows_do_not_wrap_around():
    u, k, d = draw((B, H, L), (H, 2 * L), (H,))
    torch.testing.assert_close(fftconv(u, k, d), fftconv(u, k[:, :L], d))


def test_kernel_dtype_decides_as_published():
    u, d = draw((B, H, L), (H,), dtype=torch.float32)
    (k,) = draw((H, L))
    y = fftconv(u, k, d.double())
    assert y.dtype == torch.float32
    exact = reference(u.double(), k, d.double(), gelu=False)
    assert torch.equal(y, exact.float()) or (y - exact).norm() < 1e-7 * exact.norm()


def h3(u, k, d, v, q, head, k_rev=None):
    """out[b, h d2] = sum_d1 q[b, h d1] (conv(w) + D w)[b, d1, d2, h], w = u[b, h d1] v[b, h d2]."""
    a, b, c = (t.unflatten(1, (-1, head)) for t in (u, v, q))  # (B, h, d, L)
    out = 0
    for d1 in range(head):
        w = a[:, :, d1, None] * b  # (B, h, d2, L)
        r = None if k_rev is None else k_rev[:, None]
        n = 2 * u.shape[-1]
        k_f = rfft(k, n)[:, None] if r is None else rfft(k, n)[:, None] + rfft(r, n).conj()
        y = irfft(rfft(w, n) * k_f, n)[..., : u.shape[-1]] + w * d[:, None, None]
        out = out + c[:, :, d1, None] * y
    return out.flatten(1, 2)


@pytest.mark.parametrize("head", [1, 2, 4])
@pytest.mark.parametrize("both", [True, False])
def test_fftconv_func_with_v_and_q(head, both):
    shapes = [(B, 8, L), (8 // head, L), (8 // head,), (B, 8, L), (B, 8, L)] + ([(8 // head, L)] if both else [])

    def ours(u, k, d, v, q, k_rev=None):
        return fftconv_func(u, k, d, None, False, v=v, head_dim=head, q=q, k_rev=k_rev)

    compare(ours, lambda u, k, d, v, q, r=None: h3(u, k, d, v, q, head, r), draw(*shapes))


def test_fftconv_func_layout_dtype_and_mask():
    u, v, q = draw((B, H, L), (B, H, L), (B, H, L), dtype=torch.bfloat16)
    k, d, mask = draw((H, L), (H,), (B, H), dtype=torch.float32)
    wide = [t.double() for t in (u, k, d, mask, v, q)]
    y = fftconv_func(u, k, d, mask, False, True, True, v, 1, q, True)
    exact = h3(wide[0], wide[1], wide[2], wide[4], wide[5], 1) * wide[3][..., None]
    assert y.dtype == torch.float16 and y.shape == u.shape and y.transpose(0, 1).is_contiguous()
    assert (y - exact).norm() < 2 * torch.finfo(torch.bfloat16).eps * exact.norm()
    y = fftconv_func(u, k, d, mask)
    assert y.dtype == torch.bfloat16 and y.is_contiguous()
    y = fftconv_func(u, k[:2], d[:2], None, False, v=v, head_dim=2, q=q)
    exact = h3(wide[0], wide[1][:2], wide[2][:2], wide[4], wide[5], 2)
    assert y.dtype == torch.bfloat16 and (y - exact).norm() < 2 * torch.finfo(torch.bfloat16).eps * exact.norm()


def test_compat_is_found_from_the_package():
    assert so.compat.FlashFFTConv is FlashFFTConv and "64" in repr(FlashFFTConv(64))


U, K, ONE = torch.ones(B, H, L), torch.ones(H, L), torch.ones(H)
BAD = {
    "long row": (lambda: FlashFFTConv(20)(U, K), "rows of 21, longer than the transform, seqlen = 20"),
    "seqlen": (lambda: FlashFFTConv(0), "seqlen must be positive; got 0"),
    "no tensor": (lambda: FlashFFTConv(64)(U, 3), "k must be a torch.Tensor, got int"),
    "one dimension": (lambda: FlashFFTConv(64)(U, K[0]), r"k must have shape \(.., H, K\); got \(21,\)"),
    "gate": (lambda: FlashFFTConv(64)(U, K, U[:, :2]), "gate_in must have u's shape"),
    "D": (lambda: fftconv(U, K, ONE[:3]), r"D must have 4 elements, one a channel; got shape \(3,\)"),
    "q alone": (lambda: fftconv_func(U, K, ONE, q=U), "v and q come together"),
    "head_dim": (lambda: fftconv_func(U, K, ONE, head_dim=2), "head_dim must be positive, and 1 without v and q; got 2"),
    "gelu": (lambda: fftconv_func(U, K, ONE, v=U, q=U), "gelu must be False with v and q"),
    "shapes": (lambda: fftconv_func(U, K, ONE, gelu=False, v=U[:1], q=U), "u, v and q must have one shape"),
    "heads": (lambda: fftconv_func(U, K, ONE, gelu=False, v=U, q=U, head_dim=2), r"D must have H / head_dim = 4 / 2 elements"),
    "mask": (lambda: fftconv_func(U, K, ONE, U[..., 0], False, v=U, q=U, head_dim=2), "dropout_mask is for head_dim = 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()

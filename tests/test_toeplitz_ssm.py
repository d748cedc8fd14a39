"""`toeplitz_to_ssm`: a causal Toeplitz kernel as a diagonal state-space model, exact and truncated within its bound."""

import fft_conv_oracle as oracle
import pytest
import torch

import spectralops as so

D = torch.float64


def run(ssm, u, state=None):
    parts = []
    for t in range(u.shape[-1]):
        y, state = ssm.step(u[..., t], state)
        parts.append(y)
    return torch.stack(parts, -1), state


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31, 64])
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_exact_on_n_steps(n, decay):
    k = torch.randn(3, n, dtype=D)
    ssm = so.toeplitz_to_ssm(k, decay=decay)
    assert ssm.poles.shape == (3, n // 2 + 1, 2) and not ssm.error.any()
    torch.testing.assert_close(ssm.taps(n), k)
    torch.testing.assert_close(ssm.taps(2 * n)[:, n:], k * decay**n)  # and beyond: no zeros
    u = torch.randn(2, 3, n, dtype=D)
    expect = oracle.fft_conv(u, k)
    torch.testing.assert_close(run(ssm, u)[0], expect)
    for cut in {0, n // 2, n}:
        y, state = ssm.prefill(u[..., :cut])
        if cut < n:
            y = torch.cat([y, run(ssm, u[..., cut:], state)[0]], -1)
        torch.testing.assert_close(y, expect)
    torch.testing.assert_close(ssm.step(u[1, :, 0])[0], expect[1, :, 0])


@pytest.mark.parametrize("decay", [1.0, 0.97])
def test_a_truncated_model_keeps_its_bound(decay):
    n, j = 48, torch.arange(48, dtype=D)
    smooth = torch.stack([torch.cos(0.3 * j) + 0.1 * torch.cos(2 * j), 1 / (1 + j), j / n, torch.ones(n, dtype=D)])
    for k in (torch.randn(4, n, dtype=D), decay**j * smooth):
        last = torch.full((4,), float("inf"), dtype=D)
        for rank in (1, 2, 5, 12, 24, 25):
            ssm = so.toeplitz_to_ssm(k, rank, decay=decay)
            lost = (ssm.taps(n) - k).norm(dim=-1)
            assert (lost <= ssm.error * (1 + 1e-12) + 1e-13).all() and (ssm.error <= last).all()
            if decay == 1:
                torch.testing.assert_close(lost, ssm.error, rtol=1e-6, atol=1e-12)  # Parseval: equality
            last = ssm.error
            u = torch.randn(5, 4, n, dtype=D)
            off = (run(ssm, u)[0] - oracle.fft_conv(u, k)).abs()
            assert (off <= ssm.error[:, None] * u.square().cumsum(-1).sqrt() * (1 + 1e-9) + 1e-12).all()
        assert last.max() < 1e-12
    one = so.toeplitz_to_ssm((decay**j)[None], 1, decay=decay)  # one mode, DC, is the whole of it
    assert one.error.item() < 1e-12 and "1 of 25 modes" in repr(one)


def test_dtypes_and_derivatives():
    k = torch.randn(2, 40)
    for u_dtype in (torch.float32, torch.bfloat16, torch.float16):
        u = torch.randn(3, 2, 40).to(u_dtype)
        y, state = run(so.toeplitz_to_ssm(k), u)
        assert y.dtype == u_dtype and state.dtype == torch.float32
        bound = torch.finfo(u_dtype).eps + 40 * torch.finfo(torch.float32).eps
        assert (y.double() - oracle.fft_conv(u, k)).norm() <= bound * oracle.fft_conv(u, k).norm()
    assert so.toeplitz_to_ssm(k, dtype=D).step(torch.randn(2, dtype=D))[0].dtype == D
    assert so.toeplitz_to_ssm(k.half()).poles.dtype == torch.float32
    x, w = torch.randn(2, 5, dtype=D, requires_grad=True), torch.randn(2, 5, dtype=D, requires_grad=True)
    f = lambda u, k: run(so.toeplitz_to_ssm(k, decay=0.9), u)[0]  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, w)) and torch.autograd.gradgradcheck(f, (x, w))
    g = lambda u, k: so.toeplitz_to_ssm(k, 2).prefill(u)[1]  # noqa: E731
    assert torch.autograd.gradcheck(lambda u: g(u, w.detach()), (x,))


K = torch.randn(3, 8)


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        (("k",), {}, TypeError, "k must be a torch.Tensor"),
        ((K[0],), {}, ValueError, r"k must have shape \(H, n\) .*; got \(8,\)"),
        ((K[:, :0],), {}, ValueError, "k must have shape"),
        ((K, 0), {}, ValueError, r"rank must be in \[1, n // 2 \+ 1 = 5\]; got 0"),
        ((K, 6), {}, ValueError, "rank must be in"),
        ((K, 2.0), {}, TypeError, "rank must be an int"),
        ((K,), dict(decay=0), ValueError, r"decay must be in \(0, 1\]"),
        ((K,), dict(decay=1.1), ValueError, "decay must be in"),
        ((K,), dict(decay=0.01), ValueError, r"decay\^\(n-1\) at least 1e-12 \(n = 8\); got 0.01"),
        ((K,), dict(decay="1"), TypeError, "decay must be a number"),
        ((K,), dict(dtype=torch.float16), TypeError, "dtype must be float32 or float64"),
        ((K.double(),), dict(dtype=torch.float32), TypeError, "k is float64"),
    ],
)
def test_bad_input_is_named(args, change, error, text):
    with pytest.raises(error, match=text):
        so.toeplitz_to_ssm(*args, **change)


def test_bad_steps_are_named():
    ssm = so.toeplitz_to_ssm(K)
    for f, error, text in [
        (lambda: ssm.step(torch.ones(2)), ValueError, r"u must have shape \(..., H\) with H 3; got \(2,\)"),
        (lambda: ssm.step(torch.ones(3).double()), TypeError, "u is torch.float64, the model torch.float32"),
        (lambda: ssm.step(torch.ones(3), torch.ones(3, 5)), ValueError, r"state must be torch.float32 of shape \(3, 5, 2\)"),
        (lambda: ssm.prefill(torch.ones(2, 4)), ValueError, r"u must have shape \(..., H, L\) with H 3"),
        (lambda: ssm.prefill("u"), TypeError, "u must be a torch.Tensor"),
        (lambda: ssm.taps(0), ValueError, "length must be positive"),
    ]:
        with pytest.raises(error, match=text):
            f()

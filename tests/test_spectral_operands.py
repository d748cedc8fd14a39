"""What the operators of spectral gating refuse when they are called directly, as a graph may call them; and what they must not mistake:
another dtype under autocast, written indices and windows, exporters that know standard operators alone."""

import pytest
import torch

import spectralops as so

OPS = torch.ops.spectralops


def modes(x, **change):
    call = dict(sizes=[1, 4, 6], starts=[0, 0, 0], shifts=[0, 0, 0], counts=[1, 2, 2]) | change
    return OPS.mode_dft(x, *call.values(), False, 1.0, False)


def inverse(spectrum, dtype=torch.float32, activation="identity"):
    return OPS.mode_idft(spectrum, [1, 4, 6], [0] * 3, [0] * 3, [1, 2, 2], False, 1.0, True, None, None, None, activation, dtype)


X, W, SPECTRUM = torch.ones(2, 1, 4, 6, 3), torch.ones(1, 1, 4, 4, 3, 2), torch.ones(2, 3, 1, 2, 2, 2)
REFUSED = {
    "filter, x": lambda: OPS.spectral_filter(X[..., None], W, None, None, None, -1.0, False),
    "filter, weight without pairs": lambda: OPS.spectral_filter(X, W[..., 0], None, None, None, -1.0, False),
    "filter, weight of one number": lambda: OPS.spectral_filter(X, W[..., :1], None, None, None, -1.0, False),
    "filter, integers": lambda: OPS.spectral_filter(X.long(), W, None, None, None, -1.0, False),
    "filter gradient": lambda: OPS.spectral_filter_gradient(X[0], X[0], None, None, -1.0, 1, 3),
    "dft, one shift": lambda: modes(torch.ones(2, 3, 1, 4, 6), shifts=[0]),
    "dft, five shifts": lambda: modes(torch.ones(2, 3, 1, 4, 6), shifts=[0] * 5),
    "idft, one number": lambda: inverse(SPECTRUM[..., :1]),
    "idft, integers": lambda: inverse(SPECTRUM.long()),
    "idft, dtype": lambda: inverse(SPECTRUM, torch.int64),
    "idft, activation": lambda: inverse(SPECTRUM, activation="relu"),
    "mix, one number": lambda: OPS.mode_mix(torch.ones(2, 3, 5, 1), torch.ones(3, 4, 5, 2), False),
    "mix gradient, one number": lambda: OPS.mode_mix_gradient(torch.ones(2, 3, 5, 1), torch.ones(2, 4, 5, 1)),
    "dct": lambda: OPS.dct(torch.ones(3, 4, 2, 2), 1, False),
    "haar": lambda: OPS.haar(torch.ones(4), 1, False),
    "haar, levels": lambda: so.haar(torch.ones(3, 0), 10**9),
    "istft, variant": lambda: OPS.istft_head(torch.ones(2, 5, 10), None, 8, 8, 2, 3, 10, True, "griffin", 100.0),
    "mlp": lambda: OPS.spectral_mlp_core(torch.ones(7, 2, 3, 2), torch.ones(2, 3, 4), *(torch.ones(1),) * 3, 0.1, "relu", False),
    "circulant, integers": lambda: OPS.circulant_linear(torch.ones(5, 12).long(), torch.ones(2, 3, 4), 1.0, False),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operators_refuse_what_their_kernels_cannot_read(name):
    with pytest.raises((ValueError, TypeError), match="must|divide"):
        REFUSED[name]()


def test_operators_convert_a_spectrum_of_another_dtype():
    spectrum = torch.randn(2, 3, 1, 2, 2, 2)
    for dtype in (torch.float64, torch.bfloat16):
        torch.testing.assert_close(inverse(spectrum.to(dtype)), inverse(spectrum.to(dtype).float()))
    a, b = torch.randn(2, 3, 5, 2), torch.randn(2, 4, 5, 2)
    torch.testing.assert_close(OPS.mode_mix_gradient(a, b.double()), OPS.mode_mix_gradient(a, b))
    torch.testing.assert_close(OPS.mode_mix_gradient(a.double(), b), OPS.mode_mix_gradient(a, b).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "separable", "cp", "tucker", "tt"])
def test_autocast_leaves_spectral_conv_alone(kind):
    def t(*shape):
        return torch.randn(*shape, 2)

    x, skip = torch.randn(2, 3, 6, 8), torch.randn(3, 3)
    weight = {
        "dense": t(3, 3, 4, 3), "separable": t(3, 4, 3), "cp": (t(2), t(3, 2), t(3, 2), t(4, 2), t(3, 2)),
        "tucker": (t(2, 2, 3, 2), t(3, 2), t(3, 2), t(4, 3), t(3, 2)), "tt": (t(1, 3, 2), t(2, 3, 2), t(2, 4, 2), t(2, 3, 1)),
    }[kind]  # fmt: skip
    expected = so.spectral_conv(x, weight, modes=4, skip=skip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(so.spectral_conv(x, weight, modes=4, skip=skip), expected)


def test_written_indices_and_windows_are_seen():
    c, x = torch.randn(3), torch.randn(300, 6)
    indices = torch.tensor([[0, 1, 2], [3, 4, 5]])
    for tokens in (1, 300):
        def call():
            return so.fourier_linear(x[:tokens], c, indices, out_features=5, scaling=2.0)  # noqa: B023

        call()
        indices.data[0] = torch.tensor([4, 0, 1])
        torch.testing.assert_close(call(), so.fourier_linear(x[:tokens], c, indices.clone(), out_features=5, scaling=2.0))
        indices.numpy()[1] = [0, 2, 2]
        torch.testing.assert_close(call(), so.fourier_linear(x[:tokens], c, indices.clone(), out_features=5, scaling=2.0))
    window, frames = torch.ones(8), torch.randn(1, 5, 10)
    so.istft_head(frames, n_fft=8, hop_length=2, window=window)
    window.data[:3] = 2
    expected = so.istft_head(frames, n_fft=8, hop_length=2, window=window.clone())
    torch.testing.assert_close(so.istft_head(frames, n_fft=8, hop_length=2, window=window), expected)


@pytest.mark.parametrize("row, column", [(-1, 0), (6, 0), (0, -1), (0, 8)])
@pytest.mark.parametrize("tokens", [1, 4000])
def test_waveft_refuses_indices_out_of_range(tokens, row, column):
    with pytest.raises(ValueError, match="indices must be in 0 .. 5 and 0 .. 7"):
        indices = torch.tensor([[0, row], [0, column]])
        so.waveft_linear(torch.ones(tokens, 7), torch.ones(2), indices, out_features=5, scaling=1.0)


def test_messages_name_the_argument():
    for name, call in {
        "dims": lambda: so.spectral_filter(torch.ones(1, 4, 4, 1), torch.ones(4, 3, 1, 2), dims=1.5),
        "modes": lambda: so.spectral_conv(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2, 2), modes=2.0),
        "output_size": lambda: so.spectral_conv(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2, 2), modes=2, output_size=4.0),
        "residual": lambda: so.spectral_filter(torch.ones(1, 4, 4, 1), torch.ones(4, 3, 1, 2), residual="x"),
    }.items():
        with pytest.raises(TypeError, match=f"^{name} must be"):
            call()


EXPORTED = {
    "spectral_filter": (lambda x, w: so.spectral_filter(x, w, norm_eps=1e-5, residual=x), (2, 5, 6, 4), (5, 4, 2, 2)),
    "per sample": (lambda x, w: so.spectral_filter(x, w, dims=1), (2, 6, 4), (2, 4, 4, 2)),
    "spectral_conv": (lambda x, w: so.spectral_conv(x, w, modes=4, output_size=(9, 7), activation="gelu"), (2, 2, 5, 6), (2, 3, 4, 3, 2)),
    "wide spectral_conv": (lambda x, w: so.spectral_conv(x, w, modes=60), (1, 2, 80), (2, 3, 31, 2)),
    "spectral_gate1d": (lambda x, w: so.spectral_gate1d(x, w, modrelu_bias=x[0, :1, :2].T), (2, 6, 4), (2, 2, 4, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTED)
def test_exports_as_real_standard_operators(name):
    f, *shapes = EXPORTED[name]

    class Net(torch.nn.Module):
        def forward(self, x, w):
            return f(x, w)

    args = tuple(torch.randn(s) for s in shapes)
    program = torch.export.export(Net(), args)
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    assert not any(word in str(node.target) for node in called for word in ("spectralops", "fft", "hypot"))
    assert not any(isinstance(v := node.meta.get("val"), torch.Tensor) and v.is_complex() for node in called)
    torch.testing.assert_close(program.module()(*args), f(*args), rtol=1e-5, atol=1e-5)


def test_imdct_head_on_meta():
    assert so.imdct_head(torch.ones(2, 3, 4, device="meta"), frame_len=8).shape == (2, 12)


def test_any_leading_batch_shape():
    """Leading dimensions are rows."""
    x = torch.randn(2, 3, 6, 5, 4)
    mlp = [0.5 * torch.randn(*s) for s in ((2, 2, 2, 3), (2, 2, 3), (2, 2, 3, 2), (2, 2, 2))]
    frames, weight = torch.randn(2, 3, 7, 18), torch.randn(6, 2, 4, 3, 2)
    calls = [
        (lambda t: so.spectral_mlp(t, *mlp), x, 3),
        (lambda t: so.istft_head(t, n_fft=16, hop_length=4), frames, 2),
        (lambda t: so.spectral_conv(t, weight, modes=(4, 4)), x, 3),
        (so.fourier_mix, frames, 2),
    ]
    for f, t, inner in calls:
        whole = f(t)
        for lead in ((0, 1), (1, 2)):
            torch.testing.assert_close(whole[lead], f(t[lead][None])[0])
        assert f(t[:0]).shape == (0, *whole.shape[1:]) and t.dim() == inner + 2
    assert so.istft_head(frames[0, 0], n_fft=16, hop_length=4).dim() == 1

"""The modules over fft_conv against the expressions their authors run, written out with torch.fft or as dense matrices."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from fft_conv_expressions import attention, fnet_ar, hyena, long_conv, m2, mega, rtf, s4d, shared, tnn, tno
from torch.fft import irfft, rfft

import spectralops as so
from spectralops import nn
from spectralops.nn.exponentials import exponential_sum
from spectralops.nn.fnet_ar import causal_fourier
from spectralops.nn.relative_attention import relative_kernel_attention
from spectralops.testing import Tally

B, L, D = 2, 37, 6  # a length that no transform likes


@pytest.fixture(autouse=True)
def _one_thread():
    """Rows this short gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def with_bias(module):
    torch.nn.init.normal_(module.relative_bias)
    return module


CASES = {
    "LongConv": (lambda: nn.LongConv(D, 20, activation="silu"), long_conv),
    "LongConv both ways": (lambda: nn.LongConv(D, L, bidirectional=True, activation="silu"), long_conv),
    "Hyena": (lambda: nn.HyenaOperator(D, 50, filter_order=8), hyena),
    "Hyena of order 4": (lambda: nn.HyenaOperator(D, L, 4, 8, emb_dim=5, w=3, shift=0.1, normalized=True), hyena),
    "S4D": (lambda: nn.S4D(D, 8, transposed=False), s4d),
    "S4D both ways": (lambda: nn.S4D(L, 8, bidirectional=True), s4d),
    "RTF": (lambda: nn.RTF(D, 4, 45, init="montel"), rtf),
    "RTF both ways": (lambda: nn.RTF(D, 4, 44, 2, bidirectional=True, init="montel", constraint="l1_montel"), rtf),
    "TNN": (lambda: nn.TNN(D, 2, rpe_embedding=8, use_decay=True, residual=True), tnn),
    "TNN causal": (lambda: nn.TNN(D, 2, rpe_embedding=8, causal=True, use_multi_decay=True, par_type=3, use_norm=True), tnn),
    "TNN relative": (lambda: nn.TNN(D, 3, expand_ratio=1, rpe_embedding=8, par_type=2), tnn),
    "Mega": (lambda: nn.MegaEMA(D, 5), mega),
    "Mega both ways": (lambda: nn.MegaEMA(D, 4, bidirectional=True, truncation=12), mega),
    "M2": (lambda: nn.M2Mixer(D, 40, residual_long_conv=True), m2),
    "M2 joined": (lambda: nn.M2Mixer(D, 40, rev_offset=1, w_mod=0.5), m2),
    "M2 causal": (lambda: nn.M2Mixer(D, 40, bidirectional=False), m2),
    "FNetAR": (lambda: nn.FNetARMixing(D, 16, dropout=0.0), fnet_ar),
    "FNetAR, long window": (lambda: nn.FNetARMixing(D, 51, dropout=0.0), fnet_ar),
    "attention": (lambda: with_bias(nn.RelativeKernelAttention(D, 2, 40, features=7)), attention),
    "attention causal": (lambda: with_bias(nn.RelativeKernelAttention(D, 2, L, causal=True, feature_map="elu")), attention),
}


def make(name, seed=0):
    torch.manual_seed(seed)
    return CASES[name][0]()


def results(f, module, x):
    """Output and gradients of x and of every parameter that has one."""
    x = x.clone().requires_grad_()
    named = {"x": x, **{n: p for n, p in module.named_parameters() if p.requires_grad}}
    y = f(module, x)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    found = torch.autograd.grad(y, list(named.values()), cotangent, allow_unused=True)
    return {"y": y, **{f"gradient of {n}": g for n, g in zip(named, found) if g is not None}}


@pytest.mark.parametrize("name", CASES)
def test_the_published_expression(name):
    tally = Tally()
    for seed in range(3):
        module, expression = make(name, seed), CASES[name][1]
        wide, x = copy.deepcopy(module).double(), torch.randn(B, L, D)
        truth = results(expression, wide, x.double())
        got = results(lambda m, u: m(u), wide, x.double())
        assert got.keys() == truth.keys()
        for key, value in got.items():
            torch.testing.assert_close(value, truth[key], msg=lambda text: f"{key}: {text}")
        plain, ours = results(expression, module, x), results(lambda m, u: m(u), module, x)
        for key, value in ours.items():
            assert value.dtype == torch.float32
            tally.add(key, value, plain[key], truth[key])
    tally.check()


@pytest.mark.parametrize("name", [n for n in CASES if " " not in n])
def test_a_few_steps_of_training(name):
    module = make(name)
    x = torch.randn(4, L, D)
    target, optimizer = x.roll(3, 1), torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name, dynamic", [("LongConv", True), ("S4D", True), ("Hyena", False), ("attention", False)])
def test_compiles_into_one_graph(name, dynamic):
    torch._dynamo.reset()
    module, x = make(name), torch.randn(B, 16, D)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("name", [n for n in CASES if " " not in n])
def test_rows_do_not_see_each_other_and_lengths_vary(name):
    module = make(name).eval()
    x = torch.randn(3, 16, D)
    x[1, 5, 2] = float("nan")
    y = module(x)
    assert y[1].isnan().any()
    torch.testing.assert_close(y[::2], module(x[::2]))
    for length in (1, 2, 7):
        assert module(x[:1, :length]).shape == (1, length, D)
    assert module(x[:0]).shape == (0, 16, D)


CAUSAL = ["LongConv", "Hyena", "S4D", "RTF", "TNN causal", "Mega", "M2 causal", "FNetAR", "attention causal"]


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_ones_do_not_look_ahead(name):
    module = make(name).double()
    x = torch.randn(1, 24, D, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[:, 11], x, torch.randn(1, D, dtype=torch.float64))
    assert gradient[:, 12:].abs().max() < 1e-12 and gradient[:, 11].abs().max() > 1e-3


# M2's sines of frequency 10, whose arguments bfloat16 rounds to a tenth, are left out
@pytest.mark.parametrize("name", [n for n in CASES if " " not in n and n != "M2"])
def test_half_precision_rounds_like_its_input(name):
    module, x = make(name), torch.randn(B, 20, D)
    with torch.no_grad():
        y, narrow = module(x), module.bfloat16()(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert ((narrow - y).norm() / y.norm()) < 0.06


@pytest.mark.parametrize("name", [n for n in CASES if " " not in n and n != "M2"])
def test_autocast_does_not_narrow_kernels(name):
    module, x = make(name).eval(), torch.randn(B, 20, D)
    taps = {"S4D": lambda: module.kernel(20), "Mega": lambda: module.taps(20), "RTF": lambda: module.taps(20)[0]}
    taps = taps.get(name, lambda: x)
    with torch.no_grad():
        y, k = module(x), taps()
        with torch.autocast("cpu", torch.bfloat16):
            narrow = module(x)
            assert torch.equal(taps(), k)
    assert ((narrow - y).norm() / y.norm()) < 0.05


# ---- states ------------------------------------------------------------------------------------------------------------

FILTER = [
    "bias", "pos_emb.z", "pos_emb.t", "modulation.deltas",
    *[f"implicit_filter.{i}.{n}" for i in (0, 2, 4) for n in ("weight", "bias")],
    *[f"implicit_filter.{i}.freq" for i in (1, 3, 5)], "implicit_filter.6.weight",
]  # fmt: skip
LINEAR = ("weight", "bias")
STATES = {
    "Hyena": [f"{m}.{n}" for m in ("in_proj", "out_proj", "short_filter") for n in LINEAR] + [f"filter_fn.{n}" for n in FILTER],
    "S4D": ["D", *[f"kernel.{n}" for n in ("C", "log_dt", "log_A_real", "A_imag")], *[f"output_linear.0.{n}" for n in LINEAR]],
    "RTF": ["ab", "h_0"],
    "TNN": [f"{m}.{n}" for m in ("u_proj", "v_proj", "o", "toep.rpe.pos_proj", *(f"toep.rpe.layers.{i}.2" for i in range(3)),
                                "toep.rpe.out.2") for n in LINEAR] + ["toep.gamma"],
    "Mega": ["damping_factor", "decay_factor", "ema_expansion_matrix", "kernel_projection_matrix", "residual_weight"],
    "M2 causal": [f"{m}.{n}" for m in ("in_linear", "out_linear", "short_filter") for n in LINEAR]
    + [f"filter_fn.{n}" for n in FILTER],
    "FNetAR": ["norm.weight", "norm.bias"],
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_states_have_the_published_names(name):
    module = make(name)
    assert sorted(module.state_dict()) == sorted(STATES[name])
    other, x = make(name, seed=5), torch.randn(B, 12, D)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x)) and repr(module)


def test_initial_values():
    torch.manual_seed(0)
    s4 = nn.S4D(500, 8)
    assert torch.equal(s4.kernel.A_imag[3], math.pi * torch.arange(4)) and (s4.kernel.log_A_real.exp() - 0.5).abs().max() < 1e-6
    dt = s4.kernel.log_dt.exp()
    assert 1e-3 <= dt.min() < 2e-3 and 0.05 < dt.max() <= 0.1
    assert abs(s4.kernel.C.square().sum(-1).mean() - 1) < 0.1
    beta = nn.MegaEMA(500, 3).ema_expansion_matrix.mean(0).squeeze()
    torch.testing.assert_close(beta, torch.tensor([1.0, -1.0, 1.0]), atol=0.01, rtol=0)
    assert nn.RTF(4, 3, 9).ab.abs().max() == 0 and nn.RTF(4, 3, 9, init="montel").ab.abs().max() <= 1 / 3
    rows = nn.RelativeKernelAttention(8, 2, 5, features=4).projection
    directions = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions @ directions.T, torch.eye(4))


# ---- what is particular to one of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 100])
def test_exponential_sums(length):
    c, rate, ci, wi = torch.randn(4, 3, 5, dtype=torch.float64).unbind(0)
    rate = -rate.abs()
    table = torch.exp(torch.complex(rate, wi)[..., None] * torch.arange(length))
    expected = torch.einsum("hn,hnl->hl", torch.complex(c, ci), table).real
    torch.testing.assert_close(exponential_sum(c, rate, length, (ci, wi)), expected)
    expected = torch.einsum("hn,hnl->hl", c, torch.exp(rate[..., None] * torch.arange(length)))
    torch.testing.assert_close(exponential_sum(c, rate, length), expected)


def test_s4d_is_the_recurrence_it_discretises():
    m, u = nn.S4D(D, 8, output=False).double(), torch.randn(B, D, L, dtype=torch.float64)
    p = m.kernel
    a = -torch.exp(p.log_A_real) + 1j * p.A_imag
    da = torch.exp(a * torch.exp(p.log_dt)[:, None])  # zero-order hold: x' = A x + 1 u
    state, rows = torch.zeros(B, *a.shape, dtype=a.dtype), []
    for t in range(L):
        state = da * state + (da - 1) / a * u[:, :, t, None]
        rows.append(2 * (torch.view_as_complex(p.C) * state).sum(-1).real + m.D * u[:, :, t])
    torch.testing.assert_close(m(u), F.gelu(torch.stack(rows, -1)))


def test_s4d_drops_whole_rows():
    m = nn.S4D(D, 4, dropout=0.5, output=False)
    x = torch.randn(40, D, 9)
    y = m(x)
    dropped = (y == 0).all(-1)
    assert 0.3 < dropped.float().mean() < 0.7
    torch.testing.assert_close(y[~dropped], 2 * m.eval()(x)[~dropped])


def test_hyena_dropout_stands_between_gate_and_convolution():
    module, x = nn.HyenaOperator(D, L, 3, 8, dropout=0.5), torch.randn(B, L, D)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    module.eval()
    torch.testing.assert_close(module(x), hyena(module, x))


def test_rtf_spectrum_is_the_kernel_once_transformed():
    for name in ("RTF", "RTF both ways"):
        module, x = make(name).double(), torch.randn(B, L, D, dtype=torch.float64)
        torch.testing.assert_close(module(x, module.spectrum()), module(x))
        torch.testing.assert_close(module(x, module.spectrum(L)), module(x))
    module = make("RTF").double()
    a, b = module.coefficients()
    spectrum = so.KernelSpectrum.from_rational(a, b, 46, h0=module.h_0)
    torch.testing.assert_close(spectrum.spectrum, so.KernelSpectrum(module.taps(45)[0], 46).spectrum, atol=1e-3, rtol=1e-3)


def test_rtf_is_its_difference_equation():
    """Where the response has died away by the truncation length."""
    module, x = nn.RTF(3, 2, 400, init="montel", constraint="l1_montel").double(), torch.randn(1, L, 3, dtype=torch.float64)
    a, b = module.coefficients()
    y = torch.zeros(1, L, 3, dtype=torch.float64)
    for t in range(L):
        for j in range(1, 3):
            if t >= j:
                y[:, t] += b[:, j - 1].detach() * x[:, t - j] - a[:, j - 1].detach() * y[:, t - j]
    torch.testing.assert_close(module(x), y + module.h_0 * x)


def test_mega_mask_and_order():
    module, x = nn.MegaEMA(D, 4, bidirectional=True).double(), torch.randn(B, L, D, dtype=torch.float64)
    mask = torch.rand(B, L) > 0.3
    p = [t.mT for t in module.taps(L).chunk(2)]
    conv = shared((x * mask[..., None]).mT, p[0].mT, p[1].mT).mT
    torch.testing.assert_close(module(x, mask), F.silu(conv + x * module.residual_weight))
    module.batch_first = False
    torch.testing.assert_close(module(x.transpose(0, 1), mask).transpose(0, 1), F.silu(conv + x * module.residual_weight))


@pytest.mark.parametrize("n", [1, 2, 13])
def test_toeplitz_operator_normalised_and_gated(n):
    for causal_only in (False, True):
        m = nn.TNO(2, 3, 8, causal=causal_only, use_decay=True).double()
        x, gate = torch.randn(2, B, 2, n, 3, dtype=torch.float64)
        torch.testing.assert_close(m(x, normalize=True), tno(m, x, True))
        torch.testing.assert_close(m(x, normalize=True, gate=gate), gate * tno(m, x, True))
        torch.testing.assert_close(m(x, gate=gate), gate * tno(m, x))


@pytest.mark.parametrize("given", [0, 3, 15])
def test_fnet_ar_with_memory_is_the_transform_of_the_last_tokens(given):
    window, x = 16, torch.randn(B, L + given, D, dtype=torch.float64)
    y = causal_fourier(x, window, L)
    padded = F.pad(x, (0, 0, window - 1 - given, 0))
    for i in (0, 1, 17, L - 1):
        spectrum = torch.fft.fft(padded[:, i : i + window], dim=1, norm="ortho").real
        torch.testing.assert_close(y[:, i], spectrum[:, i % window])
    module = nn.FNetARMixing(D, window, dropout=0.0).double()
    whole = torch.cat([x.new_zeros(B, window - 1 - given, D), x], 1)
    expected = fnet_ar(module, x[:, given:], whole[:, : window - 1])
    torch.testing.assert_close(module(x[:, given:], x[:, :given]), expected)
    position = torch.randn(L + window - 1, D, dtype=torch.float64)
    shifted = module(x[:, given:], x[:, :given], position)
    mixed = causal_fourier(whole + position, window, L) / math.sqrt(L + window - 1)
    torch.testing.assert_close(shifted, module.norm(x[:, given:] + mixed))


def test_relative_attention_without_features_is_softmax_of_the_bias():
    n, bias = 11, torch.randn(2, 21, dtype=torch.float64)
    ones, v = torch.ones(B, 2, n, 1, dtype=torch.float64), torch.randn(B, 2, n, 3, dtype=torch.float64)
    i = torch.arange(n)
    weights = torch.softmax(bias[:, i[:, None] - i + n - 1], -1)
    torch.testing.assert_close(relative_kernel_attention(ones, ones, v, bias), weights @ v)
    assert torch.isfinite(relative_kernel_attention(ones, ones, v, bias + 900)).all()


def test_random_features_estimate_the_exponential_of_the_product():
    m = nn.RelativeKernelAttention(8, 2, 12, features=20000, scale=0.5)
    q, k = torch.randn(2, 1, 1, 40, 4)
    estimate = m.phi(q) @ m.phi(k).mT
    exact = torch.exp(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / 4)
    assert (estimate - exact).norm() < 0.01 * exact.norm()


def test_long_conv_gates_groups_and_modes():
    m = nn.LongConv(D, 9, groups=2, skip=False, layout="bhl", mode="circular").double()
    x = torch.randn(B, D, L, dtype=torch.float64)
    gates, mask = torch.rand(2, B, D, L, dtype=torch.float64), torch.rand(B, D, dtype=torch.float64)
    k = F.pad(m.kernel.repeat_interleave(3, 0), (0, L - 9))
    expected = irfft(rfft(x * gates[0]) * rfft(k), L) * gates[1] * mask[..., None]
    torch.testing.assert_close(m(x, *gates, mask), expected)


BAD = {
    "groups": (lambda: nn.LongConv(6, 4, groups=4), "groups must divide channels, 6; got 4"),
    "length": (lambda: nn.LongConv(6, 0), "length must be positive; got 0"),
    "channels": (lambda: nn.LongConv(6, 4)(torch.ones(1, 6, 5)), r"x must have shape \(.., L, 6\); got \(1, 6, 5\)"),
    "two directions": (lambda: nn.LongConv(6, 4, bidirectional=True, mode="same"), "bidirectional is for the modes"),
    "embedding": (lambda: nn.HyenaOperator(4, 8, emb_dim=4), "emb_dim must be odd and at least 3"),
    "order": (lambda: nn.HyenaOperator(4, 8, 1), "order must be at least 2; got 1"),
    "Hyena both ways": (lambda: nn.HyenaOperator(4, 8, bidirectional=True), "see M2Mixer"),
    "long row": (lambda: nn.HyenaOperator(4, 8)(torch.ones(1, 9, 4)), "rows of 9, longer than l_max = 8"),
    "Hyena's width": (lambda: nn.HyenaOperator(4, 8)(torch.ones(1, 8, 3)), r"u must have shape \(B, L, 4\); got \(1, 8, 3\)"),
    "odd state": (lambda: nn.S4D(4, 7), "d_state must be even"),
    "dt": (lambda: nn.S4D(4, 8, dt_min=0.2), "dt_min and dt_max must be positive and in order"),
    "S4D's layout": (lambda: nn.S4D(4, 8)(torch.ones(1, 9, 4)), r"u must have shape \(B, 4, L\); got \(1, 9, 4\)"),
    "truncation": (lambda: nn.RTF(4, 8, 8), "trunc_len must be above state_size, 8"),
    "num_a": (lambda: nn.RTF(4, 2, 8, 3), "num_a must divide d_model, 4; got 3"),
    "init": (lambda: nn.RTF(4, 2, 8, init="ones"), "init must be one of 'zeros'"),
    "RTF's row": (lambda: nn.RTF(4, 2, 8)(torch.ones(1, 9, 4)), "trunc_len is 8; got rows of 9"),
    "par_type": (lambda: nn.TNO(2, 3, 4, par_type=3), "par_type must be one of 1, 2; got 3"),
    "decays": (lambda: nn.TNO(2, 3, 4, use_decay=True, use_multi_decay=True), "give one"),
    "heads": (lambda: nn.TNO(2, 3, 4)(torch.ones(1, 3, 5, 3)), r"x must have shape \(B, 2, n, 3\)"),
    "mask": (lambda: nn.MegaEMA(4)(torch.ones(1, 9, 4), torch.ones(9)), r"attention_mask must have shape \(1, 9\)"),
    "M2's row": (lambda: nn.M2Mixer(4, 8)(torch.ones(1, 9, 4)), "rows of 9, longer than l_max = 8"),
    "M2's offset": (lambda: nn.M2Mixer(4, 8, rev_offset=2), "rev_offset must be 0 or 1; got 2"),
    "memory": (lambda: nn.FNetARMixing(4, 3)(torch.ones(1, 9, 4), torch.ones(1, 3, 4)), r"must have shape \(1, up to 2, 4\)"),
    "attention's heads": (lambda: nn.RelativeKernelAttention(6, 4, 5), "heads must divide dim, 6; got 4"),
    "attention's row": (lambda: nn.RelativeKernelAttention(6, 2, 5)(torch.ones(1, 6, 6)), "longer than max_len = 5"),
    "integers": (lambda: nn.RTF(4.0, 2, 8), "d_model must be an int, got float"),
    "dtype": (lambda: nn.S4D(4, 8)(torch.ones(1, 4, 9).int()), "u must have dtype"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_modules_made_on_meta_can_be_loaded():
    x = torch.randn(B, 8, D)
    for name in ("Hyena", "S4D", "RTF", "TNN", "Mega", "M2", "FNetAR"):
        with torch.device("meta"):
            empty = CASES[name][0]()
        whole = make(name)
        empty.to_empty(device="cpu").load_state_dict(whole.state_dict())
        assert torch.equal(empty(x), whole(x)), name


@pytest.mark.parametrize("make, shape, axis", [
    (lambda: so.nn.LongConv(4, 9), (2, 20, 4), 1), (lambda: so.nn.HyenaOperator(8, 32), (2, 20, 8), 1),
    (lambda: so.nn.S4D(4), (2, 4, 20), 2), (lambda: so.nn.MegaEMA(4), (20, 2, 4), 0), (lambda: so.nn.M2Mixer(4, 32), (2, 20, 4), 1),
], ids=["LongConv", "HyenaOperator", "S4D", "MegaEMA", "M2Mixer"])  # fmt: skip
def test_modules_are_traced_and_exported_with_a_dynamic_length(make, shape, axis):
    module, x = make().eval(), torch.randn(shape)
    first = lambda y: y[0] if isinstance(y, tuple) else y  # noqa: E731
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace warns of what it holds constant
        traced = torch.jit.trace(module, (x,), check_trace=False)
    torch.testing.assert_close(first(traced(x)), first(module(x)))
    dims = ({axis: torch.export.Dim("length", min=12, max=30)},)
    exported = torch.export.export(module, (x,), dynamic_shapes=dims).module()
    longer = torch.randn([27 if i == axis else n for i, n in enumerate(shape)])
    torch.testing.assert_close(first(exported(longer)), first(module(longer)))

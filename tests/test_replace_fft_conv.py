"""replace() on long convolutions, by the stand-ins of conv_models.py."""

import copy

import conv_models as cm
import pytest
import spectralops as so
import torch
from conv_models import FFTConv, HyenaDNA, S4D, Safari, break_originals
from spectralops.replace import restore
from spectralops.replace.verify import relative_l2
from third_party import assert_untouched, only, snapshot
from torch import nn
from torch.nn.utils import parametrize

B, L, H = 3, 20, 6


@pytest.fixture(autouse=True)
def _one_thread():
    """Rows this short gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _disguise(monkeypatch):
    cm.disguise(monkeypatch)


LAYERS = {
    "fla": lambda: cm.LongConvolution(H, L),
    "fla, shorter": lambda: cm.LongConvolution(H, 7),
    "fla, longer": lambda: cm.LongConvolution(H, 33),
    "fla, much longer": lambda: cm.LongConvolution(H, 100),
    "fla implicit": lambda: cm.ImplicitLongConvolution(H, 64),
    "fla implicit, shorter": lambda: cm.ImplicitLongConvolution(H, 11, d_emb=5),
    "S4D": lambda: S4D(L),
    "S4D, channels last": lambda: S4D(H, transposed=False),
    "FFTConv": lambda: FFTConv(L),
    "FFTConv, both ways": lambda: FFTConv(H, 16, channels=2, bidirectional=True, transposed=False, activation=nn.SiLU()),
    "FFTConv, glu": lambda: FFTConv(H, channels=4, swap_channels=True, transposed=False, activation=nn.GLU(-1)),
    "safari": lambda: Safari.HyenaOperator(H, 32),
    "safari of order 4": lambda: Safari.HyenaOperator(H, L, 4, activation=nn.GELU(), return_state=True),
    "safari without bias": lambda: Safari.HyenaOperator(H, 32, use_bias=False),
    "HyenaDNA": lambda: HyenaDNA.HyenaOperator(H, 32, 3, use_bias=False),
    "safari, cut": lambda: Safari.HyenaOperator(H, 13),
}


def make(name):
    torch.manual_seed(3)
    return LAYERS[name]()


def data(rows=B, dtype=torch.float32):
    return torch.randn(rows, L, H, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def channels_first(name):
    return name in ("S4D", "FFTConv")  # whose channels are L then


def first(y):
    return y[0] if isinstance(y, tuple) else y


def results(layer, x):
    """Output, and gradients of the input and of the parameters, for several cotangents."""
    x = x.detach().clone().requires_grad_()
    y = first(layer(x))
    leaves = [x, *[p for p in layer.parameters() if p.requires_grad]]
    generator, pooled = torch.Generator().manual_seed(2), []
    for _ in range(8):  # one draw of a gradient of few elements is luck
        g = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
        pooled.append(torch.autograd.grad(y, leaves, g, allow_unused=True, retain_graph=True))
    return [y.detach(), *(None if t[0] is None else torch.stack(t) for t in zip(*pooled))]


def assert_as_good(after, before, truth):
    for now, was, exact in zip(after, before, truth, strict=True):
        assert (now is None) == (was is None)
        if now is not None:
            assert now.dtype == was.dtype and now.shape == was.shape
            assert relative_l2(now, exact) <= 2 * relative_l2(was, exact) + 2 * torch.finfo(now.dtype).eps


@pytest.mark.parametrize("name", LAYERS)
def test_results_stay_and_the_new_forward_is_what_runs(name, monkeypatch):
    layer, x = make(name), data()
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    truth, before = results(copy.deepcopy(layer).double(), x.double()), results(copy.deepcopy(layer), x)
    whole = layer(x)
    row = only(so.replace(nn.Sequential(layer), example=x))
    assert row.status == "replaced" and row.verified_on == "random data, example" and row.backend, row.reason
    assert layer.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    break_originals(monkeypatch)
    again = layer(x)
    assert type(again) is type(whole) and (not isinstance(again, tuple) or again[1:] == whole[1:])
    assert_as_good(results(layer, x), before, truth)


@pytest.mark.parametrize("name", LAYERS)
def test_other_lengths_and_undo(name, monkeypatch):
    model = nn.Sequential(make(name))
    if channels_first(name):
        inputs = [data()[..., :5], data(1)[..., :1]]
    else:
        inputs = [data()[:, :5], data(1)[:, :1], data().transpose(0, 1).contiguous().transpose(0, 1)]
    expected = [first(model(x)) for x in inputs]
    before = snapshot(model)
    assert only(so.replace(model, dry_run=True)).status == "would be replaced"
    assert_untouched(model, before)
    report = so.replace(model)
    twin = copy.deepcopy(model)
    with monkeypatch.context() as broken:
        break_originals(broken)
        for x, y in zip(inputs, expected):
            assert relative_l2(first(model(x)), y) < 2e-6
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1.2)
    again = nn.Sequential(make(name))
    again.load_state_dict(twin.state_dict())
    assert relative_l2(first(twin(inputs[0])), first(again(inputs[0]))) < 1e-5
    assert restore(twin) == 1 and report.undo() == 1
    assert all(torch.equal(first(model(x)), y) for x, y in zip(inputs, expected))


@pytest.mark.parametrize("name", ["fla", "S4D", "FFTConv, both ways", "safari of order 4"])
def test_float64(name):
    row = only(so.replace(make(name).double(), example=data(dtype=torch.float64)))
    assert row.status == "replaced" and row.errors["output"][1] < 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_data_under_float32_weights(dtype, monkeypatch):
    """Which fla's cast back at the end allows."""
    layer, x = make("fla"), data(dtype=dtype)
    before, truth = layer(x), copy.deepcopy(layer).double()(x.double())
    assert only(so.replace(layer)).status == "replaced"
    break_originals(monkeypatch)
    after = layer(x)
    assert after.dtype == dtype and relative_l2(after, truth) <= relative_l2(before, truth) * 1.01 + 1e-6


@pytest.mark.parametrize("name", ["fla", "fla implicit", "S4D", "FFTConv", "safari"])
def test_training_goes_on_alike(name, monkeypatch):
    def losses(model, dtype):
        optimizer, x = torch.optim.Adam(model.parameters(), lr=0.01), data().to(dtype)
        found = []
        for _ in range(8):
            optimizer.zero_grad()
            y = first(model(x))
            loss = (y - x.roll(1, 1)).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    model = make(name)
    truth, before = losses(copy.deepcopy(model).double(), torch.float64), losses(copy.deepcopy(model), torch.float32)
    assert only(so.replace(model)).status == "replaced"
    break_originals(monkeypatch)
    after = losses(model, torch.float32)
    assert truth[-1] < truth[0]
    assert relative_l2(after, truth) <= 4 * relative_l2(before, truth) + 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("name", ["fla", "safari"])
def test_compiles_into_one_graph(name):
    layer, x = make(name), data()
    so.replace(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("name", ["fla", "fla implicit", "safari", "S4D, channels last"])
def test_autocast_gives_the_dtype_it_gave(name):
    layer, x = make(name), data()
    with torch.autocast("cpu", torch.bfloat16):
        before = first(layer(x))
        assert only(so.replace(layer)).status == "replaced"
        after = first(layer(x))
    assert after.dtype == before.dtype
    assert relative_l2(after, before) < 8 * torch.finfo(torch.bfloat16).eps


# ---- dropout, hooks, states: what the new forward must leave to the modules ------------------------------------------------


@pytest.mark.parametrize("name", ["S4D", "FFTConv", "safari"])
def test_dropout_in_training_is_the_modules_own(name, monkeypatch):
    torch.manual_seed(0)
    layer = {"S4D": lambda: S4D(L, dropout=0.5), "FFTConv": lambda: FFTConv(L, dropout=0.5),
             "safari": lambda: Safari.HyenaOperator(H, L, dropout=0.5)}[name]()  # fmt: skip
    x = data()

    def draw():
        torch.manual_seed(7)
        return first(layer(x))

    before = draw()
    assert only(so.replace(layer)).status == "replaced"
    break_originals(monkeypatch)
    assert relative_l2(draw(), before) < 2e-6
    assert not torch.equal(first(layer(x)), first(layer(x)))
    layer.eval()
    assert torch.equal(first(layer(x)), first(layer(x)))


def test_a_state_runs_the_old_forward(monkeypatch):
    layer, x = make("FFTConv"), data()
    state = torch.randn(B, 1, L, H)
    expected = layer(x, state=state)[0]
    assert only(so.replace(layer)).status == "replaced"
    assert torch.equal(layer(x, state=state)[0], expected)
    half = layer(x, rate=2.0)[0]
    restore(layer)
    assert relative_l2(half, layer(x, rate=2.0)[0]) < 2e-6


def test_extra_arguments_are_absorbed_as_before(monkeypatch):
    layers = [make(name) for name in ("fla", "safari", "S4D, channels last")]
    so.replace(nn.ModuleList(layers))
    break_originals(monkeypatch)
    x = data()
    for layer, args, kwargs in zip(layers, [(None,), (1, 2), ()], [{"mask": 3}, {"mixer_kwargs": 1}, {"return_output": True}]):
        assert torch.equal(first(layer(x, *args, **kwargs)), first(layer(x)))


def test_hooks_hung_on_a_part_later_run():
    layer, x, seen = make("safari"), data(), []
    so.replace(layer)
    layer.filter_fn.register_forward_hook(lambda *_: seen.append(1))
    layer(x)
    assert seen == [1]
    s4, seen = make("S4D"), []
    so.replace(s4)
    s4.activation.register_forward_hook(lambda *_: seen.append(1))
    s4.kernel.register_forward_hook(lambda *_: seen.append(2))
    s4(x)
    assert sorted(seen) == [1, 2]


def test_fla_rows_shorter_than_the_filter_keep_seeing_the_future_and_it_is_said():
    layer = make("fla, longer")
    row = only(so.replace(layer))
    assert "see later tokens" in row.reason
    x = data().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[:, 2].sum(), x)
    assert gradient[:, 3:].abs().max() > 0.1


def test_ops_and_packages_by_name():
    model = nn.ModuleList([make("fla"), make("S4D"), make("safari"), nn.Linear(2, 2)])
    assert [r.package for r in so.replace(model, ops="fft_conv", dry_run=True).rows] == ["flash-linear-attention", "s4", "safari"]
    assert [r.package for r in so.replace(model, ops=["s4"], dry_run=True).rows] == ["s4"]
    assert so.replace(model, ops="kan_linear").rows == []


# ---- flash-fft-conv ------------------------------------------------------------------------------------------------------


def flash_operands(length, taps, gated, dtype):
    g = torch.Generator().manual_seed(4)
    rows = [torch.randn(B, H, length, generator=g).to(dtype) for _ in range(3)]
    return (rows[0], torch.randn(H, taps, generator=g) * taps**-0.5, *(rows[1:] if gated else ()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("n, length, taps", [(64, 32, 32), (32, 32, 32), (32, 24, 24)])
def test_flash_fft_conv(n, length, taps, gated, dtype, monkeypatch):
    layer, operands = cm.FlashFFTConv(n, dtype).train(False), flash_operands(length, taps, gated, dtype)
    before = layer(*operands)
    wide = [t.double() for t in operands]
    truth = cm.ifft(cm.fft(wide[0] * (wide[2] if gated else 1), n) * cm.fft(wide[1], n)).real[..., :length]
    truth = truth * wide[3] if gated else truth
    row = only(so.replace(nn.ModuleList([layer])))
    assert row.status == "replaced" and row.verified_on == "random data", row.reason
    assert list(layer.state_dict()) == ["f_sqrt_N_fft"] and not layer.training
    break_originals(monkeypatch)
    after = layer(*operands)
    assert after.dtype == dtype
    assert relative_l2(after, truth) <= 2 * relative_l2(before, truth) + 2 * torch.finfo(dtype).eps
    k = operands[1].requires_grad_()
    (gradient,) = torch.autograd.grad(layer(operands[0], k, *operands[2:]).sum(), k)  # in eval mode
    assert gradient.shape == k.shape


class UsesFlash(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.k = cm.FlashFFTConv(64), nn.Parameter(torch.randn(H, 32))

    def forward(self, x):
        return self.conv(x.half(), self.k, pregate=x.half(), postgate=x.half())


def test_flash_fft_conv_inside_a_model(monkeypatch):
    model, x = UsesFlash(), torch.randn(B, H, 32)
    before = model(x)
    row = only(so.replace(model, example=x))
    assert row.path == "conv" and row.status == "replaced" and row.verified_on == "random data, example", row.reason
    break_originals(monkeypatch)
    assert relative_l2(model(x), before) < 4 * torch.finfo(torch.float16).eps


def test_what_flash_fft_conv_does_not_take_still_fails_as_it_did():
    layer = cm.FlashFFTConv(64)
    so.replace(layer)
    u, k, gate = torch.randn(B, H, 32).half(), torch.randn(H, 32), torch.randn(B, H, 32).half()
    for args in ((u.float(), k), (u, k, gate), (u, k.double())):
        with pytest.raises(AssertionError):
            layer(*args)


# ---- refusals ------------------------------------------------------------------------------------------------------------


class Derived(cm.LongConvolution):
    def forward(self, x):
        return 2 * super().forward(x)


class DerivedHyena(Safari.HyenaOperator):
    pass


def changed(layer, **attributes):
    for key, value in attributes.items():
        setattr(layer, key, value)
    return layer


def hooked(layer, part=""):
    layer.get_submodule(part).register_forward_hook(lambda *_: None)
    return layer


def parametrized(layer, name):
    parametrize.register_parametrization(layer, name, nn.Softplus(), unsafe=True)
    return layer


def flash_linked():
    layer = make("safari")
    layer.filter_fn.use_flashfftconv = True
    return layer


REFUSED = {
    "subclass": (lambda: Derived(H, L), "Derived is a subclass of fla.modules.long_conv.LongConvolution"),
    "subclass by name": (lambda: DerivedHyena(H, L), "DerivedHyena is a subclass of"),
    "hooked": (lambda: hooked(make("fla")), "1 forward hook"),
    "parametrized": (lambda: parametrized(make("fla"), "filter"), r"parametrized \(filter\)"),
    "more parameters": (lambda: changed(make("fla"), bias=nn.Parameter(torch.ones(H))), "a parameter bias"),
    "hidden size": (lambda: changed(make("fla"), hidden_size=4), r"no parameter \(hidden_size, max_len\)"),
    "more children": (lambda: changed(make("fla implicit"), norm=nn.LayerNorm(H)), "a child norm"),
    "other mlp": (lambda: changed(make("fla implicit"), mlp=nn.Sequential(nn.ReLU())), "does not end in a linear"),
    "S4D's activation": (lambda: changed(make("S4D"), activation=nn.GELU("tanh")), "no plain GELU"),
    "S4D's hooked activation": (lambda: hooked(make("S4D"), "activation"), "no plain GELU"),
    "S4D's kernel": (lambda: changed(make("S4D"), kernel=type("Other", (cm.S4DKernel,), {})(L)), "its kernel is a Other"),
    "S4D's layout": (lambda: changed(make("S4D"), transposed=None), "has not the attribute transposed"),
    "FFTConv's shape": (lambda: changed(make("FFTConv"), d_model=3), "its d_model is 3; only 20"),
    "FFTConv's flags": (lambda: changed(make("FFTConv"), swap_channels=None), "has not the attribute swap_channels"),
    "FFTConv without L": (lambda: _without_l(), "has not the attribute L"),
    "heads": (lambda: Safari.HyenaOperator(H, L, num_heads=2), "its num_heads is 2; only 1 is known here"),
    "blocks": (lambda: changed(make("safari"), num_blocks=2), "its num_blocks is 2"),
    "a layer between orders": (lambda: changed(make("safari"), ord_proj_w=nn.Parameter(torch.ones(2))), "a parameter ord_proj_w"),
    "outer mixing": (lambda: changed(make("safari"), outer_mixing=True), "its outer_mixing is True"),
    "another GPU kernel": (flash_linked, "its use_flashfftconv is True; only False"),
    "hooked filter": (lambda: hooked(make("safari"), "filter_fn"), "its filter_fn is hooked"),
    "order": (lambda: changed(make("safari"), order=3), "do not fit d_model = 6 and order = 3"),
    "flash's dtype": (lambda: changed(cm.FlashFFTConv(64), dtype=torch.float32), "the 16-bit dtype of the published module"),
    "flash's children": (lambda: changed(cm.FlashFFTConv(64), inner=nn.Linear(2, 2)), "parameters or children"),
}  # fmt: skip


def _without_l():
    layer = make("FFTConv")
    del layer.L
    return layer


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_and_says_why(case):
    build, message = REFUSED[case]
    model = build()
    before = [dict(m.__dict__) for m in model.modules()]
    row = only(so.replace(model))
    assert row.status == "skipped"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row.reason)
    assert [dict(m.__dict__) for m in model.modules()] == before


def test_the_name_and_the_tensors_prove_nothing():
    class S4D(cm.S4D):  # a copy that somebody changed
        def forward(self, u):
            y, state = cm.S4D.forward(self, u)
            return 2 * y, state

    S4D.__mro__[1].__name__ = "Base"
    try:
        layer = S4D(H)
        row = only(so.replace(layer))
        assert row.status == "failed verification" and "output" in row.reason
        row = only(so.replace(layer, verify=False))
        assert row.status == "skipped" and "only verification proves" in row.reason
    finally:
        S4D.__mro__[1].__name__ = "S4D"


def test_other_modules_of_these_names_are_not_looked_at():
    class S4D(nn.Linear):
        pass

    class FFTConv(nn.Module):
        pass

    class HyenaOperator(nn.Linear):
        pass

    assert so.replace(nn.Sequential(S4D(2, 2), FFTConv(), HyenaOperator(2, 2))).rows == []
    assert so.replace(nn.Sequential(so.nn.S4D(4, 4), so.nn.HyenaOperator(4, 8), so.compat.FlashFFTConv(8))).rows == []

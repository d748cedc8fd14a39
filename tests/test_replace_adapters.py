"""replace() on PEFT's adapter layers, vocos' heads and transformers' codec heads, where the packages are installed."""

import contextlib
import copy
import importlib
import importlib.machinery
import importlib.util
import sys
import types
from types import SimpleNamespace

import pytest
import spectralops as so
import torch
from spectralops.replace import restore
from spectralops.replace.verify import relative_l2
from torch import nn


@pytest.fixture(autouse=True)
def _one_thread():
    """Layers this small gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def only(report):
    (row,) = report.rows
    return row


def statuses(report):
    return [row.status for row in report.rows]


# ---- PEFT ------------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def config(kind, **more):
    peft = pytest.importorskip("peft", exc_type=ImportError)
    if kind == "FourierFT":
        return peft.FourierFTConfig(n_frequency=40, scaling=150.0, target_modules=["a", "b"], **more)
    if kind == "WaveFT":
        more = {"wavelet_family": "db1", "init_weights": False, **more}
        return peft.WaveFTConfig(n_frequency=40, scaling=25.0, target_modules=["a", "b"], **more)
    return peft.C3AConfig(block_size=4, target_modules=["a", "b"], init_weights="gaussian", **more)


def adapted(kind, **more):
    from_config = config(kind, **more)
    import peft

    torch.manual_seed(1)
    return peft.get_peft_model(Net(), from_config)


KINDS = ["FourierFT", "WaveFT", "C3A"]
x = torch.randn(7, 12, generator=torch.Generator().manual_seed(3))


def forbid(monkeypatch, kind):
    """The old forwards go through these."""
    module = importlib.import_module(f"peft.tuners.{kind.lower()}.layer")
    if kind == "C3A":
        monkeypatch.setattr(module, "BlockCircularConvolution", None)
    else:
        monkeypatch.setattr(getattr(module, f"{kind}Layer"), "get_delta_weight", None)


def gradients(model, x):
    x = x.clone().requires_grad_()
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    return torch.autograd.grad(model(x).square().sum(), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_results_stay(kind, monkeypatch):
    model = adapted(kind)
    before, y = gradients(model, x), model(x)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    report = so.replace(model, example=x, fix_gradients=True)
    assert statuses(report) == ["replaced"] * 2, report
    with monkeypatch.context() as patch:
        forbid(patch, kind)
        assert relative_l2(model(x), y) < 1e-6 and relative_l2(model(x[None]), y[None]) < 1e-6
        after = gradients(model, x)
    if kind != "C3A":  # whose own gradients are wrong
        for a, b in zip(after, before, strict=True):
            assert relative_l2(a, b) < 1e-5
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    twin = copy.deepcopy(model)
    assert report.undo() == 2 and torch.equal(model(x), y)
    assert relative_l2(twin(x), y) < 1e-6


def test_peft_c3a_gradients_are_wrong_and_are_mended_only_when_asked():
    model = adapted("C3A").double()
    layer = model.base_model.model.a
    z = x.double().requires_grad_()
    for p in model.parameters():
        p.requires_grad_(False)
    for report in (so.replace(layer), so.replace(layer, dry_run=True)):
        assert only(report).status == "skipped" and "w[i + o] for w[i - o]" in only(report).reason
    so.replace(layer.float(), fix_gradients=True)  # the layer computes in float32
    f = lambda z: so.circulant_linear(z, layer.c3a_kernel["default"].double(), scaling=1 / 12)  # noqa: E731
    assert torch.autograd.gradcheck(f, z)
    cotangent = torch.randn(7, 20, generator=torch.Generator().manual_seed(4))
    exact = torch.autograd.grad(f(z), z, cotangent.double())[0] + cotangent.double() @ layer.base_layer.weight.double()
    w = x.clone().requires_grad_()
    assert relative_l2(torch.autograd.grad(layer(w), w, cotangent)[0], exact) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_peft_merge_disable_and_several_adapters(kind):
    model = adapted(kind)
    y = model(x)
    torch.manual_seed(1)
    plain = Net()
    so.replace(model, fix_gradients=True)
    for safe in (False, True):
        model.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)
        model.unmerge_adapter()
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)
    model.merge_adapter()
    with model.disable_adapter():  # unmerges
        torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)
    model.add_adapter("second", config(kind, **({} if kind == "C3A" else {"random_loc_seed": 5})))
    model.set_adapter("second")
    report = so.replace(model)
    assert statuses(report) == ["already replaced"] * 2
    other = model(x)
    for active in (["default", "second"], "second", "default"):
        if kind == "C3A" and isinstance(active, list):
            continue  # gives one adapter the result of the other, where these fit at all
        model.base_model.set_adapter(active)
        new = model(x)
        restore(model)
        assert relative_l2(new, model(x)) < 1e-6
        so.replace(model, fix_gradients=True)
    assert not torch.allclose(other, y)
    torch.testing.assert_close(model.merge_and_unload()(x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["FourierFT", "WaveFT"])
def test_peft_training_over_micro_batches(kind):
    old, new = adapted(kind), adapted(kind)
    new.load_state_dict(old.state_dict())
    so.replace(new, verify=False)
    from spectralops.ops import fourier_linear_reference as reference

    for dense in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference, "is_dense", lambda *a, dense=dense: dense)
            for model in (old, new):
                optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
                for _ in range(3):
                    for part in x.split(4):
                        (model(part) - part).square().sum().backward()
                    optimizer.step()
                    optimizer.zero_grad()
        torch.testing.assert_close(new(x), old(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_sixteen_bit_base_and_autocast(kind):
    model = adapted(kind)
    for layer in (model.base_model.model.a, model.base_model.model.b):
        layer.base_layer.bfloat16()
    half = x.bfloat16()
    y = model(half)
    so.replace(model, example=half, fix_gradients=True)
    z = model(half)
    assert z.dtype == y.dtype == torch.bfloat16 and relative_l2(z, y) < 2e-2
    model = adapted(kind)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        so.replace(model, fix_gradients=True)
        z = model(x)
    assert z.dtype == y.dtype and relative_l2(z, y) < 3e-2


def test_peft_conv1d_base_and_quantised_bases_go_on_running():
    pytest.importorskip("peft", exc_type=ImportError)
    from peft.tuners.fourierft.layer import FourierFTLinear
    from transformers.pytorch_utils import Conv1D

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    for base in (Conv1D(20, 12), Doubled(12, 20)):
        layer = FourierFTLinear(base, "default", config("FourierFT", fan_in_fan_out=isinstance(base, Conv1D)), n_frequency=40)
        y = layer(x)
        assert only(so.replace(layer, example=x)).status == "replaced"
        torch.testing.assert_close(layer(x), y)


def test_peft_refusals():
    model = adapted("WaveFT", wavelet_family="db2")
    assert "inverse of db1" in so.replace(model).rows[0].reason
    model = adapted("FourierFT")
    base = model.base_model.model.a.base_layer
    so.replace(model)
    y = model(x)
    handle = base.register_forward_hook(lambda m, i, o: o + 1)  # from here on the base layer is called
    z = model.base_model.model.a(x)
    handle.remove()
    torch.testing.assert_close(z, model.base_model.model.a(x) + 1)
    torch.testing.assert_close(model(x), y)


# ---- vocos -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stubbed(*names):
    """Empty modules for imports that the heads do not use."""

    class Empty(types.ModuleType):
        __path__: list = []

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return object

    absent = lambda root: root not in sys.modules and importlib.util.find_spec(root) is None  # noqa: E731
    missing = [name for name in names if absent(name.partition(".")[0])]
    for name in missing:
        module = sys.modules[name] = Empty(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


@pytest.fixture
def vocos(monkeypatch):
    if importlib.util.find_spec("vocos") is None:
        pytest.skip("vocos is not installed")
    names = ("torchaudio", "torchaudio.functional", "torchaudio.functional.functional", "torchaudio.transforms", "encodec")
    with stubbed(*names):
        try:
            heads, ops = (importlib.import_module(f"vocos.{name}") for name in ("heads", "spectral_ops"))
        except ImportError as error:
            pytest.skip(f"vocos cannot be imported: {error}")
    signal = pytest.importorskip("scipy.signal")
    monkeypatch.setattr(signal, "cosine", signal.windows.cosine, raising=False)  # vocos 0.1.0 asks for it under its old name
    return SimpleNamespace(heads=heads, ops=ops)


frames = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("n, hop", [(64, 16), (80, 20)])
def test_vocos_istft_head(padding, n, hop, vocos, monkeypatch):
    head = vocos.heads.ISTFTHead(12, n, hop, padding)
    y, before = head(frames), gradients(head, frames)
    model = nn.Sequential(head)
    row = only(so.replace(model, example=frames))  # the ISTFT inside is covered
    assert row.status == "replaced" and row.path == "0" and row.new_op == "istft_head", row.reason
    monkeypatch.setattr(vocos.ops.ISTFT, "forward", None)
    torch.testing.assert_close(head(frames), y)
    for a, b in zip(gradients(head, frames), before, strict=True):
        assert relative_l2(a, b) < 1e-5
    assert head.bfloat16()(frames.bfloat16()).dtype == torch.bfloat16  # where the original raises


@pytest.mark.parametrize("name", ["IMDCTCosHead", "IMDCTSymExpHead"])
@pytest.mark.parametrize("padding", ["same", "center"])
def test_vocos_imdct_heads(name, padding, vocos):
    head = getattr(vocos.heads, name)(12, 32, padding)
    y = head(frames)
    row = only(so.replace(nn.Sequential(head), example=frames))
    assert row.status == "replaced" and row.path == "0.imdct" and row.errors["output"][1] < row.errors["output"][0], row.reason
    torch.testing.assert_close(head(frames), y, rtol=1e-4, atol=1e-4)


def test_vocos_istft_alone_and_refusals(vocos):
    spec = torch.randn(2, 33, 9, dtype=torch.complex64, generator=torch.Generator().manual_seed(7))
    for padding in ("same", "center"):
        layer = vocos.ops.ISTFT(64, 16, 64, padding)
        y = layer(spec)
        row = only(so.replace(layer, example=spec))
        assert row.status == "replaced", row.reason
        torch.testing.assert_close(layer(spec), y)
    assert "nothing remains" in only(so.replace(vocos.ops.ISTFT(64, 64, 64))).reason
    assert "more than half" in only(so.replace(vocos.ops.ISTFT(64, 40, 64))).reason


# ---- transformers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["xcodec2.Xcodec2ISTFTHead", "neucodec.NeuCodecISTFTHead"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_codec_heads(where, dtype, monkeypatch):
    package, name = where.split(".")
    path = f"transformers.models.{package}.modeling_{package}"
    try:
        module = importlib.import_module(path)
    except ImportError:
        pytest.skip(f"{path} is not installed")
    head = getattr(module, name)(SimpleNamespace(hidden_size=12, n_fft=80, hop_length=20)).to(dtype)
    z = frames.to(dtype)
    y, before = head(z), gradients(head, z)
    row = only(so.replace(nn.Sequential(head), example=z))
    assert row.status == "replaced" and "example" in row.verified_on, row.reason
    with monkeypatch.context() as patch:
        patch.setattr(module.F, "fold", None)
        now = head(z)
    assert now.dtype == y.dtype == torch.float32 and now.shape == y.shape
    assert relative_l2(now, y) < (1e-6 if dtype == torch.float32 else 1e-2)
    for a, b in zip(gradients(head, z), before, strict=True):
        assert a.dtype == b.dtype and relative_l2(a, b) < (1e-5 if dtype == torch.float32 else 3e-2)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), now)

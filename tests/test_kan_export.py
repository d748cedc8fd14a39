"""Export: torch.export and torch.onnx of KAN models give standard operators only, with the same values."""

import io
import operator
import warnings

import numpy as np
import pytest
import torch

from spectralops import basis as B
from spectralops.nn import FAN, GRKAN, KAF, KAN, SIREN, KANAttention, KANConv2d, KANLinear

BASES = ["bspline", "rbf", "rswaf", "sech", "mexican_hat", "morlet", "dog", "haar", "chebyshev", "legendre", "jacobi", "hermite",
         "gram", "fourier", "relu_power", ["bspline", "chebyshev"]]  # fmt: skip
rows = torch.randn(10, 4)


def adapted(model, x):
    model.update_grid(x)
    model.prune(x, 0.02)
    return model


MODELS = {
    **{str(basis): (lambda basis=basis: KAN([4, 5, 2], basis, bias=True), rows) for basis in BASES},
    "adapted": (lambda: adapted(KAN([4, 5, 2]), rows), rows),
    "outside": (lambda: KANLinear(4, 3, B.BSpline(4, 2, outside="linear", edge="grid")), rows),
    "norm": (lambda: KANLinear(4, 3, "rbf", layer_norm=True, base_activation="gelu"), rows),
    "selector": (lambda: KANLinear(4, 3, ["rbf", "sech"], selector=True, base_activation="tanh"), rows),
    "convolution": (lambda: KANConv2d(2, 4, 3, padding=1, stride=2, groups=2, bias=True, chunk=10), torch.randn(2, 2, 7, 6)),
    "attention": (lambda: KANAttention(8, 2, 6, rank=3, chunk=10), torch.randn(2, 6, 8)),
    "grkan": (lambda: GRKAN(8, 16, 4), torch.randn(3, 8)),
    "kaf": (lambda: KAF(4, 3), rows),
    "fan": (lambda: FAN(4, 8), rows),
    "siren": (lambda: SIREN(4, 8, 2), rows),
}


@pytest.fixture(params=MODELS)
def case(request):
    make, x = MODELS[request.param]
    return make().eval(), x


def test_torch_export_has_aten_operators_only(case):
    model, x = case
    program = torch.export.export(model, (x,))
    calls = [n.target for n in program.run_decompositions().graph.nodes if n.op == "call_function"]
    assert calls and {t.namespace for t in calls if isinstance(t, torch._ops.OpOverload)} == {"aten"}
    assert {t for t in calls if not isinstance(t, torch._ops.OpOverload)} <= {operator.getitem}
    torch.testing.assert_close(program.module()(x), model(x))
    # the model itself is as it was, and its kernels are used again
    traced = torch.fx.experimental.proxy_tensor.make_fx(model)(x)
    assert isinstance(model(x).sum().item(), float) and len(list(traced.graph.nodes)) > 1


def test_the_kernels_are_used_where_nothing_is_exported():
    model = KAN([4, 5, 2])
    names = {str(n.target) for n in torch.fx.experimental.proxy_tensor.make_fx(model)(rows).graph.nodes}
    assert "spectralops.kan_forward.default" in names


def test_torch_export_with_any_number_of_rows():
    model = KAN([4, 5, 2], "rbf")
    program = torch.export.export(model, (rows,), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.randn(37, 4)
    torch.testing.assert_close(program.module()(x), model(x))


def run_onnx(path_or_bytes, x):
    """The outputs by onnxruntime where it can be had, else by onnx's own evaluator."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(path_or_bytes)
    onnx.checker.check_model(graph, full_check=True)
    assert {n.domain for n in graph.graph.node} <= {"", "ai.onnx"} and not graph.functions
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: x.numpy()})[0]
    session = onnxruntime.InferenceSession(path_or_bytes)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize("exporter", ["torch.export", "trace"])
def test_onnx_has_standard_operators_only(case, exporter):
    pytest.importorskip("onnx")
    model, x = case
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "trace":
            torch.onnx.export(model, (x,), buffer, dynamo=False, opset_version=17)
        else:
            pytest.importorskip("onnxscript")
            torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(buffer)
    got = run_onnx(buffer.getvalue(), x)
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)

"""Export of spectral layers: torch.export and torch.onnx give standard operators on real numbers, with the same values."""

import io

import pytest
import torch

import spectralops as so


class Net(torch.nn.Module):
    """One layer after another."""

    def __init__(self):
        super().__init__()
        self.filter = torch.nn.Parameter(torch.randn(6, 4, 4, 2))
        self.w1, self.b1, self.w2, self.b2 = (torch.nn.Parameter(0.5 * torch.randn(*s)) for s in ((2, 2, 2, 3), (2, 2, 3), (2, 2, 3, 2), (2, 2, 2)))
        self.conv, self.skip = torch.nn.Parameter(torch.randn(4, 3, 4, 3, 2)), torch.nn.Parameter(torch.randn(3, 4))
        self.gate = torch.nn.Parameter(torch.randn(3, 3, 2))

    def forward(self, x):  # (B, 6, 7, 4)
        x = so.spectral_filter(x, self.filter, norm_eps=1e-5, residual=x)
        x = so.spectral_mlp(x, self.w1, self.b1, self.w2, self.b2)
        x = so.spectral_conv(x.permute(0, 3, 1, 2), self.conv, modes=4, skip=self.skip, activation="gelu").flatten(2)  # (B, 3, 42)
        x = so.fourier_mix(x) / 12
        return so.idct(so.dct(x) * torch.linspace(1, 0, 42, dtype=x.dtype))


def test_standard_operators_and_onnx():
    pytest.importorskip("onnxscript")
    reference, onnx = pytest.importorskip("onnx.reference"), pytest.importorskip("onnx")
    net, x = Net().double().eval(), torch.randn(2, 6, 7, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)
        program = torch.export.export(net, (x,))
        nodes = list(program.graph.nodes)
        assert not any("spectralops" in str(n.target) or "fft" in str(n.target) for n in nodes)
        assert not any(n.meta["val"].is_complex() for n in nodes if isinstance(n.meta.get("val"), torch.Tensor))
        torch.testing.assert_close(program.module()(x), expected)
        out = io.BytesIO()
        torch.onnx.export(net, (x,), dynamo=True, verbose=False).save(out)
    graph = onnx.load_from_string(out.getvalue())
    assert all(node.domain in ("", "pkg.onnxscript.torch_lib", "pkg.onnxscript.torch_lib.common") for node in graph.graph.node)
    (got,) = reference.ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected)

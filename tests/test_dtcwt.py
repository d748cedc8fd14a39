"""`dtcwt` and `idtcwt`: the separable filters in numpy, perfect reconstruction, derivatives."""

import numpy as np
import pytest
import torch

import spectralops as so
from spectralops import testing
from spectralops.ops import dtcwt as module

# the published decimals
H0 = [-0.0017578125, 0, 0.022265625, -0.046875, -0.0482421875, 0.296875, 0.55546875]
H1 = [-7.062639508928571e-05, 0, 1.341901506696429e-03, -1.883370535714286e-03, -7.156808035714285e-03, 2.385602678571428e-02,
      5.564313616071428e-02, -5.168805803571428e-02, -2.997576032366072e-01, 5.594308035714286e-01]  # fmt: skip


def filtered(x, half, axis):
    """np.convolve of rows continued by np.pad's symmetric mode."""
    h = np.r_[half, half[-2::-1]]
    reach = len(h) // 2
    return np.apply_along_axis(lambda row: np.convolve(np.pad(row, reach, mode="symmetric"), h, "valid"), axis, x)


def directions(y):
    a, b, c, d = y[..., ::2, ::2], y[..., ::2, 1::2], y[..., 1::2, ::2], y[..., 1::2, 1::2]
    p, q = (a + 1j * b) / np.sqrt(2), (d - 1j * c) / np.sqrt(2)
    return p - q, p + q


@pytest.mark.parametrize("shape", [(2, 3, 12, 20), (4, 2), (1, 130, 132), (2, 2)])
def test_values_against_the_filters(shape):
    x = torch.randn(shape, dtype=torch.float64)
    lo, hi = filtered(x.numpy(), H0, -1), filtered(x.numpy(), H1, -1)
    low, lh, hl, hh = filtered(lo, H0, -2), filtered(lo, H1, -2), filtered(hi, H0, -2), filtered(hi, H1, -2)
    (d15, d165), (d45, d135), (d75, d105) = map(directions, (lh, hh, hl))
    got_low, got_high = so.dtcwt(x)
    torch.testing.assert_close(got_low, torch.from_numpy(low), rtol=1e-11, atol=1e-11)
    expect = torch.from_numpy(np.stack([d15, d45, d75, d105, d135, d165], -3))
    torch.testing.assert_close(torch.view_as_complex(got_high), expect, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 3, 12, 20), (56, 28), (1, 130, 132), (2, 2)])
def test_perfect_reconstruction_in_every_dtype(shape):
    for dtype, room in ((torch.float64, 8), (torch.float32, 8), (torch.bfloat16, 2), (torch.float16, 2)):
        x = torch.randn(shape).to(dtype)
        low, high = so.dtcwt(x)
        assert low.dtype == high.dtype == dtype
        assert testing.relative_error(so.idtcwt(low, high), x.double()) <= room * torch.finfo(dtype).eps


@pytest.mark.parametrize("dense", [0, 128])
def test_derivatives(monkeypatch, dense):
    monkeypatch.setattr(module, "DENSE", dense)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(so.dtcwt, x)
    low, high = (t.detach().requires_grad_() for t in so.dtcwt(x))
    torch.autograd.gradcheck(so.idtcwt, (low, high))
    torch.autograd.gradgradcheck(lambda t: so.dtcwt(t)[1].square(), x)


def test_layouts_empty_autocast_transforms_compile_and_export():
    x = torch.randn(3, 4, 6)
    low, high = so.dtcwt(x)
    for name, view in testing.layouts(x):
        torch.testing.assert_close(so.dtcwt(view), (low, high), msg=name)
    empty = so.dtcwt(torch.empty(0, 4, 6))
    assert empty[0].shape == (0, 4, 6) and empty[1].shape == (0, 6, 2, 3, 2) and so.idtcwt(*empty).shape == (0, 4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(so.dtcwt(x), (low, high))
    torch.testing.assert_close(torch.func.vmap(so.dtcwt)(x), (low, high))

    class There(torch.nn.Module):
        def forward(self, x):
            low, high = so.dtcwt(x)
            return so.idtcwt(low, 2 * high)

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(There(), fullgraph=True, backend="eager")(x), There()(x))
    program = torch.export.export(There(), (x,), dynamic_shapes=({0: torch.export.Dim("b")},))
    values = [n.meta["val"] for n in program.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not any(v.is_complex() for v in values)
    torch.testing.assert_close(program.module()(x[:2]), There()(x[:2]))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.dtcwt([1.0]), TypeError, "x must be a torch.Tensor"),
        (lambda: so.dtcwt(torch.ones(3, 4)), ValueError, r"x must have shape \(.., H, W\) with H and W even"),
        (lambda: so.dtcwt(torch.ones(4)), ValueError, "x must have shape"),
        (lambda: so.idtcwt(torch.ones(4, 4), torch.ones(6, 2, 2)), ValueError, r"high must have shape \(6, 2, 2, 2\)"),
        (lambda: so.idtcwt(torch.ones(4, 4), torch.ones(6, 2, 2, 2).double()), ValueError, "low's dtype"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()

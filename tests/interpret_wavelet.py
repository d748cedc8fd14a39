"""Runs the Triton kernels of wavelet_linear in Triton's interpreter, for test_triton_wavelet.py; see interpret_worker.py."""

import os
import sys

CASES = {}
EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
SHAPES = [(1, 1, 1), (37, 5, 18), (21, 17, 3)]  # (rows, inputs, outputs); every kind and dtype meets the last


def check(kind, dtype, layout="contiguous"):
    import torch

    from spectralops import testing
    from spectralops.kernels import configs, wavelet
    from spectralops.ops import wavelet_reference as reference

    # The interpreter walks a loop at Python's speed: small tiles and steps make several of each out of little work.
    configs.WAVELET = {key: configs.Matrix(16, 16, 1) for key in configs.WAVELET}
    configs.WAVELET_STEP, configs.WAVELET_PROGRAMS, configs.WAVELET_REDUCE_BLOCK = 8, 4, 64
    dtype = getattr(torch, dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    tally = testing.Tally()
    for rows, inputs, outputs in SHAPES if dtype == torch.float32 and (EVERYTHING or kind == 0) else SHAPES[2:]:

        def data(columns, rows=rows):
            t = torch.randn(rows, columns + 3).to(dtype)
            if layout == "one row":
                return t[:1, 1 : 1 + columns].expand(rows, columns)
            return t[:, 1 : 1 + columns] if layout == "strided" else t[:, :columns].contiguous()

        parameter = lambda: torch.randn(outputs, inputs, dtype=compute)  # noqa: E731
        s = parameter()
        s += 0.4 * torch.where(s < 0, -1.0, 1.0)
        x, g, h = data(inputs), data(outputs), data(inputs)
        given, directions = (parameter(), s, parameter()), (parameter(), parameter(), parameter())

        def everything(module, to=None, names=("forward", "backward", "double_backward")):
            cast = lambda *ts: ts if to is None else tuple(t.to(to) for t in ts)  # noqa: E731
            forward, backward, double = (getattr(module, name) for name in names)
            y = forward(*cast(x, *given), kind)
            first = backward(*cast(g, x, *given), kind)
            return [y, *first, *double(*cast(h, *directions, g, x, *given), kind)]

        ours = ("wavelet_forward", "wavelet_backward", "wavelet_double_backward")
        with testing.guard_bands():
            got = everything(wavelet, names=ours)
        exact = everything(reference, torch.float64)
        plain = everything(reference, torch.float32 if dtype == torch.float64 else None)
        assert [t.dtype for t in got] == [dtype] * 2 + [compute] * 3 + [dtype] * 2 + [compute] * 3
        names = "y dx dw ds dt dgrad ddx ddw dds ddt".split()
        for name, one, low, true in zip(names, got, plain, exact):
            assert one.shape == true.shape, name
            tally.add(name, one, low, true)
    again = everything(wavelet, names=ours)
    assert all(torch.equal(a, b) for a, b in zip(got, again)), "two runs differ"
    tally.check()


def wavelet_nan(kind):
    """NaN, infinity, zero scales and squares that overflow, where the reference has them."""
    import torch

    from spectralops.kernels import wavelet
    from spectralops.ops import wavelet_reference as reference

    x, g = torch.randn(20, 5), torch.randn(20, 7)
    w, s, t = (torch.randn(7, 5) for _ in range(3))
    x[3, 3], x[5, 0], x[7, 1], x[8, 2] = float("nan"), float("inf"), 1e25, 3e4
    s[2, 1], t[4, 4] = 0.0, float("nan")
    got = [wavelet.wavelet_forward(x, w, s, t, kind), *wavelet.wavelet_backward(g, x, w, s, t, kind)]
    expect = [reference.forward(x, w, s, t, kind), *reference.backward(g, x, w, s, t, kind)]
    for a, b in zip(got, expect):
        assert torch.equal(a.isnan(), b.isnan())


def _add(name, function, *arguments):
    CASES[name] = lambda: function(*arguments)


for _kind in range(3):
    _add(f"wavelet {_kind} float32", check, _kind, "float32")
    _add(f"wavelet nan {_kind}", wavelet_nan, _kind)
_add("wavelet 2 float64", check, 2, "float64")
_add("wavelet 0 bfloat16, one row", check, 0, "bfloat16", "one row")
_add("wavelet 2 float16, strided", check, 2, "float16", "strided")


if __name__ == "__main__":
    import interpret_worker

    interpret_worker.CASES.update(CASES)
    interpret_worker.main(sys.argv[1:])

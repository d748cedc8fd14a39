"""Cases of the fft_conv kernels in Triton's interpreter, for test_triton_fft_conv.py; the process is interpret_worker.py's."""

import os
import sys

import interpret_worker
from interpret_worker import main

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
CASES, QUICK = {}, []  # the second: those that run without SPECTRALOPS_COMPILE_ALL=1
ALL = (True,) * 6
RESULTS = ("y", "du", "dk", "dskip", "dgate_in", "dgate_out", "dmask")


def case(*arguments, quick=None):
    """Register a function once for each tuple of arguments; of these only the ones in `quick` are quick, if it is given."""

    def register(function):
        for given in arguments or ((),):
            name = " ".join([function.__name__, *map(str, given)])
            CASES[name] = lambda function=function, given=given: function(*given)
            if quick is None or given in quick:
                QUICK.append(name)
        return function

    return register


def problem(b=1, f=1, h=2, g=None, per_sample=False, length=100, taps=None, lag0=0, dtype="float32", act="identity", gates="io",
            skip=True, mask=True, ends=None, blh=False, grid=0, precision="highest"):  # fmt: skip
    """(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens), Call: b rows, or with `ends` as many as stretches."""
    import torch

    from spectralops.ops import fft_conv_reference as spec

    dtype, taps, g = getattr(torch, dtype), taps or length, g or h
    rows = len(ends) - 1 if ends else b
    total = ends[-1] if ends else length
    longest = max(e - s for s, e in zip(ends, ends[1:])) if ends else length

    def signal(*shape):
        return torch.randn(shape, dtype=torch.float64).to(dtype)

    kernel = torch.randn(rows if per_sample else 1, f, g, taps) / taps**0.5
    if grid:
        kernel, lag0 = spec.spectrum(kernel, lag0, grid), 0
    tensors = [
        signal(b, f, h, total),
        signal(b, h, total),
        kernel,
        torch.randn(f, h) if skip else None,
        signal(b, h, total) if "i" in gates else None,
        signal(b, f, h, total) if "o" in gates else None,
        torch.randn(rows, h) if mask else None,
        torch.tensor(ends) if ends else None,
    ]
    return tensors, spec.Call(lag0, grid, act, precision, blh, longest)


def run(forward, backward, tensors, call, needs=ALL):
    grad, *rest = tensors
    y = forward(*rest, call)
    return [y, *backward(grad, *rest, tuple(rest[1].shape[:4]), call, needs)]


def kernels(tensors, call, needs=ALL):
    from spectralops.kernels import fft_conv, fft_conv_backward

    return run(fft_conv.fft_conv, fft_conv_backward.fft_conv_backward, tensors, call, needs)


def reference(tensors, call, needs=ALL, double=False):
    import torch

    from spectralops.ops import fft_conv_reference as spec

    if double:
        tensors = [t.double() if t is not None and t.is_floating_point() else t for t in tensors]
    with torch.no_grad():
        return run(spec.forward, spec.backward, tensors, call, needs)


def needs_of(tensors):
    return tuple(t is not None for t in tensors[1:7])


def check(draws=2, change=None, **arguments):
    """Forward and every gradient by the tolerance rule, and twice the same bits."""
    import fft_conv_operands
    import torch

    from spectralops import testing
    from spectralops.ops import fft_conv_reference as spec

    tally = testing.Tally()
    for _ in range(draws):
        tensors, call = problem(**arguments)
        if change:
            tensors = change(tensors)
        needs = needs_of(tensors)
        with testing.guard_bands():
            got = kernels(tensors, call, needs)
        cut = fft_conv_operands.applies(tensors[0].dtype, call.precision)
        plain = (fft_conv_operands.run if cut else reference)(tensors, call, needs)
        exact = reference(tensors, call, needs, double=True)
        like_y = spec.new_like_y(tensors[1], tensors[0].shape[1], call.blh)
        strides = (like_y, like_u := spec.new_like_u(tensors[1], call.blh), None, None, like_u, like_y, None)
        for name, a, p, e, like in zip(RESULTS, got, plain, exact, strides):
            assert (a is None) == (e is None), name
            if a is not None:
                assert a.dtype == p.dtype and a.shape == p.shape, name
                assert like is None or a.stride() == like.stride(), name
                tally.add(name, a, p, e)
    tally.check()
    again = kernels(tensors, call, needs)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(got, again)), "two runs differ"


# ---- transforms --------------------------------------------------------------------------------------------------------

LENGTHS = (17, 256, 300, 1000, 2048, 4096)


@case(*((n,) for n in LENGTHS), quick=[(300,), (1000,), (2048,)])
def causal(length):
    """Each row of the launch table, and only reals."""
    check(length=length, b=1, h=1 if length > 1000 else 3, gates="", skip=False, mask=False)


@case()
def one_element():
    """Where the reference's transform is of a single number, and as good as exact."""
    from spectralops.testing import relative_error

    tensors, call = problem(b=3, h=5, length=1, act="silu")
    for a, e in zip(kernels(tensors, call), reference(tensors, call, double=True)):
        assert relative_error(a, e) < 1e-6


@case((500, 8, 3), (200, 399, 199), (4000, 60, 0), (8000, 100, 50), quick=[(500, 8, 3), (200, 399, 199)])
def both_halves(length, taps, lag0):
    """Rows longer than N, or taps before lag 0."""
    check(length=length, taps=taps, lag0=lag0, h=1 if length > 1000 else 3, skip=length < 1000, mask=False)


@case((256, 2), (512, 3), (1024, 1), quick=[(256, 2)])
def given_spectrum(grid, h):
    check(length=200 if grid == 256 else grid // 2 + 30, taps=99, lag0=20, grid=grid, h=h, b=2)
    check(length=2 * grid - 60, taps=40, lag0=20, grid=grid, h=h, b=1, gates="", mask=False, draws=1)


@case(("causal",), ("everything",), ("halves",), ("stretches",), ("spectrum",), ("chunks",), ("high",),
      quick=[("halves",)])  # fmt: skip
def long_rows(which):
    """Rows that no program holds, made short: 16 rows of 256 points."""
    from spectralops.kernels import configs

    configs.FFT_CONV_WHOLE = (256, 256)
    if which == "causal":
        check(length=2500, h=2, gates="", skip=False, mask=False, draws=1)
    elif which == "everything":
        check(f=2, h=2, g=1, length=4050, taps=99, lag0=20, act="gelu", draws=1)
    elif which == "halves":
        check(h=1, length=4500, taps=99, lag0=20, act="silu", draws=1)
    elif which == "stretches":
        check(h=2, g=1, ends=[0, 300, 300, 4380], taps=70, per_sample=True, act="silu", skip=False, draws=1)
    elif which == "spectrum":
        check(b=2, h=2, length=3000, taps=90, lag0=30, grid=4096, gates="", mask=False, draws=1)
    elif which == "chunks":
        configs.FFT_CONV_WORKSPACE = 2 * 4096 * 7
        check(b=3, h=2, g=1, length=4080, taps=50, dtype="float16", act="silu", draws=1)
    else:
        check(length=4080, taps=50, dtype="bfloat16", precision="high", act="gelu")


# ---- what is around it ---------------------------------------------------------------------------------------------------


@case(*((d, a) for d in ("float32", "float16", "bfloat16") for a in ("identity", "silu", "gelu")),
      quick=[("float32", "gelu"), ("float16", "silu"), ("bfloat16", "identity")])  # fmt: skip
def everything(dtype, act):
    check(b=2, f=2, h=4, g=2, length=70, taps=50, lag0=9, dtype=dtype, act=act, draws=2)


@case(("",), ("i",), ("o",), quick=[("i",), ("o",)])
def some(gates):
    """Without skip or mask, with one gate or none."""
    check(b=2, h=3, length=60, gates=gates, skip=False, mask=False, act="silu")
    check(b=2, h=3, length=60, gates=gates, skip=False, mask=False)


@case()
def groups_samples_filters():
    check(h=6, g=3, length=40, gates="i", mask=False)
    check(b=2, f=2, h=4, g=1, length=40, per_sample=True, gates="", mask=False)


@case()
def many_rows():
    """dkernel in several chunks."""
    from spectralops.kernels import configs, fft_conv_backward

    configs.FFT_CONV_PROGRAMS = 4
    assert fft_conv_backward.partition(7, 1, 1000) == (2, 4)
    check(b=7, h=4, g=2, length=40, gates="", skip=False, mask=False, draws=1)
    configs.FFT_CONV_SLAB = 256
    check(b=7, h=4, g=2, length=40, gates="", skip=False, mask=False, draws=1)


@case(("float32",), ("bfloat16",), quick=[("float32",)])
def stretches(dtype):
    ends = [0, 60, 60, 61, 140]
    check(h=3, ends=ends, dtype=dtype, act="gelu", taps=70, draws=1 if dtype == "float32" else 8)
    check(h=2, g=1, ends=ends, dtype=dtype, taps=30, lag0=5, per_sample=True, gates="i", skip=False, mask=False, draws=1)


@case()
def layouts():
    """Strides of any kind, 0 too, for what may have them, and the other layout of what comes back."""
    import torch

    from spectralops import testing

    for blh, act in ((False, "silu"), (True, "identity")):
        tensors, call = problem(f=2, h=3, g=1, length=50, blh=blh, act=act)
        moved = (0, 1, 4, 5)
        expect = kernels(tensors, call)
        views = [list(testing.layouts(tensors[i])) for i in moved]
        for j in range(1, len(views[0])) if blh or EVERYTHING else ():
            given = list(tensors)
            for i, found in zip(moved, views):
                given[i] = found[j][1]
            assert all(torch.equal(a, b) for a, b in zip(kernels(given, call), expect)), views[0][j][0]
        given = list(tensors)
        for i in moved:
            given[i] = tensors[i][..., :1].expand(tensors[i].shape)
        once = [t.contiguous() if i in moved else t for i, t in enumerate(given)]
        assert all(torch.equal(a, b) for a, b in zip(kernels(given, call), kernels(once, call)))


@case()
def some_needs():
    """Each gradient alone, and the bare products without u or without the kernel, are those of all at once."""
    import torch

    for act in ("identity", "silu"):
        tensors, call = problem(h=3, length=50, act=act)
        expect = kernels(tensors, call)[1:]
        for i in range(6):
            got = kernels(tensors, call, tuple(j == i for j in range(6)))[1:]
            assert [t is not None for t in got] == [j == i for j in range(6)]
            scale = expect[i].norm()
            assert torch.equal(got[i], expect[i]) or (got[i] - expect[i]).norm() <= 1e-6 * scale  # dc is formed in another place
    from spectralops.kernels import fft_conv_backward
    from spectralops.testing import relative_error

    tensors, call = problem(b=2, f=2, h=3, length=50, gates="", skip=False, mask=False)
    grad, u, kernel, *none = tensors
    only = lambda i: tuple(j == i for j in range(6))  # noqa: E731
    shape, expect = tuple(kernel.shape), reference(tensors, call, needs_of(tensors))[1:]
    du = fft_conv_backward.fft_conv_backward(grad, None, kernel, *none, shape, call, only(0))[0]
    dk = fft_conv_backward.fft_conv_backward(grad, u, None, *none, shape, call, only(1))[1]
    assert relative_error(du, expect[0]) < 1e-6 and relative_error(dk, expect[1]) < 1e-6


@case((200,), (300,), quick=[(200,)])
def not_finite(length):
    """A row with NaN is NaN throughout; its neighbours, in the same program and beside it, do not see it."""
    import torch

    for i in (0, 1):
        tensors, call = problem(b=2, h=5, length=length, act="silu", gates="io")
        clean = kernels(tensors, call)
        for value in (float("nan"), float("inf"))[: None if EVERYTHING else 1 + i]:
            spoilt = [t.clone() if t is not None else None for t in tensors]
            spoilt[i][1, ..., 2, 7] = value
            got = kernels(spoilt, call)
            rows = [0] if i else []
            for j in [*rows, 1, 4, 5]:  # y, du, dgate_in, dgate_out
                if i == 0 and j == 5:  # dgate_out = dz c, at each time by itself
                    continue
                a, e = (t[j].transpose(1, 2) if t[j].dim() == 4 else t[j][:, :, None] for t in (got, clean))
                bad = torch.zeros(2, 5, dtype=torch.bool)
                bad[1, 2] = True
                assert not a[bad].isfinite().any(), (i, j)
                assert torch.equal(a[~bad], e[~bad]), (i, j)
            dk, clean_dk = got[2][0, 0], clean[2][0, 0]
            assert not dk[2].isfinite().any()
            keep = [0, 1, 3, 4]
            assert torch.equal(dk[keep], clean_dk[keep])


@case()
def float16_range():
    """Far below what float16 holds on the way, and above it."""

    def small(tensors):
        grad, u, kernel, *rest = tensors
        return [grad * 1e-3, u * 2e-3, kernel * 1e3, *rest]

    def large(tensors):
        grad, u, kernel, *rest = tensors
        return [grad * 1e2, u * 2e4, kernel * 1e-5, *rest]

    for change in (small, large):
        check(b=1, h=2, length=200, dtype="float16", gates="", skip=False, mask=False, change=change)


@case()
def both_precisions():
    check(b=1, h=2, length=200, precision="high", draws=1)
    check(b=1, h=1, length=600, taps=40, lag0=9, precision="high", act="gelu")


if __name__ == "__main__":
    interpret_worker.CASES = CASES
    main(sys.argv[1:])

"""Runs Triton kernels in Triton's interpreter, one case after the other, for test_triton_interpret.py.

A separate process, because the interpreter reads and writes through raw pointers: a kernel that leaves its
bounds may take the process with it.  `python interpret_worker.py NAME...` prints "BEGIN name" and then "OK name"
or "FAIL name" with the traceback in JSON.
"""

import json
import os
import sys
import traceback
import warnings

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
CASES = {}


def case(*arguments):
    """Register a function once for each tuple of arguments."""

    def register(function):
        for given in arguments or ((),):
            name = " ".join([function.__name__, *(str(a).replace("torch.", "") for a in given)])
            CASES[name] = lambda function=function, given=given: function(*given)
        return function

    return register


# ---- rational --------------------------------------------------------------------------------------------------------


def formula(x, num, den, version):
    """The plain formula by powers, differentiable, in the dtype of x."""
    import torch

    groups = max(num.shape[0], den.shape[0])
    v = x.reshape(x.shape[0], groups, -1)
    a, b = num[:, None, :], den[:, None, :]
    p = sum(a[..., i] * v**i for i in range(num.shape[1]))
    first = 0 if version == 2 else 1
    if version == 0:
        t = sum((b[..., j].abs() * v.abs() ** (j + 1) for j in range(den.shape[1])), torch.zeros_like(v))
        q = 1 + t
    else:
        t = sum((b[..., j] * v ** (j + first) for j in range(den.shape[1])), torch.zeros_like(v))
        q = {1: 1 + t.abs(), 2: 0.1 + t.abs(), 3: 1 + t * t}[version]
    return (p / q).reshape(x.shape)


def derivatives(x, num, den, grad, gg, version, dtype):
    """y, the gradients, and the gradients of <gg, gradients>, by nested autograd with arithmetic in `dtype`."""
    import torch

    groups = max(num.shape[0], den.shape[0])
    x, grad, *gg = (t.detach().to(dtype) for t in (x, grad, *gg))
    num, den = (t.detach().to(dtype).expand(groups, -1).contiguous() for t in (num, den))
    leaves = [t.requires_grad_() for t in (x, num, den)]
    grad.requires_grad_()
    y = formula(*leaves, version)
    zeros = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(y, leaves, grad, create_graph=True, **zeros)
    second = torch.autograd.grad(first, [grad, *leaves], gg, **zeros)
    return [t.detach() for t in (y, *first, *second)]


def check_rational(shape, groups, degrees, version, dtype, layout="contiguous", draws=4):
    import torch

    from spectralops import testing
    from spectralops.kernels import rational
    from spectralops.ops import rational_reference as reference

    compute = torch.float64 if dtype == torch.float64 else torch.float32
    (rows, dim), (gn, gd) = shape, groups

    def data():
        t = torch.randn(rows, dim + 3).to(dtype)
        if layout == "one row":
            return t[:1, 1 : 1 + dim].expand(rows, dim)
        return t[:, 1 : 1 + dim] if layout == "strided" else t[:, :dim].contiguous()

    results = []
    for _ in range(draws):  # a coefficient's gradient is a few numbers: with one draw the reference may be lucky
        x, grad, ggx = data(), data(), data()
        num = torch.randn(gn, degrees[0] + 1, dtype=compute)
        den = torch.randn(gd, degrees[1] + (version == 2), dtype=compute)
        g = max(groups)
        gg = (ggx, torch.randn(g, num.shape[1], dtype=compute), torch.randn(g, den.shape[1], dtype=compute))
        with testing.guard_bands():
            got = [rational.rational_forward(x, num, den, version)]
            got += rational.rational_backward(grad, x, num, den, version, 0)
            got += rational.rational_double_backward(*gg, grad, x, num, den, version, 0)
        exact = derivatives(x, num, den, grad, gg, version, torch.float64)
        low = [t if dtype != torch.float64 else t.float() for t in (*gg, grad, x, num, den)]
        plain = [reference.forward(*low[4:], version)]
        plain += reference.backward(*low[3:], version, 0)
        plain += reference.double_backward(*low, version, 0)
        assert [t.shape for t in got] == [t.shape for t in exact]
        assert [t.dtype for t in got] == [dtype] * 2 + [compute] * 2 + [dtype] * 2 + [compute] * 2
        results.append((got, plain, exact))
    again = rational.rational_double_backward(*gg, grad, x, num, den, version, 0)
    assert all(torch.equal(a, b) for a, b in zip(got[4:], again)), "two runs differ"
    for i, name in enumerate("y dx dnum dden dgrad' dx' dnum' dden'".split()):
        scales = [e[i].norm().clamp(min=1e-30) for _, _, e in results]  # each draw counts the same
        a, p, e = (torch.cat([(r[k][i].double() / n).flatten() for r, n in zip(results, scales)]) for k in range(3))
        if dtype == torch.float64:  # float64 is the truth here: allow what float loses, less the 29 bits it is shorter
            assert testing.relative_error(a, e) <= 2 * 2**-29 * testing.relative_error(p, e), name
        elif not e.any():
            assert not a.any(), name
        else:
            error, allowed = testing.relative_error(a, e), 2 * testing.relative_error(p, e)
            assert error <= max(allowed, torch.finfo(got[i].dtype).eps), f"{name}: {error:.3g}, allowed {allowed:.3g}"


@case(*((v, "float32") for v in range(4)), (0, "float16"), (3, "bfloat16"), (1, "float64"),
      *((*((v, "float16") for v in (1, 2, 3)), (0, "bfloat16")) if EVERYTHING else ()))  # fmt: skip
def rational_wide(version, dtype):
    import torch

    check_rational((5, 72), (1, 2), (5, 4), version, getattr(torch, dtype))


@case(*((v,) for v in range(4)))
def rational_narrow(version):
    import torch

    check_rational((7, 36), (12, 12), (3, 2), version, torch.float32, "strided")


@case(
    ((9, 24), (1, 1), (6, 3)),
    ((1, 1), (1, 1), (5, 4)),
    ((3, 40), (2, 1), (0, 1)),
    ((2, 33), (3, 3), (9, 8)),
    ((4, 19), (1, 1), (2, 0)),
)
def rational_shapes(shape, groups, degrees):
    import torch

    check_rational(shape, groups, degrees, 1 if degrees[1] else 0, torch.float32, draws=24 if shape == (1, 1) else 4)


@case(("strided",), ("one row",))
def rational_layouts(layout):
    import torch

    check_rational((6, 40), (2, 2), (5, 4), 0, torch.float16, layout)


@case()
def rational_many_programs():
    """The second stage over several chunks and column blocks."""
    import torch

    from spectralops.kernels import configs

    configs.RATIONAL_STEPS = (1, 2)
    check_rational((90, 80), (1, 2), (5, 4), 0, torch.float32, draws=2)
    check_rational((90, 24), (6, 6), (5, 4), 2, torch.float32, draws=2)


@case()
def rational_sign_at_zero():
    """sign(0) = 0: zero coefficients of |b| get no gradient.  sign(0) = 1: they get the one-sided one, P |x|^j g."""
    import torch

    from spectralops.kernels import rational

    x, grad = torch.randn(4, 32), torch.randn(4, 32)
    x[0, 0] = 0
    num, den = torch.randn(1, 6), torch.zeros(1, 4)
    p = sum(num[0, i] * x**i for i in range(6))
    for version, z in ((0, x.abs()), (1, x)):
        _, _, none = rational.rational_backward(grad, x, num, den, version, 0)
        _, _, right = rational.rational_backward(grad, x, num, den, version, 1)
        assert not none.any()
        expected = torch.stack([-(grad * p * z**j).sum() for j in range(1, 5)])[None]
        assert torch.allclose(right, expected, rtol=1e-5), (right, expected)


@case()
def rational_nan_and_empty():
    import torch

    from spectralops.kernels import rational

    num, den = torch.randn(1, 6), torch.randn(1, 4)
    x = torch.randn(2, 32)
    x[1, 5] = float("nan")
    y = rational.rational_forward(x, num, den, 0)
    assert torch.equal(y.isnan(), x.isnan())
    dx, dnum, _ = rational.rational_backward(torch.ones(2, 32), x, num, den, 0, 0)
    assert torch.equal(dx.isnan(), x.isnan()) and dnum.isnan().any()
    empty = torch.empty(0, 32)
    assert rational.rational_forward(empty, num, den, 0).shape == (0, 32)
    assert not rational.rational_backward(empty, empty, num, den, 0, 0)[1].any()


# ---- Walsh-Hadamard --------------------------------------------------------------------------------------------------


def natural_index(log2, order):
    """The natural index of each place in memory."""

    def reverse(i):
        return int(format(i, f"0{log2}b")[::-1], 2) if log2 else 0

    return [p if order == 0 else reverse(p) if order == 1 else reverse(p ^ (p >> 1)) for p in range(1 << log2)]


def transform_matrix(n):
    """(H in float64 as an explicit matrix, HadamardBase or None, log2 of the Sylvester part)."""
    import torch
    from scipy.linalg import hadamard

    from spectralops.ops.hadamard_base import hadamard_base

    base = hadamard_base(n)
    log2 = (n // (base.size if base else 1)).bit_length() - 1
    matrix = torch.from_numpy(hadamard(1 << log2)).double()
    return (torch.kron(torch.from_numpy(base.matrix).double(), matrix) if base else matrix), base, log2


def signs_of(rows, n, dtype):
    import torch

    return torch.where(torch.rand(rows, n) < 0.5, -1, 1).to(dtype) if rows else None


def times(x, signs):
    import torch

    return x if signs is None else x * signs[torch.arange(x.shape[0]) % signs.shape[0]][:, :, None].to(x.dtype)


def check_hadamard(outer, n, inner, dtype, signs=(0, 0), orders=(0, 0), scale=0.5, pad=0):
    import torch

    from spectralops import testing
    from spectralops.kernels import common, hadamard

    matrix, base, log2 = transform_matrix(n)
    compute = common.COMPUTE[dtype]
    if dtype.is_floating_point:
        x = torch.randn(outer, n * inner + pad).to(dtype)
    else:
        x = torch.randint(-(2**20), 2**20, (outer, n * inner + pad)).to(dtype)
    x = x[:, : n * inner].unflatten(1, (n, inner))
    signs = [signs_of(s, n, compute) for s in signs]
    with testing.guard_bands():
        y = hadamard.hadamard(x, *signs, base, scale, *orders)
    assert y.dtype == dtype and y.is_contiguous()
    order_in, order_out = (natural_index(log2, o) if o else slice(None) for o in orders)

    def plain(matrix, dtype):
        t = torch.empty(x.shape, dtype=dtype)
        t[:, order_in] = times(x.to(dtype), signs[0])
        t = (torch.einsum("ij,ojc->oic", matrix.to(dtype), t) * scale).to(dtype)
        return times(t[:, order_out], signs[1])

    if dtype.is_floating_point:
        testing.assert_within(y, plain(matrix, compute).to(dtype), plain(matrix, torch.float64))
    else:
        assert torch.equal(y, plain(matrix, torch.int64).to(dtype))


@case(*((n, "float32") for n in (1, 2, 1024)), (64, "float16"), (64, "bfloat16"), (256, "float64"), (2048, "float16"))
def hadamard_rows(n, dtype):
    import torch

    check_hadamard(3, n, 1, getattr(torch, dtype), signs=(1, 0), pad=3)


@case((12,), (20,), (24,), (76,), (160,))
def hadamard_bases(n):
    import torch

    check_hadamard(3, n, 1, torch.float32, signs=(3, 3), pad=1)
    check_hadamard(2, n, 5, torch.float16)


@case((8, 3), (8, 64), (1, 5), (32, 33), (128, 2))
def hadamard_inner(n, inner):
    import torch

    check_hadamard(3, n, inner, torch.float32, signs=(3, 3), pad=2)
    check_hadamard(2, n, inner, torch.float16)


@case(*((i, o) for i in range(3) for o in range(3) if i or o))
def hadamard_orders(order_in, order_out):
    import torch

    check_hadamard(2, 32, 1, torch.float32, signs=(1, 1), orders=(order_in, order_out))
    check_hadamard(2, 16, 3, torch.float32, signs=(1, 1), orders=(order_in, order_out))


@case(("int32",), ("int64",))
def hadamard_integers(dtype):
    import torch

    for n, inner in ((256, 1), (16, 3), (24, 1)):
        check_hadamard(2, n, inner, getattr(torch, dtype), signs=(1, 1), scale=-3)


@case()
def hadamard_passes():
    """Several passes, forced on small sizes: x's stride, signs and scale are applied once."""
    import torch

    from spectralops.kernels import configs, hadamard

    rows, strided = (configs.Rows(4, 4, 1),), (configs.Strided(2, 5, 5, 1), configs.Strided(3, 6, 6, 1))
    configs.HADAMARD_ROWS, configs.HADAMARD_STRIDED = {4: rows, 8: rows}, {4: strided, 8: strided}
    assert [k for k, _ in hadamard.plan_passes(9, 1, 12, 4)] == ["rows", "strided", "strided", "base_matrix"]
    check_hadamard(2, 1 << 9, 1, torch.float32, signs=(2, 2), pad=5)
    check_hadamard(2, 1 << 8, 1, torch.float16, orders=(2, 1))
    check_hadamard(3, 12 << 6, 1, torch.float32, signs=(3, 3))
    check_hadamard(2, 1 << 7, 3, torch.float64, signs=(1, 1), orders=(1, 2))


@case()
def hadamard_same_bits_for_every_type():
    import torch

    from spectralops.kernels import hadamard

    x = torch.randn(3, 512, 1).half()
    wide = hadamard.hadamard(x.float(), None, None, None, 0.3, 0, 0)
    assert torch.equal(hadamard.hadamard(x, None, None, None, 0.3, 0, 0), wide.half())
    exact = x.mul(16).round().long()
    assert torch.equal(hadamard.hadamard(exact, None, None, None, 1, 0, 0).double(),
                       hadamard.hadamard(exact.double(), None, None, None, 1.0, 0, 0))  # fmt: skip


@case((64, "float16"), (1024, "float32"), (1, "float64"), (48, "float32"), (256, "int32"))
def srht(n, dtype):
    import torch

    from spectralops import testing
    from spectralops.kernels import common, hadamard

    dtype = getattr(torch, dtype)
    matrix, base, _ = transform_matrix(n)
    x = (torch.randn(3, n + 2) * 50).to(dtype)[:, :n]
    signs, rows = signs_of(1, n, common.COMPUTE[dtype]), torch.randint(0, n, (37,))
    with testing.guard_bands():
        y = hadamard.srht(x, signs, rows, base, 2)
    exact = 2 * ((x.double() * signs.double()) @ matrix.T)[:, rows]
    plain = 2 * ((x.to(signs.dtype) * signs) @ matrix.T.to(signs.dtype))[:, rows]
    assert y.dtype == dtype and y.shape == (3, 37)
    if dtype.is_floating_point:
        testing.assert_within(y, plain.to(dtype), exact)
    else:
        assert torch.equal(y, plain.to(dtype))


# ---- rotate and quantise ---------------------------------------------------------------------------------------------

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def e2m1(v):
    """Code of the nearest of the eight magnitudes, ties to the even code, in float64."""
    import torch

    values = torch.tensor(E2M1, dtype=torch.float64)
    a = v.double().abs().clamp(max=6.0)
    high = torch.searchsorted(values, a).clamp(max=7)
    low = (high - 1).clamp(min=0)
    down, up = a - values[low], values[high] - a
    code = torch.where((down < up) | ((down == up) & (low % 2 == 0)), low, high)
    return (code + 8 * torch.signbit(v)).to(torch.uint8)


def quantiser(r, group, format):
    """(q as bytes, scales) of float rows, from torch's own casts and a table."""
    import torch

    g = r.view(r.shape[0], -1, group)
    bad = ~torch.isfinite(g).all(-1, keepdim=True)
    amax = torch.where(bad, 0.0, g.abs().amax(-1, keepdim=True))
    dead = bad | (amax == 0)
    if format < 2:
        scale = amax / (127.0 if format == 0 else 448.0)
        scale = torch.where(scale == 0, 1.0, scale)
        stored = torch.where(bad, float("nan"), scale)
    elif format == 2:
        exponent = torch.where(amax == 0, -127, (torch.frexp(amax).exponent - 3).clamp(-127, 127))
        scale, stored = torch.ldexp(torch.ones(()).double(), exponent).float(), torch.where(bad, 255, exponent + 127)
    else:
        code = (amax / 6).clamp(2.0**-9, 448).to(torch.float8_e4m3fn)
        scale, stored = code.float(), torch.where(bad, 127, code.view(torch.uint8))
    v = torch.where(dead, 0.0, g / scale).reshape(r.shape)
    if format == 0:
        q = v.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)
    elif format == 1:
        q = v.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    else:
        q = e2m1(v[:, 0::2]) | (e2m1(v[:, 1::2]) << 4)
    return q, stored.squeeze(-1)


SHAPES = {  # (rows, dim, block, group): what happens
    "groups in blocks": (4, 256, 64, 32),
    "one row": (3, 128, 128, 128),
    "blocks in groups": (3, 192, 32, 192),
    "no rotation": (3, 64, 1, 32),
    "two steps, base": (2, 96, 12, 32),
    "two steps, ragged": (2, 384, 128, 96),
    "two steps, long": (3, 192, 64, 192),
}


@case(*((name, f) for name in SHAPES for f in range(4)))
def quantize(name, format):
    """Bit for bit what rotating, keeping floats, and quantising apart gives; zeros, Inf and NaN in some groups."""
    import torch

    from spectralops import testing
    from spectralops.kernels import configs, hadamard, hadamard_quantize

    if name == "two steps, long":
        configs.HADAMARD_QUANTIZE, configs.QUANTIZE_LOOP = (configs.Quantize(7, 7, 1),), 64
    rows, dim, block, group = SHAPES[name]
    _, base, _ = transform_matrix(block)
    dtypes = [(torch.float32, False), (torch.float16, True), (torch.bfloat16, False)]
    turn = (list(SHAPES).index(name) + format) % 3  # each shape and each format meet every dtype
    for dtype, rounded in dtypes if EVERYTHING else dtypes[turn : turn + 1]:
        x = (torch.randn(rows, dim + 4) * torch.exp(2 * torch.randn(rows, 1))).to(dtype)[:, :dim]
        x[0, : max(block, group)] = 0
        x[-1, 0] = float("inf") if format % 2 else float("nan")
        signs = signs_of(2 if dim // block > 1 else 1, block, torch.float32)
        with testing.guard_bands():
            q, scales = hadamard_quantize.hadamard_quantize(x, signs, base, 0.3, block, group, format, rounded)
        every = signs.repeat(dim // block, 1)[: dim // block]
        r = hadamard.transform(x.reshape(-1, block, 1), every, None, base, 0.3, 0, 0, torch.float32).view(rows, dim)
        r = r.to(dtype).float() if rounded else r
        expected, expected_scales = quantiser(r, group, format)
        assert torch.equal(q.view(torch.uint8), expected), (dtype, (q.view(torch.uint8) != expected).nonzero())
        plain = scales if format < 2 else scales.view(torch.uint8)
        torch.testing.assert_close(plain.double(), expected_scales.double(), rtol=0, atol=0, equal_nan=True)
        assert expected.any()


@case()
def formats():
    """Every 16-bit float between the formats' limits, quantised at scale 1: all ties and all subnormals."""
    import torch

    from spectralops.kernels import hadamard_quantize

    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    for format, limit in ((0, 127.0), (1, 448.0), (2, 4.0)):
        v = every[every.abs() <= limit]
        v = torch.cat([v, torch.full((2**15 - v.numel() % 2**15,), limit)]).view(-1, 128).clone()
        v[:, 0] = limit  # the amax that makes the scale 1
        q, scales = hadamard_quantize.hadamard_quantize(v, None, None, 1.0, 1, 128, format, False)
        assert (scales.float() == 1).all()
        assert torch.equal(q.view(torch.uint8), quantiser(v, 128, format)[0])


# ---- the process -----------------------------------------------------------------------------------------------------


def main(names):
    os.environ["TRITON_INTERPRET"] = "1"
    warnings.simplefilter("ignore")
    import copy

    import interpret_once
    import torch
    from triton.runtime import interpreter

    from spectralops.kernels import configs

    interpret_once.patch(interpreter)
    torch.set_num_threads(1)
    table = {k: copy.copy(v) for k, v in vars(configs).items() if k.isupper()}
    for name in names:
        print("BEGIN", name, flush=True)
        torch.manual_seed(0)
        vars(configs).update(table)
        try:
            CASES[name]()
        except BaseException:
            print("FAIL", name + "\t" + json.dumps(traceback.format_exc()), flush=True)
        else:
            print("OK", name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

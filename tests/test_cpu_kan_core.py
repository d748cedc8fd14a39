"""csrc/cpu and csrc/capi for kan_linear, called through the C interface; the truth is the reference in float64."""

import re

import pytest
import torch
from core_build import ISAS, capabilities, cpu_core
from rational_calls import CPU, DTYPES, Guarded, GuardedBytes, compute
from simt_build import CSRC
from spectralops import basis as B
from spectralops.ops import kan_reference as spec
from spectralops.ops.kan_basis import SPLINE
from spectralops.testing import Tally

I = 5  # inputs of most tests; per-input knots are made for so many
NAN, INF = float("nan"), float("inf")


def knots(count, rows=I):
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(rows, count, generator=generator, dtype=torch.float64) * 4 - 2).sort(1)[0]


REPEATED = torch.tensor([-1.0, -1, -1, -1, -0.6, -0.1, -0.1, 0.3, 0.5, 0.9, 1, 1, 1, 1], dtype=torch.float64)
BASES = {
    **{f"uniform order {p}": B.BSpline(12, p) for p in range(8)},
    "uniform 5": B.BSpline(5, 3),
    "as many functions as taps": B.BSpline(1, 3),
    "fewer functions than taps": B.BSpline(knots=knots(6), order=3),
    **{f"uniform {o} {e}": B.BSpline(7, 3, outside=o, edge=e) for o in ("zero", "clamp", "linear") for e in ("knots", "grid")},
    **{f"dense {o} {e}": B.BSpline(2, 2, outside=o, edge=e) for o in ("clamp", "linear") for e in ("knots", "grid")},
    **{f"repeated {o}": B.BSpline(knots=REPEATED, order=3, outside=o) for o in ("zero", "clamp", "linear")},
    **{f"per input {o} {e}": B.BSpline(knots=knots(16), order=3, outside=o, edge=e)
       for o in ("zero", "clamp", "linear") for e in ("knots", "grid")},
    "many knots": B.BSpline(knots=knots(90), order=2),
    **{name: getattr(B, name)(7) for name in ("RBF", "RSWAF", "Sech", "MexicanHat", "Morlet", "DoG", "Haar")},
    "Chebyshev": B.Chebyshev(6), "Legendre": B.Legendre(5), "Fourier": B.Fourier(20), "ReLUPower": B.ReLUPower(5),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _best_capability():
    """Afterwards; and one thread for the reference, whose tensors are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    cpu_core("kan").spectralops_set_cpu_capability(None)


@pytest.fixture(params=ISAS)
def isa(request):
    if request.param not in capabilities("kan"):
        pytest.skip(f"this machine has no {request.param}")
    cpu_core("kan").spectralops_set_cpu_capability(request.param.encode())
    return request.param


def run(name, *arguments):
    core = cpu_core("kan")
    if getattr(core, "spectralops_" + name)(*arguments):
        raise ValueError(core.spectralops_last_error().decode())


class Problem:
    """One layer: three operations through the C interface, and by the reference in any dtype."""

    def __init__(self, basis, dtype, rows, outputs, base=0, m=0, multiplier=False, inputs=I, threads=2):
        c = compute(dtype)
        self.basis, self.dtype, self.base, self.m, self.threads = basis, dtype, base, m, threads
        self.x = (0.8 * torch.randn(rows, inputs)).to(dtype)
        self.u = torch.randn(rows, inputs).to(dtype) if multiplier else None
        self.grad = (0.25 * torch.randn(rows, outputs)).to(dtype)
        self.coeff = torch.randn(outputs, inputs, basis.size, dtype=c)
        self.weight = torch.randn(outputs, inputs, dtype=c) if base else None
        self.bias = torch.randn(outputs, dtype=c)
        self.outputs, self.inputs = outputs, inputs

    def numbers(self, code):
        return [code.family, code.size, code.a, code.b, code.c]

    def call(self, operation, first, last, outs):
        rows, c = self.x.shape[0], compute(self.dtype)
        code = self.basis.code(c, "cpu")
        at = lambda t: None if t is None else t.data_ptr()
        rows_of = lambda t: [at(t), 0 if t is None else t.stride(0)]
        sizes, tail = [rows, self.inputs, self.outputs], [DTYPES[self.dtype], CPU, self.threads]
        need = cpu_core("kan").spectralops_kan_workspace(operation, *sizes, *self.numbers(code), self.base, *tail)
        work = GuardedBytes(need)
        name = ("kan_forward", "kan_dx", "kan_dcoeff")[operation]
        table = [at(code.table), 1 if code.table is None else code.table.shape[0]]
        scalars = [*code.scalars, 0.0, 0.0][:2]
        run(
            name, *(v for t in first for v in rows_of(t)), *rows_of(self.x), *rows_of(self.u), *map(at, last), *table,
            *(None if o is None else o.tensor.data_ptr() for o in outs), work.tensor.data_ptr(), need, *sizes,
            *self.numbers(code), *scalars, self.base, self.m, *tail, None,
        )  # fmt: skip
        work.done()
        return [o.done() for o in outs if o is not None]

    def forward(self):
        y = Guarded((self.x.shape[0], self.outputs), self.dtype)
        return self.call(0, (), (self.coeff, self.weight, self.bias), [y])[0]

    def dx(self):
        d = Guarded(tuple(self.x.shape), self.dtype)
        return self.call(1, (self.grad,), (self.coeff, self.weight), [d])[0]

    def dcoeff(self):
        c = compute(self.dtype)
        dc = Guarded((self.outputs, self.inputs, self.basis.size), c)
        dw = Guarded((self.outputs, self.inputs), c) if self.base else None
        return self.call(2, (self.grad,), (), [dc, dw])

    def all(self):
        return [self.forward(), self.dx(), *self.dcoeff()]

    def reference(self, dtype):
        """With the numbers of the data's own dtype, in another one."""
        own = self.basis.code(compute(self.dtype), "cpu")
        code = self.basis.code(dtype, "cpu")
        if own.table is not None:
            code = code._replace(table=own.table.to(compute(dtype)))
        c = compute(dtype)
        to = lambda t, d: None if t is None else t.to(d)
        x, u, g = (to(t, dtype) for t in (self.x, self.u, self.grad))
        coeff, weight, bias = (to(t, c) for t in (self.coeff, self.weight, self.bias))
        y = spec.forward(x, u, coeff, weight, bias, code, self.base, self.m)
        d = spec.dx(g, x, u, coeff, weight, code, self.base, self.m)
        return [y, d, *(t for t in spec.dcoeff(g, x, u, code, self.base, self.m) if t is not None)]


# Rows and outputs: odd, less than a vector, several blocks, one row.
SHAPES = [(70, 37), (1, 16), (270, 5), (33, 130)]


def _draws(basis, dtype):
    """Every order of the derivative, base activation and shape, with and without a multiplier."""
    for n in range(10):
        yield Problem(basis, dtype, *SHAPES[n % 4], base=n % 6, m=n % 5, multiplier=bool(n // 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BASES)
def test_error_is_at_most_twice_the_references(name, dtype):
    """float64, whose truth is float64 too, is measured against the float32 reference."""
    tallies = {isa: Tally() for isa in capabilities("kan")}
    for p in _draws(BASES[name], dtype):
        exact, plain = p.reference(torch.float64), p.reference(torch.float32 if dtype == torch.float64 else dtype)
        for isa, tally in tallies.items():
            cpu_core("kan").spectralops_set_cpu_capability(isa.encode())
            for label, got, one, true in zip(("y", "d", "dcoeff", "dbase"), p.all(), plain, exact, strict=False):
                tally.add(f"{isa} {label}", got, one, true)
    for tally in tallies.values():
        tally.check()


@pytest.mark.parametrize("name", ["uniform 5", "per input linear grid", "Chebyshev", "RBF"])
def test_float64_is_right_to_its_own_digits(name, isa):
    for m in (0, 1):
        p = Problem(BASES[name], torch.float64, 70, 37, base=1, m=m, multiplier=True)
        for got, exact in zip(p.all(), p.reference(torch.float64), strict=True):
            assert (got - exact).norm() <= 1e-13 * exact.norm()


@pytest.mark.parametrize("name", ["uniform 5", "per input zero knots", "dense clamp knots", "Chebyshev", "Fourier"])
@pytest.mark.parametrize("shape", [(1000, 37, 2), (600, 48, 40), (40, 300, 3)], ids=str)
def test_bits_do_not_depend_on_threads(name, shape):
    rows, outputs, inputs = shape
    basis = BASES[name] if "per input" not in name else B.BSpline(knots=knots(16, inputs), order=3)
    p = Problem(basis, torch.float32, rows, outputs, base=1, m=1, inputs=inputs)
    results = []
    for p.threads in (1, 2, 5):
        results.append(p.all())
    for other in results[1:]:
        assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["uniform 5", "RBF"])
def test_bits_do_not_depend_on_strides(name, dtype):
    p = Problem(BASES[name], dtype, 50, 37, base=2, multiplier=True)
    expected = p.all()
    for attribute in ("x", "u", "grad"):
        t = getattr(p, attribute)
        wide = torch.full((t.shape[0], t.shape[1] + 3), NAN, dtype=dtype)
        wide[:, 1 : 1 + t.shape[1]] = t
        setattr(p, attribute, wide[:, 1 : 1 + t.shape[1]])
    assert all(torch.equal(a, b) for a, b in zip(p.all(), expected, strict=True))
    for attribute in ("x", "u", "grad"):
        setattr(p, attribute, getattr(p, attribute)[:1].expand(50, -1))
    got = p.all()
    for attribute in ("x", "u", "grad"):
        setattr(p, attribute, getattr(p, attribute).contiguous())
    assert all(torch.equal(a, b) for a, b in zip(got, p.all(), strict=True))


@pytest.mark.parametrize("rows, outputs", [(0, 4), (3, 0)])
def test_empty(rows, outputs):
    y, d, dc, dw = Problem(BASES["uniform 5"], torch.float32, rows, outputs, base=1).all()
    assert y.shape == (rows, outputs) and d.shape == (rows, I)
    assert (dc == 0).all() and (dw == 0).all()


def test_sixteen_bit_results_are_the_rounded_float_results():
    for name in ("uniform 5", "Chebyshev"):
        for dtype in (torch.float16, torch.bfloat16):
            p = Problem(BASES[name], dtype, 50, 37, base=1)
            narrow = p.all()
            p.x, p.grad, p.dtype = p.x.float(), p.grad.float(), torch.float32
            assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(narrow, p.all(), strict=True))


@pytest.mark.parametrize("name", [n for n in BASES if "uniform" in n or "per input" in n or "repeated" in n])
def test_on_the_knots_and_far_outside(name, isa):
    """Values, and slopes of splines of order 2 and more. At an edge they may jump, and there the float32 reference, whose
    knots are rounded alike, says on which side a point is."""
    basis = BASES[name]
    code = basis.code(torch.float32, "cpu")
    if code.family == SPLINE:
        places = code.table.expand(I, -1).T.contiguous()
    else:
        places = (code.scalars[0] + code.scalars[1] * torch.arange(code.size + code.a + 1.0))[:, None].expand(-1, I)
    places = torch.cat([places, torch.tensor([-100.0, 100.0, -5, 5])[:, None].expand(-1, I)]).contiguous()
    for m in range(2 if code.a >= 2 and "repeated" not in name else 1):
        p = Problem(basis, torch.float32, len(places), 19, base=4, m=m)
        p.x = places
        for got, plain in zip(p.all(), p.reference(torch.float32), strict=True):
            scale = plain.abs().amax() + 1
            assert ((got - plain).abs() <= 64 * torch.finfo(torch.float32).eps * scale).all(), m


@pytest.mark.parametrize("name", ["uniform 5", "uniform linear knots", "uniform clamp grid", "repeated clamp",
                                  "per input linear grid", "dense linear knots", "RBF", "Chebyshev", "Fourier", "ReLUPower"])  # fmt: skip
def test_nan_and_infinity(name, isa):
    for m in (0, 1):
        p = Problem(BASES[name], torch.float32, 40, 19, base=0, m=m)
        p.x[3, 0], p.x[7, 1], p.x[9, 2] = NAN, INF, -INF
        for got, plain in zip(p.all(), p.reference(torch.float32), strict=True):
            assert torch.equal(got.isfinite(), plain.isfinite())


def good(name):
    """Arguments of a call that works, by the names of the header."""
    values = {k: torch.zeros(4096) for k in "grad x u coeff base_weight bias y d dcoeff dbase table workspace".split()}
    keep = dict(values)
    values = {k: v.data_ptr() for k, v in values.items()}
    values.update({k + "_stride": 3 for k in ("x", "u", "grad")}, table_rows=1, rows=4, inputs=3, outputs=2)
    values.update(family=0, size=8, a=3, b=0, c=0, scalar0=-2.2, scalar1=0.4, base=1, m=0, dtype=0, device=CPU, threads=1)
    keep["workspace"] = torch.zeros(1 << 20, dtype=torch.uint8)
    values.update(stream=None, workspace=keep["workspace"].data_ptr(), workspace_bytes=1 << 20)
    header = (CSRC / "capi" / "spectralops.h").read_text()
    prototype = re.search(rf"int spectralops_{name}\((.*?)\);", header, flags=re.S).group(1)
    names = [a.split()[-1].lstrip("*") for a in prototype.split(",")]
    return names, values, keep


BAD = [
    (dict(rows=-1), "rows must not be negative, got -1"),
    (dict(inputs=-1), "inputs must not be negative, got -1"),
    (dict(outputs=-1), "outputs must not be negative, got -1"),
    (dict(size=0), "size must be at least 1, got 0"),
    (dict(family=6), "family must be 0 to 5, got 6"),
    (dict(a=8), "a, the order of splines, must be 0 to 7, got 8"),
    (dict(b=3), "b must be 0 (zero), 1 (clamp) or 2 (linear), got 3"),
    (dict(c=2), "c must be 0 (knots) or 1 (grid), got 2"),
    (dict(scalar1=0.0), "the knots' start must be finite and their step positive, got -2.2 and 0"),
    (dict(family=1, table=None), "table is NULL"),
    (dict(family=1, table_rows=2), "table_rows must be 1 or inputs, 3, got 2"),
    (dict(family=2, a=7), "a, the shape, must be 0 to 6, got 7"),
    (dict(family=3, a=2), "a must be 0 or 1 (tanh), got 2"),
    (dict(family=4, size=7), "size must be even, got 7"),
    (dict(family=5, a=4), "a, the combination, must be 0 to 3, got 4"),
    (dict(family=5, b=0), "b, the power, must be at least 1, got 0"),
    (dict(base=6), "base must be 0 (none) to 5, got 6"),
    (dict(m=-1), "m must not be negative, got -1"),
    (dict(m=5), "m is 5, no kernel takes a derivative above 4"),
    (dict(dtype=4), "dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got 4"),
    (dict(device=-2), "device must be -1 (CPU) or a CUDA ordinal, got -2"),
    (dict(device=0), "there is no CUDA kernel"),
    (dict(threads=0), "threads must be at least 1, got 0"),
    (dict(x=None), "x is NULL"),
    (dict(x_stride=-1), "x_stride must not be negative, got -1"),
    (dict(u_stride=-1), "u_stride must not be negative, got -1"),
    (dict(grad=None), "grad is NULL"),
    (dict(coeff=None), "coeff is NULL"),
    (dict(base_weight=None), "base_weight is NULL"),
    (dict(y=None), "y is NULL"),
    (dict(d=None), "d is NULL"),
    (dict(dcoeff=None), "dcoeff is NULL"),
    (dict(dbase=None), "dbase is NULL"),
    (dict(workspace=None), "workspace is NULL"),
    (dict(workspace_bytes=8), "workspace_bytes is 8, "),
]


@pytest.mark.parametrize("name", ["kan_forward", "kan_dx", "kan_dcoeff"])
def test_bad_arguments(name):
    names, values, keep = good(name)
    run(name, *(values[n] for n in names))
    run(name, *({**values, "u": None}[n] for n in names))
    tried = 0
    for change, message in BAD:
        if set(change) <= set(names):
            tried += 1
            with pytest.raises(ValueError, match=re.escape(f"{name}: {message}")):
                run(name, *({**values, **change}[n] for n in names))
    assert tried >= 28

"""Cases of the KAN kernels in Triton's interpreter, for test_triton_kan.py; the process is interpret_worker.py's."""

import os
import sys

import interpret_worker
from interpret_worker import main

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
CASES, QUICK = {}, []  # the second: those that run without SPECTRALOPS_COMPILE_ALL=1


def case(*arguments, quick=None):
    """Register a function once for each tuple of arguments; of these only the ones in `quick` are quick, if it is given."""

    def register(function):
        for given in arguments or ((),):
            name = " ".join([function.__name__, *(str(a).replace("torch.", "") for a in given)])
            CASES[name] = lambda function=function, given=given: function(*given)
            if quick is None or given in quick:
                QUICK.append(name)
        return function

    return register


# ---- bases and truth ---------------------------------------------------------------------------------------------------


def knots(order, inputs=15, intervals=7, repeat=1, size=None):
    """Random knots around 0, (inputs, T) or one row for all; the middle one `repeat` times over."""
    import torch

    count = (size + order + 1 if size else intervals + 2 * order + 1) - (repeat - 1)
    steps = torch.rand(inputs or 1, count, dtype=torch.float64) + 0.3
    t = 3 * (steps.cumsum(-1) - steps.sum(-1, keepdim=True) / 2) / steps.sum(-1, keepdim=True)
    middle = count // 2
    t = torch.cat([t[:, :middle], *[t[:, middle : middle + 1]] * repeat, t[:, middle + 1 :]], -1).float().double()
    return t if inputs else t[0]


def bases():
    from spectralops import basis as B

    found = {
        "cubic": lambda: B.BSpline(5, 3),
        "order 0": lambda: B.BSpline(6, 0, -2, 2),
        "order 1": lambda: B.BSpline(6, 1, -2, 2),
        "order 7": lambda: B.BSpline(4, 7, -2, 2),
        "knots": lambda: B.BSpline(knots=knots(3), order=3),
        "shared knots": lambda: B.BSpline(knots=knots(2, None), order=2),
        "repeated knots": lambda: B.BSpline(knots=knots(3, repeat=3), order=3),
        "knots of order 0": lambda: B.BSpline(knots=knots(0, repeat=2), order=0),
        "sparse": lambda: B.BSpline(12, 3),
        "sparse knots": lambda: B.BSpline(knots=knots(3, size=14, repeat=2), order=3),
        "one function": lambda: B.BSpline(knots=knots(2, size=1), order=2),
        "haar": lambda: B.Haar(4),
        "jacobi": lambda: B.Jacobi(4),
        "chebyshev": lambda: B.Chebyshev(5),
        "legendre": lambda: B.Legendre(4, squash=None),
        "constant": lambda: B.Legendre(0),
        "fourier": lambda: B.Fourier(6, omega=1.3),
        "relu power": lambda: B.ReLUPower(5, 3, -2, 2, power=4),
        "relu product": lambda: B.ReLUPower(5, 3, -2, 2, combination="product"),
        "relu sum": lambda: B.ReLUPower(5, 3, -2, 2, combination="sum"),
        "relu sum product": lambda: B.ReLUPower(5, 3, -2, 2, combination="sum_product"),
    }
    for outside in ("zero", "clamp", "linear"):
        for edge in ("knots", "grid"):
            found[f"{outside} {edge}"] = lambda o=outside, e=edge: B.BSpline(4, 3, outside=o, edge=e)
            more = {"outside": outside, "edge": edge, "order": 2}
            found[f"knots {outside} {edge}"] = lambda more=more: B.BSpline(knots=knots(2), **more)
    for shape in ("RBF", "RSWAF", "Sech", "MexicanHat", "Morlet", "DoG"):
        found[shape] = lambda shape=shape: getattr(B, shape)(4)
    return found


JUMPS = ("order 0", "knots of order 0", "haar")


def problem(basis, rows, inputs, outputs, dtype, jumps=False):
    import torch

    compute = torch.float64 if dtype == torch.float64 else torch.float32
    make = lambda *s: torch.randn(*s, dtype=torch.float64)  # noqa: E731
    x = make(rows, inputs)
    x = ((x * 8).round() / 8 + 0.03125 if jumps else x).to(dtype)  # off the jumps, where rounding x does not decide
    c, w = (make(outputs, inputs, basis.size) / basis.size**0.5).to(compute), make(outputs, inputs).to(compute)
    return x, make(rows, inputs).to(dtype), c, w, make(outputs).to(compute), make(rows, outputs).to(dtype)


def three(run, tensors, basis, base, m, multiplied, dtype, extra=()):
    """y, dx, dcoeff, dbase by the functions of `run`, in the order of `tensors`: x, u, coeff, w, bias, grad."""
    x, u, c, w, bias, g = (t.to(dtype) if dtype else t for t in tensors)
    u, code = u if multiplied else None, basis.code(x.dtype, "cpu")
    w = w if base else None
    forward, dx, dcoeff = run
    return [
        forward(x, u, c, w, bias, code, base, m, *extra),
        dx(g, x, u, c, w, code, base, m, *extra),
        *(t for t in dcoeff(g, x, u, code, base, m, *extra) if t is not None),
    ]


def kernels():
    from spectralops.kernels import kan

    return kan.kan_forward, kan.kan_dx, kan.kan_dcoeff


def reference():
    from spectralops.ops import kan_reference

    return kan_reference.forward, kan_reference.dx, kan_reference.dcoeff


def check(name, basis, sizes, dtype, m=0, base=1, multiplied=False, draws=2 if EVERYTHING else 1, change=None):
    """The tolerance rule over the draws; 16-bit operands are rounded in the reference too."""
    import kan_operands
    import torch

    from spectralops import testing

    tally, low = testing.Tally(), torch.float32 if dtype == torch.float64 else None
    for _ in range(draws):
        tensors = problem(basis, *sizes, dtype, name in JUMPS)
        if change:
            tensors = change(*tensors)
        with testing.guard_bands():
            got = three(kernels(), tensors, basis, base, m, multiplied, None, ("highest",))
        rows, inputs, outputs = sizes
        shapes = [(rows, outputs), (rows, inputs), (outputs, inputs, basis.size), *[(outputs, inputs)] * (base > 0)]
        assert [tuple(t.shape) for t in got] == shapes
        compute = tensors[2].dtype
        assert [t.dtype for t in got] == [dtype, dtype, compute, compute][: len(got)]
        exact = three(reference(), tensors, basis, base, m, multiplied, torch.float64)
        if dtype in kan_operands.SIGNIFICAND:
            run = kan_operands.forward, kan_operands.dx, kan_operands.dcoeff
            expect = three(run, tensors, basis, base, m, multiplied, None, ("highest",))
        else:  # the interpreter's products of float32 are exact
            expect = three(reference(), tensors, basis, base, m, multiplied, low)
        for key, a, p, e in zip(("y", "dx", "dcoeff", "dbase"), got, expect, exact):
            if e.any():
                tally.add(key, a, p, e)
            else:
                assert not a.any(), key
    tally.check()
    if draws == 1:
        return
    again = three(kernels(), tensors, basis, base, m, multiplied, None, ("highest",))
    assert all(torch.equal(a, b) for a, b in zip(got, again)), "two runs differ"


# ---- every basis, derivative and type ------------------------------------------------------------------------------------

BASES = tuple(bases())
ORDERS = {
    "cubic": (1, 2, 4),
    "order 7": (1, 4),
    "knots": (1, 3),
    "linear knots": (2,),
    "chebyshev": (1, 4),
    "fourier": (1, 2, 3, 4),
    "relu power": (1, 4),
    "RBF": (1, 4),
    "RSWAF": (1, 3),
    "Sech": (1, 4),
    "MexicanHat": (2, 3),
    "Morlet": (2, 4),
    "DoG": (1,),
}


EACH_FAMILY = ("order 0", "cubic", "knots", "linear grid", "chebyshev", "fourier", "relu power", "relu sum product",
               "haar", "RBF", "RSWAF", "Sech", "MexicanHat", "Morlet", "DoG")  # fmt: skip


@case(*((name,) for name in BASES), quick=[(name,) for name in EACH_FAMILY])
def values(name):
    """Forward and all gradients, at m and m + 1 with a multiplier."""
    import torch

    from spectralops.kernels import configs

    configs.KAN_SPARSE_FUNCTIONS = 12  # as wide as the interpreter likes
    basis, sizes = bases()[name](), (60, 15, 7 if name.startswith("one") else 30)
    check(name, basis, sizes, torch.float32, 0, base=1 + BASES.index(name) % 5)
    for m in ORDERS.get(name, (1,))[: None if EVERYTHING else 1]:
        check(name, basis, sizes, torch.float32, m, base=1 + m % 5, multiplied=True, draws=1)


DOUBLES = ("cubic", "knots", "linear grid", "RBF", "Morlet", "chebyshev", "fourier", "relu power", "sparse")


@case(*((name,) for name in DOUBLES), quick=[("cubic",), ("RBF",)])
def doubles(name):
    import torch

    sizes = (20, 15, 12 if name == "sparse" else 30)
    for m in (0, 2):
        check(name, bases()[name](), sizes, torch.float64, m, multiplied=m > 0)


@case(*((name, d) for name in ("cubic", "RBF", "chebyshev", "fourier", "sparse") for d in ("float16", "bfloat16")),
      quick=[("cubic", "bfloat16"), ("RBF", "float16"), ("chebyshev", "float16")])  # fmt: skip
def halves(name, dtype):
    import torch

    for m in (0, 1):
        sizes = (60, 15, 12 if name == "sparse" else 30)
        check(name, bases()[name](), sizes, getattr(torch, dtype), m, multiplied=m > 0, draws=1)


@case(*((base,) for base in range(6)), quick=[])
def base_branch(base):
    import torch

    for m in range(5):
        check("constant", bases()["constant"](), (60, 15, 30), torch.float32, m, base=base, draws=1)


# ---- sizes, layouts, ranges ----------------------------------------------------------------------------------------------


@case((1, 1, 1), (1, 40, 17), (70, 1, 33), (33, 18, 70), (17, 33, 3), quick=[(33, 18, 70), (17, 33, 3)])
def sizes(rows, inputs, outputs):
    """Sizes around and across the tiles; few outputs take the sparse form."""
    import torch

    from spectralops import basis as B

    for b in (B.BSpline(3, 2), B.RBF(3), B.Legendre(5)):
        check("", b, (rows, inputs, outputs), torch.float32)


@case()
def chunks_of_rows():
    """dcoeff in several chunks, which a second kernel adds."""
    import torch

    from spectralops import basis as B
    from spectralops.kernels import configs, kan_dcoeff

    configs.KAN_STEPS = 1
    assert kan_dcoeff.partition(70, 16, 8, 100) == (1, 5)
    for dtype, b in ((torch.float32, B.BSpline(3, 3)), (torch.bfloat16, B.Chebyshev(9))):
        check("", b, (70, 5, 18), dtype, draws=1)


@case()
def layouts():
    """Rows of any stride, 0 too, and from any offset."""
    import torch

    from spectralops import basis as B

    for b, outputs in ((B.BSpline(3, 2), 19), (B.BSpline(3, 2), 6), (B.RBF(3), 19)):
        x, u, c, w, bias, g = problem(b, 9, 5, outputs, torch.float32)
        wide = lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : 2 * t.shape[1]]  # noqa: E731
        expect = three(kernels(), (x, u, c, w, bias, g), b, 1, 0, True, None, ("highest",))
        for got, e in zip(three(kernels(), (wide(x), wide(u), c, w, bias, wide(g)), b, 1, 0, True, None, ("highest",)), expect):
            assert torch.equal(got, e)
        row = [t[:1].expand(9, -1) for t in (x, u, g)]
        one = three(kernels(), (row[0], row[1], c, w, bias, row[2]), b, 1, 0, True, None, ("highest",))
        row = [t.contiguous() for t in row]
        full = three(kernels(), (row[0], row[1], c, w, bias, row[2]), b, 1, 0, True, None, ("highest",))
        assert all(torch.equal(a, e) for a, e in zip(one, full))


REACHING = [n for n in BASES if " " not in n or "linear" in n or "clamp" in n or n.startswith(("order", "sparse", "relu sum"))]


@case(*((n,) for n in REACHING), quick=[(n,) for n in ("knots linear grid", "clamp grid", "order 1", *EACH_FAMILY)])
def not_finite(name):
    """NaN and infinity in x come out where the reference has them."""
    import torch

    b = bases()[name]()
    special = torch.tensor([float("nan"), float("inf"), float("-inf"), -1.0, 1.0])  # and the ends of the grid
    for m in (0, 1):
        x, u, c, w, bias, g = problem(b, 9, 15, 19, torch.float32, name in JUMPS)
        x[2:7, 1] = special
        got = three(kernels(), (x, u, c, w, bias, g), b, 4, m, False, None, ("highest",))
        expect = three(reference(), (x, u, c, w, bias, g), b, 4, m, False, None)
        for a, e in zip(got, expect):
            assert torch.equal(a.isnan(), e.isnan()), (m, a.isnan().nonzero()[:9], e.isnan().nonzero()[:9])
            assert torch.equal(a.isinf(), e.isinf()), m


@case()
def float16_has_room():
    """Coefficients far below and far above what float16 holds, and bases that leave it, in results that it holds."""
    import torch

    from spectralops import basis as B

    half, rbf = torch.float16, B.RBF(4)
    centre, width = rbf.code(torch.float64, "cpu").table[:, -1].tolist()

    def small(x, u, c, w, bias, g):
        return x, u, 1e-6 * c, 1e-6 * w, bias, 1e4 * g

    def large(x, u, c, w, bias, g):
        """Where the nearest function is about 1e-3."""
        return (centre + (2.6 + 0.2 * torch.rand(x.shape)) / width).half(), u, 1e6 * c, w, bias, 1e-4 * g

    check("", rbf, (9, 5, 19), half, 0, change=small)
    check("", rbf, (9, 5, 19), half, 1, change=small)
    check("", rbf, (9, 5, 19), half, 0, base=0, change=large)
    for basis, near in ((B.Hermite(9, squash=None), 1), (B.BSpline(20, 3, -0.05, 0.05), 0.02)):
        for m, factor in ((0, None), (2, None), (1, 1e-5)):

            def divided(x, u, c, w, bias, g, basis=basis, m=m, factor=factor, near=near):
                x = x * near
                size = (basis.derivative(x.float(), m) if m else basis(x.float())).abs().max()
                return x, u * (factor or 1), c / size, w, bias, g

            check("", basis, (9, 5, 40), half, m, base=0, multiplied=factor is not None, draws=1, change=divided)


@case()
def no_bias_no_base_and_both_precisions():
    import torch

    from spectralops import basis as B
    from spectralops import testing

    for b in (B.BSpline(5, 3), B.BSpline(5, 3, outside="linear"), B.RBF(4)):
        tally = testing.Tally()
        for _ in range(2):
            x, u, c, w, bias, g = problem(b, 9, 5, 19, torch.float32)
            code, double = b.code(torch.float32, "cpu"), b.code(torch.float64, "cpu")
            plain = reference()[0](x, None, c, None, None, code, 0, 0)
            exact = reference()[0](x.double(), None, c.double(), None, None, double, 0, 0)
            for precision in ("highest", "high"):
                tally.add(precision, kernels()[0](x, None, c, None, None, code, 0, 0, precision), plain, exact)
        tally.check()
        assert kernels()[2](g, x, None, code, 0, 0, "high")[1] is None


if __name__ == "__main__":
    interpret_worker.CASES = CASES
    main(sys.argv[1:])

"""The CUDA kernels of the rational activation, run on a CPU by csrc/simt through the C interface.

Compared with float64 autograd of the plain formula, written out here; a kernel may be at most twice as wrong as the
same formula in float32.
"""

import ctypes
import itertools

import pytest
import torch

from simt_build import check, simt_core

VERSIONS = {"A": 0, "B": 1, "C": 2, "smooth": 3}
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
GUARD = 64  # elements before and after every output


@pytest.fixture(scope="module")
def core():
    return simt_core()


@pytest.fixture(autouse=True)
def _forward_order(core):
    core.simt_set_order(0)
    yield
    core.simt_set_order(0)


# ---- the formula -------------------------------------------------------------------------------


def absolute(v, sign_at_zero):
    """|v| whose derivative at 0 is sign_at_zero."""
    return torch.where(v >= 0, v, -v) if sign_at_zero else v.abs()


def polynomial(coefficients, z, powers):
    """coefficients (number, 1 or G, 1), z (rows, G, width); by Horner's rule or power by power."""
    value = torch.zeros_like(z)
    if powers:
        for i, c in enumerate(coefficients.unbind(0)):
            value = value + c * z**i
    else:
        for c in reversed(coefficients.unbind(0)):
            value = value * z + c
    return value


def formula(x, a, b, version, groups, sign_at_zero, powers):
    x = x.unflatten(1, (groups, -1))
    a, b = a.t().unsqueeze(-1), b.t().unsqueeze(-1)
    p = polynomial(a, x, powers)
    if version == "A":
        z = absolute(x, sign_at_zero)
        q = 1 + polynomial(absolute(b, sign_at_zero), z, powers) * z
    elif version == "B":
        q = 1 + absolute(polynomial(b, x, powers) * x, sign_at_zero)
    elif version == "C":
        q = 0.1 + absolute(polynomial(b, x, powers), sign_at_zero)
    else:
        q = 1 + (polynomial(b, x, powers) * x) ** 2
    return (p / q).flatten(1)


def reference(problem, dtype, sign_at_zero=0, second=True, powers=False):
    """y, backward and double backward by autograd in dtype, coefficients per group."""
    groups = problem["groups"]
    x, g, xd = (problem[k].to(dtype).requires_grad_() for k in ("x", "g", "xd"))
    a, b = (problem[k].to(dtype).expand(groups, -1).clone().requires_grad_() for k in ("a", "b"))
    ad, bd = problem["ad"].to(dtype), problem["bd"].to(dtype)
    y = formula(x, a, b, problem["version"], groups, sign_at_zero, powers)
    dx, da, db = torch.autograd.grad(y, (x, a, b), g, create_graph=second, materialize_grads=True)
    named = dict(y=y, dx=dx, da=da, db=db)
    if second:
        along = (xd * dx).sum() + (ad * da).sum() + (bd * db).sum()
        ddg, ddx, dda, ddb = torch.autograd.grad(along, (g, x, a, b), materialize_grads=True)
        named.update(ddg=ddg, ddx=ddx, dda=dda, ddb=ddb)
    return {k: v.detach() for k, v in named.items()}


# ---- the kernels -------------------------------------------------------------------------------


class Outputs:
    """Tensors full of NaN with 42 on both sides, and the check that the 42 are still there."""

    def __init__(self, shift=0):
        self.flats, self.shift = [], shift

    def make(self, shape, dtype):
        count = int(torch.Size(shape).numel())
        flat = torch.full((count + 2 * GUARD + self.shift,), 42.0, dtype=dtype)
        flat[GUARD + self.shift : GUARD + self.shift + count] = float("nan")
        self.flats.append((flat, count))
        return flat[GUARD + self.shift : GUARD + self.shift + count].view(shape)

    def workspace(self, size):
        flat = torch.full((size + 2 * GUARD,), 0xFF, dtype=torch.uint8)
        flat[:GUARD] = flat[GUARD + size :] = 42
        self.flats.append((flat, size))
        return flat[GUARD : GUARD + size]

    def check(self):
        for flat, count in self.flats:
            shift = self.shift if flat.dtype != torch.uint8 else 0
            assert (flat[: GUARD + shift] == 42).all() and (flat[GUARD + shift + count :] == 42).all(), (
                "a write out of bounds"
            )


def make_problem(rows, dim, groups, degrees, version, dtype=torch.float32, shared=(True, False), seed=0):
    torch.manual_seed(seed)
    m, n = degrees
    nb = n + (version == "C")
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    random = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    return dict(
        groups=groups,
        degrees=degrees,
        version=version,
        x=random(rows, dim).to(dtype),
        g=random(rows, dim).to(dtype),
        xd=random(rows, dim).to(dtype),
        a=random(1 if shared[0] else groups, m + 1).to(compute),
        b=(0.5 * random(1 if shared[1] else groups, nb)).to(compute),
        ad=random(groups, m + 1).to(compute),
        bd=random(groups, nb).to(compute),
    )


def coefficients(problem):
    a, b = problem["a"], problem["b"]
    stride = lambda t: t.shape[1] if t.shape[0] > 1 else 0  # noqa: E731
    return a.data_ptr(), stride(a), b.data_ptr(), stride(b)


def sizes(problem):
    rows, dim = problem["x"].shape
    return rows, dim, problem["groups"], *problem["degrees"], VERSIONS[problem["version"]]


def run(core, problem, sign_at_zero=0, shift=0, passes=("forward", "backward", "double")):
    """Every output of the three entry points, under the names of reference()."""
    x, g, xd = problem["x"], problem["g"], problem["xd"]
    dtype, compute = x.dtype, problem["a"].dtype
    outputs, result = Outputs(shift), {}
    shape = tuple(x.shape)
    code = DTYPES[dtype]
    if "forward" in passes:
        y = outputs.make(shape, dtype)
        check(
            core,
            core.spectralops_rational_forward(
                x.data_ptr(),
                x.stride(0),
                *coefficients(problem),
                y.data_ptr(),
                *sizes(problem),
                code,
                0,
                1,
                None,
            ),
        )
        result["y"] = y
    size = core.spectralops_rational_workspace(*sizes(problem), code, 0)
    assert size >= 0 and size % 8 == 0

    def gradients():
        return outputs.make(problem["ad"].shape, compute), outputs.make(problem["bd"].shape, compute)

    if "backward" in passes:
        dx, (da, db), workspace = outputs.make(shape, dtype), gradients(), outputs.workspace(size)
        check(
            core,
            core.spectralops_rational_backward(
                g.data_ptr(),
                g.stride(0),
                x.data_ptr(),
                x.stride(0),
                *coefficients(problem),
                dx.data_ptr(),
                da.data_ptr(),
                db.data_ptr(),
                workspace.data_ptr(),
                size,
                *sizes(problem),
                sign_at_zero,
                code,
                0,
                1,
                None,
            ),
        )
        result.update(dx=dx, da=da, db=db)
    if "double" in passes:
        ddg, ddx, (dda, ddb), workspace = (
            outputs.make(shape, dtype),
            outputs.make(shape, dtype),
            gradients(),
            outputs.workspace(size),
        )
        check(
            core,
            core.spectralops_rational_double_backward(
                xd.data_ptr(),
                xd.stride(0),
                problem["ad"].data_ptr(),
                problem["bd"].data_ptr(),
                g.data_ptr(),
                g.stride(0),
                x.data_ptr(),
                x.stride(0),
                *coefficients(problem),
                ddg.data_ptr(),
                ddx.data_ptr(),
                dda.data_ptr(),
                ddb.data_ptr(),
                workspace.data_ptr(),
                size,
                *sizes(problem),
                sign_at_zero,
                code,
                0,
                1,
                None,
            ),
        )
        result.update(ddg=ddg, ddx=ddx, dda=dda, ddb=ddb)
    outputs.check()
    return result


def relative(value, exact):
    return ((value.double() - exact).norm() / exact.norm().clamp_min(1e-300)).item()


def assert_within(ours, problem, dtype=torch.float32, sign_at_zero=0, second=True):
    """At most twice the error of the plain formula in dtype, and four units in the last place.

    The plain error is the larger of two ways to write the polynomials: one ill-conditioned element or one sum decides
    most of it, and a single rounding of that can be right by luck.
    """
    exact = reference(problem, torch.float64, sign_at_zero, second)
    plain = [reference(problem, dtype, sign_at_zero, second, powers) for powers in (False, True)]
    for name, value in ours.items():
        if exact[name].numel() == 0:
            continue
        assert exact[name].norm() > 0, f"{name}: zeros would pass"
        unit = torch.finfo(value.dtype).eps
        error = relative(value, exact[name])
        bound = 2 * max(relative(p[name].to(value.dtype), exact[name]) for p in plain) + 4 * unit
        assert error <= bound, f"{name}: relative error {error:.3g}, the bound is {bound:.3g}"


def assert_same_bits(one, other):
    for name in one:
        assert torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)), name


# ---- tests -------------------------------------------------------------------------------------

FIXED = [(5, 4), (3, 2), (7, 6)]
GENERAL = [(2, 3), (0, 1), (9, 8), (3, 0), (1, 5)]
# rows, dim, groups: whole 16-byte chunks with several groups and several row blocks, a group wider than a block, ...
WIDE = [(37, 96, 3), (3, 4128, 2)]
# ... groups of one column, odd widths, a single column, more groups than a block covers
NARROW = [(19, 8, 8), (11, 15, 3), (40, 1, 1), (2, 300, 300)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("degrees", FIXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fixed_degrees(core, version, degrees, dtype):
    for (rows, dim, groups), shared in zip(WIDE, [(True, False), (False, True)]):
        problem = make_problem(rows, dim, groups, degrees, version, dtype, shared)
        assert_within(run(core, problem), problem)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("degrees", [*GENERAL, (5, 4)])
def test_any_degrees_and_widths(core, version, degrees):
    for index, (rows, dim, groups) in enumerate([*NARROW, WIDE[0]]):
        shared = [(True, True), (True, False), (False, True), (False, False)][index % 4]
        dtype = [torch.float32, torch.bfloat16, torch.float16][index % 3]
        problem = make_problem(rows, dim, groups, degrees, version, dtype, shared, seed=index)
        ours = run(core, problem)
        assert_within(ours, problem)
        if degrees == (3, 0) and version != "C":
            assert ours["db"].numel() == 0 and ours["ddb"].numel() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_double(core, version):
    for (rows, dim, groups), degrees in zip([(37, 96, 3), (11, 15, 3), (19, 8, 8)], [(5, 4), (9, 8), (3, 2)]):
        problem = make_problem(rows, dim, groups, degrees, version, torch.float64)
        assert_within(run(core, problem), problem, torch.float64)


def test_largest_degree(core):
    problem = make_problem(9, 6, 2, (32, 32), "C", torch.float64)
    for key in ("x", "g", "xd"):
        problem[key] = problem[key].clamp(-1, 1)
    assert_within(run(core, problem), problem, torch.float64)
    status = core.spectralops_rational_forward(
        None, 0, None, 0, None, 0, None, 1, 1, 1, 33, 2, 0, 0, 0, 1, None
    )
    assert status != 0


@pytest.mark.parametrize("passes,rows", [(("forward", "backward"), 33000), (("double",), 8256)])
def test_many_rows(core, passes, rows):
    """Enough elements for a thread to go round its loop, for blocks down the rows, and for long sums."""
    problem = make_problem(rows, 128, 4, (5, 4), "A", shared=(False, False))
    assert_within(run(core, problem, passes=passes), problem, second="double" in passes)


@pytest.mark.parametrize("dim,groups", [(96, 3), (15, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layouts_give_the_same_bits(core, dim, groups, dtype):
    plain = make_problem(21, dim, groups, (5, 4), "B", dtype)
    expected = run(core, plain)
    strided, offset = dict(plain), dict(plain)
    for index, key in enumerate(("x", "g", "xd")):
        wide = torch.full((21, dim + 16 * (index + 1)), float("nan"), dtype=dtype)
        strided[key] = wide[:, :dim].copy_(plain[key])
        odd = torch.full((21, dim + 1 + 2 * index), float("nan"), dtype=dtype)
        offset[key] = odd[:, 1 : 1 + dim].copy_(plain[key])
    assert_same_bits(expected, run(core, strided))
    assert_same_bits(expected, run(core, offset, shift=1))
    constant = dict(plain, g=plain["g"][:1].expand(21, dim), xd=plain["xd"][:1].expand(21, dim))
    assert constant["g"].stride(0) == 0
    repeated = dict(plain, g=constant["g"].clone(), xd=constant["xd"].clone())
    assert_same_bits(run(core, repeated), run(core, constant))


@pytest.mark.parametrize(
    "rows,dim,groups,degrees", [(37, 96, 3, (5, 4)), (3, 2080, 2, (3, 2)), (11, 15, 3, (2, 3))]
)
def test_the_order_of_threads_changes_nothing(core, rows, dim, groups, degrees):
    problem = make_problem(rows, dim, groups, degrees, "C")
    expected = run(core, problem)
    for order in (0, 1, 2, 3):  # forward again, backward, shuffled twice
        core.simt_set_order(order)
        assert_same_bits(expected, run(core, problem))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sign_at_zero", [0, 1])
@pytest.mark.parametrize("degrees", [(5, 4), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sign_at_zero(core, version, sign_at_zero, degrees, dtype):
    problem = make_problem(12, 32, 2, degrees, version, dtype, (False, False))
    problem["x"][::3] = 0.0
    problem["x"][1::6] = -0.0
    problem["b"][0] = 0.0  # T = 0 in all of the first group
    problem["b"][1, 0] = 0.0
    assert_within(run(core, problem, sign_at_zero), problem, dtype, sign_at_zero)
    one, other = (reference(problem, torch.float64, value, second=False) for value in (0, 1))
    if version != "smooth":
        assert relative(one["db"], other["db"]) > 1e-3, "this problem must tell the two conventions apart"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dim,degrees", [(16, (5, 4)), (15, (3, 4))])
def test_nan_and_inf(core, version, dim, degrees):
    problem = make_problem(6, dim, 1, degrees, version, torch.float32, (True, True))
    special = [float("nan"), float("inf"), -float("inf"), 1e9, -1e10, 3e38, 1e-40]
    problem["x"][0, : len(special)] = torch.tensor(special)
    problem["g"][1, 0], problem["g"][1, 1] = float("nan"), float("inf")
    ours, plain = run(core, problem), reference(problem, torch.float32)
    assert torch.equal(ours["y"].isnan(), plain["y"].isnan())
    assert torch.equal(ours["y"].isinf(), plain["y"].isinf())
    assert ours["dx"][0, 0].isnan() and ours["dx"][1, 0].isnan() and not ours["dx"][1, 1].isfinite()
    assert not ours["da"].isfinite().any() and not ours["db"].isfinite().any()
    ordinary = slice(2, None)
    for name in ("y", "dx", "ddg", "ddx"):
        assert ours[name][ordinary].isfinite().all() and plain[name][ordinary].isfinite().all(), name
    problem["x"], problem["g"] = torch.ones_like(problem["x"]), torch.ones_like(problem["g"])
    problem["b"][0, 0] = float("nan")
    assert all(not value.isfinite().any() for value in run(core, problem).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [48, 15])
def test_sixteen_bits_are_rounded_once(core, dtype, dim):
    problem = make_problem(23, dim, 3, (5, 4), "smooth", dtype)
    wide = {key: value.float() if torch.is_tensor(value) else value for key, value in problem.items()}
    ours, single = run(core, problem), run(core, wide)
    for name in ("y", "dx", "ddg", "ddx"):
        assert torch.equal(ours[name], single[name].to(dtype)), name


@pytest.mark.parametrize("dim,degrees", [(32, (5, 4)), (6, (2, 3))])
def test_no_rows(core, dim, degrees):
    problem = make_problem(0, dim, 2, degrees, "A")
    for name, value in run(core, problem).items():
        assert value.numel() == 0 or (value == 0).all(), name


def test_which_kernel_is_launched(core):
    """The names of the launches: no silent way round the vector kernels, and one partition whatever the GPU."""

    def launches(problem, sm_count=132):
        check(core, core.spectralops_record_begin(90, sm_count, 232448))
        run(core, problem, passes=("forward", "backward", "double"))
        found = []
        for index in range(core.spectralops_record_end()):
            name, grid, block = ctypes.c_char_p(), (ctypes.c_int64 * 3)(), (ctypes.c_int64 * 3)()
            shared, params, size = ctypes.c_int64(), ctypes.c_void_p(), ctypes.c_int64()
            pointers = [ctypes.byref(value) for value in (name, grid, block, shared, params, size)]
            check(core, core.spectralops_record_get(index, *pointers))
            assert shared.value <= 48 * 1024
            found.append((name.value.decode(), tuple(grid), tuple(block)))
        return found

    for dtype, degrees in itertools.product([torch.float32, torch.float16, torch.bfloat16], FIXED):
        names = [name for name, _, _ in launches(make_problem(4, 32, 2, degrees, "B", dtype))]
        assert len(names) == 5 and not any("general" in name for name in names)
        assert all(f", {degrees[0]}, {degrees[1]}" in name for name in names if "total" not in name)
    for problem in (
        make_problem(4, 32, 2, (5, 4), "B", torch.float64),
        make_problem(4, 6, 2, (5, 4), "B"),
        make_problem(4, 32, 2, (4, 4), "B"),
    ):
        assert sum("general" in name for name, _, _ in launches(problem)) == 3
    large = make_problem(500, 512, 8, (5, 4), "A")
    assert launches(large, 132) == launches(large, 20)


def test_a_small_workspace_is_refused(core):
    problem = make_problem(8, 32, 2, (5, 4), "A")
    x, out = problem["x"], torch.empty(64 * 64)
    size = core.spectralops_rational_workspace(*sizes(problem), 0, 0)
    assert size > 0
    status = core.spectralops_rational_backward(
        x.data_ptr(),
        32,
        x.data_ptr(),
        32,
        *coefficients(problem),
        out.data_ptr(),
        out.data_ptr(),
        out.data_ptr(),
        out.data_ptr(),
        size - 8,
        *sizes(problem),
        0,
        0,
        0,
        1,
        None,
    )
    assert status != 0 and b"workspace" in core.spectralops_last_error()

"""The activations', poly_norm's and fan's Triton kernels in Triton's interpreter, for test_triton_activations.py.

A process of its own, started by test_triton_interpret.run_worker, with the output that it reads.
"""

import os
import sys

import interpret_worker

EVERYTHING = os.environ.get("SPECTRALOPS_COMPILE_ALL") == "1"
CASES, QUICK = {}, []  # the second: those that run without SPECTRALOPS_COMPILE_ALL=1
SHAPES = {  # (outer, C, inner), channels of the parameters
    "shared": ((1, 1, 900), 1),
    "last": ((19, 70, 1), 70),
    "narrow": ((5, 6, 9), 6),
    "wide": ((2, 3, 300), 3),
    "one": ((1, 1, 1), 1),
}
COUNTS = (1, 1, 0, 3, 4, 1, 2, 2)
NAMES = ("snake", "sine", "spder", "cauchy", "poly_relu", "square_wave", "wire", "wire_complex")


def case(*arguments, slow=()):
    def register(function):
        for given in (*arguments, *slow):
            name = " ".join([function.__name__, *map(str, given)])
            CASES[name] = lambda function=function, given=given: function(*given)
            if given not in slow:
                QUICK.append(name)
        return function

    return register


def compare(kernels, reference, problem, dtype, draws, factor=2.0):
    """Every output of the kernels within twice the reference's error, over some draws; two runs agree bit for bit.

    `problem()` gives the arguments of the three passes.
    """
    import torch

    from spectralops import testing

    tally = testing.Tally()
    for draw in range(draws):
        passes = problem()
        lower = torch.float32 if dtype == torch.float64 else None
        low, high = ([[_cast(a, t) for a in args] for args in passes] for t in (lower, torch.float64))
        got, again, plain, exact = [], [], [], []
        for i, args in enumerate(passes):
            with testing.guard_bands():
                got += _flat(kernels[i](*args))
            again += _flat(kernels[i](*args)) if draw == 0 else []
            plain += _flat(reference[i](*low[i]))
            exact += _flat(reference[i](*high[i]))
        assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(got, again)), "two runs differ"  # the first draw alone
        for i, (g, p, e) in enumerate(zip(got, plain, exact)):
            assert g.shape == e.shape and g.dtype == (p.dtype if dtype != torch.float64 else dtype), f"output {i}"
            tally.add(f"output {i}", g, p, e)
    tally.check(factor=factor)


def _cast(value, dtype):
    import torch

    return value.to(dtype) if dtype is not None and isinstance(value, torch.Tensor) else value


def _flat(value):
    return [t for t in (value if isinstance(value, tuple) else (value,)) if t is not None]


# ---- activations -----------------------------------------------------------------------------------------------------


def activation_problem(function, layout, dtype):
    import torch

    compute = torch.float64 if dtype == torch.float64 else torch.float32
    shape, channels = SHAPES[layout]
    xs = (*shape, 2) if function == 7 else shape
    ys = (*shape, 2) if function >= 6 else shape
    x, v, g = ((1.5 * torch.randn(s)).to(dtype) for s in (xs, xs, ys))
    p, w = (torch.randn(COUNTS[function], channels, dtype=compute) for _ in range(2))
    if function == 3:
        p[2] = p[2].abs() + 0.5
    if function == 5:
        return [(x, p, function)]
    return [(x, p, function), (g, x, p, function, True), (v, w, g, x, p, function, True)]


@case(*((f, "shared", "float32") for f in range(7)), (7, "narrow", "float32"), (1, "last", "float16"),
      (2, "wide", "bfloat16"), (0, "wide", "float64"), (0, "one", "float32"),
      slow=((7, "shared", "float32"), *((f, "narrow", "float32") for f in (0, 3, 4)),
            (7, "last", "bfloat16"), (3, "last", "float64"), (6, "wide", "float16"),
            *((f, "wide", "float64") for f in (2, 4, 6))))  # fmt: skip
def activation(function, layout, dtype, draws=12 if EVERYTHING else 6):
    import torch

    from spectralops.kernels import activations as k
    from spectralops.ops import activations_reference as spec

    dtype = getattr(torch, dtype)
    kernels = (k.activation_forward, k.activation_backward, k.activation_double_backward)
    reference = (spec.forward, spec.backward, spec.double_backward)
    compare(kernels, reference, lambda: activation_problem(function, layout, dtype), dtype, draws)


@case((1,))
def activation_without_sums(function):
    """need_params False and no direction in the parameters: the same dx, and None."""
    import torch

    from spectralops.kernels import activations as k

    _, first, second = activation_problem(function, "narrow", torch.float32)
    dx, dparams = k.activation_backward(*first[:-1], False)
    assert dparams is None and torch.equal(dx, k.activation_backward(*first)[0])
    v, w, *rest = second
    dgrad, dx, dparams = k.activation_double_backward(v, None, *rest[:-1], False)
    expect = k.activation_double_backward(v, torch.zeros_like(w), *rest)
    assert dparams is None and torch.equal(dgrad, expect[0]) and torch.equal(dx, expect[1])


@case(())
def activation_several_tiles_a_program():
    """Small tiles and few programs, so that every loop runs more than once."""
    import torch

    from spectralops.kernels import configs

    for key in configs.ACTIVATION:
        configs.ACTIVATION[key] = configs.ACTIVATION_PAIRS[key] = configs.Tile(128, 2, 1)
    configs.ACTIVATION_PROGRAMS, configs.ACTIVATION_COLUMNS, configs.ACTIVATION_REDUCE_BLOCK = 3, 16, 4
    for layout in ("shared", "narrow", "wide"):
        activation(3, layout, "float32", 12 if layout == "shared" else 4)
    activation(7, "narrow", "float32", 2)
    assert torch.initial_seed() == 0


# ---- poly_norm -------------------------------------------------------------------------------------------------------


@case(
    ((5, 37), 3, "float32"),
    ((5, 37), 3, "bfloat16"),
    ((2, 2500), 2, "float32"),
    ((2, 2500), 2, "float16"),
    ((70, 16), 5, "float64"),
)
def poly_norm(shape, r, dtype, draws=6):
    import torch

    from spectralops.kernels import poly_norm as k
    from spectralops.ops import poly_norm as spec

    dtype = getattr(torch, dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32

    def problem():
        x, g, v = (torch.randn(shape).to(dtype) for _ in range(3))
        w, wd = torch.randn(2, r, dtype=compute)
        b, bd = torch.randn(2, 1, dtype=compute)
        return [(x, w, b, 1e-6), (g, x, w, 1e-6), (v, wd, bd, g, x, w, 1e-6)]

    kernels = (k.poly_norm_forward, k.poly_norm_backward, k.poly_norm_double_backward)
    compare(kernels, (spec.reference_forward, spec.reference_backward, spec.reference_double_backward), problem, dtype, draws)


@case(("float16",), ("float32",), ("float64",))
def poly_norm_of_any_size(dtype):
    """Rows from the smallest to the largest numbers, zero, NaN and infinity."""
    import torch

    from spectralops import testing
    from spectralops.kernels import poly_norm as k
    from spectralops.ops import poly_norm as spec

    dtype = getattr(torch, dtype)
    info = torch.finfo(dtype)
    x = torch.randn(8, 33, dtype=torch.float64)
    x = x / x.abs().amax(1, keepdim=True)
    scales = [info.max, info.max / 4, 1e4, 1.0, 1e-3, info.tiny, 0.0, 1.0]
    x = (x * torch.tensor(scales, dtype=torch.float64)[:, None]).to(dtype)
    x[7, 3] = float("inf")
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    w, b = torch.tensor([0.5, -0.3, 0.2], dtype=compute), torch.tensor([0.1], dtype=compute)
    y, expect = k.poly_norm_forward(x, w, b, 1e-6), spec.reference_forward(x, w, b, 1e-6)
    assert y[:7].isfinite().all() and y[7].isnan().all()
    assert testing.relative_error(y, expect) <= 8 * info.eps
    g = torch.randn(8, 33).to(dtype)
    dx, expect = k.poly_norm_backward(g, x, w, 1e-6)[0], spec.reference_backward(g, x, w, 1e-6)[0]
    for row in range(7):
        assert testing.relative_error(dx[row], expect[row]) <= 64 * info.eps, row


@case(())
def poly_norm_several_blocks_a_program():
    from spectralops.kernels import configs

    for key in configs.POLY_NORM:
        configs.POLY_NORM[key] = configs.Tile(64, 4, 1)
    configs.POLY_NORM_PROGRAMS, configs.ACTIVATION_REDUCE_BLOCK = 2, 2
    poly_norm((5, 37), 3, "float32", 3)  # three steps a program, the last one past the rows
    poly_norm((5, 150), 3, "float32", 3)


# ---- fan -------------------------------------------------------------------------------------------------------------


@case(((9, 200, 140), "float32"), ((9, 20, 140), "float64"), ((5, 0, 20), "bfloat16"), ((4, 33, 0), "float16"))
def fan(sizes, dtype):
    import torch

    from spectralops.kernels import fan as k
    from spectralops.ops import fan as spec

    dtype, (rows, p, q) = getattr(torch, dtype), sizes

    def problem():
        h, e, g, v, u = (torch.randn(rows, c).to(dtype) for c in (p, q, 2 * p + q, p, q))
        return [(h, e), (g, h, e), (v, u, g, h, e)]

    kernels = (k.fan_forward, k.fan_backward, k.fan_double_backward)
    compare(kernels, (spec.reference_forward, spec.reference_backward, spec.reference_double_backward), problem, dtype, 6)


# ---- the public functions --------------------------------------------------------------------------------------------


@case(())
def public():
    """The seam between the op layer and the kernels."""
    import torch
    from activations_cases import CASES as CALLS
    from activations_cases import SHARED_ONLY, derivatives, inputs

    import spectralops as so
    from spectralops import testing

    for name in CALLS:
        x, params = inputs(name, (3, 4, 10), torch.float32, None if name in SHARED_ONLY else 4)
        g = torch.randn_like(CALLS[name][0](x, params, dim=1))
        seeds = [torch.randn_like(t) for t in (x, *params)]
        for u, v in zip(*(derivatives(name, b, x, params, g, seeds, 1) for b in ("triton", "reference"))):
            assert testing.relative_error(u, v) < 1e-5, name
    x, w, b = torch.randn(3, 7, 9), torch.randn(3), torch.randn(())
    assert testing.relative_error(so.poly_norm(x, w, b, backend="triton"), so.poly_norm(x, w, b, backend="reference")) < 1e-6
    args = torch.randn(5, 4, 8), torch.randn(6, 8), torch.randn(7, 8), torch.randn(7)
    assert testing.relative_error(so.fan(*args, backend="triton"), so.fan(*args, backend="reference")) < 1e-6
    assert "triton     chosen" in so.explain("snake", x, 1.0, backend="triton")
    assert "up to 16 parameters" in so.explain("poly_relu", x, torch.ones(20))


if __name__ == "__main__":
    interpret_worker.CASES = CASES
    interpret_worker.main(sys.argv[1:])

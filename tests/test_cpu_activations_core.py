"""csrc/cpu and csrc/capi for activation, poly_norm and fan, called through the C interface."""

import math
import re

import pytest
import torch
from activation_calls import FUNCTIONS, NAMES, OUTPUTS, Activation, Fan, PolyNorm, problem, problems, run
from core_build import ISAS, capabilities, cpu_core
from rational_calls import CPU, DTYPES, compute
from simt_build import CSRC
from spectralops.backends import backend
from spectralops.testing import Tally


@pytest.fixture(autouse=True)
def _seeded_and_best_capability():
    """The reference on one thread: where cores are shared, torch's own threads mostly wait for each other."""
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    cpu_core("activation").spectralops_set_cpu_capability(None)


def use(isa):
    if isa not in capabilities("activation"):
        pytest.skip(f"this machine has no {isa}")
    assert cpu_core("activation").spectralops_set_cpu_capability(isa.encode()) == 0


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_error_is_at_most_twice_that_of_the_reference(name, dtype):
    """All shapes, narrow and wide, shared and not; float64 against what float32 makes of the same rule."""
    tallies = {isa: Tally() for isa in capabilities("activation")}
    for call in problems(name, dtype):
        exact = call.cast(torch.float64).reference()
        reference = call.cast(torch.float32).reference() if dtype == torch.float64 else call.reference()
        for isa, tally in tallies.items():
            use(isa)
            for output, got, plain, true in zip(OUTPUTS[name], call.run(), reference, exact, strict=True):
                wanted = compute(dtype) if output.startswith(("dp", "dw", "db")) else dtype
                assert got.dtype == wanted and got.shape == true.shape
                if got.numel():
                    tally.add(output, got, plain, true)
    for tally in tallies.values():
        tally.check()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_threads(name, isa):
    use(isa)
    if name == "poly_norm":
        calls = [PolyNorm((700, 100), torch.float32), PolyNorm((70, 3000), torch.bfloat16, degree=4)]
    elif name == "fan":
        calls = [Fan((900, 40, 100), torch.float32)]
    else:
        shapes = ((400, 300, 1), (3, 2, 40000), (90, 30, 70), (30000, 1, 3))
        calls = [Activation(name, shape, torch.float32, shared=i == 3) for i, shape in enumerate(shapes)]
    for call in calls:
        once = call.run(1)
        assert all(t.isfinite().all() for t in once)
        assert same(once, call.run(2)) and same(once, call.run(5))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_walk_makes_the_same_elements(name, dtype, isa):
    """Parameters a lane, a channel or shared, at every place in a vector: y, dx and dgrad bit for bit."""
    use(isa)
    call = Activation(name, (6, 35, 66), dtype, shared=True)
    expected = call.run()
    call.params, call.ggparams = (t.expand(-1, 35).contiguous() for t in (call.params, call.ggparams))
    for shape in ((6, 35, 66), (66, 35, 6), (396, 35, 1)):
        for tensor in ("x", "grad", "ggx"):
            t = getattr(call, tensor)
            setattr(call, tensor, t.reshape(*shape, *([2] if t.numel() > 6 * 35 * 66 else [])))
        for i, got in enumerate(call.run()):
            if i not in (2, 5):
                assert torch.equal(got.flatten(), expected[i].flatten())


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_bit_results_are_the_rounded_float_results(name):
    for dtype in (torch.float16, torch.bfloat16):
        for index in (1, 2):
            call = problem(name, dtype, index)
            wide = call.cast(torch.float32).run()
            assert same(call.run(), [w.to(g.dtype) for w, g in zip(wide, call.run(), strict=True)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_spared(name):
    """Without ggparams as with zeros; without dparams the rest is the same."""
    for shape in ((40, 50, 1), (2, 3, 300)):
        call = Activation(name, shape, torch.float32)
        call.ggparams.zero_()
        expected = call.run()
        call.ggparams = None
        assert same(call.run(), expected)
        call.need = False
        got = call.run()
        assert got[2] is None and got[5] is None
        assert same([got[i] for i in (0, 1, 3, 4)], [expected[i] for i in (0, 1, 3, 4)])


@pytest.mark.parametrize("name", NAMES)
def test_empty(name):
    if name == "poly_norm":
        calls = [PolyNorm(shape, torch.float32) for shape in ((0, 8), (5, 0))]
    elif name == "fan":
        calls = [Fan(shape, torch.float64) for shape in ((0, 8, 3), (5, 0, 0))]
    else:
        calls = [Activation(name, shape, torch.float32) for shape in ((0, 3, 5), (4, 3, 0), (2, 0, 7), (0, 1, 9))]
    for call in calls:
        for output, got in zip(OUTPUTS[name], call.run(), strict=True):
            assert not output.startswith(("dp", "dw", "db")) or (got == 0).all()


def differs_at(got, expected):
    return (got.isnan() != expected.isnan()) | (got.isinf() != expected.isinf())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_are_where_the_reference_has_them(name, dtype, isa):
    use(isa)
    nan, inf = math.nan, math.inf
    shapes = {"poly_norm": [(9, 40)], "fan": [(9, 20, 30)]}.get(name, [(9, 20, 1), (3, 5, 80)])
    for shape in shapes:
        for tensor in range(3):
            for value in [nan, inf, -inf] if tensor == 0 else [nan]:
                if name in FUNCTIONS:
                    call = Activation(name, shape, dtype)
                else:
                    call = (PolyNorm if name == "poly_norm" else Fan)(shape, dtype)
                target = call.tensors()[tensor]
                target[2 if target.shape[0] > 3 else 1].flatten()[3] = value
                for output, got, expected in zip(OUTPUTS[name], call.run(), call.reference(), strict=True):
                    assert not differs_at(got, expected).any(), (shape, tensor, value, output)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_snake_without_alpha(dtype, isa):
    """alpha = 0 is its limit, and small products lose no digits."""
    use(isa)
    call = Activation("snake", (50, 9, 1), dtype)
    call.params[0] = torch.tensor([0, -0.0, 1e-30, -1e-20, 1e-9, -1e-5, 1e-3, 3.0, -40.0])
    tally = Tally()
    plain = call.cast(torch.float32) if dtype == torch.float64 else call
    for output, *three in zip(OUTPUTS["snake"], call.run(), plain.reference(), call.cast(torch.float64).reference(), strict=True):
        for channel in range(9):
            columns = [t[:, channel] for t in three]
            assert columns[0].isfinite().all()
            tally.add(output, *columns)
    tally.check()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["snake", "sine", "square_wave", "spder", "wire", "fan"])
def test_large_arguments(name, isa):
    """The rounded product is reduced exactly, as by torch."""
    use(isa)
    tally = Tally()
    for exponent in range(2, 30, 3):
        call = Fan((40, 30, 0), torch.float32) if name == "fan" else Activation(name, (1, 1, 1200), torch.float32)
        target = call.tensors()[0]
        target.mul_(10.0**exponent)
        if name != "fan":
            call.params.fill_(1)
        if name == "wire":
            call.params[1] = 0
        exact = call.cast(torch.float64).reference()[0]
        tally.add("y", call.run()[0], call.reference()[0], exact)
    tally.check()


@pytest.mark.parametrize("isa", ISAS)
def test_spder_at_zero(isa):
    use(isa)
    call = Activation("spder", (1, 1, 33), torch.float32)
    call.x[..., ::2] = 0
    call.x[..., 4] = -0.0
    for got in (t for t in call.run() if t.numel()):
        assert (got[..., ::2] == 0).all() and got[..., 1::2].all()


@pytest.mark.parametrize("isa", ISAS)
def test_square_wave(isa):
    use(isa)
    call = Activation("square_wave", (1, 1, 999), torch.float32, scale=100)
    call.x[..., 0] = 0
    expected = torch.sign(torch.sin(call.x * call.params[0]))
    assert torch.equal(call.run()[0], expected) and expected[0, 0, 0] == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poly_norm_of_every_size(dtype, isa):
    """Powers that would overflow or vanish: the rows' scale decides nothing but the share of eps."""
    use(isa)
    tally, info = Tally(), torch.finfo(dtype)
    for scale in (info.max / 8, info.max / 1e3, 300.0, 1.0, 1e-3):
        call = PolyNorm((8, 130), dtype)
        call.x = (call.x.double().clamp(-6, 6) * scale).to(dtype)
        plain = call.cast(torch.float32) if dtype == torch.float64 else call
        if scale < torch.finfo(torch.float32).max:
            tally.add("y", call.run()[0], plain.reference()[0], call.cast(torch.float64).reference()[0])
        assert all(t.isfinite().all() for t in call.run()[:4])
    tally.check()


# ---- what the entries refuse ------------------------------------------------------------------------------------------


def good(name):
    """Arguments of a call that works, by the names of the header."""
    header = (CSRC / "capi" / "spectralops.h").read_text()
    prototype = re.search(rf"int spectralops_{name}\((.*?)\);", header, flags=re.S).group(1)
    arguments = prototype.split(",")
    names = [a.split()[-1].lstrip("*") for a in arguments]
    keep = {n: torch.zeros(64) for n, a in zip(names, arguments, strict=True) if "*" in a and n != "stream"}
    keep["workspace"] = torch.zeros(4096)
    sizes = dict(outer=2, channels=3, inner=4, count=3, function=3, rows=2, dim=8, degree=3, eps=1e-6, p=2, q=3)
    values = {**sizes, "workspace_bytes": 16384, "dtype": 0, "device": CPU, "threads": 1, "stream": None, **keep}
    return names, values, [n for n in keep if n in names]


BAD = [
    (dict(outer=-1), "outer must not be negative, got -1"),
    (dict(channels=-2), "channels must not be negative, got -2"),
    (dict(inner=-3), "inner must not be negative, got -3"),
    (dict(function=8), "function must be 0 (snake), 1 (sine), 2 (spder), 3 (cauchy), 4 (poly_relu)"),
    (dict(function=-1), "function must be 0"),
    (dict(count=2), "count must be 3 for function 3, got 2"),
    (dict(count=0, function=4), "count must be at least 1 for function 4, got 0"),
    (dict(count=34, function=4), "count 34: no kernel takes more than 33 parameters"),
    (dict(rows=-1), "rows must not be negative, got -1"),
    (dict(dim=-1), "dim must not be negative, got -1"),
    (dict(degree=0), "degree must be at least 1, got 0"),
    (dict(degree=34), "degree 34: no kernel takes one above 33"),
    (dict(p=-1), "p must not be negative, got -1"),
    (dict(q=-1), "q must not be negative, got -1"),
    (dict(dtype=4), "dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got 4"),
    (dict(device=-2), "device must be -1 (CPU) or a CUDA ordinal, got -2"),
    (dict(device=0), "no CUDA kernel"),
    (dict(threads=0), "threads must be at least 1, got 0"),
    (dict(workspace_bytes=8), "workspace_bytes is 8, "),
]
ENTRIES = [f"{op}_{p}" for op in ("activation", "poly_norm", "fan") for p in ("forward", "backward", "double_backward")]


@pytest.mark.parametrize("name", ENTRIES)
def test_bad_arguments(name):
    names, values, pointers = good(name)
    run(name, *(values[n] for n in names))
    for change, message in BAD:
        if set(change) <= set(names):
            with pytest.raises(ValueError, match=re.escape(f"{name}: {message}")):
                run(name, *({**values, **change}[n] for n in names))
    for pointer in set(pointers) - {"dparams", "ggparams"}:
        with pytest.raises(ValueError, match=f"{name}: {pointer} is NULL"):
            run(name, *({**values, pointer: None}[n] for n in names))


def test_another_device_is_unsupported():
    names, values, _ = good("fan_forward")
    values = [{**values, "device": 0}[n] for n in names]
    plain = [v.data_ptr() if isinstance(v, torch.Tensor) else v for v in values]
    assert cpu_core("activation").spectralops_fan_forward(*plain) == 2


@pytest.mark.parametrize("function", ["activation_forward", "poly_norm_backward", "fan_double_backward"])
def test_no_gpu_backend_of_the_core_takes_it(function):
    from spectralops.backends import _core

    assert _core.unsupported(function, torch.empty(2, 3, device="meta")) == f"no CUDA C++ kernel for {function}"
    for name in ("cuda", "cupy"):
        assert backend(name).supports(function, torch.empty(2, 3))[0] is False

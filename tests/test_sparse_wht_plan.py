"""`SparseWHTPlan`: points, numbering, growth, saving and bad input, against brute force in Python integers and numpy."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from scipy.stats import chi2

import spectralops as so
from spectralops.ops import bits
from spectralops.ops import sparse_wht_groups as groups
from spectralops.ops.sparse_wht_levels import chi_square_tail
from spectralops.ops.sparse_wht_plan import FORMAT
from sparse_wht_functions import as_dict, draw, found, function

SCHEMES = [dict(offsets="exact"), dict(offsets="nso", repeats=2), dict(offsets="bch", degree=2, repeats=2)]


def whole(row):
    """Words -> the integer."""
    return sum((w % (1 << 64)) << (64 * i) for i, w in enumerate(row))


def samples(plan):
    """The points M_c l + d_p as integers, in the order (c, l, p)."""
    columns, offsets = ([[whole(row) for row in part] for part in t.tolist()] for t in plan._points)
    out = []
    for c in range(plan.groups):
        for j in range(plan.bins):
            moved = 0
            for i in range(plan.b):
                moved ^= columns[c][i] * (j >> i & 1)
            out += [moved ^ d for d in offsets[c]]
    return out


def check_numbering(plan):
    """Every sample is given the query at its point, no point is asked twice, queries come in the order of their samples."""
    points = samples(plan)
    asked = [whole(row) for row in plan.queries(format="packed").tolist()]
    assert len(asked) == plan.num_queries == len(set(points))
    slots = plan._slots().flatten().tolist()
    assert [asked[s] for s in slots] == points
    new = asked
    if plan._smaller is not None:
        assert asked[: plan._smaller.num_queries] == [whole(row) for row in plan._smaller.queries(format="packed").tolist()]
        known, new = set(asked[: plan._smaller.num_queries]), asked[plan._smaller.num_queries :]
        points = [p for p in points if p not in known]
    assert list(dict.fromkeys(points)) == new


CASES = [
    dict(n=1, k=1), dict(n=1, k=2, offsets="nso"), dict(n=5, k=8, offsets="nso", repeats=4), dict(n=6, k=64),
    dict(n=7, k=128, offsets="nso"),
    dict(n=8, k=3, b=0), dict(n=8, k=20, offsets="bch", degree=3, repeats=2), dict(n=9, k=16, b=8, groups=5), dict(n=10, k=30),
    dict(n=11, k=20, offsets="nso", repeats=3), dict(n=12, k=1000, b=11, groups=2), dict(n=30, k=20, groups=1), dict(n=63, k=10),
    dict(n=64, k=10), dict(n=65, k=10), dict(n=65, k=4, offsets="nso", repeats=2), dict(n=128, k=6),
    dict(n=130, k=5, offsets="nso"),
    dict(n=130, k=5, offsets="bch", degree=3, repeats=2), dict(n=200, k=3, b=2, seed=-7),
]  # fmt: skip


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_samples_are_given_the_queries_at_their_points(arguments):
    plan = so.SparseWHTPlan(**arguments)
    for _ in range(3):
        check_numbering(plan)
        if plan.b == plan.n:
            break
        plan = plan.grow()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_small_plans_ask_no_point_twice(data):
    n = data.draw(st.integers(1, 9), "n")
    scheme = dict(data.draw(st.sampled_from(SCHEMES), "scheme"))
    if "degree" in scheme:
        scheme["degree"] = min(n, scheme["degree"])
    b = data.draw(st.integers(0, min(n, 6)), "b")
    count, seed = data.draw(st.integers(1, 4), "groups"), data.draw(st.integers(-(2**70), 2**70), "seed")
    plan = so.SparseWHTPlan(n, 1, b=b, groups=count, seed=seed, **scheme)
    check_numbering(plan.grow(data.draw(st.integers(b, min(n, 6)), "grown")))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_points_whose_names_agree_are_kept_apart(scheme, monkeypatch):
    monkeypatch.setattr(groups, "names", lambda points: torch.zeros_like(points[..., 0]))
    plan, grown = so.SparseWHTPlan(70, 4, **scheme), so.SparseWHTPlan(70, 2, **scheme).grow()
    for plan in (plan, grown):
        asked = [whole(row) for row in plan.queries(format="packed").tolist()]
        assert [asked[s] for s in plan._slots().flatten().tolist()] == samples(plan)
        assert len(asked) >= len(set(asked)) == len(set(samples(plan)))  # some may be asked twice, none is lost


def test_digests_are_linear_and_tell_points_apart():
    for w in (1, 2, 5):
        weights, x = groups.random_words(1, "w", 64 * w), torch.randint(-(2**62), 2**62, (7, w))
        naive = [0] * 7
        for p, weight in enumerate(weights.tolist()):
            for row, vector in enumerate(x.tolist()):
                naive[row] ^= weight * (vector[p // 64] >> (p % 64) & 1)
        assert bits.digest(x, weights).tolist() == naive
    unit = groups.names(bits.pack_bits(torch.eye(1000, dtype=torch.uint8)))
    pairs = (unit[:, None] ^ unit)[torch.ones(1000, 1000, dtype=torch.bool).triu(1)]
    assert pairs.unique().numel() == 1000 * 999 // 2


# ---- the transform of the samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize(("n", "b"), [(1, 0), (1, 1), (5, 3), (9, 4), (10, 10)])
def test_bins_hold_the_sums_of_their_keys(n, b, scheme):
    scheme = {**scheme, "degree": min(n, 2)} if "degree" in scheme else scheme
    plan = so.SparseWHTPlan(n, 1, b=b, **scheme)
    f = np.random.default_rng(0).standard_normal(1 << n)
    spectrum = hadamard(1 << n) @ f / (1 << n)
    values = torch.from_numpy(f)[plan.queries(format="packed").squeeze(1)]
    u = np.einsum("jl,clp->cjp", hadamard(1 << b), values[plan._slots().long()].numpy()) / (1 << b)
    columns, offsets = plan._points
    expected = np.zeros_like(u)
    for c in range(plan.groups):
        for k in range(1 << n):
            j = sum((bin(k & int(m)).count("1") & 1) << i for i, m in enumerate(columns[c, :, 0]))
            expected[c, j] += [spectrum[k] * (-1) ** bin(k & int(d)).count("1") for d in offsets[c, :, 0]]
    assert np.abs(u - expected).max() < 1e-12


def test_sizes():
    for n, b, scheme, offsets in ((12, 4, "exact", 9), (12, 4, "nso", 13), (500, 6, "exact", 495), (20, 20, "exact", 1)):
        plan = so.SparseWHTPlan(n, 1, b=b, offsets=scheme, repeats=3, groups=4)
        assert (plan.num_offsets, plan.num_samples, plan.bins) == (3 * offsets, 4 * 3 * offsets << b, 1 << b)
    assert so.SparseWHTPlan(500, 10, offsets="bch", degree=5, repeats=2).num_offsets == 2 * (5 * 9 + 1)
    for k, b in ((1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (100, 8), (128, 8), (129, 9)):
        assert so.SparseWHTPlan(60, k).b == b
    assert so.SparseWHTPlan(3, 8).b == 3


@pytest.mark.parametrize("n", [1, 7, 63, 64, 65, 200])
def test_matrices_and_their_inverses(n):
    t = groups.tables(n, 3, "exact", 1, None, 5)
    a, columns, inverse, key_columns = (bits.unpack_bits(part, n).double() for part in t[:4])  # rows are vectors
    for c in range(3):
        assert torch.equal(columns[c], a[c].T) and torch.equal(key_columns[c], inverse[c].T)
        assert torch.equal((a[c] @ inverse[c]).remainder(2), torch.eye(n).double())
    assert not n > 2 or not torch.equal(a[0], a[1])


@pytest.mark.parametrize("n", [20, 64, 100])
def test_keys_share_a_bin_as_rarely_as_random_ones(n):
    b, hits, pairs = 5, {"random": 0, "one": 0, "two": 0}, 0
    g = torch.Generator().manual_seed(n)
    kinds = {"random": torch.randint(0, 2, (300, n), generator=g).double().unique(dim=0), "one": torch.eye(n).double()}
    kinds["two"] = torch.stack([kinds["one"][i] + kinds["one"][j] for i in range(18) for j in range(i)])
    sizes = {kind: len(keys) * (len(keys) - 1) / 2 for kind, keys in kinds.items()}
    for seed in range(40):
        columns = bits.unpack_bits(groups.tables(n, 3, "exact", 1, None, seed).to_bin_rows[:, :b], n).double()
        for kind, keys in kinds.items():
            bins = ((keys @ columns.transpose(1, 2)).remainder(2) * 2.0 ** torch.arange(b)).sum(2).long()  # (C, keys)
            hits[kind] += sum(int((x * (x - 1)).sum()) // 2 for x in (row.bincount(minlength=32) for row in bins))
        pairs += 3
    for kind, count in hits.items():
        assert 0.5 < count / (pairs * sizes[kind]) * 2**b < 1.15, kind  # of one matrix they are dependent; 120 matrices


# ---- queries -------------------------------------------------------------------------------------------------------


def test_queries_agree_in_every_form():
    coded = dict(n=100, k=1, offsets="bch", degree=2)
    for arguments in (dict(n=12, k=9), dict(n=65, k=2, offsets="nso"), dict(n=130, k=1, repeats=2), coded):
        for plan in (so.SparseWHTPlan(**arguments), so.SparseWHTPlan(**arguments).grow()):
            points, packed = plan.queries(), plan.queries(format="packed")
            assert points.shape == (plan.num_queries, plan.n) and points.dtype == torch.uint8 and points.is_contiguous()
            assert packed.shape == (plan.num_queries, -(-plan.n // 64)) and packed.dtype == torch.int64
            assert [whole(row) for row in packed.tolist()] == [int("".join(map(str, row)), 2) for row in points.tolist()]
            assert torch.equal(bits.pack(points), packed) and torch.equal(bits.unpack(packed, plan.n), points)
            for chunk, start in ((1000, 0), (997, 13), (plan.num_queries, 1), (37, plan.num_queries - 50), (5, plan.num_queries)):
                for format, all_of_it in (("bits", points), ("packed", packed)):
                    parts = list(plan.queries(chunk, format, start=start))
                    assert all(len(p) == chunk for p in parts[:-1]) and len(parts) == -(-(plan.num_queries - start) // chunk)
                    assert torch.equal(torch.cat([all_of_it[:0], *parts]), all_of_it[start:])
                    assert torch.equal(plan.queries(format=format, start=start), all_of_it[start:])


def test_many_queries_are_quick():
    so.SparseWHTPlan(100, 10).queries()
    times = []
    for seed in range(2):
        begin = time.process_time()
        points = so.SparseWHTPlan(500, 100, seed=seed).queries()
        times.append(time.process_time() - begin)
    assert points.shape[0] > 370_000 and min(times) < 1.0  # 0.1 s on a quiet core


# ---- growth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("n", [14, 70])
def test_a_grown_plan_decodes_what_was_asked_before(n, scheme):
    keys, values = draw(n, 24, degree=2)
    plan = so.SparseWHTPlan(n, 2, **scheme)
    answers = function(plan.queries(), keys, values)
    assert plan.decode(answers).unresolved.numel()
    for b in (4, 7):
        grown = plan.grow(b)
        assert torch.equal(grown.queries()[: plan.num_queries], plan.queries())
        answers = torch.cat([answers, function(grown.queries(start=plan.num_queries), keys, values)])
        plan = grown
    spectrum = plan.decode(answers)
    got, exact = found(spectrum), as_dict(keys, values)
    assert spectrum.unresolved.shape == (0, 2) and got.keys() == exact.keys()
    assert max(abs(got[k] - exact[k]) for k in exact) < 1e-12
    assert plan.b == plan.grow(plan.b).b == 7 and plan.grow().b == 8


def test_a_grown_plan_saves_and_is_another_than_a_new_one(tmp_path):
    plan = so.SparseWHTPlan(20, 2).grow(5)
    plan.save(tmp_path / "plan")
    again = so.SparseWHTPlan.load(tmp_path / "plan")
    assert again == plan and hash(again) == hash(plan) and torch.equal(again.queries(), plan.queries())
    assert plan != so.SparseWHTPlan(20, 2, b=5)
    new = so.SparseWHTPlan(20, 2, b=5)
    order = [{tuple(row) for row in p.queries().tolist()} for p in (plan, new)]
    assert order[0] == order[1]


# ---- another process -----------------------------------------------------------------------------------------------

PINNED = {
    "n=40, k=5": "a8cea33e91dce51e",
    "n=150, k=3, seed=-2": "f78d3884e8309011",
    "n=20, k=2, offsets='nso', repeats=3, seed=2**80": "5244ddb38e404cdc",
    "n=90, k=2, offsets='bch', degree=3, repeats=2": "b57099564e608391",
}  # fmt: skip


def hash_of(plan):
    return hashlib.sha256(plan.queries().numpy().tobytes()).hexdigest()[:16]


def test_the_points_of_a_seed_stay_the_same():
    plans = {text: eval(f"so.SparseWHTPlan({text})") for text in PINNED}
    assert {text: hash_of(plan) for text, plan in plans.items()} == PINNED
    assert len({hash_of(so.SparseWHTPlan(40, 5, seed=seed)) for seed in range(5)}) == 5


def test_values_are_decoded_in_another_process(tmp_path):
    keys, values = draw(30, 5)
    plan = so.SparseWHTPlan(30, 5, seed=3)
    plan.save(tmp_path / "plan.json")
    torch.save(function(plan.queries(), keys, values), tmp_path / "values.pt")
    code = (
        "import sys, hashlib, torch, spectralops as so; d = sys.argv[1]; plan = so.SparseWHTPlan.load(d + '/plan.json');"
        "s = plan.decode(torch.load(d + '/values.pt'));"
        "print(hashlib.sha256(plan.queries().numpy().tobytes()).hexdigest()[:16], sorted(map(tuple, s.bits().tolist())))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "17", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.strip() == f"{hash_of(plan)} {sorted(map(tuple, keys.tolist()))}", done.stderr


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_plans_pickle_and_save(tmp_path, scheme):
    plan = so.SparseWHTPlan(80, 3, seed=4, chase=2, majority="hard", groups=2, **scheme)
    path = tmp_path / "plan"
    plan.save(path)
    assert path.stat().st_size < 500
    loaded = so.SparseWHTPlan.load(path), so.SparseWHTPlan.load(str(path))
    for again in (pickle.loads(pickle.dumps(plan)), *loaded, plan.to("cpu")):
        assert again == plan and repr(again) == repr(plan) and torch.equal(again.queries(), plan.queries())
        assert again._call(0.5) == plan._call(0.5)
    for same in (plan, plan.grow(5)):
        assert eval(repr(same), {"SparseWHTPlan": so.SparseWHTPlan}) == same
    assert plan != 3 and plan != so.SparseWHTPlan(80, 3)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "plan"
    so.SparseWHTPlan(10, 2).save(path)
    state = json.loads(path.read_text())
    wrong = [
        (json.dumps({**state, "version": 2}), "another version"),
        (json.dumps({**state, "format": "other"}), "not a saved SparseWHTPlan"),
        ("{}", "not a saved"), ("[1]", "not a saved"), ("", "not a saved"), ("n = 3", "not a saved"), ("3", "not a saved"),
        (json.dumps({"format": FORMAT, "version": 1}), "missing"),
        (json.dumps({**state, "more": 1}), "more missing or not known"),
        (json.dumps({**state, "n": -3}), "n must be"), (json.dumps({**state, "b": 99}), "b must be"),
    ]  # fmt: skip
    for text, message in wrong:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            so.SparseWHTPlan.load(path)
    path.write_bytes(b"\x80\x04\xff")
    with pytest.raises(ValueError, match="not a saved"):
        so.SparseWHTPlan.load(path)
    with pytest.raises(FileNotFoundError):
        so.SparseWHTPlan.load(tmp_path / "none")


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "n must be an int", dict(n=3.0)), (TypeError, "n must be an int", dict(n=True)),
        (ValueError, "n must be at least 1", dict(n=0)),
        (ValueError, "n must be at least 1 and at most 4096", dict(n=5000)), (TypeError, "k must be an int", dict(k="3")),
        (ValueError, "k must be at least 1", dict(k=0)), (ValueError, "k is too large for n", dict(n=3, k=9)),
        (ValueError, "groups must be", dict(groups=0)), (ValueError, "groups must be", dict(groups=17)),
        (TypeError, "groups", dict(groups=None)),
        (ValueError, "offsets must be one of 'exact', 'nso', 'bch'", dict(offsets="random")),
        (ValueError, "repeats must be", dict(repeats=0)),
        (ValueError, "repeats must be", dict(repeats=1001)), (ValueError, "degree is needed", dict(offsets="bch")),
        (ValueError, "degree must be at least 1", dict(offsets="bch", degree=0)),
        (ValueError, "at most 16", dict(offsets="bch", degree=17)),
        (ValueError, "degree belongs to", dict(degree=3)), (TypeError, "degree must be an int", dict(offsets="bch", degree=2.5)),
        (ValueError, "b must be at least 0", dict(b=-1)), (ValueError, "b must be at least 0 and at most 20", dict(b=21)),
        (ValueError, "b must be at least 0 and at most 30", dict(n=100, b=31)),
        (ValueError, "k = 1180", dict(n=100, k=10995 << 30)),
        (TypeError, "b must be an int", dict(b=1.0)), (ValueError, "majority must be", dict(majority="both")),
        (ValueError, "chase must be", dict(chase=17)), (ValueError, "chase must be", dict(chase=-1)),
        (TypeError, "seed", dict(seed=None)),
        (ValueError, "q must be one of 2", dict(q=3)), (ValueError, "device must be", dict(device="gpu7")),
        (TypeError, "device must be", dict(device=[1])), (ValueError, "samples, more than 2147483647", dict(n=1000, b=22)),
    ],
)  # fmt: skip
def test_bad_arguments(error, message, arguments):
    with pytest.raises(error, match=message):
        so.SparseWHTPlan(**{**dict(n=20, k=4), **arguments})


def test_bad_requests_for_queries_and_growth():
    plan = so.SparseWHTPlan(10, 2)
    for call, error, message in (
        (lambda: plan.queries(0), ValueError, "chunk must be at least 1"),
        (lambda: plan.queries(2.0), TypeError, "chunk must be an int"),
        (lambda: plan.queries(format="float"), ValueError, "format must be one of 'bits', 'packed'"),
        (lambda: plan.queries(start=-1), ValueError, "start must be in"),
        (lambda: plan.queries(start=plan.num_queries + 1), ValueError, "start must"),
        (lambda: plan.queries(start="0"), TypeError, "start must be an int"),
        (lambda: plan.grow(1), ValueError, "b must be at least 2 and at most 10"),
        (lambda: plan.grow(11), ValueError, "b must be"), (lambda: plan.grow(2.0), TypeError, "b must be an int"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(ValueError, match="b must be at least 10"):
        plan.grow(10).grow()


def test_bad_values():
    plan = so.SparseWHTPlan(10, 2)
    good = torch.zeros(plan.num_queries)
    for values, error, message in (
        ([0.0] * plan.num_queries, TypeError, "values must be a torch.Tensor, got list"),
        (good.numpy(), TypeError, "values must be a torch.Tensor, got ndarray"),
        (good.to(torch.complex64), TypeError, "values must have dtype"), (good.to_sparse(), TypeError, "dense"),
        (good[1:], ValueError, "values must have shape"), (good[None, None], ValueError, "values must have shape"),
        (good[:, None], ValueError, "values must have shape"), (torch.tensor(0.0), ValueError, "values must have shape"),
        (torch.cat([good, good]), ValueError, "values must have shape"),
        (good.to("meta"), ValueError, "values are on meta but the plan is on cpu"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            plan.decode(values)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            values = good.to(dtype).expand(2, -1).clone()
            values[1, 5] = bad
            with pytest.raises(ValueError, match="values must be finite"):
                plan.decode(values)
    for noise in (-1.0, float("nan"), float("inf"), "none", None, True, torch.tensor(1.0), np.ones(3)):
        with pytest.raises(ValueError, match='noise_std must be "auto" or a finite number of at least 0'):
            plan.decode(good, noise)
    with pytest.raises(ValueError, match="backend must be"):
        plan.decode(good, backend="gpu")


def test_values_of_every_type_and_layout():
    keys, values = draw(12, 3)
    values = values.sign() * torch.tensor([1.0, 2.0, 4.0])
    plan = so.SparseWHTPlan(12, 3)
    y = function(plan.queries(), keys, values)
    exact = as_dict(keys, values)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64):
        spectrum = plan.decode(y.to(dtype))
        wide = not dtype.is_floating_point or dtype == torch.float64
        assert spectrum.values.dtype == (torch.float64 if wide else torch.float32) and found(spectrum) == pytest.approx(exact)
    assert found(plan.decode((y > 0).to(torch.uint8))) == found(plan.decode(y > 0)) == found(plan.decode((y > 0).double()))
    columns = torch.stack([y, 3 * y], 1)
    kept = columns.clone()
    assert [found(s) for s in plan.decode(columns.T)] == [found(plan.decode(y)), found(plan.decode(3 * y))]
    assert torch.equal(columns, kept)
    for backend in (None, "reference"):
        assert plan.decode(torch.zeros(0, plan.num_queries), backend=backend) == []
    large = plan.decode(torch.full((plan.num_queries,), 6e4, dtype=torch.float16))  # whose sum overflows
    assert list(found(large).values()) == [torch.tensor(6e4, dtype=torch.float16).item()]


def test_what_a_decoder_is_told():
    for probability in (0.3, 1e-2, 1e-4, 1e-9):
        for degrees in (1, 2, 7, 50, 500, 5000):
            assert chi_square_tail(probability, degrees) == pytest.approx(chi2.isf(probability, degrees), rel=1e-7)
    plan = so.SparseWHTPlan(20, 4, offsets="nso", repeats=3)
    samples = 3 * 21
    call = plan._call(0.5)
    assert call.noise == 0.25 / 8 and plan._call("auto").noise < 0 and plan._call("auto")._replace(noise=call.noise) == call
    assert call.tau * samples == pytest.approx(chi2.isf(1e-4 / 24, samples))
    assert call.tau_try * samples == pytest.approx(chi2.isf(1e-2, samples))
    assert repr(plan) == "SparseWHTPlan(n=20, k=4, offsets='nso', repeats=3, b=3)"

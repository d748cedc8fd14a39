"""`sparse_wht` of a tensor in memory, against the dense transform in float64."""

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

import spectralops as so
from spectralops.ops import sparse_wht as module

OFFSETS = ["auto", "exact", "nso", "dense"]


def sparse(n, count, seed=0):
    """x (2^n,) float64 by scipy's matrix product in factors of 2^6, and its spectrum as {key: value}."""
    draw = torch.Generator().manual_seed(seed)
    keys = torch.randperm(1 << n, generator=draw)[:count]
    values = torch.randn(count, generator=draw, dtype=torch.float64)
    values = values.sign() * (1 + values.abs())
    x = np.zeros(1 << n)
    x[keys.numpy()] = values.numpy()
    for low in range(0, n, 6):
        width = min(6, n - low)
        x = np.einsum("ij,ajb->aib", hadamard(1 << width), x.reshape(-1, 1 << width, 1 << low)).reshape(-1)
    return torch.from_numpy(x), dict(zip(keys.tolist(), values.tolist()))


def found(spectrum):
    return dict(zip(spectrum.keys[:, 0].tolist(), spectrum.values.tolist()))


@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_keys_and_values(offsets, dtype):
    for n, count in ((1, 1), (3, 2), (9, 5), (14, 40)):
        x, exact = sparse(n, count)
        x = x.to(dtype)
        spectrum = so.sparse_wht(x, count, offsets=offsets)
        got, eps = found(spectrum), torch.finfo(dtype).eps
        if dtype != torch.float16:  # whose rounding is noise, under which small transforms of few samples stay unresolved
            assert got.keys() == exact.keys() and spectrum.unresolved.shape == (0, 2), (n, count)
        if got.keys() == exact.keys():
            assert max(abs(got[k] - exact[k]) for k in exact) <= 16 * eps * sum(v * v for v in exact.values()) ** 0.5
        assert spectrum.values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert spectrum.values.abs().diff().le(0).all()  # largest first


@pytest.mark.parametrize("offsets", OFFSETS)
def test_noise(offsets):
    sigma, count, n = 0.5, 30, 16
    x, exact = sparse(n, count)
    x += sigma * torch.randn(x.shape, dtype=torch.float64)
    for noise_std in ("auto", sigma):
        spectrum = so.sparse_wht(x, count, noise_std=noise_std, offsets=offsets)
        got = found(spectrum)
        assert got.keys() == exact.keys()
        assert abs(spectrum.noise_std - sigma) < 0.05 and abs(spectrum.residual_energy - sigma**2) < 0.05
        assert max(abs(got[k] - exact[k]) for k in exact) < 0.1


def test_the_bit_convention_is_that_of_the_axes():
    n = 7
    x = torch.zeros([2] * n, dtype=torch.float64)
    x += 1.0
    x[:, :, 1] -= 2.0  # (-1)^(variable 2)
    for offsets in OFFSETS:
        spectrum = so.sparse_wht(x.reshape(-1), 1, offsets=offsets)
        assert spectrum.bits().tolist() == [[0, 0, 1, 0, 0, 0, 0]] and spectrum.keys.tolist() == [[1 << (n - 1 - 2)]]
        assert spectrum.values.tolist() == [1.0]


@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("kind", ["randn", "rand", "ramp with noise"])
def test_what_is_not_sparse_says_so(offsets, kind):
    n = 12
    x = {
        "randn": torch.randn(1 << n),
        "rand": torch.rand(1 << n),
        "ramp with noise": torch.randn(1 << n).cumsum(0) / 30,
    }[kind].double()
    energy = x.square().mean().item()
    spectrum = so.sparse_wht(x, 10, offsets=offsets)
    kept = spectrum.values.square().sum().item()
    assert spectrum.unresolved.numel() or len(spectrum) > 10
    if offsets in ("auto", "dense"):
        assert abs(kept + spectrum.residual_energy - energy) < 1e-9 * energy


def test_the_dense_transform_finishes_what_decoding_leaves(monkeypatch):
    monkeypatch.setitem(module.FIRST, "cpu", 1)
    monkeypatch.setitem(module.SPARSE_BELOW, "cpu", {12: 8})
    x, exact = sparse(12, 300)  # far more than k
    assert so.sparse_wht(x, 4, offsets="exact").unresolved.numel()
    assert found(so.sparse_wht(x, 4)).keys() == exact.keys()
    assert "sparse_wht_decode" in so.explain("sparse_wht", x, 4)
    assert so.explain("sparse_wht", x, 9).startswith("hadamard ")


def test_more_than_the_limit_is_cut_and_said():
    x = torch.randn(1 << 14, dtype=torch.float64).cumsum(0)
    spectrum = so.sparse_wht(x, 1, noise_std=0.0, offsets="dense")
    assert len(spectrum) == 4096 and spectrum.unresolved.tolist() == [[0, 0]] and spectrum.residual_energy > 0


def test_zero_and_constant():
    for offsets in OFFSETS:
        nothing = so.sparse_wht(torch.zeros(256), 3, offsets=offsets)
        assert len(nothing) == 0 and not nothing.unresolved.numel() and nothing.residual_energy == 0 and nothing.noise_std == 0
        assert found(so.sparse_wht(torch.full((256,), 2.5), 3, offsets=offsets)) == {0: 2.5}
    assert found(so.sparse_wht(torch.arange(16), 5)) == {0: 7.5, 1: -0.5, 2: -1.0, 4: -2.0, 8: -4.0}  # integers


def test_leading_dimensions_strides_and_emptiness():
    x, exact = sparse(8, 3)
    batch = torch.stack([x, 2 * x])[:, None].expand(2, 3, 256)
    spectra = so.sparse_wht(batch, 3)
    assert len(spectra) == 2 and len(spectra[1]) == 3
    assert found(spectra[1][2]) == {k: 2 * v for k, v in found(spectra[0][0]).items()}
    wide = torch.zeros(256, 3, dtype=torch.float64)
    wide[:, 1] = x
    for offsets in OFFSETS:
        before = wide.clone()
        assert found(so.sparse_wht(wide.T, 3, offsets=offsets)[1]).keys() == exact.keys()
        assert torch.equal(wide, before)
    assert so.sparse_wht(torch.zeros(0, 4), 1) == [] and so.sparse_wht(torch.zeros(2, 0, 4), 1) == [[], []]


@pytest.mark.parametrize("offsets", ["dense", "exact", "nso"])
def test_gradients_reach_x(offsets):
    x, exact = sparse(6, 3)
    keys = so.sparse_wht(x, 3).keys

    def values(x):
        spectrum = so.sparse_wht(x, 3, noise_std=1e-3, offsets=offsets)
        assert torch.equal(spectrum.keys, keys)
        return spectrum.values

    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(values, leaf) and torch.autograd.gradgradcheck(values, leaf)
    if offsets == "dense":
        (grad,) = torch.autograd.grad(values(leaf)[0], leaf)
        points = torch.arange(64)
        signs = torch.tensor([(-1.0) ** bin(int(m) & int(keys[0, 0])).count("1") for m in points], dtype=torch.float64)
        torch.testing.assert_close(grad, signs / 64)


def test_bad_input():
    x = torch.zeros(16)
    for wrong in (torch.zeros(0), torch.zeros(1), torch.zeros(12), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="x must have 2\\^n entries"):
            so.sparse_wht(wrong, 1)
    with pytest.raises(TypeError, match="x must be a torch.Tensor"):
        so.sparse_wht([0.0, 1.0], 1)
    with pytest.raises(TypeError, match="x must have dtype"):
        so.sparse_wht(torch.zeros(4, dtype=torch.complex64), 1)
    for k in (0, 17, -1):
        with pytest.raises(ValueError, match="k must be at least 1"):
            so.sparse_wht(x, k)
    with pytest.raises(TypeError, match="k must be an int"):
        so.sparse_wht(x, 2.0)
    with pytest.raises(ValueError, match="offsets must be one of"):
        so.sparse_wht(x, 1, offsets="bch")
    with pytest.raises(ValueError, match="groups must be"):
        so.sparse_wht(x, 1, groups=0)
    for noise in (-1.0, float("nan"), "none", None):
        with pytest.raises(ValueError, match="noise_std must be"):
            so.sparse_wht(x, 1, noise_std=noise)
    for bad in (float("nan"), float("inf")):
        for offsets in ("dense", "exact"):
            x = torch.full((16,), bad)
            with pytest.raises(ValueError, match="must be finite"):
                so.sparse_wht(x, 1, offsets=offsets)


def test_deterministic():
    x, _ = sparse(13, 30)
    x += torch.randn(x.shape, dtype=torch.float64)
    for offsets in OFFSETS:
        first, second = (so.sparse_wht(x, 30, offsets=offsets) for _ in range(2))
        assert torch.equal(first.keys, second.keys) and torch.equal(first.values, second.values)


@pytest.mark.parametrize("offsets", OFFSETS)
def test_values_of_any_size(offsets):
    x, exact = sparse(14, 5)
    for dtype, scales in ((torch.float32, (1e-30, 1e-20, 1e20, 1e35)), (torch.float64, (1e-300, 1e-170, 1e170, 1e300))):
        for scale in scales:
            leaf = (x * scale).to(dtype).requires_grad_()
            for noise_std in ("auto", 0.0):
                spectrum = so.sparse_wht(leaf, 5, noise_std=noise_std, offsets=offsets)
                assert found(spectrum).keys() == exact.keys() and not spectrum.unresolved.numel(), (dtype, scale)
                close = [abs(found(spectrum)[k] / scale - exact[k]) for k in exact]
                assert max(close) < (1e-5 if dtype == torch.float32 else 1e-13)
            (grad,) = torch.autograd.grad(spectrum.values.sum() / scale, leaf)
            assert (grad * scale).isfinite().all() and grad.any()


def test_few_samples_of_noise_are_not_believed():
    x = torch.zeros(16, dtype=torch.float64)
    x += 1 + 0.1 * torch.randn(16)
    assert so.sparse_wht(x, 1).unresolved.tolist() == [[0, 0]]
    assert not so.sparse_wht(x, 1, noise_std=0.1).unresolved.numel()


def test_another_default_device():
    x, exact = sparse(10, 4)
    with torch.device("meta"):
        for scheme in (dict(), dict(offsets="nso", repeats=2), dict(offsets="bch", degree=10)):
            plan = so.SparseWHTPlan(10, 4, seed=77, **scheme)
            assert found(plan.decode(x[plan.queries(format="packed")[:, 0]])).keys() == exact.keys()
            assert plan.queries().device.type == "cpu"

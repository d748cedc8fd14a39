"""`fft_conv` and `KernelSpectrum`: what bad input gets, each argument by name."""

import pytest
import torch

import spectralops as so

U, K = torch.randn(2, 4, 8), torch.randn(4, 5)
CU = torch.tensor([0, 3, 8])
SPECTRUM, RING = so.KernelSpectrum(K, 8), so.KernelSpectrum(K, 5, mode="circular")


def raises(error, text, f):
    with pytest.raises(error, match=text):
        f()


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        (("u", K), {}, TypeError, "u must be a torch.Tensor, got str"),
        ((U.int(), K), {}, TypeError, "u must have dtype .*; got int32"),
        ((U.to_sparse(), K), {}, TypeError, "u must be a dense"),
        ((U[0, 0], K), {}, ValueError, r"u must have shape \(..., H, L\), or .*; got \(8,\)"),
        ((U, None), {}, TypeError, "k must be a torch.Tensor, got NoneType"),
        ((U, K.to(torch.complex64)), {}, TypeError, "k must have dtype .*; got complex64"),
        ((U, K.double()), {}, TypeError, "k is float64 but u is float32"),
        ((U, K.to("meta")), {}, ValueError, "k is on meta but u is on cpu"),
        ((U, K[0]), {}, ValueError, r"k must have shape \(H, K\), \(G, K\) or \(B, H, K\); got \(5,\)"),
        ((U, K[None, None]), {}, ValueError, r"k must have shape .*; got \(1, 1, 4, 5\)"),
        ((U, K[:3]), {}, ValueError, "k has 3 groups, which do not divide the 4 channels of u"),
        ((U, K[:, :0]), {}, ValueError, "k must have at least one tap"),
        ((U, K[:0]), {}, ValueError, "k must have at least one tap, group"),
        ((U, K.expand(3, 4, 5)), {}, ValueError, "k has 3 samples, u has 2 rows"),
        ((U, K), dict(multi=True), ValueError, r"k must have shape \(F, H, K\) or \(B, F, H, K\); got \(4, 5\)"),
        ((U, K.expand(3, 2, 4, 5)), dict(multi=True), ValueError, "k has 3 samples"),
        ((U, K), dict(skip=1.0), TypeError, "skip must be a torch.Tensor"),
        ((U, K), dict(skip=torch.ones(3)), ValueError, r"skip must have shape \(4,\); got \(3,\)"),
        ((U, K[None]), dict(skip=torch.ones(2, 4), multi=True), ValueError, r"skip must have shape \(4,\) or \(1, 4\); got"),
        ((U, K), dict(skip=torch.ones(4).double()), TypeError, "skip is float64"),
        ((U, K), dict(skip=torch.ones(4, device="meta")), ValueError, "skip is on meta"),
        ((U, K), dict(gate_in=torch.ones(2, 4, 7)), ValueError, r"gate_in must have u's shape \(2, 4, 8\), .*; got \(2, 4, 7\)"),
        ((U, K), dict(gate_in=torch.ones(1, 2, 4, 8)), ValueError, r"gate_in must have .* got \(1, 2, 4, 8\)"),
        ((U, K), dict(gate_in=[1.0]), TypeError, "gate_in must be a torch.Tensor"),
        ((U, K), dict(gate_in=U.double()), TypeError, "gate_in is float64"),
        ((U, K), dict(gate_in=U.to("meta")), ValueError, "gate_in is on meta but u is on cpu"),
        ((U, K), dict(gate_out=U.int()), TypeError, "gate_out must have dtype"),
        ((U, K), dict(gate_out=torch.ones(3, 4, 8)), ValueError, r"gate_out must have u's shape"),
        ((U, K), dict(gate_out=U.to("meta")), ValueError, "gate_out is on meta"),
        ((U, K), dict(k_rev=1), TypeError, "k_rev must be a torch.Tensor"),
        ((U, K), dict(k_rev=K.double()), TypeError, "k_rev is float64"),
        ((U, K), dict(k_rev=K.to("meta")), ValueError, "k_rev is on meta"),
        ((U, K), dict(k_rev=K[:3]), ValueError, "k_rev has 3 groups"),
        ((U, K), dict(k_rev=K[:, :0]), ValueError, "k_rev must have at least one tap"),
        ((U, K), dict(k_rev=K, mode="same"), ValueError, "k_rev is for the modes 'causal' and 'circular'; got mode='same'"),
        ((U, K), dict(rev_offset=1), ValueError, "rev_offset says where k_rev begins, which was not given"),
        ((U, K), dict(k_rev=K, rev_offset=2), ValueError, "rev_offset must be 0 .* or 1 .*; got 2"),
        ((U, K), dict(k_rev=K, rev_offset=True), TypeError, "rev_offset must be an int"),
        ((U, K[None]), dict(k_rev=K.expand(2, 4, 5), multi=True), ValueError, "k has 1 filters, k_rev 2"),
        ((U, K), dict(mode="full"), ValueError, "mode must be one of 'causal', 'same', 'circular', 'toeplitz'; got 'full'"),
        ((U, K), dict(mode="toeplitz"), ValueError, "mode 'toeplitz' takes k of 2 L - 1 = 15 lags; got 5"),
        ((U, K), dict(activation="relu"), ValueError, "activation must be one of None, 'silu', 'gelu'; got 'relu'"),
        ((U, K), dict(layout="lbh"), ValueError, "layout must be one of 'bhl', 'blh'"),
        ((U, K), dict(precision="low"), ValueError, "precision must be one of 'highest', 'high'"),
        ((U, K), dict(mask=2.0), TypeError, "mask must be a torch.Tensor"),
        ((U, K), dict(mask=torch.ones(2, 3)), ValueError, r"mask must have shape \(B, H\) = \(2, 4\), or broadcast to it; got \(2, 3\)"),
        ((U, K), dict(mask=torch.ones(3, 4)), ValueError, "mask must have shape"),
        ((U, K), dict(mask=torch.ones(2, 4).double()), TypeError, "mask is float64"),
        ((U, K), dict(mask=torch.ones(2, 4, device="meta")), ValueError, "mask is on meta"),
        ((U, K), dict(max_seqlen=8), ValueError, "max_seqlen is for cu_seqlens"),
        ((U, K), dict(cu_seqlens=CU), ValueError, "with cu_seqlens u must have a batch of 1"),
        ((U[:1], K), dict(cu_seqlens=[0, 8]), TypeError, "cu_seqlens must be a torch.Tensor, got list"),
        ((U[:1], K), dict(cu_seqlens=CU.float()), ValueError, "cu_seqlens must be int32 or int64"),
        ((U[:1], K), dict(cu_seqlens=CU[:1]), ValueError, "cu_seqlens must be .* of shape"),
        ((U[:1], K), dict(cu_seqlens=CU[:2]), ValueError, "cu_seqlens must rise from 0 to the length of u, 8"),
        ((U[:1], K), dict(cu_seqlens=CU[:2], max_seqlen=8), ValueError, "cu_seqlens must rise from 0 to the length of u, 8"),
        ((U[:1], K), dict(cu_seqlens=CU.flip(0)), ValueError, "cu_seqlens must rise"),
        ((U[:1], K), dict(cu_seqlens=CU.to("meta")), ValueError, "cu_seqlens is on meta"),
        ((U[:1], K), dict(cu_seqlens=CU, max_seqlen=0), ValueError, "max_seqlen must be positive; got 0"),
        ((U[:1], K), dict(cu_seqlens=CU, max_seqlen=4), ValueError, "max_seqlen is 4, the longest sequence of cu_seqlens 5"),
        ((U[:1], K), dict(cu_seqlens=CU, max_seqlen=5.0), TypeError, "max_seqlen must be an int"),
        ((U[:1], K), dict(cu_seqlens=CU, mode="same"), ValueError, "cu_seqlens is for mode 'causal'"),
        ((U[:1], K), dict(cu_seqlens=CU, mask=torch.ones(1, 3)), ValueError, r"mask must have shape \(B, H\) = \(2, 4\)"),
        ((U[:1], K.expand(3, 4, 5)), dict(cu_seqlens=CU), ValueError, "k has 3 samples, u has 2 rows"),
        ((U, K), dict(backend="gpu"), ValueError, "backend must be None or one of"),
        # a kernel transformed beforehand
        ((U, SPECTRUM), dict(mode="same"), ValueError, "k was made for mode 'causal'; got mode='same'"),
        ((U, SPECTRUM), dict(k_rev=K), ValueError, "k_rev and rev_offset must be given to KernelSpectrum"),
        ((U, SPECTRUM), dict(rev_offset=1), ValueError, "k_rev and rev_offset must be given to KernelSpectrum"),
        ((U, SPECTRUM), dict(multi=True), ValueError, "k was made with multi=False, the call has multi=True"),
        ((torch.ones(2, 4, 9), SPECTRUM), {}, ValueError, "k was made for rows of 8; u has rows of 9"),
        ((torch.ones(2, 3, 8), SPECTRUM), {}, ValueError, "k has 4 groups, which do not divide the 3 channels"),
        ((U, so.KernelSpectrum(K.expand(3, 4, 5), 8)), {}, ValueError, "k has 3 samples, u has 2 rows"),
        ((U.double(), SPECTRUM), {}, TypeError, "k is torch.float32, u of torch.float64 takes torch.float64"),
        ((U, SPECTRUM.to("meta")), {}, ValueError, "k is on meta"),
        ((U[..., :5], so.KernelSpectrum(K, 8, mode="circular")), dict(mode="circular"), ValueError, "k was made for rows of 8"),
        ((U[:1], RING), dict(mode="circular", cu_seqlens=CU), ValueError, "cu_seqlens is for mode 'causal'"),
    ],
)
def test_bad_input_is_named(args, change, error, text):
    raises(error, text, lambda: so.fft_conv(*args, **change))


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        (("k", 8), {}, TypeError, "k must be a torch.Tensor"),
        ((K[0], 8), {}, ValueError, r"k must have shape .*; got \(5,\)"),
        ((K[:, :0], 8), {}, ValueError, "k must have shape .* and be nowhere empty"),
        ((K, 8.0), {}, TypeError, "length must be an int"),
        ((K, 0), {}, ValueError, "length must be positive; got 0"),
        ((K, 8), dict(mode="full"), ValueError, "mode must be one of"),
        ((K, 8), dict(mode="toeplitz"), ValueError, "mode 'toeplitz' takes k of 2 length - 1 = 15 lags; got 5"),
        ((K, 8), dict(rev_offset=1), ValueError, "rev_offset says where k_rev begins"),
        ((K, 8), dict(k_rev=K, rev_offset=2), ValueError, "rev_offset must be 0"),
        ((K, 8), dict(k_rev=K, mode="same"), ValueError, "k_rev is for the modes"),
        ((K, 8), dict(k_rev=K[:2]), ValueError, "k and k_rev must have the same samples, filters and groups"),
        ((K, 8), dict(k_rev=K.to("meta")), ValueError, "k_rev is on meta but k is on cpu"),
        ((K, 8), dict(k_rev="k"), TypeError, "k_rev must be a torch.Tensor"),
    ],
)
def test_bad_spectra_are_named(args, change, error, text):
    raises(error, text, lambda: so.KernelSpectrum(*args, **change))


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        (("a", K, 9), {}, TypeError, "a must be a torch.Tensor"),
        ((K, K[0], 9), {}, ValueError, r"b must have shape \(H, n\); got \(5,\)"),
        ((K, K[:, :4], 9), {}, ValueError, "a and b must have one shape"),
        ((K, K, 5), {}, ValueError, "length must be above the order, 5; got 5"),
        ((K, K, "9"), {}, TypeError, "length must be an int"),
        ((K, K, 9), dict(h0=1.0), TypeError, "h0 must be a torch.Tensor"),
        ((K, K, 9), dict(h0=torch.ones(3)), ValueError, r"h0 must have shape \(H,\) = \(4,\); got \(3,\)"),
        ((K, K.to("meta"), 9), {}, ValueError, "b is on meta but a is on cpu"),
        ((K, K, 9), dict(h0=torch.ones(4, device="meta")), ValueError, "h0 is on meta"),
    ],
)
def test_bad_rational_spectra_are_named(args, change, error, text):
    raises(error, text, lambda: so.KernelSpectrum.from_rational(*args, **change))


# ---- found by a hostile reader ---------------------------------------------------------------------------------------


def test_strided_cu_seqlens_are_read_as_they_are():
    u, k = torch.randn(1, 3, 20, requires_grad=True), torch.randn(3, 6)
    strided = torch.stack([torch.arange(0, 21, 5), torch.arange(5, 26, 5)], 1)[:, 0]
    results = [so.fft_conv(u, k, cu_seqlens=c) for c in (strided, strided.clone())]
    gradients = [torch.autograd.grad(y.square().sum(), u)[0] for y in results]
    assert torch.equal(*results) and torch.equal(*gradients)


@pytest.mark.parametrize("ends, longest", [([0, 10**9], 20), ([0, 15, 5, 20], 20), ([0, 10], 20), ([0, 20], 5)])
def test_the_operators_check_what_a_graph_brings(ends, longest):
    """Compiled, cu_seqlens cannot be read while it is traced; the operator reads it when it runs."""
    u, k = torch.ones(1, 3, 20), torch.ones(3, 20)
    call = torch.compile(lambda c: so.fft_conv(u, k, cu_seqlens=c, max_seqlen=longest), backend="eager")
    with pytest.raises(ValueError, match="cu_seqlens must rise|max_seqlen is 5"):
        call(torch.tensor(ends))
    with pytest.raises(ValueError, match="cu_seqlens must rise|max_seqlen is 5"):
        so.fft_conv(u, k, cu_seqlens=torch.nn.Parameter(torch.tensor(ends), requires_grad=False), max_seqlen=longest)


def test_a_length_that_is_not_us_never_reaches_a_kernel():
    arguments = (torch.randn(1, 1, 4), torch.randn(1, 1, 1, 3), None, None, None, None, None)
    with pytest.raises(ValueError, match="made for rows of 1000000; u has rows of 4"):
        torch.ops.spectralops.fft_conv(*arguments, 0, 0, "identity", "highest", False, 1000000)
    with pytest.raises(ValueError, match="made for rows of 9; u has rows of 4"):
        torch.ops.spectralops.fft_conv_backward(arguments[0][:, None], *arguments, [1, 1, 1, 3], 0, 0, "identity", "highest", False,
                                                9, [True] * 2 + [False] * 4)  # fmt: skip


@pytest.mark.parametrize("rows", [2, 3])
def test_one_gate_of_several_filters_has_us_dimensions(rows):
    """Whatever the number of rows: it must not depend on its being that of the filters."""
    u, k, gate = torch.randn(rows, 4, 8), torch.randn(2, 4, 5), torch.randn(2, 4, 8)
    y = so.fft_conv(u, k, multi=True)
    torch.testing.assert_close(so.fft_conv(u, k, multi=True, gate_out=gate[None]), y * gate)
    torch.testing.assert_close(so.fft_conv(u, k, multi=True, gate_out=u), y * u[:, None])
    if rows == 3:
        with pytest.raises(ValueError, match="gate_out must have u's shape"):
            so.fft_conv(u, k, multi=True, gate_out=gate)
    with pytest.raises(TypeError, match="gate_out must be a torch.Tensor"):
        so.fft_conv(u, k, multi=True, gate_out=[1])


def test_a_mask_has_the_leading_dimensions_of_u():
    u, k = torch.randn(2, 3, 4, 8), torch.randn(4, 5)
    y = so.fft_conv(u, k)
    for shape in ((2, 3, 4), (3, 4), (2, 1, 4), (4,), (1, 3, 1), ()):
        mask = torch.rand(shape)
        torch.testing.assert_close(so.fft_conv(u, k, mask=mask), y * mask.expand(2, 3, 4)[..., None])
    with pytest.raises(ValueError, match="mask must have shape"):
        so.fft_conv(u, k, mask=torch.rand(3, 2, 4))


def test_empty_batches_under_vmap_and_unknown_backends():
    u, k = torch.randn(0, 2, 3, 8), torch.randn(3, 4)
    assert torch.func.vmap(lambda u: so.fft_conv(u, k))(u).shape == (0, 2, 3, 8)
    rows = torch.randn(2, 3, 8)
    assert torch.func.vmap(lambda k: so.fft_conv(rows, k))(torch.randn(0, 3, 4)).shape == (0, 2, 3, 8)
    for backend in ("zz", 5):
        with pytest.raises(ValueError, match="backend must be None or one of"):
            so.fft_conv(torch.randn(0, 3, 8), k, backend=backend)


def test_no_channels():
    none = torch.randn(0, 4)
    assert so.toeplitz_to_ssm(none).taps(4).shape == (0, 4)
    for shape in ((2, 5, 0), (0, 5, 5), (2, 0, 5), (2, 3, 0, 4, 5)):
        for mode in ("same", "circular", "full"):
            u = torch.randn(shape)
            y = so.fft_conv2d(u, torch.randn(1, 3, 3), mode=mode)
            assert y.shape[:-2] == u.shape[:-2]


def test_aliased_arguments_compile():
    u, k = torch.randn(2, 3, 12, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    call = torch.compile(lambda u, k: so.fft_conv(u, k, gate_in=u, gate_out=u), fullgraph=True, backend="aot_eager")
    got, expect = (torch.autograd.grad(f.square().sum(), (u, k)) for f in (call(u, k), so.fft_conv(u, k, gate_in=u, gate_out=u)))
    for g, e in zip(got, expect):
        torch.testing.assert_close(g, e)

"""Transform Once, SVT's mixers and FDConv's frequency parts against upstream's expressions, written out."""

import numpy as np
import pytest
import torch
from scipy import fft as scipy_fft
from torch.nn import functional as F

import spectralops as so
from spectralops import nn, testing
from spectralops.nn.fdconv import band, frequency_groups, table_of_band

D = torch.float64


# ---- Transform Once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_high", [False, True])
def test_transform_once_in_one_and_two_dimensions(keep_high):
    flat = nn.TransformOnce(3, 5, 2, keep_high=keep_high, dtype=D)
    x = torch.randn(2, 3, 20, dtype=D)
    z = torch.from_numpy(scipy_fft.dct(x.numpy(), norm="ortho"))
    out = z.clone() if keep_high else torch.zeros_like(z)
    low = z[..., :5]
    for layer in flat.layers:
        y = torch.sin(torch.einsum("bix,iox->box", low, layer.ch_mixing_1))
        low = low + torch.einsum("bix,xyi->biy", y, layer.spatial_mixing_1)
    out[..., :5] = low
    torch.testing.assert_close(flat(x), torch.from_numpy(scipy_fft.idct(out.detach().numpy(), norm="ortho")))

    square = nn.TransformOnce(3, (4, 6), 2, keep_high=keep_high, activation="gelu", dtype=D)
    x = torch.randn(2, 3, 9, 12, dtype=D, requires_grad=True)
    z = torch.from_numpy(scipy_fft.dctn(x.detach().numpy(), axes=(2, 3), norm="ortho"))
    out = z.clone() if keep_high else torch.zeros_like(z)
    low = z[..., :4, :6]
    for layer in square.layers:
        y = F.gelu(torch.einsum("bixy,ioxy->boxy", low, layer.ch_mixing_1))
        y = torch.einsum("bcix,ioc->bcox", y, layer.spatial_mixing_1)
        low = low + torch.einsum("bcyi,ioc->bcyo", y, layer.spatial_mixing_2)
    out[..., :4, :6] = low
    got = square(x)
    torch.testing.assert_close(got, torch.from_numpy(scipy_fft.idctn(out.detach().numpy(), axes=(2, 3), norm="ortho")))
    assert all(t.isfinite().all() for t in torch.autograd.grad(got.sum(), [x, *square.parameters()]))


# ---- SVT -------------------------------------------------------------------------------------------------------------


def upstream_mlp(re, im, w1, b1, w2, b2):
    m = lambda a, w: torch.einsum("...bd,bdk->...bk", a, w)  # noqa: E731
    r = F.relu(m(re, w1[0]) - m(im, w1[1]) + b1[0])
    i = F.relu(m(re, w1[1]) + m(im, w1[0]) + b1[1])
    return m(r, w2[0]) - m(i, w2[1]) + b2[0], m(r, w2[1]) + m(i, w2[0]) + b2[1]


@pytest.mark.parametrize("tokens", [False, True])
def test_svt_mixers(tokens):
    B, H, W, C, nb = 2, 4, 6, 8, 2
    module = (nn.SVTChannelTokenMixing if tokens else nn.SVTChannelMixing)(C, (H, W), nb, dtype=D)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))
    p = {k.removeprefix("complex_weight_"): v for k, v in module.named_parameters()}
    x = torch.randn(B, H * W, C, dtype=D)
    images = x.view(B, H, W, C).permute(0, 3, 1, 2)
    first, second = images.chunk(2, 1) if tokens else (None, images)
    low, high = so.dtcwt(second.contiguous())
    low = low * p["ll"]
    z = high.permute(5, 0, 2, 3, 4, 1)
    z = z.reshape(*z.shape[:-1], nb, -1)
    z = torch.stack(upstream_mlp(z[0], z[1], p["lh_1"], p["lh_b1"], p["lh_2"], p["lh_b2"]), -1)
    z = z.flatten(4, 5)  # (B, 6, h, w, C, 2)
    if tokens:
        z = z.permute(5, 0, 4, 1, 2, 3)
        z = torch.stack(upstream_mlp(z[0], z[1], p["lh_1_t"], p["lh_b1_t"], p["lh_2_t"], p["lh_b2_t"]), -1)
    else:
        z = z.permute(0, 4, 1, 2, 3, 5)
    y = so.idtcwt(low, z.contiguous())
    if tokens:
        y = torch.cat([module.conv(first).unsqueeze(2), y.unsqueeze(2)], 2).reshape(B, C, H, W)
    got = module(x, H, W)
    torch.testing.assert_close(got, y.permute(0, 2, 3, 1).reshape(B, H * W, C))
    assert all(t is not None for t in torch.autograd.grad(got.square().sum(), list(module.parameters())))
    assert module(x.bfloat16()).dtype == torch.bfloat16


# ---- FDConv ----------------------------------------------------------------------------------------------------------


def upstream_indices(rows, columns, groups):
    f = torch.stack(torch.meshgrid(torch.fft.fftfreq(rows), torch.fft.rfftfreq(columns), indexing="ij"), -1)
    order = torch.sort(torch.norm(f, dim=-1).view(-1))[1]
    half = columns // 2 + 1
    return torch.stack([order // half, order % half]).reshape(2, groups, -1)


@pytest.mark.parametrize("batch, ratio", [(2, 1), (9, 1), (9, 2)])
def test_fdconv_weights(batch, ratio):
    out, inp, k, groups = 4, 6, 3, 4
    module = nn.FDConvWeight(inp, out, k, groups, ratio, dtype=D)
    assert module.groups.flatten().bincount().tolist() == [12 * 10 // 4] * 4
    if ratio == 1:  # full attention gives the initial weight, groups times as large
        weight = module(torch.ones(1, groups, dtype=D))
        spectrum = torch.view_as_complex(module.dft_weight.detach()[0]) * module.alpha
        torch.testing.assert_close(weight[0], torch.fft.irfft2(spectrum).reshape(out, k, inp, k).permute(0, 2, 1, 3))
    with torch.no_grad():
        module.dft_weight.copy_(torch.randn_like(module.dft_weight))
    attention = torch.rand(batch, ratio, groups, dtype=D, requires_grad=True)
    index = upstream_indices(out * k, inp * k, groups)
    spectrum = torch.zeros(batch, out * k, inp * k // 2 + 1, 2, dtype=D)
    for i in range(ratio):
        w = module.dft_weight[i][index[0], index[1]][None] * module.alpha
        spectrum[:, index[0], index[1]] += w * attention[:, i, :, None, None]
    expect = torch.fft.irfft2(torch.view_as_complex(spectrum), dim=(1, 2)).reshape(batch, out, k, inp, k).permute(0, 1, 3, 2, 4)
    got = module(attention)
    torch.testing.assert_close(got, expect)
    g = torch.randn_like(got)
    leaves = [attention, module.dft_weight]
    torch.testing.assert_close(torch.autograd.grad(got, leaves, g), torch.autograd.grad(expect, leaves, g))
    odd = nn.FDConvWeight(3, 2, 3, 1)  # 9 columns
    assert odd(torch.ones(2, 1)).shape == (2, 2, 3, 3, 3)


def upstream_masks(height, width, k_list, table):
    f = torch.stack(torch.meshgrid(torch.fft.fftfreq(table[0]), torch.fft.rfftfreq(table[1]), indexing="ij"), -1)
    far = f.abs().amax(-1)
    masks = torch.stack([far < 0.5 / k + 1e-8 for k in k_list])[:, None].float()
    return F.interpolate(masks, size=(height, width // 2 + 1), mode="nearest")[:, 0]


@pytest.mark.parametrize("shape, table", [((12, 10), (64, 64)), ((64, 64), (64, 64)), ((7, 9), (16, 16)), ((96, 41), (64, 64))])
@pytest.mark.parametrize("lowfreq_att, act, groups", [(False, "sigmoid", 1), (True, "softmax", 2)])
def test_frequency_band_modulation(shape, table, lowfreq_att, act, groups):
    module = nn.FrequencyBandModulation(4, lowfreq_att=lowfreq_att, act=act, spatial_group=groups, max_size=table, dtype=D)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))
    x = torch.randn(2, 4, *shape, dtype=D, requires_grad=True)
    spectrum, before, parts = torch.fft.rfft2(x, norm="ortho"), x, []
    gate = lambda i: module._gate(i, x, D).expand(-1, -1, 4 // groups, -1, -1).flatten(1, 2)  # noqa: E731
    for i, mask in enumerate(upstream_masks(*shape, (2, 4, 8), table).to(D)):
        low = torch.fft.irfft2(spectrum * mask, s=shape, norm="ortho")
        parts.append(gate(i) * (before - low))
        before = low
    expect = sum(parts) + (gate(3) * before if lowfreq_att else before)
    got = module(x)
    torch.testing.assert_close(got, expect)
    leaves, g = [x, *module.parameters()], torch.randn_like(got)
    torch.testing.assert_close(torch.autograd.grad(got, leaves, g), torch.autograd.grad(expect, leaves, g))


def test_bands_of_every_size_are_upstreams():
    for size in [*range(1, 140), 224, 256, 300]:
        for k in (1, 2, 4, 8):
            mask = upstream_masks(size, size, (k,), (64, 64))[0].bool()
            first, count = band(size, table_of_band(64, k, False))
            rows = torch.zeros(size, dtype=torch.bool)
            rows[torch.arange(first, first + count) % size] = True
            assert torch.equal(rows, mask[:, 0]), (size, k)
            assert mask[0].sum() == band(size // 2 + 1, table_of_band(64, k, True))[1], (size, k)


def test_modules_in_bfloat16_compiled_and_exported():
    torch._dynamo.reset()
    cases = {
        "transform once": (nn.TransformOnce(2, (3, 3), 1), torch.randn(2, 2, 6, 8)),
        "svt": (nn.SVTChannelMixing(4, (4, 6), 2), torch.randn(2, 24, 4)),
        "fdconv": (nn.FDConvWeight(2, 4, 3, 4), torch.rand(3, 4)),
        "bands": (nn.FrequencyBandModulation(2), torch.randn(2, 2, 12, 10)),
    }
    for name, (module, x) in cases.items():
        expect = module(x)
        if name == "bands":
            torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), expect, msg=name)
        program = torch.export.export(module, (x,))
        torch.testing.assert_close(program.module()(x), expect, msg=name, rtol=1e-4, atol=1e-5)
    x = torch.randn(2, 2, 12, 10).bfloat16()
    module = nn.FrequencyBandModulation(2).bfloat16()
    assert testing.relative_error(module(x), module.double()(x.double())) <= 2 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: nn.TransformOnceLayer(3, (2, 2, 2)), "modes must be one or two numbers"),
        (lambda: nn.TransformOnceLayer(3, 0), r"modes\[0\] must be positive"),
        (lambda: nn.TransformOnceLayer(3, 4)(torch.ones(1, 3, 5)), r"z must have shape \(B, 3, 4\)"),
        (lambda: nn.TransformOnce(3, 4)(torch.ones(1, 3, 3)), "N at least"),
        (lambda: nn.SVTChannelMixing(6, 8), "num_blocks = 4 does not divide dim = 6"),
        (lambda: nn.SVTChannelMixing(4, 7), "size must be even"),
        (lambda: nn.SVTChannelMixing(4, 8)(torch.ones(1, 64, 4), 4, 16), "x must have shape"),
        (lambda: nn.FDConvWeight(3, 4, 3, 7), "kernel_num = 7 does not divide the 12 x 5 frequencies"),
        (lambda: nn.FDConvWeight(3, 4, 3, 4)(torch.ones(2, 3)), r"attention must have shape \(B, 1, 4\)"),
        (lambda: nn.FrequencyBandModulation(4, (4, 2)), "k_list must be increasing"),
        (lambda: nn.FrequencyBandModulation(4, spatial_group=3), "spatial_group = 3 does not divide in_channels = 4"),
        (lambda: nn.FrequencyBandModulation(4)(torch.ones(1, 3, 8, 8)), r"x must have shape \(B, 4, H, W\)"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_groups_are_disjoint_rings():
    groups = frequency_groups(6, 8, 3)
    distance = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.rfftfreq(8))
    assert all(distance[groups == g].max() <= distance[groups == g + 1].min() + 1e-6 for g in range(2))

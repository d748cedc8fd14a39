"""One rank of the sequence-parallel tests: `python distributed_fft_conv.py RANK RANKS FILE` runs every case and checks it
against one process."""

import sys

import torch
import torch.distributed as dist

import spectralops as so

B, H = 2, 6


def cases(ranks: int):
    """name, arguments of the call, l of every rank, method."""
    even = (12,) * ranks
    uneven = tuple(9 + 2 * (r % 3) for r in range(ranks))
    for lengths in (even, uneven):
        total = sum(lengths)
        full = {"gate_in": (B, H, total), "gate_out": (B, H, total), "skip": (H,), "mask": (B, H)}
        yield "causal", {"k": (H, total), **full}, {"activation": "gelu"}, lengths, "all_to_all"
        yield "grouped", {"k": (3, 7), "gate_in": full["gate_in"]}, {}, lengths, "all_to_all"
        yield "two ways", {"k": (H, 20), "k_rev": (H, 30), **full}, {"activation": "silu"}, lengths, "all_to_all"
        yield "circular", {"k": (H, total)}, {"mode": "circular"}, lengths, "all_to_all"
        yield "toeplitz", {"k": (1, 2 * total - 1)}, {"mode": "toeplitz"}, lengths, "all_to_all"
        yield "per sample, filters", {"k": (B, 2, H, 9), "skip": (2, H)}, {"multi": True}, lengths, "all_to_all"
        yield "halo", {"k": (H, 8), **full}, {"activation": "gelu"}, lengths, "halo"
        yield "halo, same", {"k": (2, 9), **full}, {"mode": "same"}, lengths, "halo"
        yield "halo, two ways", {"k": (H, 4), "k_rev": (H, 7)}, {"rev_offset": 1}, lengths, "halo"
        yield "halo, circular", {"k": (H, 4), "k_rev": (H, 3)}, {"mode": "circular"}, lengths, "halo"
        yield "halo, filters", {"k": (3, H, 4), "gate_out": (B, H, total)}, {"multi": True}, lengths, "auto"


def whole(shapes, total, dtype):
    found = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    found["u"] = torch.randn(B, H, total, dtype=dtype)
    return found


def stretch(t, name, start, size):
    """This rank's part, a leaf of its own."""
    part = t.narrow(-1, start, size) if name in ("u", "gate_in", "gate_out") else t
    return part.clone().requires_grad_()


def run(shapes, more, lengths, method, rank, layout="bhl"):
    """Forward, gradient and second derivative against the same in one process."""
    total, start, size = sum(lengths), sum(lengths[:rank]), lengths[rank]
    tensors = whole(shapes, total, torch.float64)
    single = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    own = {name: stretch(t, name, start, size) for name, t in tensors.items()}

    def turned(t, name):
        return t.transpose(1, 2) if layout == "blh" and name in ("u", "gate_in", "gate_out") else t

    def call(function, given, **extra):
        given = {name: turned(t, name) for name, t in given.items()}
        y = function(given.pop("u"), given.pop("k"), **given, **more, layout=layout, **extra)
        return y.movedim(1, -1) if layout == "blh" else y

    y = call(so.fft_conv, single)
    part = call(so.distributed.fft_conv, own, lengths=lengths, method=method)
    cut = y.narrow(-1, start, size)
    torch.testing.assert_close(part, cut)
    weights = torch.randn(y.shape, dtype=torch.float64)
    names = list(tensors)
    truth = torch.autograd.grad(y.pow(2).mul(weights).sum(), [single[n] for n in names], create_graph=True)
    got = torch.autograd.grad(
        part.pow(2).mul(weights.narrow(-1, start, size)).sum(), [own[n] for n in names], create_graph=True
    )
    second_truth = torch.autograd.grad(sum(g.pow(2).sum() for g in truth), [single[n] for n in names])
    reduced = [shared(g, n) for n, g in zip(names, got)]
    for n, g, t in zip(names, reduced, truth):
        torch.testing.assert_close(g, t.narrow(-1, start, size) if n in ("u", "gate_in", "gate_out") else t)
    # <v, gradient> with v the single process's gradient, so that the second derivative is that of sum |gradient|^2 / 2
    pairs = sum((g * 2 * (t.narrow(-1, start, size) if n in ("u", "gate_in", "gate_out") else t).detach()).sum()
                for n, g, t in zip(names, got, truth))  # fmt: skip
    second = torch.autograd.grad(pairs, [own[n] for n in names])
    for n, g, t in zip(names, second, second_truth):
        torch.testing.assert_close(shared(g, n), t.narrow(-1, start, size) if n in ("u", "gate_in", "gate_out") else t)


def shared(gradient, name):
    """Of what every rank holds whole, the sum over the ranks."""
    gradient = gradient.detach().clone()
    if name not in ("u", "gate_in", "gate_out"):
        dist.all_reduce(gradient)
    return gradient


def traffic(rank, ranks):
    """Two all-to-alls however many gates there are; the reach of the kernel for a halo; the same again backward."""
    u, gate, k = torch.randn(B, H, 12), torch.randn(B, H, 12), torch.randn(H, 5)
    for method, exchanges, numbers in (
        ("all_to_all", 2, 2 * (B * H * 12 - B * so.distributed.comm.split_evenly(H, ranks)[rank] * 12)),
        ("halo", 1, B * H * 4 if rank + 1 < ranks else 0),
    ):
        v = u.clone().requires_grad_()
        with so.distributed.count_traffic() as counted:
            y = so.distributed.fft_conv(v, k, gate_in=gate, gate_out=gate, skip=torch.ones(H), method=method)
        assert (counted.exchanges, method) == (exchanges, method)
        if method == "halo":
            assert counted.bytes == 4 * numbers, (counted.bytes, numbers)
        else:
            mine = so.distributed.comm.split_evenly(H, ranks)[rank]
            there, back = B * (H - mine) * 12, B * mine * 12 * (ranks - 1)
            assert counted.bytes == 4 * (there + back), counted.bytes
        with so.distributed.count_traffic() as again:
            y.sum().backward()
        assert again.exchanges == exchanges


def refused():
    u, k = torch.randn(B, H, 8), torch.randn(H, 5)
    for call, text in (
        (lambda: so.distributed.fft_conv(u, k, lengths=(8,)), "lengths must hold"),
        (lambda: so.distributed.fft_conv(u, torch.randn(H, 40), method="halo"), "method 'halo'"),
        (lambda: so.distributed.fft_conv(u, k, method="ring"), "method must be"),
        (lambda: so.distributed.fft_conv(u[0], k), "u must have shape"),
        (lambda: so.distributed.fft_conv(u, k, mode="toeplitz"), "2 L - 1"),
        (lambda: so.distributed.fft_conv(u, k[:4]), "groups"),
        (lambda: so.distributed.fft_conv(u, k, mask=torch.ones(3, B, H)), "mask must have shape"),
        (lambda: so.distributed.fft_conv(u, k, mask=torch.ones(B)), "mask must have shape"),
        (lambda: so.distributed.fft_conv(u[:1], k, gate_in=u), "gate_in must have u's shape"),
        (lambda: so.distributed.fft_conv(u[:1], k, gate_out=u), "gate_out must have u's shape"),
        (lambda: so.distributed.fft_conv(u, k, k_rev=k, rev_offset=5, method="halo"), "rev_offset must be 0"),
    ):
        try:
            call()
        except ValueError as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)


def fewer_channels_than_ranks(rank, ranks):
    """A rank without channels still has its part, zero, of every kernel's gradient; none waits for another in vain."""
    torch.manual_seed(3)
    u, k, k_rev = torch.randn(2, 1, 4 * ranks), torch.randn(1, 3), torch.randn(1, 5, requires_grad=True)
    own = u[..., 4 * rank : 4 * rank + 4]
    y = so.distributed.fft_conv(own, k, k_rev=k_rev, method="all_to_all")
    torch.testing.assert_close(y, so.fft_conv(u, k, k_rev=k_rev)[..., 4 * rank : 4 * rank + 4])
    part = torch.autograd.grad(y.square().sum(), k_rev)[0]
    torch.testing.assert_close(shared(part, "k_rev"), torch.autograd.grad(so.fft_conv(u, k, k_rev=k_rev).square().sum(), k_rev)[0])
    none = so.distributed.fft_conv(u[:, :0, :4], k, method="all_to_all")
    assert none.shape == (2, 0, 4)


def masks_of_one_row(rank, ranks):
    """(H,) is a factor a channel in either layout, also where l or F is H."""
    torch.manual_seed(4)
    u, k, mask = torch.randn(B, H, H * ranks), torch.randn(3, H, 5), torch.rand(H)
    own = u[..., H * rank : H * rank + H]
    for method in ("all_to_all", "halo"):
        for multi, kernel in ((False, k[0]), (True, k.repeat(2, 1, 1))):
            y = so.fft_conv(u, kernel, mask=mask, multi=multi)[..., H * rank : H * rank + H]
            torch.testing.assert_close(so.distributed.fft_conv(own, kernel, mask=mask, multi=multi, method=method), y)
            turned = so.distributed.fft_conv(own.transpose(1, 2), kernel, mask=mask, multi=multi, method=method, layout="blh")
            torch.testing.assert_close(turned.movedim(1, -1), y)


def halves(rank, ranks):
    """bfloat16: what travels is rounded once more, unless it travels in float32."""
    torch.manual_seed(5)
    u, k = torch.randn(B, H, 16 * ranks).bfloat16(), torch.randn(H, 16 * ranks)
    truth = so.fft_conv(u, k)[..., 16 * rank : 16 * (rank + 1)]
    own = u[..., 16 * rank : 16 * (rank + 1)]
    assert torch.equal(so.distributed.fft_conv(own, k, exchange_dtype=torch.float32), truth)
    near = so.distributed.fft_conv(own, k)
    assert so.testing.relative_error(near, truth) < torch.finfo(torch.bfloat16).eps


def main():
    rank, ranks, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ranks)
    for index, (name, shapes, more, lengths, method) in enumerate(cases(ranks)):
        torch.manual_seed(index)
        try:
            run(shapes, more, lengths, method, rank, "blh" if index % 2 else "bhl")
        except Exception as error:
            raise AssertionError(f"rank {rank}: {name}, {lengths}, {method}") from error
    traffic(rank, ranks)
    refused()
    halves(rank, ranks)
    fewer_channels_than_ranks(rank, ranks)
    masks_of_one_row(rank, ranks)
    dist.destroy_process_group()
    print("passed", flush=True)


if __name__ == "__main__":
    main()

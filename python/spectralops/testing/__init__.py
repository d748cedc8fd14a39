"""How this package is tested, for anyone's kernels: strange tensors, poisoned memory, and one rule for
tolerances.

The rule: a kernel may be at most twice as far from the float64 truth as the plain PyTorch formula in the
same dtype is. No tolerance is chosen by hand.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Tally", "assert_within", "guard_bands", "layouts", "poison", "relative_error", "tensors"]


def relative_error(got: Tensor, exact: Tensor) -> float:
    """||got - exact|| / ||exact|| in float64; infinite where NaN or infinity stand at different places."""
    got, exact = got.detach().double().cpu(), exact.detach().double().cpu()
    if got.shape != exact.shape:
        raise AssertionError(f"shapes differ: {tuple(got.shape)} and {tuple(exact.shape)}")
    finite = torch.isfinite(exact)
    if not torch.equal(finite, torch.isfinite(got)):
        return float("inf")
    odd = ~finite
    if not torch.equal(got[odd].nan_to_num(nan=7.0), exact[odd].nan_to_num(nan=7.0)):
        return float("inf")
    norm = exact[finite].norm().item()
    error = (got[finite] - exact[finite]).norm().item()
    return error / norm if norm else error


def assert_within(got: Tensor, reference: Tensor, exact: Tensor, *, factor: float = 2.0, what: str = "result") -> float:
    """`got` is within `factor` of the reference's own error against `exact` (float64). Returns got's
    relative error.

    Where the reference happens to be (almost) exact, one unit roundoff of got's dtype is allowed instead.
    """
    error, allowed = relative_error(got, exact), factor * relative_error(reference, exact)
    floor = torch.finfo(got.dtype).eps if got.dtype.is_floating_point else 0.0
    if not error <= max(allowed, floor):
        raise AssertionError(f"{what}: relative L2 error {error:.3g}, allowed {factor:g} x the reference's {allowed / factor:.3g}")
    return error


class Tally:
    """The same rule over many draws: geometric means of the relative errors, each in units of its dtype's
    roundoff, name by name.

    A sum that one element dominates carries that element's rounding, a matter of luck in a single draw;
    over a dozen draws it is not. A single draw may be 64 times the factor out, no more: where |.| is near
    zero the rounding decides a sign. float64 results, whose truth is float64 too, take a float32 reference.
    """

    def __init__(self):
        self.errors: dict[str, list[tuple[float, float]]] = {}

    def add(self, name: str, got: Tensor, reference: Tensor, exact: Tensor) -> None:
        units = (relative_error(t, exact) / torch.finfo(t.dtype).eps for t in (got, reference))
        self.errors.setdefault(name, []).append(tuple(units))

    def check(self, *, factor: float = 2.0) -> dict[str, float]:
        """Assert the rule for every name; the ratio of the errors, by name."""
        ratios = {}
        for name, rows in self.errors.items():
            got, reference = (math.exp(sum(math.log(max(row[i], 0.25)) for row in rows) / len(rows)) for i in (0, 1))
            ratios[name] = got / reference
            if not got <= max(factor * reference, 1.0):
                raise AssertionError(f"{name}: {got:.3g} roundoffs, the reference {reference:.3g} ({len(rows)} draws)")
            for one, its_reference in rows:
                if not one <= 64 * factor * max(its_reference, reference, 1.0):
                    raise AssertionError(f"{name}: {one:.3g} roundoffs in one draw, the reference {its_reference:.3g}")
        return ratios


@contextlib.contextmanager
def poison() -> Iterator[None]:
    """Fill what torch.empty and its kin return with NaN (the largest value for integers), so that an unwritten output shows."""
    mode, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(mode, warn_only=warn)


_EMPTY = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.empty_strided.default,
}
_BAND, _FILL = 256, 0xA5  # bytes; the fill is what an unwritten output shows as well


class _GuardBands(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.buffers: list[Tensor] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function not in _EMPTY or not out.is_contiguous() or out.device.type == "meta":
            return out
        size = out.numel() * out.element_size()
        buffer = torch.full((size + 2 * _BAND,), _FILL, dtype=torch.uint8, device=out.device)
        self.buffers.append(buffer)
        return buffer[_BAND : _BAND + size].view(out.dtype).view(out.shape)


@contextlib.contextmanager
def guard_bands() -> Iterator[None]:
    """Surround whatever torch.empty and its kin return in the block with a pattern, and fail where a kernel
    wrote on it.

    Seen are allocations made directly, so call a backend's function
    (`spectralops.backends.backend("cuda").hadamard`), not the operator.
    """
    mode = _GuardBands()
    with mode:
        yield
    if not mode.buffers:
        raise AssertionError("nothing was allocated inside guard_bands()")
    for buffer in mode.buffers:
        if not ((buffer[:_BAND] == _FILL).all() and (buffer[-_BAND:] == _FILL).all()):
            raise AssertionError(f"a kernel wrote outside its output of {buffer.numel() - 2 * _BAND} bytes")


def layouts(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """x again and again, equal in value, differently in memory."""
    yield "contiguous", x.contiguous()
    if x.dim() == 0 or x.numel() == 0:
        return
    flat = torch.full((x.numel() + 3,), 42.0, device=x.device).to(x.dtype)
    offset = flat[1 : 1 + x.numel()].view(x.shape)
    offset.copy_(x)
    yield "offset", offset
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 5), 42.0, device=x.device).to(x.dtype)
    sliced = wide[..., 2 : 2 + x.shape[-1]]
    sliced.copy_(x)
    yield "sliced", sliced
    every_other = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 42.0, device=x.device).to(x.dtype)[..., ::2]
    every_other.copy_(x)
    yield "every other", every_other
    if x.dim() > 1:
        yield "permuted", x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))


def tensors(shapes, dtypes=(torch.float32,), scale: float = 2.0):
    """A hypothesis strategy: tensors of drawn shape, dtype, layout and seed."""
    from hypothesis import strategies as st

    def build(shape, dtype, seed, which):
        generator = torch.Generator().manual_seed(seed)
        x = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        found = list(layouts(x))
        return found[which % len(found)][1]

    return st.builds(build, shapes, st.sampled_from(list(dtypes)), st.integers(0, 2**31), st.integers(0, 4))

"""The activations in mpmath and numpy, for the tests: nothing here is ours, and every derivative is taken numerically."""

import numpy as np
import torch

import spectralops as so

# name -> (call(x, params, dim, backend), parameters of one channel, formula of numpy on x and P arrays that broadcast)
CASES = {
    "snake": (lambda x, p, **k: so.snake(x, p[0], **k), [1.7], lambda x, a: x + np.sin(a * x) ** 2 / a),
    "sine": (lambda x, p, **k: so.sine(x, p[0], **k), [3.0], lambda x, w: np.sin(w * x)),
    "spder": (lambda x, p, dim=-1, **k: so.spder(x, **k), [], lambda x: np.sin(x) * np.sqrt(np.abs(x))),
    "cauchy": (
        lambda x, p, **k: so.cauchy(x, *p, **k), [0.7, -1.2, 1.4], lambda x, l1, l2, d: (l1 * x + l2) / (x**2 + d**2),
    ),
    "poly_relu": (
        lambda x, p, dim=-1, **k: so.poly_relu(x, torch.stack([t.reshape(()) for t in p]), **k), [0.3, -0.8, 0.5, 0.2],
        lambda x, *a: sum(c * np.maximum(x, 0) ** i for i, c in enumerate(a)),
    ),
    "wire": (
        lambda x, p, **k: so.wire(x, *p, **k), [2.0, 0.6],
        lambda x, w, s: _pair(np.exp(1j * w * x) * np.exp(-np.abs(s * x) ** 2)),
    ),
    "wire complex": (
        lambda x, p, **k: so.wire(x, *p, complex_input=True, **k), [2.0, 0.6],
        lambda z, w, s: _pair(np.exp(1j * w * _join(z)) * np.exp(-np.abs(s * _join(z)) ** 2)),
    ),
}  # fmt: skip
SHARED_ONLY = ("spder", "poly_relu")


def _pair(z):
    return np.stack([z.real, z.imag], -1)


def _join(z):
    return z[..., 0] + 1j * z[..., 1]


def inputs(name, shape, dtype=torch.float64, channels=None, dim=-1):
    """x of the shape (a trailing 2 where z is complex) and the parameters: () or (channels,)."""
    x = torch.randn((*shape, *((2,) if name == "wire complex" else ())), dtype=torch.float64).to(dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    spread = () if channels is None else (channels,)
    params = [(torch.tensor(v) * (1 + 0.3 * torch.rand(spread, dtype=torch.float64))).to(compute) for v in CASES[name][1]]
    return x, params


def exact(name, x, params, dim=-1):
    """y in numpy float64."""
    rank = x.dim() - (name == "wire complex")
    shape = [1] * rank
    arrays = []
    for p in params:
        if rank:
            shape[dim] = p.numel()
        arrays.append(p.detach().double().numpy().reshape(shape))
    return torch.from_numpy(np.ascontiguousarray(CASES[name][2](x.detach().double().numpy(), *arrays)))


def derivatives(name, backend, x, params, g, seeds, dim=-1, to=None):
    """y, the gradients of <g, y>, and those of <seeds, gradients>, in x's dtype or in `to`."""
    call = CASES[name][0]
    cast = lambda t: (t if to is None else t.to(to)).detach().clone().requires_grad_()  # noqa: E731
    x, g, *params = (cast(t) for t in (x, g, *params))
    y = call(x, params, dim=dim, backend=backend)
    first = torch.autograd.grad(y, (x, *params), g, create_graph=True)
    second = torch.autograd.grad(first, (g, x, *params), [s.to(f.dtype) for s, f in zip(seeds, first)], allow_unused=True)
    leaves = (g, x, *params)
    return [y, *first, *(torch.zeros_like(t) if s is None else s for s, t in zip(second, leaves))]

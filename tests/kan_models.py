"""The layers that KAN packages publish, written from their formulas: same class names, parameters, buffers, results
and gradients. The packages are source files that people copy, so these stand for such copies."""

import math

import torch
import torch.nn.functional as F
from spectralops.replace.verify import relative_l2
from torch import nn

I, O = 6, 5  # noqa: E741, the inputs and outputs of the layers under test

_broken = False


def _still_allowed():
    if _broken:
        raise AssertionError("the old forward ran")


def break_originals(monkeypatch):
    """From here on a call that falls back on an old forward fails."""
    monkeypatch.setitem(globals(), "_broken", True)


def cox_de_boor(x, knots, order):
    """(N, I), (I, T) -> (N, I, T - order - 1)."""
    _still_allowed()
    x, t = x[..., None], knots[None]
    b = ((t[..., :-1] <= x) & (x < t[..., 1:])).to(x.dtype)
    for p in range(1, order + 1):
        rising = (x - t[..., : -p - 1]) / (t[..., p:-1] - t[..., : -p - 1])
        falling = (t[..., p + 1 :] - x) / (t[..., p + 1 :] - t[..., 1:-p])
        b = rising * b[..., :-1] + falling * b[..., 1:]
    return b


def uniform_knots(inputs, grid_size, order, low=-1.0, high=1.0):
    steps = torch.arange(-order, grid_size + order + 1)
    return (low + steps * (high - low) / grid_size).repeat(inputs, 1)


class Efficient:
    """efficient-kan's KANLinear; two packages have a class of that name."""

    class KANLinear(nn.Module):
        def __init__(self, inputs, outputs, grid_size=5, order=3, scaled=True, activation=nn.SiLU):
            super().__init__()
            self.in_features, self.out_features, self.spline_order = inputs, outputs, order
            self.register_buffer("grid", uniform_knots(inputs, grid_size, order))
            self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(inputs))
            self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, grid_size + order) / math.sqrt(inputs))
            if scaled:
                self.spline_scaler = nn.Parameter(torch.rand(outputs, inputs) + 0.5)
            self.enable_standalone_scale_spline, self.base_activation = scaled, activation()

        @property
        def scaled_spline_weight(self):
            if not self.enable_standalone_scale_spline:
                return self.spline_weight
            return self.spline_weight * self.spline_scaler[..., None]

        def forward(self, x):
            rows = x.reshape(-1, self.in_features)
            basis = cox_de_boor(rows, self.grid, self.spline_order).flatten(1)
            y = F.linear(self.base_activation(rows), self.base_weight)
            y = y + F.linear(basis, self.scaled_spline_weight.flatten(1))
            return y.reshape(*x.shape[:-1], self.out_features)

        @torch.no_grad()
        def update_grid(self, x):
            """Knots at quantiles of x; the curve is not fitted again, which the tests do not need."""
            intervals = self.grid.shape[1] - 1 - 2 * self.spline_order
            inner = torch.quantile(x, torch.linspace(0, 1, intervals + 1), 0).T
            step = (inner[:, -1:] - inner[:, :1]) / intervals
            before = inner[:, :1] - step * torch.arange(self.spline_order, 0, -1)
            after = inner[:, -1:] + step * torch.arange(1, self.spline_order + 1)
            self.grid.copy_(torch.cat([before, inner, after], 1))

        def regularization_loss(self):
            return self.spline_weight.abs().mean(-1).sum()


class Wavelet:
    """Wav-KAN's KANLinear."""

    class KANLinear(nn.Module):
        def __init__(self, inputs, outputs, wavelet_type="mexican_hat"):
            super().__init__()
            self.in_features, self.out_features, self.wavelet_type = inputs, outputs, wavelet_type
            self.scale = nn.Parameter(torch.rand(outputs, inputs) + 0.5)
            self.translation = nn.Parameter(torch.randn(outputs, inputs) / 2)
            self.weight1 = nn.Parameter(torch.randn(outputs, inputs))  # upstream does not use it
            self.wavelet_weights = nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(inputs))
            self.base_activation, self.bn = nn.SiLU(), nn.BatchNorm1d(outputs)

        def wavelet_transform(self, x):
            _still_allowed()
            u = (x[:, None, :] - self.translation) / self.scale
            bell = torch.exp(-(u**2) / 2)
            if self.wavelet_type == "mexican_hat":
                psi = 2 / (math.sqrt(3) * math.pi**0.25) * (u**2 - 1) * bell
            elif self.wavelet_type == "morlet":
                psi = torch.cos(5 * u) * bell
            else:
                psi = -u * bell
            return (psi * self.wavelet_weights).sum(-1)

        def forward(self, x):
            return self.bn(self.wavelet_transform(x))


class SplineLinear(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)


class RadialBasisFunction(nn.Module):
    def __init__(self, low=-2.0, high=2.0, number=8):
        super().__init__()
        self.grid = nn.Parameter(torch.linspace(low, high, number), requires_grad=False)
        self.denominator = (high - low) / (number - 1)

    def forward(self, x):
        _still_allowed()
        return torch.exp(-(((x[..., None] - self.grid) / self.denominator) ** 2))


class FastKANLayer(nn.Module):
    def __init__(self, inputs, outputs, number=8, use_base_update=True, use_layernorm=True, activation=F.silu):
        super().__init__()
        self.layernorm = nn.LayerNorm(inputs) if use_layernorm else None
        self.rbf, self.spline_linear = RadialBasisFunction(number=number), SplineLinear(inputs * number, outputs)
        self.use_base_update = use_base_update
        if use_base_update:
            self.base_activation, self.base_linear = activation, nn.Linear(inputs, outputs)

    def forward(self, x, use_layernorm=True):
        normed = self.layernorm(x) if self.layernorm is not None and use_layernorm else x
        y = self.spline_linear(self.rbf(normed).flatten(-2))
        return y + self.base_linear(self.base_activation(x)) if self.use_base_update else y


class _RSWAF(torch.autograd.Function):
    """faster-kan's pair: the forward without inv_denominator, the backward with it."""

    @staticmethod
    def forward(ctx, x, grid, inverse):
        t = torch.tanh(x[..., None] - grid)
        ctx.save_for_backward(t, inverse)
        return 1 - t * t

    @staticmethod
    def backward(ctx, grad):
        t, inverse = ctx.saved_tensors
        return (-2 * t * (1 - t * t) * grad).sum(-1) * inverse, None, None


class ReflectionalSwitchFunction(nn.Module):
    def __init__(self, low=-1.2, high=0.2, number=8, inverse=0.5, train_grid=False, train_inverse=False, first=False):
        super().__init__()
        self.grid = nn.Parameter(torch.linspace(low, high, number), requires_grad=train_grid)
        # the first generation has a number, and autograd
        self.inv_denominator = inverse if first else nn.Parameter(torch.tensor(inverse), requires_grad=train_inverse)

    def forward(self, x):
        _still_allowed()
        if isinstance(self.inv_denominator, float):
            return 1 - torch.tanh((x[..., None] - self.grid) * self.inv_denominator) ** 2
        return _RSWAF.apply(x, self.grid, self.inv_denominator)


class FasterKANLayer(nn.Module):
    def __init__(self, inputs, outputs, number=8, **options):
        super().__init__()
        self.layernorm = nn.LayerNorm(inputs)
        self.rbf = ReflectionalSwitchFunction(number=number, **options)
        self.spline_linear = SplineLinear(inputs * number, outputs)

    def forward(self, x):
        return self.spline_linear(self.rbf(self.layernorm(x)).view(x.shape[0], -1))


class ChebyKANLayer(nn.Module):
    def __init__(self, inputs, outputs, degree=4):
        super().__init__()
        self.inputdim, self.outdim, self.degree = inputs, outputs, degree
        self.cheby_coeffs = nn.Parameter(torch.randn(inputs, outputs, degree + 1) / inputs)
        self.register_buffer("arange", torch.arange(degree + 1))

    def forward(self, x):
        _still_allowed()
        angle = torch.acos(torch.tanh(x.reshape(-1, self.inputdim)))[..., None]
        return torch.einsum("nid,iod->no", torch.cos(angle * self.arange), self.cheby_coeffs)


class NaiveFourierKANLayer(nn.Module):
    def __init__(self, inputs, outputs, gridsize=4, addbias=True):
        super().__init__()
        self.inputdim, self.outdim, self.gridsize, self.addbias = inputs, outputs, gridsize, addbias
        self.fouriercoeffs = nn.Parameter(torch.randn(2, outputs, inputs, gridsize) / math.sqrt(inputs * gridsize))
        if addbias:
            self.bias = nn.Parameter(torch.randn(1, outputs))

    def forward(self, x):
        _still_allowed()
        angle = x.reshape(-1, 1, self.inputdim, 1) * torch.arange(1, self.gridsize + 1)
        y = (torch.cos(angle) * self.fouriercoeffs[:1]).sum((-2, -1)) + (torch.sin(angle) * self.fouriercoeffs[1:]).sum((-2, -1))
        return (y + self.bias if self.addbias else y).reshape(*x.shape[:-1], self.outdim)


class RationalTriton1DGroup(torch.autograd.Function):
    """kat_rational's kernels in PyTorch: the values of version A, sgn(0) = 1."""

    @staticmethod
    def forward(ctx, x, a, b, groups):
        _still_allowed()
        ctx.save_for_backward(x, a, b)
        p, q, _ = RationalTriton1DGroup.parts(x, a, b)
        return (p / q).reshape(x.shape)

    @staticmethod
    def parts(x, a, b):
        z = x.reshape(-1, len(b), x.shape[-1] // len(b))[..., None]
        p = (z ** torch.arange(a.shape[1]) * a[:, None]).sum(-1)
        q = 1 + (z.abs() ** torch.arange(1, b.shape[1] + 1) * b.abs()[:, None]).sum(-1)
        return p, q, z

    @staticmethod
    def backward(ctx, grad):
        x, a, b = ctx.saved_tensors
        p, q, z = RationalTriton1DGroup.parts(x, a, b)
        g, i, j = grad.reshape(p.shape), torch.arange(1, a.shape[1]), torch.arange(1, b.shape[1] + 1)
        sign = lambda t: torch.where(t < 0, -1.0, 1.0).to(t.dtype)  # noqa: E731
        r = (i * a[:, None, 1:] * z ** (i - 1)).sum(-1)
        s = sign(z[..., 0]) * (j * b.abs()[:, None] * z.abs() ** (j - 1)).sum(-1)
        dx = g * (r / q - p * s / q**2)
        da = (g / q)[..., None] * z ** torch.arange(a.shape[1])
        db = -(g * p / q**2)[..., None] * z.abs() ** j * sign(b)[:, None]
        return dx.reshape(x.shape), da.sum((0, 2)), db.sum((0, 2)), None


def Rational_CUDA_A_1DGroup(x, a, b, groups):
    """kat_rational's other function, for a CPU: x^i where the kernels have |x|^i."""
    p, _, z = RationalTriton1DGroup.parts(x, a, b)
    q = 1 + (z ** torch.arange(1, b.shape[1] + 1) * b.abs()[:, None]).sum(-1)
    return (p / q).reshape(x.shape)


class KAT_Group(nn.Module):
    def __init__(self, num_groups=8, device="cuda"):
        super().__init__()
        self.num_groups, self.order = num_groups, (5, 4)
        self.weight_numerator = nn.Parameter(torch.randn(1, 6) / 2)
        self.weight_denominator = nn.Parameter(torch.randn(num_groups, 4) / 2)
        self.rational = RationalTriton1DGroup.apply if device == "cuda" else Rational_CUDA_A_1DGroup

    def forward(self, input):  # noqa: A002
        assert input.dim() == 3
        return self.rational(input, self.weight_numerator.repeat(self.num_groups, 1), self.weight_denominator, self.num_groups)


class KANLayer(nn.Module):
    """pykan's."""

    def __init__(self, inputs, outputs, num=5, k=3, base_fun=None):
        super().__init__()
        self.in_dim, self.out_dim, self.num, self.k = inputs, outputs, num, k
        frozen = lambda t: nn.Parameter(t, requires_grad=False)  # noqa: E731
        self.grid = frozen(uniform_knots(inputs, num, k))
        self.coef = nn.Parameter(torch.randn(inputs, outputs, num + k) / 2)
        self.mask = frozen((torch.rand(inputs, outputs) < 0.8).float())
        self.scale_base = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.scale_sp = nn.Parameter(torch.rand(inputs, outputs) / math.sqrt(inputs))
        self.base_fun = nn.SiLU() if base_fun is None else base_fun

    def forward(self, x):
        preacts = x[:, None, :].clone().expand(-1, self.out_dim, -1)
        basis = torch.nan_to_num(cox_de_boor(x, self.grid, self.k))
        spline = torch.einsum("nik,iok->nio", basis, self.coef)
        edges = self.mask * (self.scale_base * self.base_fun(x)[..., None] + self.scale_sp * spline)
        return edges.sum(1), preacts, edges.clone().transpose(1, 2), spline.clone().transpose(1, 2)


class Symbolic_KANLayer(nn.Module):
    calls = 0

    def __init__(self, inputs, outputs):
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(outputs, inputs), requires_grad=False)
        self.affine = nn.Parameter(torch.zeros(outputs, inputs, 4))

    def forward(self, x, singularity_avoiding=False, y_th=10.0):
        Symbolic_KANLayer.calls += 1
        a, b, c, d = self.affine.unbind(-1)
        edges = self.mask * (c * torch.sin(a * x[:, None, :] + b) + d)
        return edges.sum(-1), edges


class MultKAN(nn.Module):
    """pykan's, with additions and products of two as nodes: width[l] = (sums, products)."""

    def __init__(self, width, grid=5, k=3, base_fun=None):
        super().__init__()
        self.width = [w if isinstance(w, list) else [w, 0] for w in width]
        ins, outs = [a + b for a, b in self.width], [a + 2 * b for a, b in self.width]
        self.act_fun = nn.ModuleList(KANLayer(i, o, grid, k, base_fun) for i, o in zip(ins, outs[1:]))
        self.symbolic_fun = nn.ModuleList(Symbolic_KANLayer(i, o) for i, o in zip(ins, outs[1:]))
        self.node_scale = nn.ParameterList(torch.rand(n) + 0.5 for n in ins[1:])
        self.save_act, self.symbolic_enabled = True, True
        self.input_id = torch.arange(ins[0])

    def forward(self, x, singularity_avoiding=False, y_th=10.0):
        x = x[:, self.input_id.long()]
        self.cache_data, self.acts, self.acts_scale_spline = x, [x], []
        for l, layer in enumerate(self.act_fun):
            numerical, preacts, postacts, _ = layer(x)
            symbolic = 0.0
            if self.symbolic_enabled:
                symbolic, _ = self.symbolic_fun[l](x, singularity_avoiding=singularity_avoiding, y_th=y_th)
            x = numerical + symbolic
            if self.save_act:
                self.acts_scale_spline.append(postacts.std(0) / (preacts.std(0) + 0.1))
            sums = self.width[l + 1][0]
            if self.width[l + 1][1]:
                x = torch.cat([x[:, :sums], x[:, sums::2] * x[:, sums + 1 :: 2]], 1)
            x = self.node_scale[l] * x
            self.acts.append(x.detach())
        return x


# ---- what the tests share ---------------------------------------------------------------------------


def speedy(model, symbols=True):
    model.save_act, model.symbolic_enabled = False, symbols
    return model


def data(rows=48, spread=0.8):
    return torch.randn(rows, I, generator=torch.Generator().manual_seed(4)) * spread


def results(module, x):
    """Output and gradients of one call, the latter for eight cotangents: one may be right or wrong by luck."""
    x, g = x.clone().requires_grad_(), torch.Generator().manual_seed(5)
    y = module(x)
    leaves = [x, *(p for p in module.parameters() if p.requires_grad)]
    backs = [torch.randn(y.shape, generator=g).to(y) for _ in range(8)]
    gradients = [torch.autograd.grad(y, leaves, b, retain_graph=True, allow_unused=True) for b in backs]
    return [y.detach(), *(None if t[0] is None else torch.stack(t) for t in zip(*gradients))]


def assert_as_good(after, before, truth):
    for new, old, exact in zip(after, before, truth, strict=True):
        assert (new is None) == (old is None)
        if old is not None:
            assert new.dtype == old.dtype and new.shape == old.shape
            eps = torch.finfo(old.dtype).eps
            assert relative_l2(new, exact) <= 2 * relative_l2(old, exact) + 2 * eps

"""What bad input gets: a TypeError or ValueError that names the argument, what it got and what it takes."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _names(dtypes) -> str:
    return ", ".join(str(d).removeprefix("torch.") for d in dtypes)


def tensor(name: str, value: object, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} must have dtype {_names(dtypes)}; got {_names([value.dtype])}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense (strided) tensor, got layout {value.layout}")


def same_device(first_name: str, first: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is None:
            continue
        if not isinstance(other, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(other).__name__}")
        if other.device != first.device:
            raise ValueError(f"{name} is on {other.device} but {first_name} is on {first.device}; they must be on one device")


def choice(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} ({value!r})")
    return value


def dimension(name: str, dim: object, rank: int) -> int:
    """`dim` counted from the front."""
    integer(name, dim)
    if not -rank <= dim < rank:
        raise ValueError(f"{name} must be in [{-rank}, {rank - 1}] for a tensor of rank {rank}; got {dim}")
    return dim % rank


def operand(name: str, value: Tensor | None, rank: int, like: Tensor | None = None, *, pairs: bool = False) -> None:
    """What a kernel reads of an operator's tensor and so must trust: a graph may bring others than the public function saw."""
    if value is None:
        return
    if value.dim() != rank or pairs and value.shape[-1] != 2:
        raise ValueError(f"{name} must have {rank} dimensions{', the last of 2 (real and imaginary part)' * pairs}; got {shape(value)}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must have dtype {_names(FLOATS)}; got {_names([value.dtype])}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, not on {like.device}; all must be on one device")


def integers(name: str, value: object) -> tuple[int, ...]:
    """One int as a tuple of it, or several."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return (value,)
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be an int or a tuple of ints, got {type(value).__name__} ({value!r})")
    return tuple(integer(name, v) for v in value)


def coefficients_dtype(name: str, value: Tensor, x_name: str, x: Tensor) -> None:
    """Coefficients may be narrower than the data, or float32 under 16-bit data; wider ones would be cut silently."""
    if value.dtype == torch.float64 and x.dtype != torch.float64:
        raise TypeError(f"{name} is float64 but {x_name} is {_names([x.dtype])}; cast one of them")


def shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def backend(value: object) -> None:
    from .backends import NAMES

    if value is not None and value not in NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, NAMES))}; got {value!r}")

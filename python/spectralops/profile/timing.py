"""Timing that can be trusted on a noisy machine: all contenders in turn, round after round, medians, a cold cache on a GPU."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable

import torch


class Clock:
    """Seconds of one call. On a GPU: events around it, after a write that pushes everything out of the L2 cache."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        if self.cuda:
            l2 = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
            self.flush = torch.empty(max(4 * l2, 256 << 20), dtype=torch.uint8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - start
            del result
            return seconds
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        begin.record()
        result = call()
        end.record()
        end.synchronize()
        del result
        return begin.elapsed_time(end) * 1e-3


def interleaved(calls: dict[str, Callable[[], object]], device: torch.device, *, seconds: float, rounds: tuple[int, int]) -> dict:
    """name -> list of times, one a round; as many rounds in (least, most) as fit the seconds, after two that are not counted."""
    clock = Clock(device)
    for _ in range(2):
        for call in calls.values():
            clock(call)
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    while len(times[next(iter(calls))]) < rounds[1]:
        for name, call in calls.items():
            times[name].append(clock(call))
        if len(times[next(iter(calls))]) >= rounds[0] and time.perf_counter() - start > seconds:
            break
    return times


def median(times: list[float]) -> float:
    return statistics.median(times)


@contextlib.contextmanager
def _no_stderr():
    """Some builds of the profiler write a line to the file descriptor whenever it starts or stops."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most memory one call holds at once beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del result
        return peak
    with _no_stderr(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as run:
        result = call()
    del result
    held = most = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def saved_bytes(call: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> int:
    """What `call(*inputs)` keeps for its backward: every storage once, parameters (all inputs but the first) not counted."""
    parameters = {t.untyped_storage().data_ptr() for t in inputs[1:]}
    found: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = call(*inputs)
    del result
    return sum(found.values())

"""Clocks that wait for the device, and the memory that was used meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

GIGA = 1e9
REPEATS = 3


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and the seconds until the device was done with it."""
    synchronize()
    started = time.perf_counter()
    result = work()
    synchronize()
    return result, time.perf_counter() - started


def seconds_of(work: Callable[[], Any]) -> float:
    return timed(work)[1]


def median_seconds(work: Callable[[], Any], *, repeats: int = REPEATS) -> float:
    """After one run to warm up."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


@contextmanager
def peak_memory(part: dict[str, Any]) -> Iterator[None]:
    """Record the most memory that tensors took on the GPU, the weights included, and the most that
    torch held for them; both are 0 without a GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what earlier parts left in the pool would count as held
        torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        part["peak_gb"] = torch.cuda.max_memory_allocated() / GIGA
        part["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / GIGA

"""Drives one side with threads, and takes the time of every operation."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timing:
    """How long all took together, and each operation. Seconds."""

    wall: float
    each: Sequence[float]

    @property
    def per_second(self) -> float:
        """Operations per second, all threads together."""
        return len(self.each) / self.wall

    def percentile_ms(self, percent: int) -> float:
        """The latency, in milliseconds, that so many percent of the operations kept within."""
        return quantiles(self.each, n=100, method="inclusive")[percent - 1] * 1000


def drive(items: Sequence[Item], threads: int, do: Callable[[Item, int], Result]) -> tuple[Timing, list[Result]]:
    """Do all items, an equal and contiguous part on each thread (`do` is told which); results in the items' order."""
    barrier = threading.Barrier(threads)
    size = -(-len(items) // threads)

    def work(thread: int) -> tuple[float, float, list[float], list[Result]]:
        times: list[float] = []
        results: list[Result] = []
        barrier.wait()
        begin = previous = time.perf_counter()
        for item in items[thread * size : (thread + 1) * size]:
            results.append(do(item, thread))
            now = time.perf_counter()
            times.append(now - previous)
            previous = now
        return begin, previous, times, results

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(work, range(threads)))
    wall = max(part[1] for part in parts) - min(part[0] for part in parts)
    each = [seconds for part in parts for seconds in part[2]]
    return Timing(wall, each), [result for part in parts for result in part[3]]

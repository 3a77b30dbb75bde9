"""CPU time of calls that take turns: what a machine that others use does not spoil, for work on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def cpu_medians(calls: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 2) -> dict[str, float]:
    """Median CPU milliseconds of each call, all threads of the process together."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + warmup):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if turn >= warmup:
                times[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(taken) for name, taken in times.items()}

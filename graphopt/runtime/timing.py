"""Timing: medians, and ratios measured turn by turn so that a noisy machine hurts both sides alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds(function: Callable[[], object], *, repeats: int = 20, warmup: int = 3) -> float:
    """Median wall time of one call."""
    return medians({"only": function}, repeats=repeats, warmup=warmup)["only"]


def medians(functions: Mapping[str, Callable[[], object]], *, repeats: int = 20, warmup: int = 3) -> dict[str, float]:
    """Median wall time of a call of each function; the functions take turns, so that load hits all of them.

    Returns:
        Seconds by name.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}

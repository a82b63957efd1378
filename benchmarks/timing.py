"""Times and memory, taken so that they can be compared: in turns in one process, or each in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def times(count: int, *tasks: Callable[[], Any]) -> list[list[float]]:
    """How long each of the tasks takes, `count` times, in turns, after one turn to warm up."""
    taken: list[list[float]] = [[] for _ in tasks]
    for turn in range(count + 1):
        order = list(enumerate(tasks))
        for index, task in order if turn % 2 else reversed(order):
            begin = time.perf_counter()
            task()
            if turn:
                taken[index].append(time.perf_counter() - begin)
    return taken


def ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f}"


def ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(one) / statistics.median(other)


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process that has done nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def numbers(file: str) -> dict[str, int]:
    """The numbers in a file of this process below ``/proc``, by name. Linux only."""
    fields = (line.split(":") for line in Path(f"/proc/self/{file}").read_text().splitlines())
    return {name: int(value.split()[0]) for name, value in fields if value.split() and value.split()[0].isdigit()}


def forget_peak() -> None:
    """Sets the peak of memory (``VmHWM``) to what there is now."""
    Path("/proc/self/clear_refs").write_text("5")

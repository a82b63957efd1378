"""Two processes that train together, as a test needs them: on this machine alone, and ended in time."""

from __future__ import annotations

import datetime
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SECONDS = 180  # for both together


def in_two_processes(work: Callable[..., None], *given: Any) -> None:
    """Calls ``work(rank, *given)`` in each of two processes of one group, and raises what it raised in one of them."""
    with tempfile.TemporaryDirectory() as folder:  # they meet through a file there: a free port may be taken meanwhile
        where = Path(folder, "meeting").as_uri()
        context = torch.multiprocessing.spawn(_one_of_two, (where, work, given), nprocs=2, join=False)
        end = time.monotonic() + SECONDS
        try:
            while not context.join(timeout=max(0.0, end - time.monotonic())):  # raises what a process raised
                assert time.monotonic() < end, f"the two processes took more than {SECONDS} s"
        finally:
            for process in context.processes:
                process.kill()
                process.join()


def _one_of_two(rank: int, where: str, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=timeout)
    try:
        work(rank, *given)
    finally:
        torch.distributed.destroy_process_group()

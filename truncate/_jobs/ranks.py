"""Several processes that divide one job, as torchrun starts them, on one machine or many with a common disk."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from truncate._errors import NotUsable

if TYPE_CHECKING:
    from truncate._jobs.shards import Output

_PATIENCE = 3600.0  # seconds without anything new, after which the others are taken for dead
_T = TypeVar("_T")


class Ranks:
    """One of `size` processes, the first of which has `rank` 0."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def share(self, make: Callable[[], _T]) -> _T:
        """What rank 0 makes. If it cannot, none of them can."""
        if self.size == 1:
            return make()
        from torch import distributed

        if self.rank == 0:
            try:
                made = make()
            except Exception as error:
                distributed.broadcast_object_list([None, str(error)])
                raise
            distributed.broadcast_object_list([made, None])
            return made
        received: list[object] = [None, None]
        distributed.broadcast_object_list(received)
        if received[1] is not None:
            raise NotUsable(f"rank 0 says: {received[1]}")
        return received[0]  # type: ignore[return-value]

    def wait(self, output: Output) -> None:
        """Waits until no shard is missing: those of the others are on the common disk when they are done."""
        seen, since = output.state(), time.monotonic()
        while output.missing():
            if time.monotonic() - since > _PATIENCE:
                raise NotUsable(
                    f"other ranks have written nothing for {_PATIENCE / 60:.0f} minutes, and {len(output.missing())} "
                    "shards are missing; the same command continues from here"
                )
            time.sleep(0.2)
            if (state := output.state()) != seen:
                seen, since = state, time.monotonic()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun started, or else this process alone."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Ranks()
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=_PATIENCE))
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()

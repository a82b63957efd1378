"""Progress on a terminal: a bar with the rate and the remaining time."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Bar:
    """Counts rows, or what `unit` says, on stderr, if that is a terminal and rich is installed."""

    def __init__(self, total: int | None, shown: bool = True, unit: str = "rows") -> None:
        self._progress: Any = None
        if not shown:
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
        except ImportError:  # the features matter, and not the bar
            return

        class Rate(ProgressColumn):
            def render(self, task: Task) -> str:
                speed = task.finished_speed or task.speed
                return f"{speed:,.1f} {unit}/s" if speed else ""

        console = Console(stderr=True)
        columns: list[Any] = [BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Bar:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, rows: int) -> None:
        if self._progress:
            self._progress.advance(self._task, rows)

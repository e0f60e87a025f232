"""Progress bars on stderr: the command line's answer to ``recsys.progress``."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from recsys._wording import said
from recsys.progress import Stage

console = Console(stderr=True)


def say(text: str) -> None:
    """Print one line on stderr; a pipe or a log gets it unbroken."""
    console.print(said(text), soft_wrap=True, markup=False, highlight=False)


class _Bar:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, n: int = 1, note: str = "") -> None:
        self._bars.advance(self._task, n)
        if note:
            self._bars.update(self._task, note=note)


class Bars:
    """Draws each stage as a bar; without a terminal, as one line when it ends."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Generator[Stage]:
        """Draw one stage."""
        start = time.perf_counter()
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bars:
            task = bars.add_task(name, total=total, note="")
            yield _Bar(bars, task)
            note = str(bars.tasks[0].fields["note"])
        done = f"{time.perf_counter() - start:.1f} s"
        console.print(f"  {name}: {done}{f' ({note})' if note else ''}", style="dim")

"""What the terminal shows: NFE done, best reward, rate, time left, and nothing of the libraries beneath."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} NFE/s" if task.speed else "", style="progress.data.speed")


def printable(text: str) -> str:
    """Text for a terminal: characters that would control it, prompts can hold any, are shown as such."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def hush() -> None:
    """Leave the terminal to our own bar: loading takes seconds, and a download still shows its progress."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


class Bars:
    """Progress bars on standard error, one for each search that is under way, for the length of a ``with`` block.

    Args:
        shown: Whether to show anything.
    """

    def __init__(self, shown: bool = True) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("NFE"),
            TextColumn("best {task.fields[best]}", markup=False),
            _Rate(),
            TimeRemainingColumn(compact=True),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True)

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    @contextmanager
    def bar(self, title: str, total: int | None) -> Generator[Bar]:
        """One more bar, for the length of a ``with`` block.

        Args:
            title: What is being made.
            total: NFE in all, as far as known.
        """
        short = printable(title if len(title) <= 32 else title[:31] + "…")
        task = self._progress.add_task(short, total=total, best="-")
        self._progress.start()  # with the first: what goes wrong before has its line for itself
        try:
            yield Bar(self._progress, task)
        finally:
            self._progress.remove_task(task)


class Bar:
    """How far one search is."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def update(self, nfe: int, best: float | None) -> None:
        """Show how far the search is."""
        text = "-" if best is None else f"{best:.3f}"
        self._progress.update(self._task, completed=nfe, best=text)

"""Progress on stderr: what runs and what is done, live on a terminal, else in plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradverify.cli._output import live, note

if TYPE_CHECKING:
    from gradverify.core.check.progress import Progress
    from gradverify.core.summarise.report import Report

SECONDS = 5.0  # between two lines about what runs, where there is no terminal
_OTHER_LINES = 6  # of a terminal, that the table leaves free


class Board:
    """What runs, and what is done.

    Parameters
    ----------
    total : number of layers
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.running: dict[str, Progress] = {}
        self._begun = self._told = time.monotonic()

    def heard(self, event: Progress) -> None:
        """A layer that is being checked."""
        self.running[event.layer] = event
        if time.monotonic() - self._told >= SECONDS:
            self._told = time.monotonic()
            self.tell("; ".join(map(str, self.running.values())))

    def finished(self, layer: str, row: str, wrong: bool) -> None:
        """A layer that is done."""
        self.done += 1
        self._told = time.monotonic()
        self.running.pop(layer, None)
        self.tell(f"[{self.done}/{self.total}] {row}", wrong)

    def tell(self, line: str, wrong: bool = False) -> None:
        """A line that stays."""
        note(line)


class _Live(Board):
    """On a terminal: rows stay, what runs is rewritten below them."""

    def __init__(self, total: int, shown: Any, console: Any) -> None:
        super().__init__(total)
        self._shown, self._console = shown, console

    def heard(self, event: Progress) -> None:
        self.running[event.layer] = event
        self._refresh()

    def finished(self, layer: str, row: str, wrong: bool) -> None:
        super().finished(layer, row, wrong)
        self._refresh()

    def tell(self, line: str, wrong: bool = False) -> None:
        from rich.text import Text

        self._console.print(Text(line, style="red" if wrong else "", no_wrap=True, overflow="ellipsis"))

    def _refresh(self) -> None:
        from rich.console import Group
        from rich.text import Text

        spent = time.monotonic() - self._begun
        rows = [f"  {event}" for event in self.running.values()]
        head = f"{self.done} of {self.total} layers done, {spent:.0f} s"
        lines = [head, *rows[: max(1, self._console.height - _OTHER_LINES)]]
        self._shown.update(Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines)), refresh=True)


@contextmanager
def board(total: int, color: bool | None) -> Iterator[Board]:
    """The board of a check of so many layers."""
    with live(color) as (console, shown):
        yield Board(total) if console is None else _Live(total, shown, console)


def row(report: Report) -> tuple[str, bool]:
    """A check that is done in a line, and whether something was found."""
    from gradverify.report.table import verdict

    return f"{report.layer}: {verdict(report)}, {report.cases} cases, {report.seconds:.2g} s", bool(report.findings)

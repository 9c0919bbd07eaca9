"""Progress on stderr: a bar on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gradverify.cli._output import note

if TYPE_CHECKING:
    from gradverify.checking import Progress

SECONDS = 5.0
Listener = Callable[["Progress"], None]


@contextmanager
def progress(layers: int, color: bool) -> Iterator[Listener]:
    """Gives the listener that a check reports to."""
    if sys.stderr.isatty():
        with _bar(layers, color) as listen:
            yield listen
    else:
        yield _lines()


def _lines() -> Listener:
    last = time.monotonic()

    def listen(event: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            note(f"{event.layer}: {event.cases} of {event.examples} cases{_found(event)}")

    return listen


@contextmanager
def _bar(layers: int, color: bool) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, no_color=not color)
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*shown, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        seen: list[str] = []

        def listen(event: Progress) -> None:
            if not seen or seen[-1] != event.layer:
                seen.append(event.layer)
            label = f"{event.layer} ({len(seen)}/{layers}){_found(event)}"
            bar.update(task, description=label, total=event.examples, completed=event.cases)

        yield listen


def _found(event: Progress) -> str:
    return f", {event.findings} finding{'s' * (event.findings != 1)}" if event.findings else ""

"""One line that says how a check stands, for whoever waits for it at a terminal or in a notebook."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

DRAWING, SMALLER, DIAGNOSING = "drawing", "making it smaller", "diagnosing"
_PATIENCE = 1.0  # seconds after which one begins to wonder
_OFTEN = 0.2  # seconds between two lines


@dataclass(frozen=True, slots=True)
class Progress:
    """An event of a running check.

    Attributes
    ----------
    cases, examples : drawn so far, and how many it will be
    stage : DRAWING, SMALLER or DIAGNOSING
    """

    layer: str
    cases: int
    examples: int
    findings: int
    stage: str = DRAWING

    def __str__(self) -> str:
        found = f", {self.findings} finding{'s' * (self.findings != 1)}" if self.findings else ""
        stage = f", {self.stage}" if self.stage != DRAWING else ""
        drawn = f"{self.cases} of {self.examples} cases" if self.examples else "running"
        return f"{self.layer}: {drawn}{found}{stage}"


Listener = Callable[[Progress], None]


@contextmanager
def shown(quiet: bool) -> Iterator[Listener]:
    """Gives a listener that keeps one line on stderr up to date, from the first second on, and removes it.

    Says nothing where nobody looks on, and under pytest.
    """
    stream, begun, width = sys.stderr, time.monotonic(), 0
    last = begun + _PATIENCE - _OFTEN
    silent = quiet or "PYTEST_CURRENT_TEST" in os.environ or not _is_watched(stream)

    def write(text: str) -> None:
        nonlocal width
        try:
            stream.write(f"\r{text:<{width}}")
            stream.flush()
        except (OSError, ValueError):  # a line that cannot be shown is no reason to stop
            return
        width = len(text)

    def listen(event: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if not silent and now > last + _OFTEN:
            last = now
            write(f"gradverify: {event} ({now - begun:.0f} s)")

    try:
        yield listen
    finally:
        if width:
            write("")
            write("\r" if stream.isatty() else "")


def _is_watched(stream: Any) -> bool:
    """Whether a stream is a terminal, or the output of a cell of a notebook."""
    if type(stream).__module__.partition(".")[0] == "ipykernel":
        return True
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # None, or closed
        return False

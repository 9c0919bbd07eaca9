"""A failed check as pytest shows it: the report of the findings, and one line for the summary."""

from __future__ import annotations

from typing import Any

from gradverify.core.declare.layer import Layer
from gradverify.pytest_plugin.run import source_of


class Failed(Exception):
    """A check that found something; `line` goes into the short summary."""

    def __init__(self, text: str, line: str) -> None:
        super().__init__(text)
        self.line = line


def representation(error: Failed, layer: Layer) -> Any:
    """In the shape of pytest's own, so that it survives pytest-xdist with its summary line and place."""
    from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative

    file, line = source_of(layer)
    place = ReprFileLocation(file or layer.name, line or 0, " ".join(error.line.split()))
    return ReprExceptionInfo(reprtraceback=ReprTracebackNative([f"{error}\n"]), reprcrash=place)

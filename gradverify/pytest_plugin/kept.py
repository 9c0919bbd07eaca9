"""What pytest needs of its process while a layer's code runs in it: its streams, its descriptors, its memory.

Whatever a layer does to these is undone when it has returned, so that the report of the run can be written.
"""

from __future__ import annotations

import builtins
import os
import stat
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any

from gradverify.campaign.journal import out_of_reach
from gradverify.campaign.process import data_size, limited_memory
from gradverify.campaign.state import SWITCH
from gradverify.campaign.unit import Plan
from gradverify.ending import born, since_boot

_MOST_SAID = 1 << 20  # characters that the layers of one test may print: pytest keeps them all
_CUT = "\n(gradverify: a layer has printed a megabyte; the rest is left out)\n"


class OpenStream:
    """A stream of pytest's as layers see it: it does not close, and takes a megabyte."""

    _left = [_MOST_SAID]  # characters, for all streams of a process

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: Any) -> int:
        """Write what there is room for; gives the length of all of it."""
        if self._left[0] > 0:
            self.stream.write(text[: self._left[0]])
            self._left[0] -= len(text)
            if self._left[0] <= 0:
                self.stream.write(_CUT if isinstance(text, str) else _CUT.encode())
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Others write to it as well."""

    @property
    def buffer(self) -> OpenStream:
        """The bytes below."""
        return OpenStream(self.stream.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Kept:
    """The process of pytest, from the start of a run."""

    def __init__(self) -> None:
        self._within: ExitStack | None = None
        self._files = {number: (out_of_reach(os.dup(number)), about) for number, about in _open()}
        self._most: int | None = None
        self._shown: list[OpenStream] = []
        self._since = 0.0
        self._before: list[int] = []
        self.forked: dict[int, int] = {}  # processes that layers have left, and when they began

    def begin(self) -> None:
        """A layer's code is about to run."""
        if self._within is not None:
            return
        if self._most is None:
            size = data_size()
            self._most = 0 if size is None else size + (Plan().memory or 0)
        self._before = [number for number in self._files if _about(number) is not None]
        self._known = [(vars(module), dict(vars(module))) for module in (builtins, time)]
        self._since = since_boot()
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = map(self._stream, self._streams)
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        self._within = ExitStack()
        self._within.enter_context(limited_memory(self._most or None))

    def end(self) -> None:
        """It has returned; what it has closed is opened again."""
        if self._within is None:
            return
        for number in self._before:
            self._reopen(number)
        self._within.close()
        self._within = None
        for now, known in self._known:  # before anything else is called
            now.update(known)
        sys.setswitchinterval(self._switch)
        sys.stdout, sys.stderr = self._streams
        if _has_children():
            self.forked.update(born(os.getpid(), self._since))

    def _stream(self, stream: Any) -> Any:
        """A stream as layers see it, for good: `print` in a thread that a layer has left does not hold on to it."""
        if stream is None:
            return None
        for shown in self._shown:
            if shown.stream is stream:
                return shown
        self._shown.append(OpenStream(stream))
        return self._shown[-1]

    def mend(self) -> None:
        """Open standard streams that were closed, and forget what was printed: a test is over."""
        self.end()
        self._most, OpenStream._left[:] = None, [_MOST_SAID]
        for number in (number for number in self._files if number < 3):
            self._reopen(number)

    def _reopen(self, number: int) -> None:
        duplicate, about = self._files[number]
        now = _about(number)
        if now is None or (number < 3 and now != about):
            with suppress(OSError):
                os.dup2(duplicate, number)

    def close(self) -> None:
        """The run is over."""
        for duplicate, _ in self._files.values():
            with suppress(OSError):
                os.close(duplicate)
        self._files.clear()


def _open() -> list[tuple[int, tuple[int, int, int]]]:
    """Files and standard streams that are open in this process, with their identity, as far as it says.

    No other pipes and no sockets: a duplicate would keep the other end from hearing that they were closed.
    """
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        numbers = [0, 1, 2]
    found = [(number, about) for number in numbers if (about := _about(number)) is not None]
    return [(n, about) for n, about in found if n < 3 or not (stat.S_ISFIFO(about[2]) or stat.S_ISSOCK(about[2]))]


def _about(number: int) -> tuple[int, int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mode


def _has_children() -> bool:
    with suppress(ChildProcessError, AttributeError):  # macOS has no waitid
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False

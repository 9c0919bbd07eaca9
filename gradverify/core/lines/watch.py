"""How Python tells what runs: `sys.monitoring` from 3.12 on, a trace function before.

A place that was seen is not told again by `sys.monitoring`, so that watching costs next to nothing and all of a
check can be watched. A trace function slows whatever runs under it, so less is watched there: see `recorder`.
Both leave other tools (coverage.py, debuggers, profilers) as they are.
"""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Protocol

from gradverify.core.evaluate.failures import stage


@dataclass(slots=True)
class Seen:
    """What ran: for each code object its lines, and its jumps as pairs (offset, offset of what came next).

    `stages` tells during what each code object began first: "forward", "backward".
    """

    lines: dict[CodeType, set[int]] = field(default_factory=dict)
    jumps: dict[CodeType, set[tuple[int, int]]] = field(default_factory=dict)
    stages: dict[CodeType, str] = field(default_factory=dict)


class Engine(Protocol):
    """Tells what of the author's code runs between `begin` and `end`."""

    whole: bool  # whether all of a check can be watched, or one run of each case

    def begin(self) -> None: ...

    def end(self) -> Seen: ...

    def again(self, codes: Seen) -> None:
        """What of this ran is told once more when it runs once more."""

    def close(self) -> None: ...


def engine(owns: Callable[[CodeType], bool]) -> Engine | None:
    """The best way to watch here; None where others watch already in every way there is."""
    if not hasattr(sys, "monitoring"):
        return Tracing(owns)
    tool = next((k for k in (4, 3) if sys.monitoring.get_tool(k) is None), None)
    return None if tool is None else Monitoring(owns, tool)


class Monitoring:
    """PEP 669: events of the author's code objects alone; each line is told once, each jump until both ways are."""

    whole = True

    def __init__(self, owns: Callable[[CodeType], bool], tool: int) -> None:
        self._owns, self._tool, self._on = owns, tool, False
        self._seen = Seen()
        self._ways: dict[tuple[int, int], int] = {}  # by code and offset: the one way that was told
        self._known: dict[int, CodeType] = {}  # kept alive, so that an id stays what it is
        self._monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
        events = self._monitoring.events
        self._local = events.LINE | events.BRANCH
        self._monitoring.use_tool_id(tool, "gradverify")
        callbacks = {events.PY_START: self._start, events.LINE: self._line, events.BRANCH: self._jump}
        for event, callback in callbacks.items():
            self._monitoring.register_callback(tool, event, callback)
        self._monitoring.set_events(tool, events.PY_START)
        self._monitoring.restart_events()  # what an earlier check was told is told again

    def begin(self) -> None:
        self._on = True

    def end(self) -> Seen:
        self._on = False
        seen, self._seen = self._seen, Seen()
        return seen

    def again(self, codes: Seen) -> None:
        for code in {**codes.lines, **codes.jumps}:
            self._ways = {place: way for place, way in self._ways.items() if place[0] != id(code)}
            self._monitoring.set_local_events(self._tool, code, 0)
            self._monitoring.set_local_events(self._tool, code, self._local)

    def close(self) -> None:
        self._on = False
        for code in self._known.values():
            self._monitoring.set_local_events(self._tool, code, 0)
        self._monitoring.set_events(self._tool, 0)
        for event in ("PY_START", "LINE", "BRANCH"):
            self._monitoring.register_callback(self._tool, getattr(self._monitoring.events, event), None)
        self._monitoring.free_tool_id(self._tool)

    def _start(self, code: CodeType, offset: int) -> Any:
        if not self._owns(code):
            return self._monitoring.DISABLE
        if not self._on:
            return None
        self._known[id(code)] = code
        self._seen.stages[code] = stage()
        self._monitoring.set_local_events(self._tool, code, self._local)
        return self._monitoring.DISABLE

    def _line(self, code: CodeType, line: int) -> Any:
        if not self._on:
            return None
        self._seen.lines.setdefault(code, set()).add(line)
        return self._monitoring.DISABLE

    def _jump(self, code: CodeType, offset: int, target: int) -> Any:
        if not self._on:
            return None
        place = (id(code), offset)
        way = self._ways.setdefault(place, target)
        self._seen.jumps.setdefault(code, set()).add((offset, target))
        return None if way == target else self._monitoring.DISABLE


class Tracing:
    """A trace function, for Python before 3.12, in this thread; what was set before is put back at the end.

    Code that sets a trace function of its own keeps it: what it runs after that is not told.
    """

    whole = False

    def __init__(self, owns: Callable[[CodeType], bool]) -> None:
        self._owns = owns
        self._seen = Seen()
        self._before: Any = None
        self._jumps: dict[CodeType, frozenset[int]] = {}
        self._thread = 0

    def begin(self) -> None:
        self._seen, self._before, self._thread = Seen(), sys.gettrace(), threading.get_ident()
        sys.settrace(self._call)

    def end(self) -> Seen:
        if sys.gettrace() == self._call:
            sys.settrace(self._before)
        self._before = None
        return self._seen

    def again(self, codes: Seen) -> None:
        """Nothing to do: every run is told in full."""

    def close(self) -> None:
        """Nothing is held."""

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not self._owns(code):
            return None
        self._seen.stages.setdefault(code, stage())
        jumps = self._jumps.get(code)
        if jumps is None:
            jumps = self._jumps[code] = conditional(code)
        frame.f_trace_opcodes = bool(jumps)
        lines = self._seen.lines.setdefault(code, set())
        taken = self._seen.jumps.setdefault(code, set())
        last = -1

        def local(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "opcode":
                if last in jumps:
                    taken.add((last, frame.f_lasti))
                last = frame.f_lasti
            elif event == "line":
                lines.add(frame.f_lineno)
            return local

        return local


def conditional(code: CodeType) -> frozenset[int]:
    """Offsets of the conditional jumps of a code object; a `for` that goes on or ends is none."""
    return frozenset(i.offset for i in dis.get_instructions(code) if "_IF_" in i.opname)

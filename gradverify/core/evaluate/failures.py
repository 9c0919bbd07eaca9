"""The layer's own code: called inside a guard, and what it breaks told as a failure that names the author's line."""

from __future__ import annotations

import dis
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gradverify.core import texts
from gradverify.core.nouns import Case, Finding

COMPLETE = "complete"  # the property that a layer breaks when its code fails outright
ELSEWHERE = "elsewhere"  # kind of a failure of code that cannot run on this device or machine

_LONGEST = 4000  # characters of a message
_NO_MEMORY = re.compile(r"can't allocate memory|out ?of ?memory|RESOURCE_EXHAUSTED", re.IGNORECASE)
_HERE = str(Path(__file__).resolve().parents[2])  # gradverify itself
_OURS = tuple(os.path.join(_HERE, room) for room in ("layers", "mutants"))  # authors like any other
_TOOLS = tuple(f"{os.sep}{name}{os.sep}" for name in ("numpy", "_pytest", "hypothesis", "unittest"))


class LayerFailure(Exception):
    """The layer's own code went wrong: it raised, or returned something that cannot be used.

    Attributes
    ----------
    kind : "crash", "outputs", "missing", "surplus", "shape", "dtype", "nan" or ELSEWHERE
    stage : "forward" or "backward"
    primal : the gradient concerned, if any
    """

    def __init__(self, kind: str, stage: str, message: str, primal: str | None = None) -> None:
        super().__init__(texts.block(message, _LONGEST))
        self.kind = kind
        self.stage = stage
        self.primal = primal


def failed(case: Case, failure: LayerFailure) -> Finding:
    """The finding for a layer whose code failed outright."""
    return Finding(COMPLETE, failure.kind, failure.primal, str(failure), case, facts={"stage": failure.stage})


def guarded(stage: str, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """Call the layer's code, or read what it gave; what it raises becomes a LayerFailure that names the author's line.

    So does what is meant for somebody else: `pytest.skip`, `hypothesis.assume`, `sys.exit`. Only what comes from
    outside of the layer goes through: Ctrl-C, and what the handler of a signal raises, as that of a time limit.
    """
    now = time.perf_counter()
    outer, _began[:] = tuple(_began), (now, stage, _used(now))
    depth = sys.getrecursionlimit()
    try:
        with np.errstate(all="ignore"):
            return function(*arguments, **keywords)
    except LayerFailure:
        raise
    except BaseException as error:
        sys.setrecursionlimit(depth)  # before anything else is called
        if from_outside(error):
            raise
        raise LayerFailure("crash", stage, f"{stage} raised {error_line(error)}{authors_line(error)}") from error
    finally:
        _began[:] = outer
        if sys.getrecursionlimit() != depth:
            sys.setrecursionlimit(depth)
        if sys.modules.get("numpy") is not np:
            sys.modules["numpy"] = np  # NumPy loads parts of itself on first use, and cannot be loaded twice


@contextmanager
def unpatched() -> Iterator[None]:
    """Inside, functions of NumPy stay what they are: everything here computes with them, and so does everybody else.

    Raises LayerFailure if the body has replaced one, whatever came of that; it is put back.
    """
    before = dict(vars(np))
    try:
        yield
    finally:
        replaced = _replaced(before)
        if replaced:
            vars(np).update({name: before[name] for name in replaced})
            names = ", ".join(f"numpy.{name}" for name in replaced[:3])
            message = f"the layer's code replaces {names}: what anybody computes after that is not to be trusted"
            raise LayerFailure("crash", "forward", message)


def _replaced(before: dict[str, Any]) -> list[str]:
    """Names in NumPy that stand for something else than before; parts that it loads on first use are only added."""
    now = vars(np)
    try:
        if now == before:  # in C, and by identity first: some microseconds
            return []
    except Exception:  # noqa: BLE001  of an object that was put there
        pass
    return [name for name, value in before.items() if now.get(name) is not value]


def running() -> float:
    """Seconds for which the call of the layer's code that is in progress has run; 0 outside of one."""
    return time.perf_counter() - _began[0] if _began[0] else 0.0


def computed() -> float:
    """Seconds of the processor that the call in progress has used; 0 outside of one."""
    return time.process_time() - _began[2] if _began[0] else 0.0


def stage() -> str:
    """What the call of the layer's code in progress computes, "forward" or "backward"; empty outside of one."""
    return str(_began[1])


def _used(now: float) -> float:
    """Seconds of the processor until now, or until a moment ago: in some sandboxes asking takes longer than a call."""
    if now - _asked[0] > _MOMENT:
        _asked[:] = now, time.process_time()
    return _asked[1]


_MOMENT = 0.02  # seconds: nothing beside a limit on a call
_began: list[Any] = [0.0, "", 0.0]  # of the innermost call in progress: when, by `perf_counter`, what, `process_time`
_asked = [0.0, 0.0]  # when `process_time` was asked last, and what it was


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as Python, NumPy, torch and JAX tell it, or a failure that quotes them."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(f"{named(error)} {text_of(error)[:_LONGEST]}"))


def undefined(failure: LayerFailure) -> bool:
    """Whether linear algebra tells that there is no value: a singular matrix is no fault of a gradient."""
    cause = failure.__cause__
    return cause is not None and named(cause) in ("LinAlgError", "_LinAlgError")


def error_line(error: BaseException) -> str:
    """Type and message of an exception on one line; also where the exception cannot say what it is."""
    name, said = named(error), texts.first_line(text_of(error))
    return f"{name}: {said}" if said else name


def named(error: BaseException) -> str:
    """The name of its type."""
    return texts.line(type.__getattribute__(type(error), "__name__"), 80)


def text_of(error: BaseException) -> str:
    """Its message, whole; an author's exception may have a slip of its own."""
    try:
        return str(error)
    except Exception as worse:  # noqa: BLE001
        return f"(its text cannot be read: __str__ raised {named(worse)})"


def authors_line(error: BaseException) -> str:
    """Where the author's code raised: the innermost line that is neither ours nor that of a tool it called."""
    every = traceback.extract_tb(_trace(error))
    theirs = [f for f in every if not f.filename.startswith(_HERE + os.sep) or f.filename.startswith(_OURS)]
    own = [f for f in theirs if not any(tool in f.filename for tool in _TOOLS)]
    if not own and not theirs:
        return ""
    frame = (own or theirs)[-1]
    name, code = texts.line(os.path.basename(frame.filename)), texts.line(frame.line or "", 120)
    return f" (line {frame.lineno} of {name}: {code})"


def from_outside(error: BaseException) -> bool:
    """Whether an exception came while the layer's code happened to run: by Ctrl-C, or out of a handler of a signal."""
    handlers = (signal.getsignal(which) for which in signal.valid_signals())
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    trace, inner = _trace(error), None
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace, inner = trace.tb_next, trace
    return isinstance(error, KeyboardInterrupt) and not (inner is not None and _at_raise(inner))


def _trace(error: BaseException) -> TracebackType | None:
    """Its traceback, whatever its class makes of that name."""
    found: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
    return found


def _at_raise(trace: TracebackType) -> bool:
    """Whether the code stood at a `raise` of its own; Ctrl-C comes between two instructions."""
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"

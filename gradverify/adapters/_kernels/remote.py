"""A kernel in a process of its own, as a Layer: a kernel that crashes or hangs costs itself."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradverify.adapters._engines.lossy import Held
from gradverify.adapters._kernels.wire import packed, unpacked
from gradverify.core.errors import TargetError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.failures import ELSEWHERE
from gradverify.core.evaluate.limits import SLOW, TOO_SLOW

Array = Any  # numpy.ndarray
_EMPTY = np.empty
_LOADING = 300.0  # seconds that an import may take
KILLED = "was ended by signal 9, as by a system that is out of memory"
_ENDS = 6  # of the process, after which it is not started again


@dataclass(frozen=True)
class Saved:
    """What the judge remembers of a forward; backward runs it again.

    Attributes
    ----------
    kept : what forward was seen to keep
    made : products of matrices that were seen in forward and in the last backward
    wide : whether the code ran on arrays of float64
    """

    primals: dict[str, Array]
    options: Mapping[str, Any]
    kept: Held
    made: list[Array]
    wide: bool = False

    def held(self) -> Held:
        """Both."""
        return replace(self.kept, products=tuple(self.made))


class Remote:
    """The process of one kernel, started again where it ended.

    Attributes
    ----------
    called : what it did that was not to be seen: it called a function of the reference, or stopped the watch
    replaced : names of torch that stand for something else since the kernel was loaded
    absent : what it says of a call that it leaves unanswered for want of a device
    ended : how its process ended, each time that it did
    outside : arrays that it takes from outside, and why they are not verified
    package : that the kernel is written with
    names : of primals, in the order of the judge's layer
    """

    def __init__(self, head: dict[str, Any], seconds: float) -> None:
        self.head, self.seconds = head, seconds
        self.package, self.names = "", tuple[str, ...]()
        self.called = self.absent = ""
        self.replaced: tuple[str, ...] = ()
        self.outside: dict[str, str] = {}
        self.ended: list[str] = []
        self._fatal: dict[bytes, LayerFailure] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        self._late = False  # an answer is still to come

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Saved]:
        """Outputs of the kernel, and what `backward` needs."""
        return self._forward(arrays, options, False)

    @property
    def exact(self) -> Exact:
        """The kernel's code on arrays of float64."""
        return Exact(self)

    def _forward(self, arrays: tuple[Array, ...], options: dict[str, Any], wide: bool) -> tuple[Any, Saved]:
        primals = {n: np.array(a) for n, a in zip(self.names, arrays)}
        head, found = self._asked({"pull": False, "options": options, "wide": wide}, primals, "forward")
        parts = ([a for n, a in found.items() if n.startswith(what)] for what in ("y ", "k ", "p ", "o ", "h "))
        outputs, values, made, given, handed = parts
        least, lost, transforms = head.get("kept") or (None, (), ())
        names, lengths = frozenset(map(str, lost)), frozenset(map(int, transforms))
        held = Held(least, names, tuple(values), (), tuple(given), tuple(handed), lengths)
        return (outputs[0] if len(outputs) == 1 else tuple(outputs)), Saved(primals, options, held, made, wide)

    def backward(self, cotangents: Any, saved: Saved) -> dict[str, Array]:
        """Gradients by primal name."""
        given = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        arrays = {**saved.primals, **{f"v {k}": v for k, v in enumerate(given)}}
        question = {"pull": True, "options": dict(saved.options), "wide": saved.wide}
        _, found = self._asked(question, arrays, "backward")
        saved.made[:] = [a for n, a in found.items() if n.startswith("p ")]
        return {name.removeprefix("g "): g for name, g in found.items() if name.startswith("g ")}

    def load(self) -> str:
        """Start the process; gives the name of the kernel.

        Raises TargetError if the kernel's file cannot be loaded, or ends the process.
        """
        self.close()
        ours, theirs = multiprocessing.Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from gradverify.adapters._kernels.worker import start; "
            f"start({theirs.fileno()})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
        )
        theirs.close()
        self._connection = ours
        answer = self._exchanged(packed(self.head, {}), _LOADING)
        if answer is None:
            raise TargetError(f"the process {self._end()} while it imported {self.head['target']!r}")
        head, _ = answer
        if "failed" in head:
            self.close()
            raise TargetError(str(head["failed"]))
        self.package = str(head["package"])
        return str(head["loaded"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
        self._process, self._late = None, False

    def _asked(self, head: dict[str, Any], arrays: dict[str, Array], stage: str) -> tuple[dict[str, Any], Any]:
        fresh = None if np.empty is _EMPTY else str(float(np.empty(())))  # poisoned here, and so there
        message = packed({**head, "fresh": fresh}, arrays)
        key = hashlib.sha256(message).digest()
        if key in self._fatal:
            raise self._fatal[key]
        if len(self.ended) >= _ENDS:
            raise LayerFailure(SLOW, stage, f"{TOO_SLOW}: its process ended {_ENDS} times, and is not started again")
        if self._process is None or self._late:
            with _unlimited():
                self.load()
        answer = self._exchanged(message, self.seconds)
        if answer is None:
            self.ended.append(self._end())
            kind = "timeout" if self.ended[-1] == "hangs" else "crash"
            self._fatal[key] = LayerFailure(kind, stage, f"{stage}: the process of the kernel {self.ended[-1]}")
            raise self._fatal[key]
        told, found = answer
        if "failure" in told:
            kind, stage, message, primal = told["failure"]
            if kind in (SLOW, ELSEWHERE):
                self.absent = self.absent or str(message)
            raise LayerFailure(str(kind), str(stage), str(message), primal)
        self.called = self.called or str(told.get("called") or "")
        self.replaced = self.replaced or tuple(map(str, told.get("replaced") or ()))
        self.outside |= dict(told.get("outside") or ())
        return told, found

    def _exchanged(self, message: bytes, seconds: float) -> tuple[dict[str, Any], Any] | None:
        """The answer; None if there is none in time, or the process ended."""
        try:
            self._connection.send_bytes(message)
            return unpacked(self._connection.recv_bytes()) if self._connection.poll(seconds) else None
        except (EOFError, OSError, ValueError, KeyError):
            return None
        except BaseException:  # a time limit: what is still to come must not answer the next question
            self._late = True
            raise

    def _end(self) -> str:
        """How the process ended, which it has by now; or that it hangs."""
        assert self._process is not None
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.close()
            return "hangs"
        self.close()
        if status == -signal.SIGKILL:
            return KILLED
        return f"left with status {status}" if status >= 0 else f"was ended by signal {-status}"


@dataclass(frozen=True)
class Exact:
    """See `Remote.exact`; what an engine is for `Lossy.formula`."""

    remote: Remote

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Saved]:
        """See `Remote`."""
        return self.remote._forward(arrays, options, True)

    def backward(self, cotangents: Any, saved: Saved) -> dict[str, Array]:
        """See `Remote`."""
        return self.remote.backward(cotangents, saved)


@contextmanager
def _unlimited() -> Iterator[None]:
    """Inside, the time limit of a case stands still: to import torch again is no fault of the kernel."""
    left, every = signal.setitimer(signal.ITIMER_REAL, 0.0)
    try:
        yield
    finally:
        if left:
            signal.setitimer(signal.ITIMER_REAL, left, every)

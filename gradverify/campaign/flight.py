"""Units in flight on an executor, whichever it is, and what becomes of them when it breaks."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Union

from gradverify.campaign.guard import run_unit
from gradverify.campaign.pool import WorkerPool, cores, workers_of
from gradverify.campaign.unit import Delta, Unit
from gradverify.core.errors import GradverifyError, UsageError

Factory = Callable[[], Executor]

_FOREIGN = (ImportError, AttributeError, TypeError, GradverifyError)  # of a unit that cannot be unpacked there
_TRIES = 3  # workers that one unit may break
_COUNTED = 2.0  # seconds between two counts of the workers


class ExecutorLost(UsageError):
    """The executor takes no more work, and there is no way to make another."""


@dataclass(frozen=True, slots=True)
class Landing:
    """A unit that is no longer in flight.

    Attributes
    ----------
    seconds : since it was sent
    error : why it did not come home: its worker, or the whole executor, broke, or cannot run it
    lost : whether a worker was lost
    given_up : whether it is not sent again, as it has broken so many workers, or cannot be run
    """

    unit: Unit
    seconds: float
    error: str | None = None
    lost: bool = False
    given_up: bool = False


class Flight:
    """Units in flight on an executor; one that breaks is made anew, and its units are sent again singly."""

    def __init__(self, executor: Executor | Factory | None, workers: int | None) -> None:
        self._make, self._owned = _factory(executor, workers)
        self._executor = self._make()
        self._workers, self._counted, self._count = workers, -_COUNTED, 1
        self.units: dict[int, Unit] = {}
        self._futures: dict[int, Future[Any]] = {}
        self._suspects: list[Unit] = []
        self._tried: int | None = None  # the suspect that is in flight alone
        self._tries: dict[int, int] = {}
        self._sent: dict[int, float] = {}
        self.stopping = False
        self._arrived: queue.SimpleQueue[Union[Delta, tuple[Unit, Future[Any]]]] = queue.SimpleQueue()

    @property
    def local(self) -> bool:
        """Whether workers share this machine's files, and report while they work."""
        return isinstance(self._executor, WorkerPool)

    @property
    def capacity(self) -> int:
        """Units at once; the workers of a cluster come and go, so they are counted now and then."""
        now = time.monotonic()
        if self._workers is None and now > self._counted + _COUNTED:
            self._counted, self._count = now, workers_of(self._executor)
        return self._workers or self._count

    @property
    def room(self) -> bool:
        """Whether another unit can be sent; not while it is looked for which of several broke the executor."""
        waiting = 0 if self.local else self.capacity  # so that a distant worker need not wait for its next unit
        searching = self._suspects or self._tried in self._futures
        return not searching and len(self._futures) < self.capacity + waiting

    def send(self, unit: Unit) -> None:
        """Send a unit."""
        self.units[unit.number] = unit
        self._sent[unit.number] = time.monotonic()
        listen = (self._arrived.put,) if self.local else ()
        try:
            future = self._executor.submit(run_unit, unit, *listen)
        except Exception as error:  # noqa: BLE001  it broke after the last look; each executor has errors of its own
            future = Future()
            future.set_exception(error)
        self._futures[unit.number] = future
        future.add_done_callback(lambda done: self._arrived.put((unit, done)))

    def arrivals(self, seconds: float) -> Iterator[Delta | Landing]:
        """What has arrived, after a wait of at most `seconds` for the first."""
        with suppress(queue.Empty):
            while True:
                item = self._arrived.get(timeout=seconds) if seconds else self._arrived.get_nowait()
                seconds = 0.0
                yield from [item] if isinstance(item, Delta) else self._landed(*item)
        if self._suspects and not self._futures and not self.stopping:
            suspect = self._suspects.pop()
            self._tried = suspect.number
            self.send(suspect)

    def stop(self) -> None:
        """Ask for an early end of everything in flight."""
        self.stopping = True
        for unit in self._suspects:
            self.units.pop(unit.number, None)
        if isinstance(self._executor, WorkerPool):
            self._executor.stop()
        # an executor such as Dask's cancels what is running as well, and what it has found would be lost
        for future in list(self._futures.values())[self.capacity :]:
            future.cancel()

    def close(self) -> None:
        """End an executor of our own; units that are still in flight are given up."""
        if isinstance(self._executor, WorkerPool) and self._futures:
            self._executor.kill()
        if self._owned:
            self._executor.shutdown(wait=not self._futures or self.local, cancel_futures=True)

    def _landed(self, unit: Unit, future: Future[Any]) -> list[Delta | Landing]:
        if self._futures.get(unit.number) is not future:
            return []
        del self._futures[unit.number]
        try:
            deltas = list(future.result())
        except CancelledError as error:
            if not self.stopping:  # the executor has lost it, as a cluster without a scheduler does
                return [self._broken(unit, error)]
            deltas = []
        except Exception as error:  # noqa: BLE001  of the executor, whichever it is
            return [self._broken(unit, error)]
        self.units.pop(unit.number, None)
        self._tries.pop(unit.number, None)
        return [*deltas, Landing(unit, self._flown(unit))]

    def _flown(self, unit: Unit) -> float:
        return time.monotonic() - self._sent.pop(unit.number)

    def _broken(self, unit: Unit, error: BaseException) -> Landing:
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, _FOREIGN):
            self.units.pop(unit.number, None)
            why = f"a worker cannot run its units; is this version of gradverify installed there? ({told})"
            return Landing(unit, self._flown(unit), why, given_up=True)
        told = f"its units end their workers ({told})"
        self._tries[unit.number] = self._tries.get(unit.number, 0) + 1
        if not self.stopping and not _works(self._executor):
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = self._make()
        if self._tries[unit.number] >= _TRIES or self.stopping:
            del self._tries[unit.number]
            self.units.pop(unit.number, None)
            return Landing(unit, self._flown(unit), told, True, given_up=not self.stopping)
        landing = Landing(unit, self._flown(unit), told, True)
        if isinstance(error, BrokenExecutor):  # each unit that was in flight comes home like this
            self._suspects.append(unit)
        else:
            self.send(unit)
        return landing


def _works(executor: Executor) -> bool:
    """Whether an executor still takes work."""
    try:
        executor.submit(int).cancel()
    except Exception:  # noqa: BLE001  of the executor, whichever it is
        return False
    return True


def _factory(executor: Executor | Factory | None, workers: int | None) -> tuple[Factory, bool]:
    """What makes the executor, and whether it is ours to shut down."""
    if executor is None:
        count = workers or cores()
        return (lambda: WorkerPool(count)), True
    if not isinstance(executor, Executor):
        return executor, True
    given = [executor]

    def once() -> Executor:
        if not given:
            raise ExecutorLost("the executor broke; where a function that makes one is given, it is made anew")
        return given.pop()

    return once, False

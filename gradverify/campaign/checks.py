"""Checks of layers on supervised workers: whatever a layer does to its process is a finding of that layer."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from gradverify import casefile
from gradverify.campaign import parcel, watch
from gradverify.campaign.guard import Died, Failed, Guard, guard_of_thread, how
from gradverify.campaign.pool import WorkerPool
from gradverify.campaign.process import GRACE
from gradverify.campaign.unit import Found, Record, Unit
from gradverify.campaign.watch import Beat, Job
from gradverify.core.check.progress import Progress
from gradverify.core.errors import CaseFileError
from gradverify.core.evaluate.failures import COMPLETE
from gradverify.core.nouns import Case, Finding
from gradverify.core.properties import unexplained
from gradverify.core.summarise.report import Report
from gradverify.core.verify import behind

_DEATHS = 2  # that do not come again when the case is tried alone, until they are a finding of their own
_TICK = 0.1
_PATIENCE = 3.0  # seconds that checks get to come home after they were asked to

Listener = Callable[[Beat], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a job.

    Attributes
    ----------
    report : what was found, also where the check did not come to its end
    more : what the job's work gave besides
    said : what the layer has printed last, by lines
    whole : False where it was interrupted
    error : why there can be no verdict: the layer cannot be loaded again, or an error of gradverify's own
    loaded : False where it could not be loaded again
    """

    job: Job
    report: Report
    more: Any = None
    said: Sequence[str] = ()
    whole: bool = True
    error: str | None = None
    loaded: bool = True


class Checks:
    """Checks that run at once; results come as they are done."""

    def __init__(self, jobs: Sequence[Job], workers: int, listen: Listener, ready: Sequence[Guard] = ()) -> None:
        self._jobs, self._listen = jobs, listen
        self._pool = WorkerPool(max(1, min(workers, len(jobs))), ready)
        self._arrived: queue.SimpleQueue[Beat | Result] = queue.SimpleQueue()
        self._futures: dict[int, Future[None]] = {}
        self._deadline: float | None = None

    def stop(self) -> bool:
        """Ask everything to end after the case at hand, from a signal handler as well; whether that was news."""
        if self._deadline is not None:
            return False
        self._deadline = time.monotonic() + _PATIENCE
        for future in self._futures.values():
            future.cancel()
        self._pool.stop()
        return True

    def results(self) -> Iterator[Result]:
        """Every result, as it is done; after `stop` those that come home in time, and what was found of the others."""
        for job in in_turn(self._jobs):
            self._futures[job.number] = self._pool.submit(self._work, job)
        try:
            while not all(future.done() for future in self._futures.values()):
                yield from self._arrivals(_TICK)
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._pool.kill()
        finally:
            self.end()
        yield from self._arrivals()

    def end(self) -> None:
        """End all processes at once."""
        self._pool.kill()
        self._pool.shutdown(cancel_futures=True)

    def left(self) -> list[Result]:
        """Results that nobody has taken yet."""
        return list(self._arrivals())

    def _arrivals(self, seconds: float | None = None) -> Iterator[Result]:
        """What has arrived; `seconds` waits for the first."""
        with suppress(queue.Empty):
            while True:
                arrived = self._arrived.get(block=seconds is not None, timeout=seconds)
                seconds = None
                if isinstance(arrived, Result):
                    yield arrived
                else:
                    self._listen(arrived)

    def _work(self, job: Job) -> None:
        try:
            result = supervised(guard_of_thread(), job, self._arrived.put)
        except Exception as error:  # noqa: BLE001  ours; a thread must not end without a word
            result = _Book(job).result(error=f"{type(error).__name__}: {error}")
        self._arrived.put(result)


def in_turn(jobs: Sequence[Job]) -> list[Job]:
    """The order in which workers begin: the longest first, so that they end together; before these a short one, so that
    the first row is there soon.
    """
    longest = sorted(jobs, key=lambda job: -job.weight)
    first = min(jobs, key=lambda job: job.weight, default=None)
    return longest if first is None else [first, *(job for job in longest if job is not first)]


class _Book:
    """What is known of a check that may not come to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.beat = Beat(Progress(job.layer, 0, 0, 0))
        self.found: dict[tuple[str, str, str], tuple[Finding, str]] = {}
        self.begun = time.monotonic()

    def add(self, beat: Beat) -> None:
        self.beat = beat
        self.found.update((finding.fingerprint, (finding, name)) for finding, name in beat.found)

    def result(self, *more: Finding, whole: bool = True, error: str | None = None, notes: Sequence[str] = ()) -> Result:
        job, beat = self.job, self.beat
        report = Report(
            job.layer,
            beat.tallies,
            behind([*more, *(finding for finding, _ in unexplained(self.found))]),
            seed=int(job.settings.seed or 0),
            seconds=time.monotonic() - self.begun,
            examples=job.settings.examples,
            notes=notes,
            origin=job.target,
        )
        return Result(job, report, whole=whole, error=error)


def supervised(guard: Guard, job: Job, listen: Callable[[Beat], None]) -> Result:
    """One check behind a guard: what ends the process is tried again alone, and is a finding."""
    book, deaths = _Book(job), 0

    def heard(beat: Beat) -> None:
        book.add(beat)
        listen(beat)

    while True:
        try:
            answer = guard.call(job.plan.case_seconds + GRACE, heard, watch.work, job)
        except Failed as failed:
            return book.result(error=f"an error in gradverify itself; please report it:\n{failed}")
        except Died as died:
            if guard.stopping.is_set():
                return book.result(whole=False)
            record = guard.taken()
            finding = _confirmed(guard, job, record, died)
            deaths += 1
            if not died.loaded and deaths >= _DEATHS:
                why = f"its process {how(died)} while {job.target!r} was imported"
                return replace(book.result(error=why), loaded=False)
            if finding is None and deaths >= _DEATHS:
                finding = _unrepeated(job, record, died)
            if finding is not None:
                _settle(guard, book, heard)
                so_far = book.beat.progress
                drawn = f", after {so_far.cases} of {so_far.examples} cases" if so_far.cases else ""
                return book.result(finding, notes=(f"its check ended there{drawn}",))
            if guard.stopping.is_set():
                return book.result(whole=False)
            book = _Book(job)
            continue
        if isinstance(answer, str):
            return replace(book.result(error=answer), loaded=False)
        report, more, whole = answer
        return Result(job, report, more, guard.said, whole)


def _confirmed(guard: Guard, job: Job, record: bytes | None, died: Died) -> Finding | None:
    """The finding for the case at hand, if it ends a trial too."""
    if record is None or job.target is None:
        return None
    unit = Unit(job.number, job.layer, job.target, int(job.settings.seed or 0), 0.0, job.plan)
    found = guard.confirmed(unit, record, died, lambda delta: None)
    if not isinstance(found, Found):
        return None
    case = casefile.loads(found.case) if found.case else parcel.loads(Record.loads(record).content)
    return Finding(found.property, found.kind, found.primal, found.message, case)


def _unrepeated(job: Job, record: bytes | None, died: Died) -> Finding:
    """The finding for a layer whose process ends again and again, and on no case in particular."""
    case = Case(job.layer, {}, target=job.target)
    where = "while its cases were drawn or its findings diagnosed"
    if record is not None:
        where = f"while it ran {job.layer!r}; the last case alone does not do that"
        with suppress(CaseFileError, parcel.Garbled):
            case = parcel.loads(Record.loads(record).content)
    return Finding(COMPLETE, "crash", None, f"the process {how(died)} {_DEATHS} times {where}", case)


def _settle(guard: Guard, book: _Book, listen: Callable[[Beat], None]) -> None:
    """Make small, in a new process, what was found before the old one ended."""
    known = unexplained(book.found)
    if not known or guard.stopping.is_set():
        return
    job = book.job
    with suppress(Died, Failed):
        answer = guard.call(job.plan.case_seconds + GRACE, lambda beat: None, watch.settle, job, known)
        if not isinstance(answer, str):
            for (finding, name), small in zip(known, answer):
                book.found.pop(finding.fingerprint, None)
                book.found[small.fingerprint] = (small, name)

"""A campaign: units over an executor until the time is spent, and what they bring home into the books."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field

from gradverify.campaign.books import Books
from gradverify.campaign.flight import ExecutorLost, Factory, Flight, Landing
from gradverify.campaign.guard import Guard
from gradverify.campaign.schedule import Standing, next_layer, seed_of
from gradverify.campaign.store import Entry, Store, StoreError
from gradverify.campaign.unit import Delta, Found, Plan, Unit
from gradverify.core.errors import UsageError

SLICE = 5.0  # seconds of the longest unit
_TICK = 0.1
_SHOWN = 0.5  # seconds between two calls of the listener
_SAVED = 5.0  # seconds between two counts in the store
_STUCK = "it did not come back from a case when the campaign ended; a longer campaign tells whether it hangs"
_PATIENCE = 15.0  # seconds that units in flight get to come home after the end


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A campaign as it stands.

    Attributes
    ----------
    layers : what is known of each
    seconds, left : since the start, and to the end; `left` is None where there is no limit
    workers, lost : units at once, and processes that were lost and replaced
    stopping : whether the end has been asked for, and units in flight are coming home
    """

    layers: tuple[Standing, ...]
    seconds: float
    left: float | None
    workers: int
    lost: int
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """How a campaign ended.

    Attributes
    ----------
    reason : "time", "units", "findings", "nothing to try", "interrupted", "store" or "executor"
    findings : all that the store holds about these layers, without what other findings explain
    unsettled : findings that are not small and confirmed yet; the next run on the store settles them
    waiting : cases that were at hand when a process ended or was ended, to be tried again by the next run
    fixed : ids of findings of earlier runs that do not fail any more
    trouble : why the campaign had to stop early, and what of the store could not be read
    """

    reason: str
    layers: tuple[Standing, ...]
    findings: tuple[Entry, ...]
    unsettled: tuple[Found, ...]
    seconds: float
    cases: int
    lost: int
    waiting: int = 0
    fixed: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()


@dataclass
class Campaign:
    """One run of a campaign.

    Attributes
    ----------
    targets : as `gradverify check` takes them; none for all that is registered
    store : where everything is kept
    seconds, units, max_findings : the run ends when one of them is reached; None for no limit
    workers : units at once; by default as many as the executor has workers, or the machine has cores
    seed : of the drawing; every run and every unit derives its own
    plan : how cases are drawn and compared
    executor : any `concurrent.futures.Executor`, or a function that makes one, which is called again when
        the executor breaks; None for a pool of processes on this machine
    longest : seconds of the longest unit
    listen : hears of progress twice a second
    running : whether `stop` ends it in an orderly way
    """

    targets: Sequence[str]
    store: Store
    seconds: float | None = None
    units: int | None = None
    max_findings: int | None = None
    workers: int | None = None
    seed: int = 0
    plan: Plan = field(default_factory=Plan)
    executor: Executor | Factory | None = None
    longest: float = SLICE
    listen: Callable[[Snapshot], None] = lambda snapshot: None
    running: bool = field(default=False, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def stop(self) -> None:
        """End the run in an orderly way; from any thread, or from a signal handler."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._stop.is_set()

    def run(self) -> Summary:
        """Work until the time is spent, enough is found, or somebody presses Ctrl-C.

        Raises TargetError or UsageError if a target cannot be loaded, or two of them hold layers of one name, and
        StoreError if the store cannot be used at the start; later it ends the run in an orderly way.
        """
        plan = dataclasses.replace(self.plan, folder=os.getcwd(), named=tuple(self.targets))
        layers = {name: Standing(name, target) for name, target in listed(plan)}
        run = _Run(self, plan, Books(self.store, layers))
        self.running = True
        try:
            return run.run()
        finally:
            self.running = False


class _Run:
    """The state of a run: what is in flight, and on which executor."""

    def __init__(self, campaign: Campaign, plan: Plan, books: Books) -> None:
        self.campaign, self.plan, self.books = campaign, plan, books
        self.layers, self.store = books.layers, campaign.store
        self.flight = Flight(campaign.executor, campaign.workers)
        self.inbox: deque[Delta | Landing] = deque()
        self.number = 0
        self.started = time.monotonic()
        self.shown = self.saved = 0.0

    def run(self) -> Summary:
        self.books.remember()
        about = {"seed": self.campaign.seed, "seconds": self.campaign.seconds, "layers": sorted(self.layers)}
        self.store.event("start", **about, workers=self.flight.capacity)
        trouble: list[str] = []
        reason = self._orderly(self._loop, "time", trouble)
        reason = self._orderly(self._land, reason, trouble)
        self.flight.close()
        with suppress(StoreError):
            self._absorb(0.0)
            self._save()
            self.store.event("end", reason=reason, spent=round(self._spent(), 3), cases=self.books.cases)
        return Summary(
            reason,
            tuple(self.layers.values()),
            tuple(self.books.findings()),
            tuple(self.books.unsettled.values()),
            self._spent(),
            self.books.cases,
            self.books.lost,
            self.books.waiting,
            tuple(self.books.fixed),
            tuple(dict.fromkeys((*trouble, *self.books.trouble, *self.store.damaged))),
        )

    def _orderly(self, stage: Callable[[], str | None], reason: str, trouble: list[str]) -> str:
        """Run a stage; Ctrl-C, or a store or an executor that fails, ends it and is the reason why."""
        try:
            return stage() or reason
        except KeyboardInterrupt:
            return "interrupted"
        except StoreError as error:
            trouble.append(str(error))
            return "store"
        except ExecutorLost as error:
            trouble.append(str(error))
            return "executor"

    def _loop(self) -> str:
        most = self.campaign.max_findings
        while True:
            if self.campaign.stopped:
                return "interrupted"
            if self._left() == 0.0:
                return "time"
            if most is not None and self.books.news >= most:
                return "findings"
            while self.flight.room and (unit := self._next()) is not None:
                self.layers[unit.layer].running += 1
                self.flight.send(unit)
            if not self.flight.units:
                return "units" if self.number == self.campaign.units else "nothing to try"
            self._absorb(_TICK)
            self._tell()

    def _next(self) -> Unit | None:
        """The next unit, of the layer that is most urgent."""
        layer = None if self.number == self.campaign.units else next_layer(self.layers.values())
        if layer is None:
            return None
        self.number += 1
        left, seconds = self._left(), layer.slice(self.campaign.longest)
        seed = seed_of(self.campaign.seed, self.store.run, self.number)
        unit = Unit(
            self.number,
            layer.name,
            layer.target,
            seed,
            seconds if left is None else max(0.1, min(seconds, left)),
            self.plan,
            rows=layer.chosen(seed),
            features=frozenset(layer.features.tolist()),
            ratio=layer.ratio,
            known=tuple((raw, size) for raw, (_, size) in layer.known.items()),
            pending=() if layer.running else tuple(layer.pending.values()),
            fragile=frozenset(layer.fragile),
            journal=str(self.store.journals) if self.flight.local else None,
        )
        layer.units += 1
        layer.fresh = False
        return unit

    def _absorb(self, seconds: float) -> None:
        """Take what has arrived; wait for it a little."""
        self.inbox.extend(self.flight.arrivals(seconds))
        while self.inbox:
            arrived = self.inbox.popleft()
            try:
                if isinstance(arrived, Delta):
                    self.layers[arrived.layer].fresh |= bool(arrived.rows)
                    self.books.absorb(arrived)
                else:
                    self._landed(arrived)
            except KeyboardInterrupt:
                self.inbox.appendleft(arrived)  # rather counted twice than lost
                raise

    def _landed(self, landing: Landing) -> None:
        layer = self.layers[landing.unit.layer]
        layer.spent += landing.seconds
        if landing.lost and landing.error is not None:
            self.books.losing(layer, landing.unit.number, landing.error)
        if landing.given_up and landing.error is not None:
            layer.deaths += 1
            self.books.giving_up(layer, landing.error, landing.unit.number)
        if landing.error is None or landing.given_up:  # else it is sent again
            layer.running -= 1

    def _land(self) -> None:
        """Send no more, and take what still comes home."""
        self.flight.stop()
        deadline = time.monotonic() + _PATIENCE + (0.0 if self.flight.local else self.campaign.longest)
        while self.flight.units and time.monotonic() < deadline:
            self._absorb(_TICK)
            self._tell()
        self._absorb(0.0)
        for unit in self.flight.units.values():
            self.books.giving_up(self.layers[unit.layer], _STUCK, unit.number)

    def _tell(self) -> None:
        now = time.monotonic()
        if now > self.shown + _SHOWN:
            self.shown = now
            layers, flight = tuple(self.layers.values()), self.flight
            told = (layers, self._spent(), self._left(), flight.capacity, self.books.lost, flight.stopping)
            self.campaign.listen(Snapshot(*told))
        if now > self.saved + _SAVED:
            self.saved = now
            self._save()

    def _save(self) -> None:
        self.books.save(seed=self.campaign.seed, spent=round(self._spent(), 3), units=self.number)

    def _spent(self) -> float:
        return time.monotonic() - self.started

    def _left(self) -> float | None:
        return None if self.campaign.seconds is None else max(0.0, self.campaign.seconds - self._spent())


def listed(plan: Plan) -> list[tuple[str, str]]:
    """Name and target of every layer that was named, found out in a process of its own.

    Raises TargetError if a target cannot be loaded, or ends the process that tries, and UsageError if two layers have
    one name: findings are told apart by it.
    """
    if os.name != "posix":
        raise UsageError("a campaign needs a POSIX system: its workers are limited and ended by signals")
    guard = Guard()
    try:
        listed, _ = guard.list(plan)
        found = [(name, target) for name, target, _ in listed]
    finally:
        guard.close()
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"the targets hold two layers of the same name: {', '.join(twice)}")
    return found

"""One check of one layer in a worker: noted before the layer sees a case, told while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gradverify.campaign import parcel
from gradverify.campaign.unit import Plan, Record
from gradverify.core.check.progress import Progress
from gradverify.core.check.search import Search
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.errors import GradverifyError
from gradverify.core.nouns import Case, Finding, Outcome
from gradverify.core.properties import Property, properties
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import Tally
from gradverify.core.verify import watcher

if TYPE_CHECKING:
    from gradverify.campaign.child import Child

BEAT = 0.5  # seconds between two beats


@dataclass(frozen=True, slots=True)
class Job:
    """One check of one layer, as it travels to a worker.

    Attributes
    ----------
    number : of the job, in the order in which results are shown
    layer, target : the layer's name, and what loads it; None where the work makes its own
    settings : of the engine
    plan : of the process: its folder, its memory and its time limit for a case
    work : what is done, a function of one of our modules: (watch, layer, settings, *arguments) to a report and more
    weight : the larger, the longer it may take beside others
    """

    number: int
    layer: str
    target: str | None
    settings: Settings
    plan: Plan
    work: Callable[..., tuple[Report, Any]]
    arguments: tuple[Any, ...] = ()
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Beat:
    """How a check stands.

    Attributes
    ----------
    progress : cases, findings and the stage
    found : what was found since the last beat, as it was drawn, with the property that was tried
    tallies : sums so far
    """

    progress: Progress
    found: tuple[tuple[Finding, str], ...] = ()
    tallies: Mapping[str, Tally] = field(default_factory=dict)


class Watch:
    """Between a check and its worker: hears of every case, and of every stage."""

    def __init__(self, worker: Child, job: Job) -> None:
        self.worker, self.job = worker, job
        self.beat = Beat(Progress(job.layer, 0, 0, 0))
        self._last = time.monotonic()
        self._case: Case | None = None
        self._content = b""
        self._heads: dict[str, bytes] = {}

    def check(self, layer: Layer, settings: Settings) -> Report:
        """As `checking.check_layer`; ends early, with what is found by then, when the worker is asked to stop."""
        report = _Reported(layer, settings, self).run()
        return report if not self.worker.stopped() else replace(report, notes=(*report.notes, self.so_far))

    def settle(self, layer: Layer, settings: Settings, found: list[tuple[Finding, str]]) -> list[Finding]:
        """Findings made small and diagnosed, one by one told as it is done."""
        search = _Reported(layer, settings, self)
        return [search.minimal(finding, properties.get(name)) for finding, name in found]

    @property
    def so_far(self) -> str:
        return f"interrupted after {self.beat.progress.cases} of {self.beat.progress.examples} cases"

    def tell(self, beat: Beat) -> None:
        """Send a beat; the next one need not say again what was found."""
        self.worker.tell(beat)
        self.beat, self._last = replace(beat, found=()), time.monotonic()

    def before(self, layer: Layer, case: Case, prop: Property) -> None:
        """Journal the case, and show that the worker lives."""
        self.worker.tidy()
        if case is not self._case:
            self._case, self._content = case, parcel.dumps(case)
        if prop.name not in self._heads:
            self._heads[prop.name] = Record.head(self.job.layer, self.job.target or "", prop.name, Regime(), False)
        self.worker.journal.write(self._heads[prop.name] + self._content)
        if time.monotonic() > self._last + BEAT:
            self.tell(self.beat)

    def after(self, layer: Layer, outcome: Outcome) -> None:
        """No case is at hand."""
        self.worker.journal.clear()


class _Reported(Search):
    """A search whose stages and findings are told as they come, and that can be asked to end."""

    def __init__(self, layer: Layer, settings: Settings, watch: Watch) -> None:
        super().__init__(layer, settings, self._heard)
        self.watch = watch
        self._sent: set[tuple[str, str, str]] = set()

    @property
    def over(self) -> bool:
        return self.watch.worker.stopped() or super().over

    def _heard(self, event: Progress) -> None:
        new = [(key, item) for key, item in self.found.items() if key not in self._sent]
        self._sent.update(key for key, _ in new)
        found = tuple((finding, prop.name) for _, (finding, prop) in new)
        beat = Beat(replace(event, layer=self.watch.job.layer), found, self.tallies)
        if new or event.stage != self.watch.beat.progress.stage or time.monotonic() > self.watch._last + BEAT:
            self.watch.tell(beat)
        else:
            self.watch.beat = beat

    def minimal(self, finding: Finding, prop: Property, lead: Finding | None = None) -> Finding:
        return finding if self.watch.worker.stopped() else super().minimal(finding, prop, lead)


@contextmanager
def _watching(worker: Child, job: Job) -> Iterator[Watch]:
    """What hears of every case inside."""
    watch = Watch(worker, job)
    token = watcher.set(watch)
    try:
        yield watch
    finally:
        watcher.reset(token)


def work(worker: Child, job: Job) -> tuple[Report, Any, bool] | str:
    """What a worker does with a job, and whether it came to its end; or why its layer cannot be loaded."""
    layer = None if job.target is None else worker.layer(job.target, job.plan)
    if isinstance(layer, str):
        return layer
    try:
        with _watching(worker, job) as watch:
            answer = job.work(watch, layer, job.settings, *job.arguments)
    except GradverifyError as error:  # what the caller has registered, or can load, is not here
        return str(error)
    worker.journal.clear()  # else the case at hand is asked for
    return (*answer, not worker.stopped())


def settle(worker: Child, job: Job, found: list[tuple[Finding, str]]) -> list[Finding] | str:
    """What was found in a process that ended, made small and diagnosed."""
    layer = worker.layer(job.target or job.layer, job.plan)
    if isinstance(layer, str):
        return layer
    with _watching(worker, job) as watch:
        return watch.settle(layer, job.settings, found)


def checked(watch: Watch, layer: Layer, settings: Settings) -> tuple[Report, Any]:
    """The plain check."""
    return watch.check(layer, settings), None

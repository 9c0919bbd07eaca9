"""What comes home from the workers, into the progress of each layer and into the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from gradverify.campaign.schedule import Standing
from gradverify.campaign.store import Entry, Store
from gradverify.campaign.unit import Delta, Fingerprint, Found, Record, digest, give_back, record_of, resident
from gradverify.core.declare.regime import Regime
from gradverify.core.errors import CaseFileError
from gradverify.core.properties import explained

_KILLED = "signal 9"
_FAILURES = 3  # errors in gradverify itself until a layer is given up
_DEADLY = ("crash", "timeout", "memory")


class Books:
    """The books of one run.

    Attributes
    ----------
    counts : how often each finding was met, by its id
    fresh : ids of findings that are new in this run
    unsettled : findings that are not small and confirmed yet, by the digest of their record
    fixed : ids of findings of earlier runs that do not fail any more
    memory : resident bytes of each worker that was heard of since the last event of progress
    """

    def __init__(self, store: Store, layers: Mapping[str, Standing]) -> None:
        self.store, self.layers = store, layers
        self.cases = self.lost = 0
        self.counts: dict[str, int] = {}
        self.fresh: set[str] = set()
        self.unsettled: dict[str, Found] = {}
        self.fixed: list[str] = []
        self.memory: dict[str, int] = {}
        self._trouble: list[str] = []
        self._losses: Counter[tuple[str, str]] = Counter()
        self._retests: dict[str, Found] = {}  # findings of earlier runs that are tried again, by digest
        self._entries: dict[str, int] = {}  # of earlier runs

    def remember(self) -> None:
        """What earlier runs on this store have counted, kept and found, and what they left unsettled."""
        for run in self.store.runs():
            for name in run.cases.keys() & self.layers.keys():
                self.layers[name].cases += run.cases[name]
                self.layers[name].entries += run.entries[name]
                self.layers[name].verified |= run.verified[name]
        for name, row in self.store.rows():
            if name in self.layers:
                self.layers[name].learn(row)
        for data in self.store.inherit():
            try:
                record = Record.loads(data)
            except CaseFileError as error:  # written by another version
                self._trouble.append(str(error))
                continue
            if record.layer in self.layers:
                self.layers[record.layer].pending[digest(data)] = data
        for entry in self.store.findings():
            if entry.found.layer in self.layers:
                self._recall(self.layers[entry.found.layer], entry.found)
        for name, layer in self.layers.items():
            layer.before = layer.cases
            self._entries[name] = layer.entries

    def _recall(self, layer: Standing, found: Found) -> None:
        """A finding of an earlier run is known, and is tried again: perhaps it is fixed."""
        layer.known[found.raw] = (found.key, found.size)
        layer.findings = len(_unexplained(layer))
        if found.case:
            data = Record(found.layer, layer.target, found.asked, Regime(), found.case, False).dumps()
            layer.pending[digest(data)] = data
            self._retests[digest(data)] = found

    def absorb(self, delta: Delta) -> None:
        """One delta; raises StoreError if it cannot be kept."""
        layer = self.layers[delta.layer]
        self.cases += delta.cases
        layer.cases += delta.cases
        layer.entries += delta.entries
        layer.seconds += delta.seconds
        layer.verified |= delta.verified
        layer.ratio = max(layer.ratio, delta.ratio)
        for row in delta.rows:
            layer.learn(row)
            self.store.keep_row(layer.name, row)
        for found in delta.found:
            self._found(layer, found, delta.unit)
        for raw, number in delta.again.items():
            if raw in layer.known:
                key = layer.known[raw][0]
                self.counts[key] = self.counts.get(key, 0) + number
        for name in delta.dropped:
            self._dropped(layer, name)
        for name, why in delta.unfit.items():
            self._unfit(layer, name, why)
        for record in delta.held:
            layer.pending[digest(record)] = record
            self.store.hold(record)
        if delta.stuck is not None:
            self._stuck(layer, delta.stuck)
        for why in delta.lost:
            self.losing(layer, delta.unit, why)
            self._losses[layer.name, why] += _KILLED not in why
        if delta.failed is not None:
            self._failed(layer, delta.failed, delta.unit)
        layer.idle = layer.idle or delta.idle
        if delta.error is not None:
            self.giving_up(layer, f"on the worker {delta.host}: {delta.error}", delta.unit)
        if delta.memory:
            self.memory[f"{delta.host}:{delta.pid}"] = delta.memory

    def losing(self, layer: Standing, unit: int, why: str) -> None:
        """A worker process was lost while it worked on a unit; not the layer's fault."""
        self.lost += 1
        self.store.event("lost", layer=layer.name, unit=unit, why=why)

    def giving_up(self, layer: Standing, why: str, unit: int) -> None:
        """A layer cannot be tried any more."""
        layer.error = why
        self.store.event("error", layer=layer.name, unit=unit, why=why)

    def _failed(self, layer: Standing, why: str, unit: int) -> None:
        """An error in gradverify itself: it is told, and after some of them the layer is not tried any more."""
        layer.failures += 1
        self.store.event("internal", layer=layer.name, unit=unit, why=why)
        self._trouble.append(f"an error in gradverify itself while it tried {layer.name}; please report it:\n{why}")
        if layer.failures >= _FAILURES:
            self.giving_up(layer, f"gradverify itself failed {layer.failures} times", unit)

    def _found(self, layer: Standing, found: Found, unit: int) -> None:
        if not found.settled and found.case:
            data = record_of(found, layer.target)
            self.unsettled[digest(data)] = found
            layer.pending[digest(data)] = data
            self.store.hold(data)
            return
        if found.kind in _DEADLY and found.primal is None:
            layer.deaths += 1
        new = all(found.key != key for key, _ in layer.known.values())
        entry = self.store.keep(found)
        layer.known[found.raw] = (found.key, entry.found.size)
        self.counts[found.key] = self.counts.get(found.key, 0) + 1
        if not new:
            return
        self.fresh.add(found.key)
        layer.findings = len(_unexplained(layer))
        self.store.event(
            "finding",
            layer=layer.name,
            unit=unit,
            id=found.key,
            property=found.property,
            kind=found.kind,
            primal=found.primal,
            message=found.message,
            case=None if entry.file is None else str(entry.file.relative_to(self.store.folder)),
        )

    def _dropped(self, layer: Standing, name: str) -> None:
        """A pending case was tried again, or made small."""
        found = self._retests.pop(name, None)
        # what fails now and then has not been fixed because it did not fail just now
        if found is not None and found.key not in self.counts and found.kind != "nondeterministic":
            key = found.key
            self.fixed.append(key)
            layer.known = {raw: known for raw, known in layer.known.items() if known[0] != key}
            layer.findings = len(_unexplained(layer))
            self.store.fix(key)
            self.store.event("fixed", layer=layer.name, id=key)
        self._release(layer, name)

    def _unfit(self, layer: Standing, name: str, why: str) -> None:
        """A pending case does not fit its layer any more; a finding stays, as nobody knows whether it is fixed."""
        found = self._retests.pop(name, None)
        what = f"a case of {layer.name}" if found is None else f"the finding {found.key} of {layer.name}"
        self._trouble.append(f"{what} could not be tried again: {why}")
        self._release(layer, name)

    def _stuck(self, layer: Standing, name: str) -> None:
        """A process ended while it settled a pending case: it is tried once more as it is, and then kept as it is."""
        if name not in layer.fragile:
            layer.fragile.add(name)
            return
        found = self.unsettled.get(name)
        if found is not None:
            self._found(layer, replace(found, settled=True), 0)
        self._release(layer, name)

    def _release(self, layer: Standing, name: str) -> None:
        self.unsettled.pop(name, None)
        if layer.pending.pop(name, None) is not None:
            self.store.release(name)

    @property
    def news(self) -> int:
        """Number of findings that are new in this run, and that no other one explains."""
        return len(self.fresh & {key for layer in self.layers.values() if layer.known for key in _unexplained(layer)})

    @property
    def trouble(self) -> list[str]:
        """What went wrong besides the layers; a worker that somebody killed (SIGKILL) is no trouble."""
        strange = [(layer, why, times) for (layer, why), times in self._losses.items() if times]
        said = "while it tried {}, a process {} ({} times), and its last case does not do that again"
        return self._trouble + [said.format(*what) for what in strange]

    @property
    def waiting(self) -> int:
        """Number of cases that wait for another trial, besides those of findings."""
        told = self.unsettled.keys() | self._retests.keys()
        return sum(len(layer.pending.keys() - told) for layer in self.layers.values())

    def save(self, **about: object) -> None:
        """What this run has counted, into the store and the event log."""
        layers = {
            layer.name: {
                "target": layer.target,
                "cases": layer.cases - layer.before,
                "entries": layer.entries - self._entries[layer.name],
                "verified": layer.verified,
                "seconds": round(layer.seconds, 3),
                "units": layer.units,
                "worst": repr(float(layer.ratio)),
            }
            for layer in self.layers.values()
        }
        self.store.count({**about, "lost": self.lost, "counts": self.counts, "layers": layers})
        give_back()
        memory = {"main": resident(), **self.memory}
        self.store.event("progress", **about, cases=self.cases, lost=self.lost, memory=memory)
        self.memory.clear()  # processes come and go

    def findings(self) -> list[Entry]:
        """What the store holds about these layers, without what other findings explain."""
        return unexplained(entry for entry in self.store.findings() if entry.found.layer in self.layers)


def unexplained(entries: Iterable[Entry]) -> list[Entry]:
    """Findings that no other one of the same layer explains."""
    entries = list(entries)

    def others(found: Found) -> set[Fingerprint]:
        return {e.found.raw for e in entries if e.found.layer == found.layer and e.found.key != found.key}

    return [entry for entry in entries if not explained(entry.found.raw, others(entry.found))]


def _unexplained(layer: Standing) -> set[str]:
    """Ids of the findings of a layer that no other one explains."""
    known = layer.known
    return {
        key for raw, (key, _) in known.items() if not explained(raw, {r for r, (k, _) in known.items() if k != key})
    }

"""Layers as tests: what a project's configuration asks for, as nodes `gradverify::<layer>::<property>`.

And a check that failed as pytest shows it: the report of the findings, and one line for the summary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pytest

from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.errors import DeclarationError, GradverifyError, TargetError
from gradverify.core.properties import Property
from gradverify.core.texts import meant
from gradverify.core.verify import selected
from gradverify.pytest_plugin import settings, shared
from gradverify.pytest_plugin.replays import Check
from gradverify.pytest_plugin.run import Result, Run, source_of
from gradverify.pytest_plugin.shared import ROOT
from gradverify.report.terminal import raised

_LEAST = 25  # cases in a shard; fewer are not worth a test of their own


@dataclass(frozen=True)
class Planned:
    """One test: a property of a layer, or a part of its cases."""

    layer: Layer
    prop: Property
    shard: int
    shards: int

    @property
    def name(self) -> str:
        return self.prop.name if self.shards == 1 else f"{self.prop.name}[{self.shard}]"

    @property
    def owner(self) -> str:
        """Node id, less the shard: shards share their corpus."""
        return f"{ROOT}::{self.layer.name}::{self.prop.name}"

    @property
    def nodeid(self) -> str:
        return f"{ROOT}::{self.layer.name}::{self.name}"


def plan(told: settings.Settings, wanted: tuple[str, ...]) -> list[Planned]:
    """Every test, sorted, so that all processes of a run see the same.

    Raises pytest.UsageError, naming the key or the node id that names nothing, or a module that cannot be imported.

    Parameters
    ----------
    wanted : node ids from the command line; empty for all
    """
    found = _layers(told)
    try:
        props = sorted(selected(told.properties), key=lambda prop: prop.name)
    except TargetError as error:
        raise pytest.UsageError(f"{told.where['properties']}: {error}") from None
    tests = [test for layer in found for prop in props for test in _tests(told, layer, prop)]
    for one in wanted:
        if not any(_names(one, test.nodeid) for test in tests):
            known = {part for test in tests for part in (test.nodeid, f"{ROOT}::{test.layer.name}")}
            near = meant(one, sorted(known)) if tests else f" ({ROOT}_modules names no layer)"
            raise pytest.UsageError(f"not found: {one}{near}")
    return [test for test in tests if not wanted or any(_names(one, test.nodeid) for one in wanted)]


def _names(wanted: str, nodeid: str) -> bool:
    return nodeid == wanted or wanted == ROOT or nodeid.startswith((f"{wanted}::", f"{wanted}["))


def _tests(told: settings.Settings, layer: Layer, prop: Property) -> Iterator[Planned]:
    count = math.ceil(told.examples * prop.share / _LEAST)
    shards = 1 if prop.applies(layer) else max(1, min(told.shards_of(layer.name), count))
    return (Planned(layer, prop, shard, shards) for shard in range(shards))


def _layers(told: settings.Settings) -> list[Layer]:
    """What the configuration names, by name."""
    from gradverify.targets import load

    found: dict[str, Layer] = {}
    for key, targets in (("modules", told.modules), ("layers", told.layers)):
        for target in targets:
            try:
                for layer in load(target) if key == "modules" else _registered(target):
                    known = found.setdefault(layer.name, layer)
                    if known.forward is not layer.forward or known.backward is not layer.backward:
                        raise DeclarationError(
                            f"two layers have the name {layer.name!r}: {known.origin} and {layer.origin}; "
                            "give one of them another name"
                        )
            except GradverifyError as error:
                raise pytest.UsageError(f"{told.where[key]}: {error}") from None
    return [found[name] for name in sorted(found)]


def _registered(pattern: str) -> list[Layer]:
    names = [name for name in layers.names() if fnmatchcase(name, pattern)]
    if not names:
        layers.get(pattern)  # raises, with the nearest names
    return [layers.get(name).derive(origin=name) for name in names]


class Root(pytest.Collector):
    """The node `gradverify`."""

    tests: list[Planned]

    @classmethod
    def of(cls, session: pytest.Session, run: Run, tests: list[Planned]) -> Root:
        node: Root = cls.from_parent(session, name=ROOT, path=session.config.rootpath, nodeid=ROOT)
        node.tests, node.run = tests, run
        node.add_marker(ROOT)
        return node

    run: Run

    def collect(self) -> Iterator[pytest.Collector]:
        for name in dict.fromkeys(test.layer.name for test in self.tests):
            node: Group = Group.from_parent(self, name=name, path=self.path, nodeid=f"{ROOT}::{name}")
            node.tests = [test for test in self.tests if test.layer.name == name]
            yield node


class Group(pytest.Collector):
    """The node of one layer."""

    tests: list[Planned]
    parent: Root

    def collect(self) -> Iterator[pytest.Item]:
        for test in self.tests:
            item: CheckItem = CheckItem.from_parent(self, name=test.name, path=self.path, nodeid=test.nodeid)
            item.test, item.run = test, self.parent.run
            yield item


class CheckItem(pytest.Item):
    """The test of one property of one layer."""

    test: Planned
    run: Run

    def reportinfo(self) -> tuple[Any, int, str]:
        return self.config.rootpath / ROOT, 0, f"{self.test.layer.name}::{self.test.name}"

    @property
    def check(self) -> Check:
        """What the test does."""
        told, test = self.run.settings, self.test
        engine = Settings(
            examples=max(1, math.ceil(told.examples / test.shards)),
            seed=told.seed_of(test.layer.name, test.prop.name, test.shard),
            properties=(test.prop.name,),
        )
        return Check(test.layer, test.owner, engine, test.shard, test.shards)

    def _result(self) -> Result:
        """Of the check, from another process where it can run there; the checks of later tests begin as well."""
        check, workers = self.check, self.run.workers
        if workers is None or self.test.prop.applies(self.test.layer):
            return self.run.check(check)
        ahead = [] if hasattr(self.config, "workerinput") else self.session.items
        others = (item for item in ahead if isinstance(item, CheckItem))
        workers.begin(self.run.concerning, (o.check for o in others if not o.test.prop.applies(o.test.layer)), check)
        done = workers.result(check)
        if done is None:
            return self.run.check(check)
        for line in done[1]:
            print(line)
        return self.run.result(check, done[0])

    def runtest(self) -> None:
        told, result = self.run.settings, self._result()
        shared.attach(self, result.records, told.junit)
        report = result.report
        if report.findings:
            text = "\n".join([raised(report, result.replays), *report.notes])
            raise Failed(text, report.findings[0].message)
        if result.records[0]["verdict"] == "skipped":
            pytest.skip(str(result.records[0]["reason"]))
        if not report.verified:
            raise Failed(f"{report}\n\n{NOTHING}", NOTHING)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """The report of the findings, with no traceback from inside gradverify."""
        error = excinfo.value
        if isinstance(error, Failed):
            return representation(error, self.test.layer)
        if isinstance(error, GradverifyError):
            return f"{type(error).__name__}: {error}"
        return super().repr_failure(excinfo, *args, **kwargs)


NOTHING = "nothing could be verified: no case could be drawn, or no entry could be decided"


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

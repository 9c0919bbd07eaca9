"""Layers that are tests run in processes of their own, which are ahead of the tests that wait for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from gradverify.campaign.checks import Result, supervised
from gradverify.campaign.guard import guard_of_thread
from gradverify.campaign.pool import WorkerPool, cores
from gradverify.campaign.unit import Plan
from gradverify.campaign.watch import Job, Watch
from gradverify.core.check.settings import Settings as Engine
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import TargetError
from gradverify.core.properties import properties
from gradverify.core.summarise.tally import Tally
from gradverify.core.verify import SECONDS, selected
from gradverify.corpus import Entry
from gradverify.pytest_plugin import settings
from gradverify.pytest_plugin.replays import Check, Examined, examined

Likeness = tuple[Any, ...]
Concerning = Callable[[Check], list[Entry]]  # the cases of the corpus that are of a check


class Workers:
    """Checks that run beside pytest, in the order of their tests."""

    def __init__(self, count: int, modules: Sequence[str]) -> None:
        self._pool = WorkerPool(count)
        self._plan = Plan(case_seconds=SECONDS, folder=os.getcwd(), named=tuple(modules) or None)
        self._begun = False
        self._results: dict[tuple[str, int], Future[Result]] = {}

    def begin(self, concerning: Concerning, checks: Iterable[Check], needed: Check) -> None:
        """Begin with all checks at the first call, then with one that is needed and was not among them."""
        begun, self._begun = self._begun, True
        if not begun:
            self._send(concerning, checks)
        if (needed.owner, needed.shard) not in self._results:
            self._send(concerning, [needed])

    def _send(self, concerning: Concerning, checks: Iterable[Check]) -> None:
        for check in checks:
            known = self._results.get((check.owner, check.shard))
            if known is None and check.layer.origin is not None:
                job = Job(
                    len(self._results),
                    check.layer.name,
                    check.layer.origin,
                    check.settings,
                    self._plan,
                    in_worker,
                    (concerning(check), check.shard == 0, _likeness(check.layer), properties.names()),
                )
                self._results[check.owner, check.shard] = self._pool.submit(_work, job)

    def result(self, check: Check) -> tuple[Examined, Sequence[str]] | None:
        """What a check came to, and what its layer has printed; None if it cannot run in another process."""
        future = self._results.pop((check.owner, check.shard), None)
        result = None if future is None else future.result()
        if result is None or not result.loaded:
            return None
        if result.error is not None:
            raise RuntimeError(result.error)
        if isinstance(result.more, Examined):
            return result.more, result.said
        report = result.report
        tallies = {prop.name: Tally(prop.name) for prop in selected(check.settings.properties)} | dict(report.tallies)
        return Examined(replace(report, tallies=tallies)), result.said

    def close(self) -> None:
        """End all processes."""
        self._pool.kill()
        self._pool.shutdown(cancel_futures=True)


def workers_of(config: pytest.Config, told: settings.Settings) -> Workers | None:
    """The workers of a run; None where layers run in the process of pytest.

    That is so for a debugger, where it is asked for, and where coverage is measured, which sees one process only.
    """
    debugged = config.getoption("usepdb", False) or config.getoption("trace", False)
    coverage = sys.modules.get("coverage")
    measured = coverage is not None and coverage.Coverage.current() is not None
    if os.name != "posix" or told.jobs == 0 or debugged or measured:
        return None
    alone = hasattr(config, "workerinput")  # a worker of pytest-xdist is one of several already
    return Workers(1 if alone else told.jobs or cores(), told.modules)


def _work(job: Job) -> Result:
    return supervised(guard_of_thread(), job, lambda beat: None)


def in_worker(
    watch: Watch, layer: Layer, engine: Engine, kept: Sequence[Entry], first: bool, likeness: Likeness, known: Any
) -> tuple[Any, Examined]:
    """What a worker does: the check of a layer that is the same there, with the same properties."""
    if _likeness(layer) != likeness or list(properties.names()) != list(known):
        raise TargetError(f"{layer.name!r} is another one in a process of its own")
    done = examined(layer, engine, kept, first, watch.check)
    return done.report, done


def _likeness(layer: Layer) -> Likeness:
    """What tells whether two layers are the same, as far as plain data can."""
    return (
        layer.name,
        [(primal.name, str(primal.dims), primal.differentiable) for primal in layer.primals],
        sorted(layer.options),
        list(layer.declared.lines()),
        [_code(function) for function in (layer.forward, layer.backward)],
    )


def _code(function: Callable[..., Any]) -> tuple[str, int] | None:
    code = getattr(function, "__code__", None)
    return None if code is None else (os.path.abspath(code.co_filename), code.co_firstlineno)

"""Checks for `gradverify check` and `mutants`: on supervised workers, or in this process for a debugger.

Of Ctrl-C, and SIGTERM, which job schedulers send before they kill, the first asks and the second insists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gradverify.cli import _progress
from gradverify.cli._output import note

if TYPE_CHECKING:
    from gradverify.campaign.checks import Result
    from gradverify.campaign.unit import Plan
    from gradverify.campaign.watch import Job
import signal

F = TypeVar("F", bound=Callable[..., Any])


def worker_options(function: F) -> F:
    """`-j` and `--in-process`."""
    text = "Layers at once, each in a process of its own; the default is one for each core."
    jobs = click.option("-j", "--jobs", "--workers", "workers", type=click.IntRange(1), metavar="N", help=text)
    text = "Run everything in this process, one after the other, as a debugger needs it; nothing is supervised."
    return click.option("--in-process", is_flag=True, help=text)(jobs(function))


def supervises(in_process: bool) -> bool:
    """Whether layers run in processes of their own: these are limited and ended by signals, as POSIX has them."""
    return not in_process and os.name == "posix"


@contextmanager
def started() -> Iterator[Any]:
    """The guard of a worker that begins to import at once, while this process does the same on another core."""
    from gradverify.campaign.guard import Guard

    guard = Guard()
    try:
        guard.begin()
        yield guard
    finally:
        guard.close()


def listed(plan: Plan, guard: Any) -> list[tuple[str, str, int]]:
    """Name, target and weight of every layer, found out in a worker, which has them loaded then."""
    found, left_out = guard.list(plan)
    for why in left_out:
        note(f"gradverify: left out: {why}")
    listed: list[tuple[str, str, int]] = found
    return listed


def results(
    jobs: Sequence[Job],
    workers: int | None,
    color: bool | None,
    row: Callable[[Result], tuple[str, bool]],
    ready: Sequence[Any] = (),
) -> list[Result]:
    """Results in the order of the jobs, shown as they come; after Ctrl-C those that were had by then.

    Parameters
    ----------
    row : a result in a line, and whether it is a bad one
    ready : guards that are at work already
    """
    from gradverify.campaign.checks import Checks
    from gradverify.campaign.pool import cores

    done: dict[int, Result] = {}
    with _progress.board(len(jobs), color) as board:
        checks = Checks(jobs, workers or cores(), lambda beat: board.heard(beat.progress), ready)
        try:
            with asked_first(checks.stop):
                for result in checks.results():
                    done[result.job.number] = result
                    if result.whole:
                        board.finished(result.job.layer, *row(result))
        except KeyboardInterrupt:
            checks.end()
            done.update((result.job.number, result) for result in checks.left())
    return [done[number] for number in sorted(done)]


@contextmanager
def asked_first(stop: Callable[[], bool]) -> Iterator[None]:
    """Inside, a signal calls `stop`; where that gives False, as there is nothing more to ask, it interrupts."""

    def interrupt(signum: int, frame: Any) -> None:
        if not stop():
            raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, previous):
            signal.signal(number, handler)

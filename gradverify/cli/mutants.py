"""`gradverify mutants`: known wrong backward passes, and who catches them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from gradverify.cli import _progress, _workers
from gradverify.cli._output import color_option, data_stream, note, writable, write, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradverify.campaign.checks import Result
    from gradverify.campaign.unit import Plan
    from gradverify.core.declare.layer import Layer
    from gradverify.core.summarise.report import Report
    from gradverify.mutants import Mutant
    from gradverify.mutants.runner import Trial


@click.command("mutants")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Seed of the drawing.")
@click.option("--class", "classes", metavar="C", multiple=True, help="Mutants of this class only; may be repeated.")
@click.option("--number", "numbers", type=int, metavar="N", multiple=True, help="This mutant only; may be repeated.")
@click.option("--usual/--no-usual", default=True, help="Run the usual checks on the same mutants as well.")
@click.option("--json", "json_file", metavar="FILE", help='Write one row for each mutant as JSON; "-" is stdout.')
@_workers.worker_options
@color_option
def command(
    targets: tuple[str, ...],
    seed: int,
    classes: tuple[str, ...],
    numbers: tuple[int, ...],
    workers: int | None,
    in_process: bool,
    usual: bool,
    json_file: str | None,
    color: bool | None,
) -> int:
    """Plant known bugs into right layers and count those that a default check catches.

    Without TARGET these are gradverify's own, modelled on bugs that were released. With TARGET, generic
    mutants of your layers: scaled, wrong sign, transposed, one entry or row lost, zero, not summed over
    the batch, stale, written into the cotangent.

    Exit status 1 if one is not caught.
    """
    with data_stream() as data:
        writable(json_file)
        if _workers.supervises(in_process):
            trials, total = _supervised(targets, numbers, classes, seed, usual, workers, color)
        else:
            mutants = _generic(targets, numbers, classes) if targets else _shelf(numbers, classes)
            trials, total = _run(mutants, seed, usual), len(mutants)
        text = sys.stderr if json_file == "-" else data
        from gradverify.mutants.runner import details, table

        write("\n".join([*(details(trials) if targets else ()), *table(trials)]), text)
        if json_file is not None:
            rows = [trial.row() for trial in trials]
            content = {"schema": "gradverify-mutants", "version": 1, "seed": seed, "mutants": rows}
            write_json(content, json_file, data)
    if len(trials) < total:
        note(f"gradverify: interrupted, {len(trials)} of {total} mutants done")
        raise KeyboardInterrupt
    return 0 if all(trial.caught for trial in trials) else 1


def _shelf(numbers: Sequence[int], classes: Sequence[str]) -> Sequence[Mutant]:
    from gradverify.mutants import shelf

    return _filtered(shelf(), numbers, classes)


def _generic(targets: Sequence[str], numbers: Sequence[int], classes: Sequence[str]) -> Sequence[Mutant]:
    """Generic mutants of every layer named; a layer in which a check finds something is refused."""
    from gradverify.core.check.search import check_layer
    from gradverify.core.check.settings import Settings
    from gradverify.mutants import generic
    from gradverify.targets import load

    layers = {layer.name: layer for target in targets for layer in load(target)}
    for layer in layers.values():
        _refuse_wrong(check_layer(layer, Settings(shrink=False)))
    return _filtered([m for layer in layers.values() for m in generic.mutants(layer)], numbers, classes)


def _filtered(mutants: Sequence[Mutant], numbers: Sequence[int], classes: Sequence[str]) -> Sequence[Mutant]:
    from gradverify.core.errors import UsageError
    from gradverify.mutants.runner import chosen

    found = chosen(mutants, numbers, classes)
    known = {m.number for m in mutants}
    missing = [n for n in numbers if n not in known]
    if missing:
        raise UsageError(f"there is no mutant {missing[0]}; numbers go from {min(known)} to {max(known)}")
    if not found:
        there = ", ".join(sorted({m.bug_class for m in mutants}))
        raise UsageError(f"no mutant is of the class {', '.join(classes)}; classes are {there}")
    return found


def _refuse_wrong(report: Report) -> None:
    from gradverify.core.errors import UsageError

    if report.findings:
        raise UsageError(
            f"layer {report.layer!r} has findings of its own, so its mutants would say nothing: "
            f"{report.findings[0].message}"
        )


def _supervised(
    targets: Sequence[str],
    numbers: Sequence[int],
    classes: Sequence[str],
    seed: int,
    usual: bool,
    workers: int | None,
    color: bool | None,
) -> tuple[list[Trial], int]:
    """Trials in the order of the mutants, and how many there are; after Ctrl-C those that were done."""
    from gradverify.campaign.unit import Plan
    from gradverify.campaign.watch import Job
    from gradverify.core.check.settings import Settings
    from gradverify.mutants import runner

    plan = Plan(folder=os.getcwd(), named=tuple(targets) or None)
    named: list[tuple[str | None, Mutant]] = []
    if targets:
        named = _of_layers(plan, workers, color)
        kept = {id(m) for m in _filtered([m for _, m in named], numbers, classes)}
        named = [(target, m) for target, m in named if id(m) in kept]
    else:
        named = [(None, m) for m in _shelf(numbers, classes)]
    jobs = [
        Job(k, f"{m.number} {m.layer}, {m.text}", target, Settings(seed=seed), plan, runner.numbered, (m.number, usual))
        for k, (target, m) in enumerate(named)
    ]
    trials = [
        _trial(result, named[result.job.number][1])
        for result in _workers.results(jobs, workers, color, lambda r: _row(_trial(r, named[r.job.number][1])))
        if result.whole
    ]
    return trials, len(jobs)


def _trial(result: Result, mutant: Mutant) -> Trial:
    from gradverify.core.errors import GradverifyError
    from gradverify.mutants import runner

    if result.more is not None:
        trial: Trial = result.more
        return trial
    if result.report.findings:
        return runner.ended(mutant, result.report)
    raise GradverifyError(f"mutant {mutant.number} {mutant.layer}, {mutant.text}: {result.error}")


def _row(trial: Trial) -> tuple[str, bool]:
    said = f"{trial.property}, {trial.cases} cases" if trial.caught else "NOT CAUGHT"
    return f"{trial.number} {trial.layer}, {trial.text}: {said}, {trial.seconds:.2g} s", not trial.caught


def _of_layers(plan: Plan, workers: int | None, color: bool | None) -> list[tuple[str | None, Mutant]]:
    """The mutants of layers, which stay in the workers, each with the target of its layer."""
    from gradverify.campaign.watch import Job
    from gradverify.core.check.settings import Settings
    from gradverify.mutants import Mutant, runner

    with _workers.started() as ready:
        jobs = [
            Job(k, name, target, Settings(shrink=False), plan, runner.described)
            for k, (name, target, _) in enumerate(_workers.listed(plan, ready))
        ]
        results = _workers.results(jobs, workers, color, lambda r: _progress.row(r.report), [ready])
    if len(results) < len(jobs) or not all(result.whole for result in results):
        raise KeyboardInterrupt
    found: list[tuple[str | None, Mutant]] = []
    for result in results:
        _refuse_wrong(result.report)
        described: list[tuple[int, str, str, str]] = result.more or []
        found += [(result.job.target, Mutant(*about, right=_in_worker, build=_in_worker)) for about in described]
    return found


def _in_worker() -> Layer:
    raise RuntimeError("this layer is in a worker")


def _run(mutants: Sequence[Mutant], seed: int, usual: bool) -> list[Trial]:
    """Trials in this process; a line for each one that escapes as soon as it is known."""
    from gradverify.mutants.runner import run

    trials = []
    for trial in run(mutants, seed=seed, usual=usual):
        trials.append(trial)
        if not trial.caught:
            note(f"gradverify: not caught: {trial.number} {trial.layer}, {trial.text}")
    return trials

"""`gradverify mutants`: known wrong backward passes, and who catches them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gradverify.cli._output import data_stream, note, writable, write, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradverify.mutants import Mutant
    from gradverify.mutants.runner import Trial


@click.command("mutants")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Seed of the drawing.")
@click.option("--class", "classes", metavar="C", multiple=True, help="Mutants of this class only; may be repeated.")
@click.option("--number", "numbers", type=int, metavar="N", multiple=True, help="This mutant only; may be repeated.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, metavar="W", help="Processes.")
@click.option("--usual/--no-usual", default=True, help="Run the usual checks on the same mutants as well.")
@click.option("--json", "json_file", metavar="FILE", help='Write one row for each mutant as JSON; "-" is stdout.')
def command(
    targets: tuple[str, ...],
    seed: int,
    classes: tuple[str, ...],
    numbers: tuple[int, ...],
    workers: int,
    usual: bool,
    json_file: str | None,
) -> int:
    """Plant known bugs into right layers and count those that a default check catches.

    Without TARGET these are gradverify's own, modelled on bugs that were released. With TARGET, generic
    mutants of your layers: scaled, wrong sign, transposed, one entry or row lost, zero, not summed over
    the batch, stale, written into the cotangent.

    Exit status 1 if one is not caught.
    """
    with data_stream() as data:
        writable(json_file)
        mutants = _generic(targets, numbers, classes) if targets else _shelf(numbers, classes)
        trials = _run(mutants, seed, 1 if targets else workers, usual)
        text = sys.stderr if json_file == "-" else data
        from gradverify.mutants.runner import details, table

        write("\n".join([*(details(trials) if targets else ()), *table(trials)]), text)
        if json_file is not None:
            rows = [trial.row() for trial in trials]
            content = {"schema": "gradverify-mutants", "version": 1, "seed": seed, "mutants": rows}
            write_json(content, json_file, data)
    return 0 if all(trial.caught for trial in trials) else 1


def _shelf(numbers: Sequence[int], classes: Sequence[str]) -> Sequence[Mutant]:
    from gradverify.mutants import shelf

    return _filtered(shelf(), numbers, classes)


def _generic(targets: Sequence[str], numbers: Sequence[int], classes: Sequence[str]) -> Sequence[Mutant]:
    """Generic mutants of every layer named; a layer in which a check finds something is refused."""
    from gradverify.checking import check_layer
    from gradverify.errors import UsageError
    from gradverify.mutants import generic
    from gradverify.settings import Settings
    from gradverify.targets import load

    layers = {layer.name: layer for target in targets for layer in load(target)}
    for layer in layers.values():
        report = check_layer(layer, Settings(shrink=False))
        if report.findings:
            raise UsageError(
                f"layer {layer.name!r} has findings of its own, so its mutants would say nothing: "
                f"{report.findings[0].message}"
            )
    return _filtered([m for layer in layers.values() for m in generic.mutants(layer)], numbers, classes)


def _filtered(mutants: Sequence[Mutant], numbers: Sequence[int], classes: Sequence[str]) -> Sequence[Mutant]:
    from gradverify.errors import UsageError
    from gradverify.mutants.runner import chosen

    found = chosen(mutants, numbers, classes)
    known = {m.number for m in mutants}
    missing = [n for n in numbers if n not in known]
    if missing:
        raise UsageError(f"there is no mutant {missing[0]}; numbers go from {min(known)} to {max(known)}")
    if not found:
        raise UsageError(f"no mutant is of the class {', '.join(classes)}; {_classes(mutants)}")
    return found


def _classes(mutants: Sequence[Mutant]) -> str:
    return f"classes are {', '.join(sorted({m.bug_class for m in mutants}))}"


def _run(mutants: Sequence[Mutant], seed: int, workers: int, usual: bool) -> list[Trial]:
    """Trials; on a terminal, a line for each one that escapes as soon as it is known."""
    from gradverify.mutants.runner import run

    trials = []
    for trial in run(mutants, seed=seed, workers=workers, usual=usual):
        trials.append(trial)
        if not trial.caught:
            note(f"gradverify: not caught: {trial.number} {trial.layer}, {trial.text}")
    return trials

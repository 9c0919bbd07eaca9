"""`gradverify check`: draw cases for every layer named, and say what is wrong with them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from gradverify.cli import _progress, _project, _show, _workers
from gradverify.cli._output import (
    color_option,
    data_stream,
    memory,
    note,
    targets_named,
    writable,
    write_json,
    write_text,
)
from gradverify.core.errors import UsageError
from gradverify.core.texts import many

if TYPE_CHECKING:
    from gradverify.campaign.checks import Result
    from gradverify.campaign.watch import Watch
    from gradverify.core.check.settings import Settings
    from gradverify.core.declare.layer import Layer
    from gradverify.core.nouns import Case, Comparison
    from gradverify.core.summarise.report import Report

_WIDE = 200  # characters of a line that a layer has printed


@click.command("check")
@click.argument("targets", metavar="[TARGET]...", nargs=-1, shell_complete=targets_named)
@click.option("--loss", metavar="NAME", help="Put each layer under this registered loss.")
@click.option("--all", "everything", is_flag=True, help="All that is registered, whatever the project names.")
@click.option("--profile", metavar="NAME", help="How much is drawn: quick (25 cases), ci (50) or thorough (400).")
@click.option("--examples", type=int, metavar="N", help="Cases drawn for each property.")
@click.option("--seed", type=int, metavar="S", help="Seed of the drawing; the same seed draws the same cases.")
@click.option("--eps", type=float, metavar="E", help="Relative step of the first difference, instead of a drawn one.")
@click.option("--dtype", metavar="D", default="float64", show_default=True, help="Floating type of the primals.")
@click.option("--property", "properties", metavar="P", multiple=True, help="Try this property only; may be repeated.")
@click.option("--json", "json_file", metavar="FILE", help='Write the reports as JSON; "-" is stdout.')
@click.option("--html", "html_file", metavar="FILE", help="Write the reports as one HTML page.")
@click.option("--sweep/--screen", default=None, help="Compare every entry, or screen first; the default goes by size.")
@click.option("--memory", type=int, metavar="BYTES", help="Bytes of perturbed copies that may be in flight.")
@click.option("--fail-under-coverage", "least", type=float, metavar="PERCENT", help="Status 3 where less code ran.")
@click.option("--show-matrices", is_flag=True, help="Print the two gradients in full, also where they agree.")
@click.option("--case-memory", type=memory, default="4G", show_default=True, metavar="B", help="What a layer may use.")
@_workers.worker_options
@color_option
def command(
    targets: tuple[str, ...],
    everything: bool,
    profile: str | None,
    json_file: str | None,
    html_file: str | None,
    color: bool | None,
    case_memory: int,
    workers: int | None,
    in_process: bool,
    **given: Any,
) -> int:
    """Check layers: the gradient of every primal, and every other property that applies.

    TARGET is a registered name, package.module, package.module:object or file.py[:object]; none means
    what [tool.gradverify] in pyproject.toml names, or else all that is registered. That table also holds
    where no option says otherwise: profile, examples, seed, properties, jobs, fail_under_coverage.

    Layers are checked at once, in processes of their own: one that crashes, hangs, exits or exhausts
    memory costs no other layer anything. Prints a table, then each finding on a small case of its own,
    with the command that replays it. Ctrl-C ends it, and shows what was found by then.
    """
    loss, matrices, least = given.pop("loss"), given.pop("show_matrices"), given.pop("least")
    if least is not None and not 0 <= least <= 100:
        raise UsageError(f"--fail-under-coverage takes a percentage from 0 to 100, got {least:g}")
    begun = time.monotonic()
    project = _project.defaults(profile)
    least, workers = project.least if least is None else least, workers or project.jobs
    if not targets and not everything and project.targets:
        targets = project.targets
        _project.told(targets)
    from gradverify.corpus import replay_command

    with data_stream() as data:
        writable(json_file)
        writable(html_file)
        if _workers.supervises(in_process):
            with _workers.started() as ready:
                settings = _settings(project, **given)
                results, total = _supervised(targets, loss, settings, matrices, case_memory, workers, color, ready)
        else:
            results, total = _here(targets, loss, _settings(project, **given), matrices, color)
        done = [result for result in results if result.whole and result.error is None]
        finished = sum(result.whole for result in results) == total
        if not results:
            raise KeyboardInterrupt  # before anything was found
        # one that did not come to its end has not verified what it does not find
        reports = [r.report for r in results if (r.whole and r.error is None) or r.report.findings]
        files = _show.save(reports)
        replays = {finding: replay_command(path, finding.case) for finding, path in files.items()}
        text = sys.stderr if json_file == "-" else data
        ended = None if finished else _interrupted(len(done), total, reports)
        _show.show(reports, replays, text, color, matrices, time.monotonic() - begun, ended)
        for result in (result for result in done if matrices and not result.report.findings):
            _show.show_matrices(result.job.layer, result.more, text, color)
        if json_file is not None:
            from gradverify.report.jsonreport import to_json

            write_json(to_json(reports, files), json_file, data)
        if html_file is not None:
            from gradverify.report.html import render_html

            write_text(render_html(reports, files), html_file, data)
        for result in (result for result in results if result.said):
            note("\n".join([f"{result.job.layer} printed:", *(f"  {line[:_WIDE]}" for line in result.said)]))
        for result in (result for result in results if result.error is not None):
            note(f"gradverify: {result.job.layer} could not be checked: {result.error}")
    if not finished:
        raise KeyboardInterrupt
    return _status(results, reports, least)


def _settings(
    project: _project.Defaults, *, examples: int | None, seed: int | None, properties: tuple[str, ...], **given: Any
) -> Settings:
    from gradverify.core.check.settings import EXAMPLES, Settings

    drawn = next((n for n in (examples, project.examples) if n is not None), EXAMPLES)
    seed = project.seed if seed is None else seed
    return Settings(examples=drawn, seed=seed, properties=properties or project.properties or None, **given)


def _interrupted(done: int, total: int, reports: Sequence[Report]) -> str:
    found = sum(len(report.findings) for report in reports)
    return f"interrupted, {done} of {many(total, 'layer')} done, {many(found, 'finding')}"


def _status(results: Sequence[Result], reports: Sequence[Report], least: float | None) -> int:
    """As `_show.status`, but where a layer could not be checked, and there is no finding that this could hide."""
    from gradverify.cli import INTERNAL, USAGE

    status, failed = _show.status(reports, least), [result for result in results if result.error is not None]
    if status == _show.FOUND or not failed:
        return status
    return INTERNAL if any(result.loaded for result in failed) else USAGE


def _supervised(
    targets: Sequence[str],
    loss: str | None,
    settings: Settings,
    matrices: bool,
    memory: int,
    workers: int | None,
    color: bool | None,
    ready: Any,
) -> tuple[list[Result], int]:
    """Results in order, and the number of layers; fewer results than that after Ctrl-C."""
    from gradverify.campaign.unit import Plan
    from gradverify.campaign.watch import Job
    from gradverify.core.verify import SECONDS

    about: dict[str, Any] = dict(
        case_seconds=SECONDS, memory=memory or None, folder=os.getcwd(), named=tuple(targets), loss=loss
    )
    plan = Plan(settings.dtype, settings.eps, **about)
    jobs = [
        Job(k, name, target, settings, plan, examined, (matrices,), weight)
        for k, (name, target, weight) in enumerate(_workers.listed(plan, ready))
    ]
    return _workers.results(jobs, workers, color, lambda result: _progress.row(result.report), [ready]), len(jobs)


def examined(watch: Watch, layer: Layer, settings: Settings, matrices: bool) -> tuple[Report, Sequence[Comparison]]:
    """What a worker does: the report, and an example where there is no finding to show matrices of."""
    report = watch.check(layer, settings)
    return report, _example(layer, settings) if matrices and not report.findings else ()


def _here(
    targets: Sequence[str], loss: str | None, settings: Settings, matrices: bool, color: bool | None
) -> tuple[list[Result], int]:
    """As `_supervised`, in this process."""
    from gradverify.campaign.checks import Result
    from gradverify.campaign.unit import Plan
    from gradverify.campaign.watch import Job, checked
    from gradverify.core.check.search import check_layer
    from gradverify.targets import chosen

    layers, left_out = chosen(targets, loss)
    for why in left_out:
        note(f"gradverify: left out: {why}")
    results: list[Result] = []
    with suppress(KeyboardInterrupt), _progress.board(len(layers), color) as board:
        for layer in layers:
            report = check_layer(layer, settings, board.heard)
            more = _example(layer, settings) if matrices and not report.findings else ()
            job = Job(len(results), layer.name, layer.origin or layer.name, settings, Plan(), checked)
            results.append(Result(job, report, more))
            board.finished(layer.name, *_progress.row(report))
    return results, len(layers)


def _example(layer: Layer, settings: Settings) -> Sequence[Comparison]:
    """The comparisons of the largest of a few small cases: what a matrix can show."""
    from gradverify.core.declare.regime import Regime
    from gradverify.core.draw import cases, each

    drawn: list[Case] = []
    each(cases(layer, Regime(small=True), dtype=settings.dtype, eps=settings.eps), 10, settings.seed or 0, drawn.append)
    return _show.compared(layer, max(drawn, key=lambda case: case.size))

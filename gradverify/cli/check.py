"""`gradverify check`: draw cases for every layer named, and say what is wrong with them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gradverify.cli import _cases, _show
from gradverify.cli._output import color_option, colored, data_stream, note, writable, write_json, write_text
from gradverify.cli._progress import progress
from gradverify.errors import UsageError

if TYPE_CHECKING:
    from gradverify.layer import Layer
    from gradverify.settings import Settings
    from gradverify.types import Case, Comparison, Report


@click.command("check")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--loss", metavar="NAME", help="Put each layer under this registered loss.")
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
@color_option
def command(
    targets: tuple[str, ...], json_file: str | None, html_file: str | None, color: bool | None, **given: Any
) -> int:
    """Check layers: the gradient of every primal, and every other property that applies.

    TARGET is a registered name, package.module, package.module:object or file.py[:object]; none means
    all that is registered. Prints a table, then each finding on a small case of its own, with the
    command that replays it.
    """
    loss, matrices, least = given.pop("loss"), given.pop("show_matrices"), given.pop("least")
    if least is not None and not 0 <= least <= 100:
        raise UsageError(f"--fail-under-coverage takes a percentage from 0 to 100, got {least:g}")
    with data_stream() as data:
        writable(json_file)
        writable(html_file)
        settings = _settings(**given)
        layers = _layers(targets, loss)
        reports, finished = _checked(layers, settings, color)
        if not reports:
            raise KeyboardInterrupt  # before the first layer was done
        files = _cases.save(reports)
        replays = {finding: _cases.replay_command(path, finding) for finding, path in files.items()}
        text = sys.stderr if json_file == "-" else data
        _show.show(reports, replays, text, color, matrices)
        if matrices:
            for layer in (x for x, report in zip(layers, reports) if not report.findings):
                _show.show_matrices(layer.name, _example(layer, settings), text, color)
        if json_file is not None:
            from gradverify.report.jsonreport import to_json

            write_json(to_json(reports, files), json_file, data)
        if html_file is not None:
            from gradverify.report.html import render_html

            write_text(render_html(reports, files), html_file, data)
    if not finished:
        raise KeyboardInterrupt
    return _show.status(reports, least)


def _settings(*, examples: int | None, properties: tuple[str, ...], **given: Any) -> Settings:
    from gradverify.settings import Settings

    if examples is not None:
        given["examples"] = examples
    return Settings(properties=properties or None, **given)


def _layers(targets: Sequence[str], loss: str | None) -> list[Layer]:
    """Every layer once, in the order named, under the loss if there is one."""
    from gradverify.registry import loss as find_loss
    from gradverify.targets import load

    if loss is not None:
        find_loss(loss)  # an unknown loss is told before anything is imported
    named = [load(target) for target in targets or (None,)]
    found = [layer for group in named for layer in (group if loss is None else _under(group, loss))]
    return list({(layer.name, layer.origin): layer for layer in found}.values())


def _under(group: list[Layer], loss: str) -> list[Layer]:
    """One layer must fit the loss; of several, those that do not are left out, and named."""
    from gradverify.errors import DeclarationError
    from gradverify.layer import Loss
    from gradverify.targets import under

    composed = []
    for layer in group:
        try:
            if len(group) == 1 or not isinstance(layer, Loss):
                composed.append(under(layer, loss))
        except DeclarationError as error:
            if len(group) == 1:
                raise
            note(f"gradverify: left out: {error}")
    return composed


def _checked(layers: Sequence[Layer], settings: Settings, color: bool | None) -> tuple[list[Report], bool]:
    """Reports in order; on Ctrl-C those that are complete, and False."""
    from gradverify.checking import check_layer

    reports: list[Report] = []
    try:
        with progress(len(layers), colored(sys.stderr, color)) as listen:
            for layer in layers:
                reports.append(check_layer(layer, settings, listen))
    except KeyboardInterrupt:
        return reports, False
    return reports, True


def _example(layer: Layer, settings: Settings) -> Sequence[Comparison]:
    """The comparisons of the largest of a few small cases: what a matrix can show."""
    from gradverify.properties import Regime
    from gradverify.strategies import cases, each

    drawn: list[Case] = []
    each(cases(layer, Regime(small=True), dtype=settings.dtype, eps=settings.eps), 10, settings.seed or 0, drawn.append)
    return _show.compared(layer, max(drawn, key=lambda case: case.size))

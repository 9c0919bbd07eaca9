"""`gradverify explain`: one saved Case with all evidence on what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from gradverify.cli import _show
from gradverify.cli._output import color_option, colored, data_stream, write

if TYPE_CHECKING:
    from gradverify.layer import Layer
    from gradverify.types import Finding


@click.command("explain")
@click.argument("case_file", metavar="CASE")
@click.option("--target", metavar="T", help="Where the layer is now; the default is what the case file says.")
@click.option("--property", "properties", metavar="P", multiple=True, help="Try this property only; may be repeated.")
@color_option
def command(case_file: str, target: str | None, properties: tuple[str, ...], color: bool | None) -> int:
    """Run the saved case CASE again, and say what its findings look like.

    Prints each finding with the two gradients in full, every diagnosis with what was tried for it, and
    the error against the step, which tells noise, truncation and a wrong gradient from one another.
    Exit status 1 if something is found, 0 if nothing is found any more.
    """
    from gradverify.casefile import load
    from gradverify.diagnosis import diagnose
    from gradverify.targets import find
    from gradverify.verification import verify

    with data_stream() as data:
        case = load(case_file)
        layer = find(case, target)
        report = verify(layer, case, properties or None)
        for finding in _unexplained(report.findings):
            _explain(layer, finding.but(diagnoses=diagnose(layer, finding)), data, color)
        held = [t.property for t in report.tallies.values() if t.verified and _silent(t.property, report.findings)]
        write(f"\nheld on this case: {', '.join(held) or 'nothing'}", data)
        if report.ok:
            write("nothing is found any more on this case", data)
    return _show.status([report])


def _unexplained(findings: tuple[Finding, ...]) -> list[Finding]:
    """Findings that no other one on the same primal explains."""
    from gradverify.properties import properties

    known = {(finding.property, finding.primal) for finding in findings}
    return [f for f in findings if not any((n, f.primal) in known for n in properties.get(f.property).implied_by)]


def _silent(name: str, findings: tuple[Finding, ...]) -> bool:
    return all(finding.property != name for finding in findings)


def _explain(layer: Layer, finding: Finding, stream: TextIO, color: bool | None) -> None:
    from gradverify.diagnosis.steps import steps
    from gradverify.evaluate import LayerFailure
    from gradverify.report import explanation, terminal

    paint, compared = colored(stream, color), finding.comparison
    write(f"\n{terminal.render_finding(finding.but(diagnoses=()), paint, _show._width())}", stream)
    write(f"\n{explanation.diagnoses(finding, paint, _show._width())}", stream)
    if compared is None or finding.property not in ("gradient", "special") or not compared.wrong.any():
        return
    write(f"\n  {terminal.side_by_side(compared, paint, _show._width())}", stream)
    try:
        found = steps(layer, finding.case, compared)
    except LayerFailure:
        return
    write(f"\n{explanation.ladder(found, compared.labels, paint, _show._width())}", stream)

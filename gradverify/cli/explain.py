"""`gradverify explain`: one saved Case with all evidence on what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

import click

from gradverify.cli import _show
from gradverify.cli._output import color_option, colored, data_stream, write

if TYPE_CHECKING:
    from gradverify.core.nouns import Finding


@click.command("explain")
@click.argument("case_file", metavar="CASE")
@click.option("--target", metavar="T", help="Where the layer is now; the default is what the case file says.")
@click.option("--property", "properties", metavar="P", multiple=True, help="Try this property only; may be repeated.")
@color_option
def command(case_file: str, target: str | None, properties: tuple[str, ...], color: bool | None) -> int:
    """Run the saved case CASE again, and say why its verdicts are what they are.

    Prints each finding with the two gradients in full, every diagnosis with what was tried for it, and
    the error against the step, which tells noise, truncation and a wrong gradient from one another. Then
    what each verdict rests on that no measurement gives by itself: kinks, and entries that are unresolved.
    Exit status 1 if something is found, 0 if nothing is found.
    """
    from gradverify.api import verify
    from gradverify.casefile import load
    from gradverify.core.diagnose import diagnosed
    from gradverify.core.properties import unexplained
    from gradverify.report.explanation import verdicts
    from gradverify.report.terminal import held
    from gradverify.targets import find

    with data_stream() as data:
        case = load(case_file)
        layer = find(case, target)
        report = verify(layer, case, properties or None)
        own = replace(report, findings=tuple(unexplained({f.fingerprint: f for f in report.findings})))
        for finding in own.findings:
            _explain(diagnosed(layer, finding), data, color)
        write(f"\nverdicts, entry by entry:\n{verdicts(_show.compared(layer, case), _show._width())}", data)
        write("\n".join(["", *held(own, _show._width())]), data)
        if report.ok:
            write("\nnothing is found on this case", data)
    return _show.status([report])


def _explain(finding: Finding, stream: TextIO, color: bool | None) -> None:
    from gradverify.report import explanation, ladder, terminal

    paint, compared, width = colored(stream, color), finding.comparison, _show._width()
    bare = finding.but(diagnoses=(), facts={})  # both follow, in full
    write(f"\n{terminal.render_finding(bare, paint, width)}", stream)
    write(f"\n{explanation.diagnoses(finding, paint, width)}", stream)
    if compared is not None and compared.wrong.size > 1:
        write(f"\n  {terminal.side_by_side(compared, paint, width)}", stream)
    steps = ladder.full(finding, width)
    if steps:
        write("\n" + "\n".join(steps), stream)

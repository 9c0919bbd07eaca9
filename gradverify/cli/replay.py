"""`gradverify replay`: one saved Case, through every property."""

from __future__ import annotations

import sys

import click

from gradverify.cli import _show
from gradverify.cli._output import color_option, data_stream, writable, write, write_json


@click.command("replay")
@click.argument("case_file", metavar="CASE")
@click.option("--target", metavar="T", help="Where the layer is now; the default is what the case file says.")
@click.option("--property", "properties", metavar="P", multiple=True, help="Try this property only; may be repeated.")
@click.option("--json", "json_file", metavar="FILE", help='Write the report as JSON; "-" is stdout.')
@click.option("--show-matrices", is_flag=True, help="Print the two gradients in full, also where they agree.")
@color_option
def command(
    case_file: str,
    target: str | None,
    properties: tuple[str, ...],
    json_file: str | None,
    show_matrices: bool,
    color: bool | None,
) -> int:
    """Verify the saved case CASE again, and say what the findings look like.

    Where nothing is found it is tried once more after a call with other values, as what code keeps from call to call
    is lost in a new process. Exit status 1 if something is found, 0 if nothing is found any more.
    """
    from gradverify.casefile import load
    from gradverify.core.check.search import told
    from gradverify.core.verify import verify_again
    from gradverify.report.jsonreport import to_json
    from gradverify.targets import find

    with data_stream() as data:
        writable(json_file)
        case = load(case_file)
        layer = find(case, target)
        report = told(layer, verify_again(layer, case, properties or None))
        text = sys.stderr if json_file == "-" else data
        _show.show([report], {}, text, color, show_matrices)
        if show_matrices and not report.findings:
            _show.show_matrices(layer.name, _show.compared(layer, case), text, color)
        if report.ok:
            write("nothing is found any more on this case", text)
        if json_file is not None:
            write_json(to_json([report], dict.fromkeys(report.findings, case_file)), json_file, data)
    return _show.status([report])

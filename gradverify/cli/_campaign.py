"""What `gradverify fuzz` shows: a live table or plain lines, and a summary at the end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from gradverify.cli._output import colored, live, note, write
from gradverify.core.texts import many

if TYPE_CHECKING:
    from gradverify.campaign import Snapshot, Store, Summary
    from gradverify.campaign.schedule import Standing

OK, FOUND, FAILED, NOTHING = 0, 1, 2, 3
SECONDS = 10.0  # between two lines where there is no terminal
_FULL = 20  # findings printed in full
_STOPPING = "stopping (Ctrl-C again stops at once)"
_OTHER_LINES = 8  # of a terminal, that the table leaves free

Listener = Callable[["Snapshot"], None]
COLUMNS = ("layer", "cases", "cases/s", "worst/bound", "findings")


@contextmanager
def listener(color: bool | None) -> Iterator[Listener]:
    """Hears of a campaign: a live table on a terminal, else a line now and then."""
    with live(color) as (console, shown):
        if console is None:
            yield _lines()
        else:
            yield lambda snapshot: shown.update(_table(snapshot, console.height - _OTHER_LINES), refresh=True)


def _lines() -> Listener:
    last, told = time.monotonic(), (0, False)

    def listen(now: Snapshot) -> None:
        nonlocal last, told
        news = (sum(layer.findings for layer in now.layers), now.stopping and now.left != 0)
        if time.monotonic() - last >= SECONDS or news != told:
            last, told = time.monotonic(), news
            note(headline(now))

    return listen


def headline(now: Snapshot) -> str:
    """A snapshot in one line."""
    layers, cases = now.layers, sum(layer.cases for layer in now.layers)
    tried = sum(layer.cases > 0 for layer in layers)
    worst = max(layers, key=lambda layer: layer.ratio, default=None)
    said = [
        f"{many(cases, 'case')} of {tried}/{len(layers)} layers",
        f"worst {worst.ratio:.3g} ({worst.name})" if worst is not None and worst.ratio else "",
        many(sum(layer.findings for layer in layers), "finding"),
        f"{many(now.lost, 'worker')} replaced" if now.lost else "",
        _STOPPING if now.stopping and now.left != 0 else "" if now.left is None else f"{_clock(now.left)} left",
    ]
    return ", ".join(part for part in said if part)


def _table(now: Snapshot, most: int) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    left = "until Ctrl-C" if now.left is None else f"{_clock(now.left)} left"
    left = _STOPPING if now.stopping and now.left != 0 else left
    replaced = f", {now.lost} replaced" if now.lost else ""
    title = Text(f"{_clock(now.seconds)} spent, {left}, {many(now.workers, 'worker')}{replaced}", no_wrap=True)
    table = Table(*COLUMNS)
    ordered = sorted(now.layers, key=lambda layer: (-layer.findings, not layer.running, -layer.ratio))
    for layer in ordered[: max(3, most)]:
        table.add_row(*row(layer), style="red" if layer.findings or layer.error else None)
    if len(ordered) > max(3, most):
        table.caption = f"and {len(ordered) - max(3, most)} more layers"
    return Group(title, table)


def row(layer: Standing) -> tuple[str, ...]:
    """Layer, cases, cases per second, worst disagreement in units of its bound, findings."""
    rate = layer.rate
    return (
        layer.name,
        str(layer.cases),
        "-" if rate is None else f"{rate:.3g}",
        f"{layer.ratio:.3g}" if layer.ratio else "-",
        str(layer.findings or "-"),
    )


def show(summary: Summary, store: Store, stream: TextIO, color: bool | None) -> None:
    """The table of all layers, every finding with the command that replays it, and one line that sums up."""
    from gradverify.report.numbers import columns
    from gradverify.report.terminal import painter

    bold = painter("bold", colored(stream, color))
    head, *rows = columns([COLUMNS, *(row(layer) for layer in summary.layers)])
    write("\n".join([bold(head), *rows]), stream)
    for entry in summary.findings[:_FULL]:
        times = f"  met {many(entry.count, 'time')}"
        write(f"\n{entry.found.report}\n{times}{_replay(entry.file)}", stream)
    for entry in summary.findings[_FULL:]:
        write(f"\n{entry.found.layer}: {entry.found.message}{_replay(entry.file)}", stream)
    for found in summary.unsettled:
        write(f"\nnot confirmed yet, resume to settle it: {found.layer}: {found.message}", stream)
    if summary.waiting:
        write(f"\nstill to be tried again: {many(summary.waiting, 'case')}; resume the store", stream)
    for layer in (layer for layer in summary.layers if layer.error is not None):
        write(f"\n{layer.name} could not be tried: {layer.error}", stream)
    for layer in (layer for layer in summary.layers if layer.idle is not None):
        write(f"\n{layer.name}: {layer.idle}", stream)
    for key in summary.fixed:
        write(f"\nfixed: the finding {key} of an earlier run does not fail any more", stream)
    for line in summary.trouble:
        note(f"gradverify: {line}")
    write(f"\n{_last_line(summary)}", stream)
    note(f"gradverify: resume with --store {shlex.quote(str(store.folder))}")


def status(summary: Summary) -> int:
    """0 nothing wrong, 1 a finding, 2 something failed, 3 where for some layer nothing was verified."""
    if summary.reason in ("store", "executor"):
        return FAILED
    if summary.findings or summary.unsettled:
        return FOUND
    if any(layer.error is not None or layer.failures for layer in summary.layers):
        return FAILED
    return OK if summary.layers and all(layer.verified for layer in summary.layers) else NOTHING


def _last_line(summary: Summary) -> str:
    layers = {entry.found.layer for entry in summary.findings}
    unverified = sum(not layer.verified for layer in summary.layers if layer.name not in layers)
    rate = summary.cases / summary.seconds if summary.seconds else 0.0
    said = [
        f"{many(len(summary.findings), 'finding')} in {many(len(layers), 'layer')} of {len(summary.layers)}",
        f"{unverified} not verified" if unverified else "",
        f"{many(summary.lost, 'worker')} replaced" if summary.lost else "",
        f"{summary.cases} cases in {_clock(summary.seconds)} ({rate:.3g}/s)",
        f"ended by {_REASONS[summary.reason]}",
    ]
    return ", ".join(part for part in said if part)


_REASONS = {
    "time": "its time",
    "units": "its number of units",
    "findings": "enough findings",
    "interrupted": "Ctrl-C",
    "store": "its store",
    "executor": "the loss of its executor",
    "nothing to try": "lack of layers that can be tried",
}


def _replay(file: Any) -> str:
    return "" if file is None else f"\n  replay it: gradverify replay {shlex.quote(str(file))}"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"

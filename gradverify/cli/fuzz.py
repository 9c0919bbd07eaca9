"""`gradverify fuzz`: check until the time is spent or somebody stops it, and keep everything."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradverify.cli import _campaign, _project
from gradverify.cli._output import color_option, data_stream, memory, note, targets_named
from gradverify.cli._workers import asked_first

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from gradverify.campaign import Campaign, Store

FOLDER = Path(".gradverify") / "fuzz"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(value: str) -> float:
    """The type of an option: seconds, as 90, 90s, 10m, 1h30m or 2d."""
    parts = re.findall(r"(\d+(?:\.\d*)?)([smhd]?)", value)
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if "".join(n + u for n, u in parts) != value or seconds <= 0:
        raise click.BadParameter(f"{value!r} is no duration; write 90s, 10m, 1h30m")
    return seconds


@click.command("fuzz")
@click.argument("targets", metavar="[TARGET]...", nargs=-1, shell_complete=targets_named)
@click.option("--for", "seconds", type=duration, metavar="TIME", help="Stop after 90s, 10m, 1h30m; else on Ctrl-C.")
@click.option("-j", "--workers", type=click.IntRange(1), metavar="N", help="Units at once; the default is all cores.")
@click.option("--store", "folder", metavar="DIR", help="Keep everything here; a store that exists is resumed.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Seed of the drawing.")
@click.option("--max-findings", type=click.IntRange(1), metavar="K", help="Stop after K new findings.")
@click.option("--scheduler", metavar="ADDRESS", help="Work on the Dask cluster of this scheduler, tcp://host:port.")
@click.option("--dtype", metavar="D", default="float64", show_default=True, help="Floating type of the primals.")
@click.option("--eps", type=float, metavar="E", help="Relative step of the first difference, instead of a drawn one.")
@click.option("--property", "properties", metavar="P", multiple=True, help="Try this property only; may be repeated.")
@click.option("--case-seconds", type=duration, default="10s", show_default=True, metavar="T", help="Limit of a case.")
@click.option("--case-memory", type=memory, default="4G", show_default=True, metavar="B", help="What a layer may use.")
@color_option
def command(
    targets: tuple[str, ...],
    folder: str | None,
    scheduler: str | None,
    dtype: str,
    eps: float | None,
    properties: tuple[str, ...],
    case_seconds: float,
    case_memory: int,
    color: bool | None,
    **given: Any,
) -> int:
    """Check layers for hours, on all cores or a cluster, and lose nothing.

    TARGET and [tool.gradverify] are as for `gradverify check`. Ctrl-C stops in an orderly way; with --store the
    next run goes on where this one stopped. A layer that crashes, hangs or exhausts memory ends one worker, which is
    replaced, and becomes a finding. Exit status as for `check`; a spent time is no error.
    """
    from gradverify.campaign import Campaign, Plan
    from gradverify.core.check.settings import Settings
    from gradverify.core.errors import UsageError

    project = _project.defaults()
    properties = properties or project.properties
    if not targets and project.targets:
        targets = project.targets
        _project.told(targets)
    if folder == "":
        raise UsageError("--store needs the name of a folder")
    Settings(dtype=dtype, eps=eps, properties=properties or None)  # refuses what makes no sense
    plan = Plan(dtype, eps, properties or None, case_seconds=case_seconds, memory=case_memory or None)
    with data_stream() as data, _store(folder) as store, _executor(scheduler) as executor:
        note(f"gradverify: everything is kept in {str(store.folder)!r}")
        with _campaign.listener(color) as listen:
            campaign = Campaign(targets, store, plan=plan, executor=executor, listen=listen, **given)
            summary = _interruptible(campaign)
        _campaign.show(summary, store, data, color)
    if summary.reason == "interrupted":
        raise KeyboardInterrupt
    return _campaign.status(summary)


def _interruptible(campaign: Campaign) -> Any:
    """The first Ctrl-C asks for an orderly end."""

    def stop() -> bool:
        asked = not campaign.stopped and campaign.running
        campaign.stop()
        return asked

    with asked_first(stop):
        return campaign.run()


@contextmanager
def _store(folder: str | None) -> Iterator[Store]:
    """The store; one of our own making that nothing came into is removed again."""
    from gradverify.campaign import Store
    from gradverify.core.errors import GradverifyError

    store = Store(folder or FOLDER / time.strftime("%Y%m%d-%H%M%S"))
    try:
        yield store
    except GradverifyError:
        if folder is None:
            shutil.rmtree(store.folder, ignore_errors=True)
        raise
    finally:
        store.close()


@contextmanager
def _executor(scheduler: str | None) -> Iterator[Executor | None]:
    if scheduler is None:
        yield None
        return
    from gradverify.campaign.dask import cluster
    from gradverify.campaign.pool import workers_of

    with cluster(scheduler) as executor:
        note(f"gradverify: {workers_of(executor, 0)} threads of workers at {scheduler}")
        yield executor

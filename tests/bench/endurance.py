"""Campaigns over the whole catalogue for a long time: nothing cried, nothing missed, nothing lost, memory flat.

python -m tests.bench.endurance catalogue|mutants|kills|resume [--minutes M] [--workers N] [--every S] [--store DIR]

catalogue   every layer of the catalogue: no finding, memory of each process flat
mutants     the same with ten known wrong backwards: each of them found, once for each primal that is wrong
kills       the same, and a worker is ended by SIGKILL every S seconds: nothing lost, at most a unit repeated
resume      the same, and the main process is ended by SIGKILL half way: what was found before is still there

The exit status is 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradverify.campaign import Store
from gradverify.campaign.books import unexplained
from gradverify.campaign.store import Entry
from tests.bench.machine import heading, table

TEN = Path(__file__).with_name("ten_mutants.py")
FLAT = 0.10  # of the first quarter, by which the last may be larger


def catalogue() -> list[str]:
    """Names of the layers of the catalogue."""
    from gradverify.core.declare.registry import layers

    return [name for name in layers.names() if not name.startswith("mutant_")]


def mutants() -> list[str]:
    from tests.bench.ten_mutants import MUTANTS

    return [mutant.build().name for mutant in MUTANTS]


def campaign(targets: list[str], seconds: float, workers: int, store: Path) -> subprocess.Popen[bytes]:
    """A campaign in a process of its own, as a user starts it."""
    given = ["--for", f"{seconds:g}s", "--workers", str(workers), "--store", str(store)]
    return subprocess.Popen([sys.executable, "-m", "gradverify.cli", "fuzz", *targets, *given])


def events(store: Path, kind: str) -> list[dict[str, Any]]:
    """What the event log says, half a line left out."""
    told = []
    path = store / "events.ndjson"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            told.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in told if event["event"] == kind]


def findings(folder: Path) -> list[Entry]:
    store = Store(folder)
    try:
        assert not store.damaged
        return unexplained(store.findings())
    finally:
        store.close()


def workers_of(pid: int) -> list[int]:
    """Children of a process that work on units."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in listed.split()]


def memory(store: Path) -> tuple[str, bool]:
    """Resident bytes of each process in the first and the last quarter of its life, and whether they are flat."""
    series: dict[str, list[tuple[float, int]]] = {}
    for event in events(store, "progress"):
        for process, size in event["memory"].items():
            series.setdefault(process, []).append((event["spent"], size))
    rows, flat = [], True
    for process, told in series.items():
        start, end = told[0][0], told[-1][0]
        first = [size for spent, size in told if spent <= start + (end - start) / 4]
        last = [size for spent, size in told if spent >= end - (end - start) / 4]
        begin, finish = (sum(sizes) / len(sizes) for sizes in (first, last))
        flat &= finish <= (1 + FLAT) * begin
        growth = f"{finish / begin - 1:+.1%}"
        rows.append((process, f"{end - start:.0f}", f"{begin / 1e6:.1f}", f"{finish / 1e6:.1f}", growth))
    return table(("process", "seconds", "first quarter, MB", "last quarter, MB", "growth"), rows), flat


def told(entries: list[Entry]) -> str:
    rows = [
        (e.found.layer, e.found.property, e.found.kind, e.found.primal or "-", e.found.diagnosis or "-", str(e.count))
        for e in sorted(entries, key=lambda e: e.found.layer)
    ]
    return table(("layer", "property", "kind", "primal", "diagnosis", "met"), rows) if rows else "no findings"


def kill_workers(process: subprocess.Popen[bytes], every: float) -> int:
    """End a worker every so many seconds, in turns, until the campaign ends."""
    killed = 0
    while True:
        try:
            process.wait(every)
            return killed
        except subprocess.TimeoutExpired:
            found = workers_of(process.pid)
            if found:
                os.kill(found[killed % len(found)], signal.SIGKILL)
                killed += 1


def wrong(entries: list[Entry], planted: list[str], expected: list[str]) -> Iterator[str]:
    """What should not be: right layers with a finding, expected ones without, one finding twice."""
    found = {entry.found.layer for entry in entries}
    yield from (f"a finding of {name}, which is right" for name in sorted(found - set(planted)))
    yield from (f"{name} was not found" for name in expected if name not in found)
    times = Counter((e.found.layer, e.found.property, e.found.primal) for e in entries)
    yield from (f"{what} was told {count} times" for what, count in times.items() if count > 1)


def run(what: str, minutes: float, workers: int, every: float, store: Path) -> list[str]:
    """One demonstration; gives what does not hold."""
    planted = [] if what == "catalogue" else mutants()
    targets = catalogue() + [str(TEN)] * bool(planted)
    seconds, bad = 60 * minutes, list[str]()
    process = campaign(targets, seconds / 2 if what == "resume" else seconds, workers, store)
    if what == "kills":
        killed = kill_workers(process, every)
        lost = events(store, "end")[-1].get("lost", len(events(store, "lost")))
        print(f"\nworkers killed: {killed}; noticed and replaced: {lost}")
        bad += [f"{killed} workers were killed, and {lost} were replaced"] * (killed != lost)
        bad += [f"{event['layer']} was given up: {event['why']}" for event in events(store, "error")]
    if what == "resume":
        time.sleep(seconds / 2 - 5)
        process.kill()
        process.wait()
        before = len(events(store, "finding"))
        print(f"\nkilled after {seconds / 2 - 5:.0f} s with {before} findings; now resumed")
        process = campaign(targets, seconds / 2, workers, store)
        process.wait()
    process.wait()
    entries = findings(store)
    print(f"\n{told(entries)}\n")
    told_of = {event["id"] for event in events(store, "finding")}
    kept = {path.stem.rsplit("-", 1)[-1] for path in (store / "findings").glob("*.json")}
    bad += [f"the finding {key} is gone" for key in sorted(told_of - kept)]
    bad += wrong(entries, planted, planted if what == "mutants" else [])
    if what in ("catalogue", "mutants"):
        shown, flat = memory(store)
        print(f"{shown}\n")
        bad += ["memory has grown"] * (not flat)
    cases = sum(int(layer["cases"]) for counted in runs(store) for layer in counted["layers"].values())
    print(f"{cases} cases, {cases / seconds:.1f} a second")
    return bad


def runs(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (store / "runs").glob("*.json")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("catalogue", "mutants", "kills", "resume"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    print(heading())
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder) / "store"
        bad = run(options.what, options.minutes, options.workers, options.every, store)
    print("\n".join(bad) or "as it should be")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()

"""Each layer of a file of hostile ones, beside one with a planted bug, through check, pytest and fuzz.

python -m tests.bench.hostile FILE BUG [NAME...] [--face check|pytest|fuzz] [--examples N] [--limit S]

A run must end by itself, with status 1 for the planted bug, which must be found; what is told of NAME is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gradverify.campaign.guard import Guard
from gradverify.campaign.unit import Plan
from tests.bench.machine import heading, table

FACES = ("check", "pytest", "fuzz")


def names_of(file: str) -> list[str]:
    """Every layer of the file, found out in a process of its own."""
    guard = Guard()
    try:
        return [name for name, *_ in guard.list(Plan(named=(file,)))[0]]
    finally:
        guard.close()


def run(face: str, targets: list[str], examples: int, limit: float, folder: Path) -> tuple[int | str, str, float]:
    """Status ("late" if it had to be ended), what was said, and seconds."""
    few = ["--examples", str(examples)]
    command = {
        "check": ["-m", "gradverify.cli", "check", *targets, *few],
        "fuzz": ["-m", "gradverify.cli", "fuzz", *targets, "--for", f"{limit / 2:g}s", "--store", "store"],
        "pytest": ["-m", "pytest", "-q", f"--gradverify-examples={examples}", "--gradverify-property=gradient"],
    }[face]
    modules = json.dumps(targets)
    (folder / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n[tool.gradverify]\nmodules = {modules}\n")
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        said, _ = process.communicate(timeout=3 * limit)
        status: int | str = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        status = "late"
    return status, said, time.monotonic() - begun


def told(said: str, name: str) -> str:
    """What was said of a layer, in a few words: the first line of its finding."""
    word = re.escape(name)
    found = re.search(rf"^(?:{word}: (?!declared|\d)(.*)|FAILED gradverify::{word}::(.*))$", said, re.M)
    return "-" if found is None else (found[1] or found[2])[:60]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("bug")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--face", choices=FACES, action="append")
    parser.add_argument("--examples", type=int, default=25)
    parser.add_argument("--limit", type=float, default=30.0)
    given = parser.parse_args()
    given.file = str(Path(given.file).resolve())  # each run has a folder of its own
    print(heading())
    rows, short = [], 0
    for name in given.names or names_of(given.file):
        for face in given.face or FACES:
            targets = [f"{given.file}:{name}", f"{given.file}:{given.bug}"]
            with tempfile.TemporaryDirectory() as folder:
                once = list(dict.fromkeys(targets))
                status, said, seconds = run(face, once, given.examples, given.limit, Path(folder))
            bug = told(said, given.bug) != "-"
            good = status == 1 and bug and seconds <= given.limit
            short += not good
            rows.append((name, face, str(status), f"{seconds:.1f}", "yes" if bug else "NO", told(said, name)))
            print("  ".join(rows[-1]), "" if good else "<-- falls short", flush=True)
    print(table(("layer", "face", "status", "seconds", "bug found", "told"), rows))
    return min(short, 1)


if __name__ == "__main__":
    sys.exit(main())

"""Every benchmark still runs: each at its smallest, in a process of its own, with a figure at the end."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

SMALLEST = {
    "calibration": (("--points", "2", "--only", "dense"), r"\d"),
    "diagnosis": (("1", "--examples", "20"), r"right class first: \d of 1"),
    "false_alarms": (("--count", "1", "--examples", "2", "--only", "dense", "--dtypes", "float64"), r"\d"),
    "heldout": (("TwiceUsed",), r"found: 1 of 1"),
    "history": (("--show",), r""),
    "plugin": (("--layers", "sqrt", "--examples", "5", "--collect-pairs", "1"), r"\d"),
    "wrong": (("1", "--right"), r"1 of 1 found"),
}


SLOW = {"heldout", "plugin", "wrong"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in SMALLEST])
def test_a_benchmark_runs(name):
    arguments, shown = SMALLEST[name]
    command = [sys.executable, "-m", f"tests.bench.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(shown, done.stdout), done.stdout

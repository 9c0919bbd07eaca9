"""The heading of every measurement: what was run, on which machine, when."""

from __future__ import annotations

import datetime
import platform
import sys
from pathlib import Path

import numpy as np

import gradverify


def heading() -> str:
    """Command, processor, versions and date, as two lines."""
    name = Path(sys.argv[0]).stem
    command = " ".join(["python -m", f"tests.bench.{name}", *sys.argv[1:]])
    today = datetime.date.today().isoformat()
    return (
        f"{command}\n{_processor()}, one thread, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"gradverify {gradverify.__version__}, {today}\n"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.machine()


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    every = [columns, *rows]
    widths = [max(len(row[k]) for row in every) for k in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths))
        )
        for row in every
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

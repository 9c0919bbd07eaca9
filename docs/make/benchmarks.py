"""The benchmark history as a table and a picture; `python -m tests.bench.history` extends the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "history.jsonl"
SAID = {
    "sweep": "the bare loop of 2P forwards over a sweep of 1,162 entries (more is better)",
    "right": "a check of four layers of the catalogue, 25 cases, in units of fixed work (less is better)",
    "wrong": "a check of a wrong dense layer, shrinking and diagnosis included, in the same units (less is better)",
}
WIDTH, HEIGHT = 560, 90


def history() -> str:
    rows: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    pictures = [f"**{name}**: {said}\n\n{_picture(name, rows)}" for name, said in SAID.items()]
    head = ("date", "commit", "python", "numpy", *SAID)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(str(row.get(key, '-')) for key in head)} |" for row in rows]
    return "\n\n".join([*pictures, "\n".join(lines)])


def _picture(name: str, rows: list[dict[str, Any]]) -> str:
    values = [float(row[name]) for row in rows if name in row]
    top = max(values) * 1.15
    xs = [40 + (WIDTH - 60) * (k + 0.5) / len(values) for k in range(len(values))]
    ys = [HEIGHT - 16 - (HEIGHT - 30) * value / top for value in values]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys))
    dots = "".join(f'<circle class="l1" cx="{x:.1f}" cy="{y:.1f}" r="4" fill="currentColor"/>' for x, y in zip(xs, ys))
    texts = "".join(f'<text x="{x:.1f}" y="{y - 8:.1f}">{value:g}</text>' for x, y, value in zip(xs, ys, values))
    base = f'<path class="rule" d="M40 {HEIGHT - 16}H{WIDTH - 20}"/>'
    said = f"{name} over time: {', '.join(f'{value:g}' for value in values)}"
    return (
        f'<figure class="gv-figure"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">{base}'
        f'<path class="line l1" d="M{path}"/>{dots}{texts}</svg></figure>'
    )

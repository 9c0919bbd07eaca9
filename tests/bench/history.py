"""Benchmark history: measure a few speeds as ratios, and append them to docs/make/history.jsonl.

    python -m tests.bench.history            measure and append
    python -m tests.bench.history --show     what is in the file

CPU time, and each as a multiple of something measured in the same process, so that entries of two machines, or
of a busy one, can be compared. The page docs/benchmarks.md draws the file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gradverify
from gradverify.core import evaluate
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from tests.bench.machine import table
from tests.bench.speed import SIZES, bare, drawn, network, ours

FILE = Path(__file__).resolve().parent.parent.parent / "docs" / "make" / "history.jsonl"
CATALOGUE = ("dense", "layer_norm", "lstm_cell", "softmax_cross_entropy")
EXAMPLES = 25


def cpu(action: Callable[[], Any], repeats: int) -> float:
    """The least CPU time of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def unit() -> float:
    """A fixed piece of work in Python and NumPy, which all but the first figure are multiples of."""
    a = np.random.default_rng(0).normal(size=(64, 64))

    def work() -> None:
        b = a
        for _ in range(2000):
            b = np.tanh(b @ a / 8)

    return cpu(work, 5)


def slip() -> Layer:
    """A dense layer with the mean over the batch for the bias."""

    def backward(dy: Any, saved: Any) -> Any:
        x, W = saved
        return dy @ W.T, x.T @ dy, dy.mean(0)

    return Layer(lambda x, W, b: (x @ W + b, (x, W)), backward, name="slip", x="N D", W="D H", b="H")


def measured(repeats: int = 3) -> dict[str, float]:
    """Every figure by its name; units are in the page."""
    layer = network()
    case, _ = evaluate.completed(layer, drawn(SIZES[1162]))
    one = unit()
    sweep = cpu(partial(bare, layer, case), repeats) / cpu(partial(ours, layer, case), repeats)
    settings = Settings(examples=EXAMPLES, seed=0)
    right = sum(cpu(partial(check_layer, layers.get(name), settings), 1) for name in CATALOGUE) / one
    wrong = cpu(partial(check_layer, slip(), settings), repeats) / one
    return {"sweep": round(sweep, 2), "right": round(right, 1), "wrong": round(wrong, 1)}


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true")
    if not parser.parse_args().show:
        about = {"date": datetime.date.today().isoformat(), "version": gradverify.__version__, "commit": commit()}
        entry = about | {"python": platform.python_version(), "numpy": np.__version__} | measured()
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    print(table(tuple(rows[0]), [tuple(str(row.get(key, "-")) for key in rows[0]) for row in rows]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

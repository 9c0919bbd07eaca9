"""What it costs to watch which lines run: checks of the catalogue in pairs, with and without, in CPU seconds.

    python -m tests.bench.lines [EXAMPLES] [ROUNDS]

Each layer is checked with the same seed both ways, one directly after the other, in turns; the figure is the
ratio of the sums, and the median ratio of the pairs.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from unittest import mock

from gradverify.core.check import search as checking
from gradverify.core.declare.registry import layers
from gradverify.core.summarise.lines_ran import Ran


class Blind:
    """In place of a Recorder: watches nothing."""

    def __init__(self, layer: object) -> None:
        pass

    def __enter__(self) -> Blind:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def begin(self, *case: object) -> None:
        pass

    def add(self, outcome: object) -> None:
        pass

    def end(self) -> tuple[str, ...]:
        return ()

    def result(self) -> Ran:
        return Ran(reason="not watched")


def seconds(name: str, examples: int, watched: bool) -> float:
    """CPU seconds of one check."""
    settings = checking.Settings(examples=examples)
    gc.collect()
    begun = time.process_time()
    if watched:
        checking.check_layer(layers.get(name), settings)
    else:
        with mock.patch.object(checking, "Recorder", Blind):
            checking.check_layer(layers.get(name), settings)
    return time.process_time() - begun


def main(examples: int = 30, rounds: int = 2) -> None:
    """Print one line for each layer, and the sums."""
    sums = [0.0, 0.0]
    ratios = []
    names = layers.names()
    for name in names:
        seconds(name, 2, True)  # imports, and caches of the first call
        pairs = [0.0, 0.0]
        for turn in range(rounds):
            for watched in (True, False) if turn % 2 else (False, True):
                pairs[watched] += seconds(name, examples, watched)
        ratios.append(pairs[1] / pairs[0])
        sums = [total + one for total, one in zip(sums, pairs)]
        print(f"{name:28} {pairs[0]:7.2f} s blind {pairs[1]:7.2f} s watched  {ratios[-1]:.3f}", flush=True)
    python = ".".join(map(str, sys.version_info[:2]))
    print(f"Python {python}, {len(names)} layers: {sums[1] / sums[0] - 1:+.1%} in all, ", end="")
    print(f"median of the pairs {statistics.median(ratios) - 1:+.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

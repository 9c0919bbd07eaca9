"""Forwards that the screen needs, and that localising one wrong entry needs, against the number of entries."""

from __future__ import annotations

import argparse
import time

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import screen
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Array, Case
from tests.bench.machine import heading, table


def wide() -> Layer:
    """y = sum over rows of tanh(w) v, the cheapest layer with many parameters and a few outputs."""
    return Layer(
        lambda w: ((np.tanh(w)).sum(-1), w),
        lambda dy, w: np.expand_dims(dy, -1) * (1 - np.tanh(w) ** 2),
        name="wide",
        w="K M",
        returns="K",
    )


def point_of(size: int, seed: int) -> tuple[Point, Array]:
    """A point of `wide` with `size` entries, and its right gradient."""
    rng = np.random.default_rng(seed)
    rows = 4
    w = rng.normal(size=(rows, size // rows))
    dy = rng.choice([-1.0, 1.0], rows) * rng.uniform(0.5, 2, rows)
    point = Point(wide(), Case("wide", {"w": w}, cotangents=(dy,)))
    return point, (dy[:, None] * (1 - np.tanh(w) ** 2)).ravel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=float, default=1e7)
    given = parser.parse_args()
    print(heading())
    rows = []
    for power in range(2, 8):
        size = 10**power
        if size > given.largest:
            break
        start = time.perf_counter()
        point, analytic = point_of(size, power)
        told = screen.screen(point, analytic, seed=1)
        spent = point.forwards
        screened = time.perf_counter() - start
        wrong = analytic.copy()
        entry = int(np.random.default_rng(power).integers(size))
        wrong[entry] *= 1.5
        found = screen.screen(point, wrong, seed=1)
        before = point.forwards
        places = screen.localise(point, wrong, seed=1)
        rows.append(
            (
                f"1e{power}",
                str(spent),
                "agrees" if told.agrees else "DISAGREES",
                f"{told.power:.1e}",
                f"{screened:.2f} s",
                "found" if not found.agrees else "MISSED",
                str(point.forwards - before),
                "right" if places.tolist() == [entry] else f"WRONG {places.tolist()} for {entry}",
            )
        )
    columns = (
        "entries",
        "forwards",
        "right gradient",
        "power",
        "time",
        "one entry off by half",
        "more forwards",
        "place",
    )
    print(table(columns, rows))
    print("\nEvaluations of the forward, the one at the point included, however many of them go through one call.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

# ruff: noqa: SIM102  conditions inside conditions are what it is about
"""Twenty layers with a wrong line behind a rare branch: found by `fuzz` within a time, with guidance and without.

    python -m tests.bench.branches [SECONDS] [NAME...]

"Without" draws as many numbers that the code mentions, but keeps no case for the code that it reached.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

import numpy as np

from gradverify import Layer
from gradverify.campaign import explore
from gradverify.campaign.journal import Journal
from gradverify.campaign.unit import Delta, Plan, Unit
from gradverify.core.lines.recorder import Recorder

CFG = {"BLOCK": 128, "nested": {"TILES": [24, 48]}, "clip": 3000.0}
LIMIT = 37


class Settings:
    """Numbers as attributes of an object."""

    tile = 56
    floor = 250.0


class Lookup:
    """Numbers in a dict of rules."""

    rules = {5: 2.0, 11: 0.5}


def square(x):
    return x * x, x


def square_band(dy, x):
    if ((x > 700) & (x < 720)).any():
        return 3 * x * dy
    return 2 * x * dy


def square_mean(dy, x):
    if x.size and 90 < abs(x.mean()) < 100:
        return 3 * x * dy
    return 2 * x * dy


def square_attribute(dy, x):
    if (np.abs(x) > Settings.floor).all() and x.size > 2:
        return x * dy
    return 2 * x * dy


def square_dict(dy, x):
    if np.abs(x).max(initial=0) > CFG["clip"]:
        return x * dy
    return 2 * x * dy


def square_large(dy, x):
    if (x > 1e6).any():
        return x * dy
    return 2 * x * dy


def square_two(dy, x):
    if (x > 33.0).any():
        if (x < -17.0).any():
            return x * dy
    return 2 * x * dy


def square_sum(dy, x):
    total = x.sum()
    if total > 150.0:
        if x.ndim and x.size == 6:
            return x * dy
    return 2 * x * dy


def cumulative(x):
    return np.cumsum(x, 0), x.shape


def cumulative_right(dy, shape):
    return np.cumsum(dy[::-1], 0)[::-1]


def cumulative_long(dy, shape):
    if shape[0] > LIMIT:
        return dy
    return cumulative_right(dy, shape)


def cumulative_block(dy, shape):
    dx = cumulative_right(dy, shape)
    if shape[0] % CFG["BLOCK"] == 1 and shape[0] > 1:
        dx[-1] = 0
    return dx


def cumulative_tiles(dy, shape):
    dx = cumulative_right(dy, shape)
    if shape[0] > CFG["nested"]["TILES"][1]:
        if shape[1] == 2:
            dx[0] = 0
    return dx


def cumulative_second_block(dy, shape, block=40):
    dx = cumulative_right(dy, shape)
    if shape[0] > 2 * block:
        dx[2 * block :] = 0
    return dx


def cumulative_half(dy, shape):
    dx = cumulative_right(dy, shape)
    tail = shape[0] % Settings.tile
    if shape[0] > Settings.tile and tail >= Settings.tile // 2:
        dx[-tail:] = 0
    return dx


def cumulative_both(dy, shape):
    dx = cumulative_right(dy, shape)
    if shape[0] >= 19:
        if shape[1] >= 7:
            dx[:, -1] = 0
    return dx


def take(idx, W):
    return W[idx], (idx, W.shape)


def take_right(dy, saved):
    idx, shape = saved
    dW = np.zeros(shape)
    np.add.at(dW, idx, dy)
    return dW


def take_five(dy, saved):
    dW = take_right(dy, saved)
    if (saved[0] == 5).any():
        dW[5] = 0
    return dW


def take_rule(dy, saved):
    dW = take_right(dy, saved)
    for k in np.unique(saved[0]):
        if int(k) in Lookup.rules and int(k) > 5:
            dW[k] *= Lookup.rules[int(k)]
    return dW


def take_twice(dy, saved):
    dW = take_right(dy, saved)
    if saved[1][0] > 9:
        if np.bincount(saved[0], minlength=1).max() > 2:
            dW *= 2
    return dW


def power(x, p, scale, mode):
    y = scale * x**p
    return (y if mode == "plain" else -y), (x, p, scale, mode)


def power_right(dy, saved):
    x, p, scale, mode = saved
    return (1 if mode == "plain" else -1) * dy * scale * p * x ** (p - 1)


def power_value(dy, saved):
    x, p, scale, mode = saved
    if mode == "negated" and p == 3:
        if scale == 0.25 and (x > 12.0).any():
            return 0 * dy
    return power_right(dy, saved)


def power_length(dy, saved):
    x, p, scale, mode = saved
    if p == 2 and scale == 8.0:
        if x.size == 21:
            return 0 * dy
    return power_right(dy, saved)


def power_three(dy, saved):
    x, p, scale, mode = saved
    if p == 3:
        if mode == "negated":
            if x.size > 14:
                if (x == 6.5).any():
                    return 0 * dy
    return power_right(dy, saved)


def outer_scale():
    ceiling = 41.5

    def backward(dy, x):
        if ceiling < np.abs(x).max(initial=0) < ceiling + 2:
            return 0 * dy
        return 2 * x * dy

    return backward


OPTIONS = {"p": [1, 2, 3], "scale": [1.0, 2.0, 0.5, 0.25, 8.0], "mode": ["plain", "negated"]}
LAYERS = [
    *(
        Layer(square, backward, name=backward.__name__, x="N")
        for backward in (
            square_band,
            square_mean,
            square_attribute,
            square_dict,
            square_large,
            square_two,
            square_sum,
        )
    ),
    Layer(square, outer_scale(), name="square_closure", x="N"),
    *(
        Layer(cumulative, backward, name=backward.__name__, x="T D")
        for backward in (
            cumulative_long,
            cumulative_block,
            cumulative_tiles,
            cumulative_second_block,
            cumulative_half,
            cumulative_both,
        )
    ),
    *(
        Layer(take, backward, name=backward.__name__, idx="N: indices V", W="V D")
        for backward in (take_five, take_rule, take_twice)
    ),
    *(
        Layer(power, backward, name=backward.__name__, x="N", options=OPTIONS)
        for backward in (power_value, power_length, power_three)
    ),
]
RIGHT = [
    Layer(square, lambda dy, x: 2 * x * dy, name="square_right", x="N"),
    Layer(cumulative, cumulative_right, name="cumulative_right", x="T D"),
    Layer(take, take_right, name="take_right", idx="N: indices V", W="V D"),
    Layer(power, power_right, name="power_right", x="N", options=OPTIONS),
]


class Unguided(Recorder):
    """Watches, and says nothing of it."""

    def end(self) -> tuple[str, ...]:
        super().end()
        return ()


def seconds_to(layer: Layer, limit: float, seed: int, guided: bool) -> tuple[float | None, int]:
    """CPU seconds until the first finding, None if there is none within the limit, and the number of cases."""
    found: list[float] = []
    cases = 0
    begun = time.process_time()

    def send(delta: Delta) -> None:
        nonlocal cases
        cases += delta.cases
        if delta.found and not found:
            found.append(time.process_time() - begun)

    with TemporaryDirectory() as folder, mock.patch.object(explore, "Recorder", Recorder if guided else Unguided):
        unit = Unit(1, layer.name, layer.name, seed, 20 * limit, plan=Plan())
        journal = Journal(Path(folder) / "journal")
        over = lambda: bool(found) or time.process_time() - begun > limit  # noqa: E731
        worker = SimpleNamespace(journal=journal, tell=send, stopped=over, tidy=lambda: None)
        explore.Explorer(unit, layer, worker).run()
    return (found[0] if found else None), cases


def main(limit: float = 30.0, *names: str) -> None:
    """Print a row for each layer, with guidance and without."""
    sums = [0, 0]
    for layer in LAYERS:
        if names and layer.name not in names:
            continue
        told = []
        for guided in (True, False):
            seconds, cases = seconds_to(layer, limit, 1, guided)
            sums[guided] += seconds is not None
            told.append(f"{'-' if seconds is None else f'{seconds:.1f} s':>8} {cases:6d} cases")
        print(f"{layer.name:26} guided {told[0]}   unguided {told[1]}", flush=True)
    print(f"found within {limit:g} s: {sums[1]} guided, {sums[0]} unguided")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0, *sys.argv[2:])

"""Verdicts, numerical values and bounds of every entry, over the catalogue and the mutants: what a change leaves as it
was, byte for byte, and where it does not.

    python -m tests.bench.golden write FILE
    python -m tests.bench.golden against FILE
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.declare.registry import layers
from gradverify.core.draw import cases, each
from gradverify.core.evaluate.limits import time_limit
from gradverify.core.nouns import Case, Outcome
from gradverify.core.properties import gradient, properties, special
from gradverify.mutants import shelf

RIGHT, WRONG = 8, 4  # cases drawn for each layer and kind of point


def drawn(layer: Layer, regime: Regime, count: int) -> list[Case]:
    found: list[Case] = []
    each(cases(layer, regime), count, 20, found.append)
    return found


def lines() -> Iterator[tuple[str, str, str]]:
    """(what, digest, verdicts) for each comparison that is made."""
    every = [(layers.get(name), RIGHT) for name in sorted(layers.names())]
    every += [(mutant.build(), WRONG) for mutant in shelf()]
    for layer, count in every:
        for prop in (properties.get(gradient.NAME), properties.get(special.NAME)):
            if prop.applies(layer) is not None:
                continue
            for k, case in enumerate(drawn(layer, prop.regime, count)):
                for primal, digest, verdicts in told(prop.holds, layer, case):
                    yield f"{layer.name} {prop.name} {k} {primal}", digest, verdicts


def told(holds: object, layer: Layer, case: Case) -> Iterator[tuple[str, str, str]]:
    try:
        with time_limit(None), np.errstate(all="ignore"):
            outcome: Outcome = holds(layer, case)  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001  what a layer raises is part of what must not change
        yield "", "", type(error).__name__
        return
    for c in outcome.compared:
        parts = b"".join(np.ascontiguousarray(a, float).tobytes() for a in (c.numerical, c.bound, c.verdicts))
        yield c.primal, hashlib.sha256(parts).hexdigest()[:16], "".join(map(str, np.ravel(c.verdicts)))


def main() -> None:
    action, path = sys.argv[1:]
    now = {what: (digest, verdicts) for what, digest, verdicts in lines()}
    if action == "write":
        with open(path, "w", encoding="utf-8") as file:
            json.dump(now, file)
        print(f"{len(now)} comparisons written")
        return
    with open(path, encoding="utf-8") as file:
        before = {what: tuple(value) for what, value in json.load(file).items()}
    other = [what for what in before if now.get(what) != before[what]]
    worse = [what for what in other if now.get(what, ("", ""))[1] != before[what][1]]
    for what in worse:
        print(f"{what}: {before[what][1]} -> {now.get(what, ('', 'gone'))[1]}")
    print(f"{len(before)} comparisons: {len(worse)} with other verdicts, {len(other)} with other numbers")
    sys.exit(bool(other))


if __name__ == "__main__":
    main()

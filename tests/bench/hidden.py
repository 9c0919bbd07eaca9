"""Mutants whose options are hidden: a declaration that does not know them, and arguments that keep their defaults.

    python -m tests.bench.hidden [EXAMPLES] [NUMBER...]

Such a fault may not be visible at all. What must not happen is a pass that is silent about it: for each mutant that is
missed, the lines and branches of its code that never ran.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.functions import accepted
from gradverify.core.declare.layer import Layer
from gradverify.mutants import shelf


def hidden(layer: Layer) -> Layer:
    """The layer with every option fixed to its simplest value, as a default argument would; none is declared."""
    fixed = layer.default_options

    def bound(function: Callable[..., Any]) -> Callable[..., Any]:
        return partial(function, **{name: fixed[name] for name in accepted(function, tuple(fixed))})

    assume = None if layer.assume is None else bound(layer.assume)
    return layer.derive(forward=bound(layer.forward), backward=bound(layer.backward), options={}, assume=assume)


def sized(layer: Layer) -> bool:
    """Whether an option is a size, or a bound of a domain: then it cannot be hidden."""
    names = {n for p in layer.primals for n in (*p.dims.names, *p.domain.arguments)}
    return not names.isdisjoint(layer.options)


def main(examples: int = 40, *numbers: int) -> None:
    """Print one line for each mutant that has options."""
    caught = named = silent = 0
    for mutant in shelf():
        layer = mutant.build()
        if not layer.options or sized(layer) or (numbers and mutant.number not in numbers):
            continue
        report = check_layer(hidden(layer), Settings(examples=examples, shrink=False))
        if report.findings:
            caught += 1
            print(f"{mutant.number:3} {mutant.layer:22} caught by {report.findings[0].property}", flush=True)
            continue
        words = ("never", "one side", "was always")
        unseen = [] if report.lines is None else [s for s in report.lines.said() if any(w in s for w in words)]
        complete = not unseen
        named += not complete
        silent += complete
        told = "SILENT" if complete else " | ".join(unseen)
        print(f"{mutant.number:3} {mutant.layer:22} missed ({mutant.text}; needs {mutant.needs}): {told}", flush=True)
    print(f"{caught} caught all the same, {named} missed with code named that never ran, {silent} missed without")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

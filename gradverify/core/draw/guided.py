"""Drawing where the author's code leads: a case that reaches new code is kept, and mutants of it are tried."""

from __future__ import annotations

import random
from collections.abc import Callable

from gradverify.core.draw.drawing import Drawing
from gradverify.core.draw.rows import Pool
from gradverify.core.draw.running import each
from gradverify.core.nouns import Case

_GUIDED = 0.25  # of the cases are mutants, where anything was reached by some cases and not by others
_AGAIN = 4  # runs, where one ends early: Hypothesis gives up a strategy that draws now this and now that
_TRIES = 20  # rows for each case that is wanted: a mutant may be refused by `assume`
_SETTLED = 4  # first cases, whose news is only that they were the first


def explored(drawing: Drawing, examples: int, seed: int, body: Callable[[Case], bool]) -> None:
    """Call `body` on cases of a layer, the same ones for the same seed; there may be fewer than `examples`.

    Parameters
    ----------
    body : examines a case, and says whether it reached code that no case before it had; what it raises ends the run
    """
    kept: list[bytes] = []
    seen = 0

    def visit(case: Case) -> None:
        nonlocal seen
        seen += 1
        if body(case) and seen > _SETTLED:
            kept.append(drawing.row)

    guided = int(_GUIDED * examples) if drawing.closed else 0
    each(drawing.strategy(), examples - guided, seed, visit)
    if not drawing.closed:
        for again in range(1, _AGAIN):
            if not 0 < seen < examples:
                break
            each(drawing.strategy(), examples - seen, seed + again, visit)
        return
    if not seen:
        return
    pool = Pool((), drawing.lengths, random.Random(seed), kept)
    tried = 0
    while seen < examples and tried < _TRIES * examples:
        tried += 1
        row = pool.next()
        case = drawing.alone(row)
        if case is not None:
            seen += 1
            if body(case):
                pool.keep(row, reached=True)

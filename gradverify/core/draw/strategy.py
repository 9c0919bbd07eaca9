"""Cases of a layer as a Hypothesis strategy, decoded from rows of bytes without it, or drawn where the author's code
leads: a case that reaches new code is kept, and mutants of it are tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.draw.drawing import Drawing, Tables
from gradverify.core.draw.kernels import Production
from gradverify.core.draw.rows import Pool
from gradverify.core.draw.running import each
from gradverify.core.nouns import Case


def cases(
    layer: Layer,
    regime: Regime = Regime(),  # noqa: B008  frozen
    *,
    dtype: str = "float64",
    eps: float | None = None,
    target: str | None = None,
) -> st.SearchStrategy[Case]:
    """Cases of a layer: options, sizes, then arrays; cotangents are left to be drawn from the case's seed.

    Raises DeclarationError while drawing, if a domain names a dimension that the layer does not have, or an option that
    is used as a size is not an integer.

    Parameters
    ----------
    regime : what a property asks for (special points only, a floating type, small sizes)
    dtype : floating type of the primals, unless the regime names a lower one
    eps : step of every case; by default one is drawn from 1e-7 to 1e-2, or left to the checker
    target : goes into the case, for replaying it
    """
    return drawing_of(layer, regime, dtype=dtype, eps=eps, target=target).strategy()


def drawing_of(
    layer: Layer,
    regime: Regime,
    *,
    dtype: str = "float64",
    eps: float | None = None,
    target: str | None = None,
    tables: Tables | None = None,
) -> Drawing:
    """How cases of a layer are drawn; see `cases` for the arguments.

    Parameters
    ----------
    tables : of the sizes that `assume` allows, which are the same in each regime: found once for all who share them
    """
    kind = Production if regime.production else Drawing
    lower = min((np.dtype(name) for name in (regime.dtype, dtype) if name), key=lambda t: t.itemsize)
    return kind(layer, regime, lower, eps, target, tables)


def decoding(
    layer: Layer, regime: Regime, **how: Any
) -> tuple[tuple[int, int, int], Callable[[bytes], Case | None]] | None:
    """How a row of bytes becomes a case, without Hypothesis; see `cases` for the arguments.

    These are the numbers of bytes that decide options, sizes and values, and the decoding, which gives None for a
    case that the layer does not allow; None if a strategy of the author's takes part.
    """
    drawing = drawing_of(layer, regime, **how)
    return (drawing.lengths, drawing.alone) if drawing.closed else None


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

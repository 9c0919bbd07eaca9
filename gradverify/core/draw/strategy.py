"""Cases of a layer as a Hypothesis strategy, or decoded from rows of bytes without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.draw.drawing import Drawing, Tables
from gradverify.core.draw.kernels import Production
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

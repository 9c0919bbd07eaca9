"""A Case: everything concrete that one check needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradverify.core.nouns.forms import form

Array = Any  # numpy.ndarray of any dtype; shapes stand in the docstrings


@dataclass(frozen=True, eq=False)
class Case:
    """Everything concrete that one check needs; it can be saved, sent and replayed.

    Attributes
    ----------
    layer : name of the layer it was drawn for
    primals : every primal by name, as stored
    options : option values by name (numbers, strings, booleans, None, tuples of these)
    cotangents : one array for each output; None until a forward has told their shapes
    step : relative step of central differences (the tutorial's epsilon), or of one of them: those of the checker are
        multiples of it by powers of 4; None lets the checker choose
    seed : source of all randomness that a property needs beyond the arrays
    target : what `gradverify replay` loads: a registered name, "package.module:object" or "file.py:object"
    """

    layer: str
    primals: Mapping[str, Array]
    options: Mapping[str, Any] = field(default_factory=dict)
    cotangents: tuple[Array, ...] | None = None
    step: float | None = None
    seed: int = 0
    target: str | None = None

    def but(self, **changes: Any) -> Case:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def rng(self, stream: int, *numbers: int) -> np.random.Generator:
        """A generator for each `Stream`, and in it for each list of numbers; the same for the same Case."""
        return np.random.default_rng([self.seed, stream, *numbers])

    @property
    def size(self) -> int:
        """Number of array elements of all primals and cotangents."""
        return sum(int(a.size) for a in (*self.primals.values(), *(self.cotangents or ())))

    def save(self, path: Any) -> None:
        """Write this Case to one file; see `gradverify.casefile`."""
        form("save")(self, path)

    @staticmethod
    def load(path: Any) -> Case:
        """Read a Case file.

        Raises
        ------
        CaseFileError
            If the file is damaged or of an unknown version.
        """
        read: Case = form("load")(path)
        return read

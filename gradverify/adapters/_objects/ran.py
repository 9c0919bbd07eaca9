"""A forward that an object has run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradverify.adapters._objects.instance import Original
from gradverify.core.declare.held import arrays_of
from gradverify.core.judge import backward_noise
from gradverify.core.nouns import Array


@dataclass(frozen=True, slots=True)
class Ran:
    """A forward that an object has run: what backward may be given besides the cotangents.

    Attributes
    ----------
    given : the inputs by name
    cache : what forward returned behind its outputs
    """

    instance: Any
    options: Mapping[str, Any]
    given: Mapping[str, Array]
    cache: Any = None

    def nudged(self, rng: np.random.Generator, part: float | None = None) -> Ran:
        """The same on a copy of the object, all of whose arrays have moved by as much as rounding moves them."""
        try:
            instance = Original(self.instance).copy()
        except (TypeError, ValueError, AttributeError, RuntimeError):  # generators, locks, open files
            return self
        for array in arrays_of(instance).values():
            if isinstance(array, np.ndarray) and array.flags.writeable:
                array[...] = backward_noise.nudge(array, rng, part)
        return replace(self, instance=instance, cache=backward_noise.moved(self.cache, rng, part))

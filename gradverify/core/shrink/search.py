"""The best case so far, and the one gate through which every smaller one must pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.nouns import Case

_PATIENCE = 4  # seconds that may pass for each second of work: a machine that is busy does not change the result


class TimeUp(Exception):
    """The time is spent."""


class Shrinker:
    """State of one search: the best case, and when to stop.

    Attributes
    ----------
    layer, best : the layer, and the smallest failing case so far
    """

    def __init__(self, layer: Layer, case: Case, fails: Callable[[Case], bool], seconds: float) -> None:
        self.layer = layer
        self.best = case
        self._fails = fails
        self._worked = time.thread_time() + seconds
        self._deadline = time.perf_counter() + _PATIENCE * seconds

    def attempt(self, candidate: Case | None) -> bool:
        """Whether the candidate fails as well; if so it is the best case from now on.

        Raises TimeUp if no time is left.
        """
        if candidate is None:
            return False
        if time.thread_time() > self._worked or time.perf_counter() > self._deadline:
            raise TimeUp
        try:
            failed = self.layer.legal(candidate.primals, candidate.options) and bool(self._fails(candidate))
        except Exception:  # noqa: BLE001  a candidate that cannot be judged is not a failing one
            failed = False
        if failed:
            self.best = candidate
        return failed

    def hurry(self, seconds: float) -> None:
        """Leave at most this much work: what is left to gain is little."""
        self._worked = min(self._worked, time.thread_time() + seconds)

    def complete(self) -> None:
        """Make the cotangents explicit, where forward runs, so that they can be cut and rounded too."""
        if self.best.cotangents is None:
            try:
                case, _ = evaluate.completed(self.layer, self.best)
            except evaluate.LayerFailure:
                return
            self.attempt(case)

    def sizes(self) -> dict[str, Any] | None:
        """Sizes of all names in the best case, integer options included; None if its shapes contradict the layer."""
        return self.layer.named_sizes(self.best.primals, self.best.options)

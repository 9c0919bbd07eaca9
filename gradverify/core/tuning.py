"""How hard the checker works: settings that change cost, never what is right.

A context variable rather than an argument of every function between `check` and the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Cost settings of the gradient comparison.

    Attributes
    ----------
    method : "adaptive", "central" (the tutorial's procedure at one step) or "complex"
    eps : relative step tried first; None takes the Case's own
    sweep_limit : number of entries up to which every one is compared; above, a screen localises
    sample : entries compared one by one besides the screen
    memory : bytes of perturbed copies in flight; None for a size that fits the cache
    only : the primal whose entries are compared, where one is in question; None for all of them
    known : primals that are known to be wrong, whose entries are not compared again
    few : whether one entry that is wrong for certain is enough for its primal, and others need not be tried
    outputs : whether it is asked what each output adds to gradients, at a pullback for each of several
    vain : names of what tells how a layer is made, and saw that this one is not (rules, a low precision inside); it is
        not asked again. A search has a set of its own, which is added to; None where nothing is kept
    """

    method: str = "adaptive"
    eps: float | None = None
    sweep_limit: int = 20_000
    sample: int = 64
    memory: int | None = None
    only: str | None = None
    known: frozenset[str] = frozenset()
    few: bool = False
    outputs: bool = True
    vain: set[str] | None = None


_current: ContextVar[Tuning] = ContextVar("gradverify_tuning", default=Tuning())


def current() -> Tuning:
    """The settings in force."""
    return _current.get()


@contextmanager
def using(tuning: Tuning) -> Iterator[Tuning]:
    """Run the body with other settings."""
    token = _current.set(tuning)
    try:
        yield tuning
    finally:
        _current.reset(token)

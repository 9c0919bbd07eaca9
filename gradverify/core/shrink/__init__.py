"""The smallest Case with the same finding: simplest options, then short axes, then round entries.

Works on the explicit arrays, so that it needs neither Hypothesis nor the way a case was drawn; it
serves case files and crashes as well. Every step keeps the case legal and failing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradverify.core.declare.layer import Layer
from gradverify.core.nouns import Case
from gradverify.core.shrink import axes, entries, options
from gradverify.core.shrink.entries import refilled
from gradverify.core.shrink.search import Shrinker, TimeUp

__all__ = ["shrink"]


def shrink(
    layer: Layer,
    case: Case,
    fails: Callable[[Case], bool],
    *,
    seconds: float = 2.0,
    first: Sequence[Case] = (),
    like: Case | None = None,
) -> Case:
    """A case that still fails, as small and as round as the time allows; `case` itself if nothing smaller fails.

    Parameters
    ----------
    fails : the verdict on a candidate; whatever it raises, short of a KeyboardInterrupt, counts as "does not fail"
    seconds : of work (processor time), after which no further candidate is tried; waiting counts a quarter
    first : smaller cases to begin with, of which the smallest that fails is taken
    like : a case that was made small for something alike; where it fails as it is, or with other values, that will do
    """
    search = Shrinker(layer, case, fails, seconds)
    try:
        for known in (like, *refilled(layer, like)) if like is not None else ():
            if search.attempt(known):
                search.complete()
                return search.best
        for known in sorted(first, key=lambda known: known.size):
            if known.size <= case.size and search.attempt(known):
                search.hurry(seconds / 4)
                break
        search.complete()
        axes.leap(search)  # before other cases of this size, each of which may cost all the time there is
        while True:
            before = search.best
            for passes in (options.simplify, axes.shorten, entries.simplify):
                passes(search)
            if search.best is before:
                return before
    except TimeUp:
        return search.best

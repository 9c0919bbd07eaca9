"""Sizes that an author's `assume` allows, found by a small search before the first case is drawn.

A predicate such as ``H % G == 0`` refuses most of what is drawn blindly, and what is left has G = 1 and H small.
The sizes that it allows are listed, and drawn such that each size of each name comes as often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from gradverify.core.draw import streams
from gradverify.core.draw.knobs import Knobs

Single = dict[str, int]

_MOST = 520  # combinations that are tried
_FEW = 25  # of them, evenly spread, that tell whether the others need be: an assignment of options costs a search
_LARGEST = 8  # a size beyond is drawn as elsewhere
_OPEN = 0.6  # share of the combinations above which nothing has to be done


class Table:
    """Combinations of sizes that a predicate allows, by the size of each name."""

    def __init__(self, names: tuple[str, ...], allowed: list[Single]) -> None:
        self.by_size: dict[str, dict[int, list[Single]]] = {}
        for sizes in allowed:
            for name in names:
                self.by_size.setdefault(name, {}).setdefault(sizes[name], []).append(sizes)
        self._names = [name for name, sizes in self.by_size.items() if len(sizes) > 1] or list(self.by_size)

    def draw(self, knobs: Knobs) -> Single:
        """A name, one of its sizes, and a combination that has it: three even choices."""
        sizes = self.by_size[knobs.pick(self._names)]
        return knobs.pick(sizes[knobs.pick(sorted(sizes))])


def table(names: tuple[str, ...], allows: Callable[[Mapping[str, int]], bool]) -> Table | None:
    """What is allowed of small sizes; None where there is no name, or nearly all or nothing is."""
    tried = list(_combinations(names)) if names else []
    few = tried[:: len(tried) // _FEW] if len(tried) > _FEW else []
    if few and sum(map(allows, few)) >= _OPEN * len(few):
        return None  # so does the search, but for a predicate at the border
    allowed = [sizes for sizes in tried if allows(sizes)]
    if not 0 < len(allowed) < _OPEN * len(tried):
        return None
    bound = tuple(name for name in names if not _free(name, allowed, {sizes[name] for sizes in tried}))
    shorter = {tuple(sizes[name] for name in bound) for sizes in allowed}
    return Table(bound, [dict(zip(bound, sizes)) for sizes in sorted(shorter)])


def _free(name: str, allowed: list[Single], every: set[int]) -> bool:
    """Whether the predicate does not care for the size of a name: each of them is allowed with the same others."""
    others: dict[tuple[int, ...], set[int]] = {}
    for sizes in allowed:
        others.setdefault(tuple(n for key, n in sizes.items() if key != name), set()).add(sizes[name])
    return all(found == every for found in others.values())


def _combinations(names: tuple[str, ...]) -> Iterator[Single]:
    """All combinations of sizes up to a limit that keeps them few; a mixed sample where even small ones are many."""
    extent = next((n for n in range(_LARGEST, 2, -1) if n ** len(names) <= _MOST), 0)
    if extent:
        for sizes in product(range(1, extent + 1), repeat=len(names)):
            yield dict(zip(names, sizes))
        return
    for k in range(_MOST):
        yield {name: 1 + streams.scramble(k, place) % _LARGEST for place, name in enumerate(names)}


def sample(options: Mapping[str, Any]) -> str:
    """What tells one assignment of options from another."""
    return repr(sorted(options.items(), key=lambda item: item[0]))

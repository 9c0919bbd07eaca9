"""Coverage: which sizes, options, floating types and values the cases of a check reached.

A check that never drew a size of 1, the option `causal=True` or a negative value has said nothing
about them; these counts let a reader see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Array, Case

DECADES = tuple(float(f"1e{k}") for k in range(-4, 5))
# borders of the value regions, from large negative through exactly 0 to large positive
_BORDERS = np.array([*(-d for d in reversed(DECADES)), 0.0, np.nextafter(0.0, 1.0), *DECADES])
DISTINCT = 40  # kinds of one size or option that are counted apart
OTHERS = "others"
_MANY_REFUSED = 0.5  # of what was drawn; below, enough of everything is left
_HARDLY = 0.02  # of the cases


def regions() -> tuple[str, ...]:
    """A name for each value region, in the order in which `Coverage.values` counts them."""
    steps = [f"{d:g}" for d in DECADES]
    up = [f"below {steps[0]}", *(f"{low} to {high}" for low, high in pairwise(steps)), f"{steps[-1]} and more"]
    down = [f"above -{steps[0]}", *(f"-{high} to -{low}" for low, high in pairwise(steps)), f"below -{steps[-1]}"]
    return (*reversed(down), "0", *up)


@dataclass(slots=True)
class Coverage:
    """Counts over every case that was drawn for one layer.

    Attributes
    ----------
    cases : number of cases
    sizes : for each named dimension, cases by its size; a group of leading axes reads "2x3"
    options : for each option, cases by its value as code
    dtypes : cases by the floating type of their primals
    values : for each primal of real or complex numbers, elements by value region (see `regions`)
    tried, refused : rows that were decoded with sizes and values in their domains, and those that `assume` refused
    possible : sizes that `assume` was seen to allow, by name, where it forbids many
    """

    cases: int = 0
    sizes: dict[str, Counter[str]] = field(default_factory=dict)
    options: dict[str, Counter[str]] = field(default_factory=dict)
    dtypes: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[int]] = field(default_factory=dict)
    tried: int = 0
    refused: int = 0
    possible: dict[str, set[int]] = field(default_factory=dict)

    def asked(self, tried: int, refused: int, possible: Mapping[str, set[int]]) -> None:
        """Count what one way of drawing asked `assume`, and the sizes that it was seen to allow."""
        self.tried += tried
        self.refused += refused
        for name, sizes in possible.items():
            self.possible.setdefault(name, set()).update(sizes)

    def lacks(self) -> tuple[str, ...]:
        """What `assume` kept from being drawn, in words; empty where it refused little."""
        if not self.tried or self.refused < _MANY_REFUSED * self.tried:
            return ()
        rare = [
            f"{name} = {size} ({self.sizes.get(name, Counter())[str(size)]})"
            for name, sizes in self.possible.items()
            for size in sorted(sizes)
            if self.sizes.get(name, Counter())[str(size)] < max(1, _HARDLY * self.cases)
        ]
        seldom = f"; sizes hardly seen, with the cases that had them: {', '.join(rare)}" if rare else ""
        advice = 'a relation such as H % G == 0 is drawn directly as a product of names, "N G*R D"'
        return (f"assume refused {self.refused / self.tried:.0%} of what was drawn{seldom}; {advice}",)

    def add(self, layer: Layer, case: Case) -> None:
        """Count one more case; its arrays are only read."""
        self.cases += 1
        for name, size in _sizes(layer, case).items():
            _count(self.sizes.setdefault(name, Counter()), _extent(size))
        for name, value in case.options.items():
            _count(self.options.setdefault(name, Counter()), repr(value))
        self.dtypes.update({a.dtype.name for a in case.primals.values() if a.dtype.kind in "fcV"})
        for name, array in case.primals.items():
            if array.dtype.kind in "fcV":
                counts = np.bincount(_regions(array), minlength=len(_BORDERS) + 1)
                known = self.values.get(name)
                self.values[name] = [int(c) for c in (counts if known is None else counts + known)]


def _sizes(layer: Layer, case: Case) -> dict[str, int | tuple[int, ...]]:
    """Sizes of the named dimensions of the primals; those of options are counted as options."""
    sizes: dict[str, int | tuple[int, ...]] = {}
    for primal in layer.primals:
        try:
            sizes = primal.dims.bind(np.shape(case.primals[primal.name]), sizes)
        except (DeclarationError, KeyError):
            continue  # arithmetic on an option, which `sizes` does not hold
    return sizes


def _extent(size: int | tuple[int, ...]) -> str:
    return "x".join(map(str, size)) or "none" if isinstance(size, tuple) else str(size)


def _regions(array: Array) -> Array:
    """Index of the region of each element; complex numbers count twice, by real and by imaginary part."""
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag])
    flat = array.ravel().astype(float) if array.dtype.kind == "V" else array.ravel()
    return np.searchsorted(_BORDERS, flat, side="right")


def _count(counter: Counter[str], text: str) -> None:
    counter[text if text in counter or len(counter) < DISTINCT else OTHERS] += 1

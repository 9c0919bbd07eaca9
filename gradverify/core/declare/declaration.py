"""What is declared of a layer: its primals with their dimensions and domains, its options, and what is meant so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradverify.core.declare import dims, domains
from gradverify.core.declare.functions import accepted, own
from gradverify.core.declare.hooks import Hooks
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns.ledger import NotVerified

Forward = Callable[..., tuple[Any, Any]]
Backward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Primal:
    """An input or parameter array of a layer: its name, its dimensions and its domain."""

    name: str
    dims: dims.Dims
    domain: domains.Domain
    differentiable: bool


@dataclass(frozen=True, slots=True)
class Declared:
    """What the author declares on purpose, so that nobody has to guess; shown in every report.

    Attributes
    ----------
    kinks : which one-sided slope is right at a kink: "between" (any value from the left to the
        right slope), "left", "right" or "middle"
    surrogate : the function that is differentiated in place of forward (straight-through,
        clipping, stop-gradient); same arguments, returns the outputs alone; if it takes a keyword
        `at`, it gets the unperturbed primals by name
    zero : primals whose gradient is zero on purpose
    factor : clean factor of analytic over true gradient, for all primals or by name (-1 for a
        maximised objective)
    conjugate : for complex primals, True where the gradient is dL/dRe + i dL/dIm (torch), False
        where it is its conjugate (JAX)
    stateful : the layer keeps state on itself from forward to backward
    built_with : names of sizes that a stateful layer is built with, so that one object knows no others
    constants : primals that need no gradient though their values are real, and arrays that functions take from outside
    jumps : forward is not continuous on purpose: what an entry is worth at a jump is left open, and is no reason not to
        pass
    data_outside : arrays that functions take from outside are data, as with an objective, which is differentiated by
        its one vector; set by adapters
    accuracy : how far outputs may be from what backward is the derivative of, relative to the largest of them or to
        1, whichever is more: about the tolerance at which a forward stops that iterates; 0 for rounding alone
    """

    kinks: str = "between"
    surrogate: Callable[..., Any] | None = None
    zero: tuple[str, ...] = ()
    factor: float | Mapping[str, float] = 1.0
    conjugate: bool = True
    stateful: bool = False
    built_with: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    jumps: bool = False
    accuracy: float = 0.0
    data_outside: bool = False

    def factor_of(self, primal: str) -> float:
        if isinstance(self.factor, Mapping):
            return float(self.factor.get(primal, 1.0))
        return float(self.factor)

    def lines(self) -> tuple[str, ...]:
        """One line for each declaration that departs from the default."""
        said = []
        if self.kinks != "between":
            said.append(f"kinks: the {self.kinks} slope")
        if self.surrogate is not None:
            said.append(f"surrogate: gradients are those of {getattr(self.surrogate, '__name__', 'a surrogate')}")
        if self.zero:
            said.append(f"zero on purpose: {', '.join(self.zero)}")
        if self.factor != 1.0:
            said.append(f"factor: {self.factor}")
        if not self.conjugate:
            said.append("complex gradients: dL/dRe - i dL/dIm")
        if self.stateful:
            said.append("stateful")
        if self.jumps:
            said.append("jumps: forward is not continuous")
        if self.accuracy:
            said.append(f"accuracy: forward stops short of its limit by up to {self.accuracy:g}")
        if self.constants:
            said.append(f"no gradient wanted: {', '.join(self.constants)}")
        return tuple(said)


@dataclass(frozen=True, init=False)
class Declaration:
    """The fields of a Layer, and what follows from them."""

    name: str
    forward: Forward
    backward: Backward
    primals: tuple[Primal, ...]
    options: Mapping[str, Any]
    returns: Mapping[str, dims.Dims]
    batch: str | None
    assume: Callable[..., bool] | None
    empty: bool
    sizes: Mapping[str, Any]
    declared: Declared
    hooks: Hooks
    doc: str
    unverified: tuple[NotVerified, ...]  # what an adapter saw that no check of this layer covers
    origin: str | None  # what `replay` loads: "package.module:object" or "file.py:object"

    def allows(self, primals: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """Whether the author's `assume` holds; it gets what it names of the primals, the options and the sizes.

        Raises DeclarationError if the predicate raises.
        """
        if self.assume is None:
            return True
        given = {**primals, **options}
        names = accepted(self.assume, tuple(given))
        wanted = {name: given[name] for name in names if name in self.primal_names or name in self.options}
        sizes = accepted(self.assume, self.size_names, False)
        try:
            if sizes:
                known = self.sizes_of(primals, options)
                wanted |= {name: known[name] for name in sizes if name not in wanted}
            with np.errstate(all="ignore"):
                return bool(self.assume(**wanted))
        except DeclarationError:
            raise
        except Exception as error:
            both = {n for p in self.primals for n in p.dims.names} & set(self.primal_names) & set(wanted)
            clash = "".join(f"; {name} is the primal there, and not the axis: rename one" for name in sorted(both))
            raise DeclarationError(
                f"layer {self.name!r}: assume raised {type(error).__name__}: {error}{clash}"
            ) from error

    def legal(self, primals: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """The same of values that were made from others; a predicate that cannot be asked allows nothing."""
        try:
            return self.allows(primals, options)
        except DeclarationError:
            return False

    @property
    def size_names(self) -> tuple[str, ...]:
        """Every name in a dimension string that is neither a primal nor an option; without the star of a group."""
        names = dict.fromkeys(n.lstrip("*") for p in self.primals for n in p.dims.names)
        return tuple(n for n in names if n not in self.options and n not in self.primal_names)

    def sizes_of(self, primals: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The size of each name, as the shapes of the primals tell it, and the options that are numbers; a group of
        leading axes has a tuple, and no star.

        Raises DeclarationError if the shapes contradict one another.
        """
        return {name.lstrip("*"): size for name, size in self._bound(primals, options).items()}

    def named_sizes(self, primals: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any] | None:
        """The same by the names of the dimension strings, where a group keeps its star; None on a contradiction."""
        try:
            return self._bound(primals, options)
        except DeclarationError:
            return None

    def _bound(self, primals: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        found = dims.numbers_in(options)
        for primal in (*self.primals, *self.primals):  # a name may be told by a later primal
            found = primal.dims.bind(np.shape(primals[primal.name]), found)
        return found

    @property
    def left_out(self) -> tuple[NotVerified, ...]:
        """What no check of this layer looks at: what its adapter saw, and what is declared constant."""
        fixed = (p.name for p in self.primals if p.name in self.declared.constants and not p.domain.discrete)
        return (*self.unverified, *(NotVerified(name, "declared constant") for name in fixed))

    @cached_property
    def primal_names(self) -> tuple[str, ...]:
        return tuple(primal.name for primal in self.primals)

    @cached_property
    def differentiable(self) -> tuple[Primal, ...]:
        return tuple(primal for primal in self.primals if primal.differentiable)

    def primal(self, name: str) -> Primal:
        return self.primals[self.primal_names.index(name)]

    @property
    def default_options(self) -> dict[str, Any]:
        """The simplest value of each option: the first of its choices."""
        return dict(own({name: simplest(spec) for name, spec in self.options.items()}))


def simplest(spec: Any) -> Any:
    """The first choice of an option's declaration; None where only Hypothesis can tell."""
    if isinstance(spec, tuple):
        return tuple(simplest(part) for part in spec)
    if isinstance(spec, (list, range)):
        return spec[0]
    return None

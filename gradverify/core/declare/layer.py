"""What an author declares: a forward, a backward, and the primals between them.

Every calling convention is turned into one normal form:

    forward(*primals, **options) -> (output or tuple of outputs, saved)
    backward(cotangent or tuple of cotangents, saved) -> gradients, in forward's order or by name
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from gradverify.core.declare import dims, domains
from gradverify.core.declare.hooks import Hooks
from gradverify.core.declare.validation import called, mapping, named, validate
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns.verified import NotVerified

T = TypeVar("T")
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
    constants : primals that need no gradient though their values are real
    jumps : forward is not continuous on purpose: what an entry is worth at a jump is left open, and is no reason not to
        pass
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
class Layer:
    """A forward, a hand-written backward, and the primals between them.

    Parameters
    ----------
    forward : ``forward(*primals, **options) -> (output or tuple of outputs, saved)``
    backward : ``backward(dy, saved) -> gradients`` in forward's order, or a dict by primal name;
        with several outputs, `dy` is a tuple of cotangents
    name : defaults to the name of `forward`
    primals : primals by name, for names that clash with a keyword of this class
    **declaration : every keyword that is not a setting is a primal: a dimension string ("N D"),
        optionally with a domain ("N: labels K"), or a pair (dimension string, domain), where the
        domain is a word or a Hypothesis strategy of single elements. Settings: `options` (name to
        a list of choices, simplest first, a tuple of such lists, or a Hypothesis strategy),
        `returns` (dimension strings of the outputs by name), `batch` (name of the batch axis),
        `assume` (predicate on primals, options and sizes by name; False rejects the case), `sizes` (of axes by
        name, one or a list, as the layer runs in production: see the property reference), `empty` (True
        where axes of size 0 are allowed), `constants` (names of primals that need no gradient),
        and the fields of `Declared` and `Hooks`.

    Raises
    ------
    DeclarationError
        Naming the layer and the argument that cannot be used.
    """

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

    def __init__(
        self,
        forward: Forward,
        backward: Backward,
        *,
        name: str | None = None,
        primals: Mapping[str, Any] | None = None,
        **declaration: Any,
    ) -> None:
        label = named(name or str(getattr(forward, "__name__", "layer")))
        for role, function in (("forward", forward), ("backward", backward)):
            called(label, role, function)
        arrays = {k: v for k, v in declaration.items() if k not in KEYWORDS}
        for key, spec in mapping(label, "primals", primals or {}).items():
            if key in arrays:
                raise DeclarationError(f"layer {label!r}: {key!r} is declared twice, by keyword and in primals")
            arrays[key] = spec
        constants = _names(declaration.get("constants", ()))
        if "zero" in declaration:
            declaration["zero"] = _names(declaration["zero"])
        found = tuple(_primal(label, key, arrays[key], constants) for key in _order(forward, arrays))
        whole = tuple(p.name for p in found if p.domain.strategy is not None and not p.differentiable)
        unwanted = tuple(dict.fromkeys((*constants, *whole)))
        self._set(
            name=label,
            forward=forward,
            backward=backward,
            primals=found,
            options=mapping(label, "options", declaration.get("options") or {}),
            returns=_returns(label, declaration.get("returns")),
            batch=declaration.get("batch"),
            assume=declaration.get("assume"),
            empty=bool(declaration.get("empty", False)),
            sizes=mapping(label, "sizes", declaration.get("sizes") or {}),
            declared=Declared(**{k: v for k, v in declaration.items() if k in _DECLARED}, constants=unwanted),
            hooks=Hooks(**{k: v for k, v in declaration.items() if k in _HOOKS}),
            doc=declaration.get("doc") or inspect.getdoc(forward) or "",
            origin=declaration.get("origin"),
            unverified=(),
        )
        validate(self, constants, KEYWORDS)

    def _set(self, **values: Any) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def derive(self, **changes: Any) -> Layer:
        """A copy with some fields replaced, e.g. ``layer.derive(backward=wrong)``.

        Raises
        ------
        DeclarationError
            If there is no such field, or forward or backward is no function.
        """
        known = [field.name for field in fields(self)]
        for key, value in changes.items():
            if key in ("forward", "backward"):
                called(self.name, key, value)
            if key not in known:
                raise DeclarationError(f"layer {self.name!r} has no field {key!r} (has {', '.join(known)})")
        copied = copy.copy(self)
        copied._set(**changes)
        return copied

    def allows(self, primals: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """Whether the author's `assume` holds; it gets what it names of the primals, the options and the sizes.

        Raises
        ------
        DeclarationError
            If the predicate raises.
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
            raise DeclarationError(f"layer {self.name!r}: assume raised {type(error).__name__}: {error}") from error

    @property
    def size_names(self) -> tuple[str, ...]:
        """Every name in a dimension string that is neither a primal nor an option; without the star of a group."""
        names = dict.fromkeys(n.lstrip("*") for p in self.primals for n in p.dims.names)
        return tuple(n for n in names if n not in self.options and n not in self.primal_names)

    def sizes_of(self, primals: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The size of each name, as the shapes of the primals tell it; a group of leading axes has a tuple."""
        sizes: dict[str, Any] = dims.sizes_in(options)
        for primal in self.primals:
            sizes = primal.dims.bind(np.shape(primals[primal.name]), sizes)
        return {name.lstrip("*"): size for name, size in sizes.items()}

    @property
    def kind(self) -> str:
        return "layer"

    @property
    def parts(self) -> tuple[Layer, ...]:
        """Layers that this one is built of, as the object behind its forward tells: a cell, of a sequence."""
        return tuple(getattr(getattr(self.forward, "__self__", None), "parts", ()))

    @property
    def left_out(self) -> tuple[NotVerified, ...]:
        """What no check of this layer looks at: what its adapter saw, and what is declared constant."""
        fixed = (p.name for p in self.primals if p.name in self.declared.constants and not p.domain.discrete)
        return (*self.unverified, *(NotVerified(name, "declared constant") for name in fixed))

    @property
    def primal_names(self) -> tuple[str, ...]:
        return tuple(primal.name for primal in self.primals)

    @property
    def differentiable(self) -> tuple[Primal, ...]:
        return tuple(primal for primal in self.primals if primal.differentiable)

    def primal(self, name: str) -> Primal:
        return next(primal for primal in self.primals if primal.name == name)

    @property
    def default_options(self) -> dict[str, Any]:
        """The simplest value of each option: the first of its choices."""
        return {name: simplest(spec) for name, spec in self.options.items()}


class Loss(Layer):
    """A Layer with a scalar output, e.g. mean squared error: E = 1/N sum_n sum_k (y - x)^2.

    Its first primal is the prediction; `gradverify.check(layer, loss=name)` feeds it the layer's output.
    """

    @property
    def kind(self) -> str:
        return "loss"


def simplest(spec: Any) -> Any:
    """The first choice of an option's declaration; None where only Hypothesis can tell."""
    if isinstance(spec, tuple):
        return tuple(simplest(part) for part in spec)
    if isinstance(spec, (list, range)):
        return spec[0]
    return None


def by_function(read: Callable[..., T]) -> Callable[..., T]:
    """Remember what is read off a function; an object that is called and has no hash, as a dataclass, is read anew."""
    remembered = lru_cache(maxsize=4096)(read)

    def found(function: Callable[..., Any], *more: Any) -> T:
        try:
            return remembered(function, *more)
        except TypeError:
            return read(function, *more)

    return found


@by_function
def accepted(function: Callable[..., Any], names: tuple[str, ...], any_other: bool = True) -> tuple[str, ...]:
    """The names among `names` that a function takes as keywords; by ``**``, too, unless told otherwise."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    if any_other and any(p.kind is p.VAR_KEYWORD for p in parameters):
        return tuple(names)
    taken = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return tuple(name for name in names if name in taken)


_SETTINGS = {"options", "returns", "batch", "assume", "sizes", "empty", "constants", "doc", "origin"}
_DECLARED = {"kinks", "surrogate", "zero", "factor", "conjugate", "stateful", "built_with", "jumps", "accuracy"}
_HOOKS = {field.name for field in fields(Hooks)}
KEYWORDS = frozenset(_SETTINGS | _DECLARED | _HOOKS | {"name", "primals"})


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _order(forward: Forward, arrays: Mapping[str, Any]) -> list[str]:
    """Primals in forward's own order, when its signature names them all; else as declared."""
    try:
        names = list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        return list(arrays)
    return [n for n in names if n in arrays] if set(arrays) <= set(names) else list(arrays)


def _primal(label: str, name: str, spec: Any, constants: tuple[str, ...]) -> Primal:
    try:
        text, domain = _split(spec)
        return Primal(name, dims.parse(text), domain, domain.differentiable and name not in constants)
    except DeclarationError as error:
        raise DeclarationError(f"layer {label!r}, primal {name!r}: {error}") from None


def _split(spec: Any) -> tuple[str, domains.Domain]:
    if isinstance(spec, str):
        text, _, word = spec.partition(":")
        return text, domains.parse(word)
    if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], str):
        text, domain = spec
        if isinstance(domain, str):
            return text, domains.parse(domain)
        if hasattr(domain, "example"):  # a Hypothesis strategy, recognised without importing Hypothesis
            return text, domains.Domain("custom", _kind(domain), strategy=domain)
    raise DeclarationError(
        f"expected a dimension string such as 'N D' or 'N: labels K', or a pair (string, domain); got {spec!r} "
        "(every keyword that is no setting names a primal)"
    )


def _kind(strategy: Any) -> str:
    """ "int" or "bool" where a strategy draws nothing else, so that labels need not be declared constant."""
    name = type(getattr(strategy, "wrapped_strategy", strategy)).__name__
    return {"IntegersStrategy": "int", "BooleansStrategy": "bool"}.get(name, "real")


def _returns(label: str, spec: Any) -> dict[str, dims.Dims]:
    if spec is None:
        return {}
    named = {"y": spec} if isinstance(spec, str) else mapping(label, "returns", spec)
    try:
        return {key: dims.parse(text) for key, text in named.items()}
    except DeclarationError as error:
        raise DeclarationError(f"layer {label!r}, returns: {error}") from None

"""What an author declares: a forward, a backward, and the primals between them.

Every calling convention is turned into one normal form:

    forward(*primals, **options) -> (output or tuple of outputs, saved)
    backward(cotangent or tuple of cotangents, saved) -> gradients, in forward's order or by name
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gradverify.core.declare import dims, domains
from gradverify.core.declare.declaration import Backward, Declaration, Declared, Forward, Primal
from gradverify.core.declare.functions import accepted, predicate
from gradverify.core.declare.hooks import Hooks
from gradverify.core.declare.validation import ARGUMENTS, called, mapping, named, validate
from gradverify.core.errors import DeclarationError
from gradverify.core.texts import meant


@dataclass(frozen=True, init=False)
class Layer(Declaration):
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
        `assume` (predicate on primals, options and sizes by name, also as a string; False rejects the case),
        `sizes` (of axes by name, one or a list, as the layer runs in production: see the property reference),
        `empty` (True where axes of size 0 are allowed), `constants` (names of primals that need no gradient),
        and the fields of `Declared` and `Hooks`.

    Raises
    ------
    DeclarationError
        Naming the layer and the argument that cannot be used.
    """

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
        condition = declaration.get("assume")
        constants = as_names(declaration.get("constants", ()))
        if "zero" in declaration:
            declaration["zero"] = as_names(declaration["zero"])
        found = tuple(_primal(label, key, arrays[key], constants, forward) for key in _order(forward, arrays))
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
            assume=predicate(condition) if isinstance(condition, str) else condition,
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
        for name in ("primal_names", "differentiable"):  # read off the primals on first use
            vars(self).pop(name, None)

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

    @property
    def kind(self) -> str:
        return "layer"

    @property
    def parts(self) -> tuple[Layer, ...]:
        """Layers that this one is built of, as the object behind its forward tells: a cell, of a sequence."""
        return tuple(getattr(getattr(self.forward, "__self__", None), "parts", ()))


class Loss(Layer):
    """A Layer with a scalar output, e.g. mean squared error: E = 1/N sum_n sum_k (y - x)^2.

    Its first primal is the prediction; `gradverify.check(layer, loss=name)` feeds it the layer's output.
    """

    @property
    def kind(self) -> str:
        return "loss"


_SETTINGS = {"options", "returns", "batch", "assume", "sizes", "empty", "constants", "doc", "origin"}
_DECLARED = {"kinks", "surrogate", "zero", "factor", "conjugate", "stateful", "built_with", "jumps", "accuracy"}
_HOOKS = {field.name for field in fields(Hooks)}
KEYWORDS = frozenset(_SETTINGS | _DECLARED | _HOOKS | {"name", "primals"})


def as_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def _order(forward: Forward, arrays: Mapping[str, Any]) -> list[str]:
    """Primals in forward's own order, when its signature names them all; else as declared."""
    try:
        names = list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        return list(arrays)
    return [n for n in names if n in arrays] if set(arrays) <= set(names) else list(arrays)


def _primal(label: str, name: str, spec: Any, constants: tuple[str, ...], forward: Forward) -> Primal:
    try:
        text, domain = _split(spec)
        return Primal(name, dims.parse(text), domain, domain.differentiable and name not in constants)
    except DeclarationError as error:
        typed = "" if name in accepted(forward, (name,), False) else meant(name, (*KEYWORDS, *ARGUMENTS), 1)
        near = "" if isinstance(spec, str) else typed or _as_option(name, spec)
        raise DeclarationError(f"layer {label!r}, primal {name!r}: {error}{near}") from None


def _as_option(name: str, spec: Any) -> str:
    """How an option is declared that was written like a primal, as in ``stride=[1, 2]``."""
    if isinstance(spec, (list, range, tuple)):
        return f"; an option is declared as options={{{name!r}: {spec if isinstance(spec, range) else list(spec)!r}}}"
    single = isinstance(spec, (bool, int, float))
    return f"; an option is declared with its choices, as options={{{name!r}: [{spec!r}]}}" if single else ""


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

"""What can be wrong with a declaration: every complaint names the layer and the argument, and says what to do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from gradverify.core import texts
from gradverify.core.declare.declaration import Declaration, Primal
from gradverify.core.declare.outside import outside_names
from gradverify.core.errors import DeclarationError

KINK_CONVENTIONS = ("between", "left", "right", "middle")
ARGUMENTS = (  # of `check` and of adapters, for which a misspelt keyword may have been meant
    *("examples", "seed", "eps", "dtype", "properties", "method", "loss", "raises", "quiet"),
    *("init", "pairs", "methods", "gives", "extra", "prepare", "flush", "accumulates", "rate", "setup", "wrt"),
)


def validate(layer: Declaration, constants: tuple[str, ...], settings: Iterable[str]) -> None:
    """Refuse a layer that cannot be used as it is declared; raises DeclarationError, naming the layer and the argument.

    Parameters
    ----------
    constants : names that the author gave as such
    settings : every keyword that is a setting; any other one is a primal
    """
    if not layer.primals:
        raise DeclarationError(
            f"layer {layer.name!r} declares no primals: name each array argument of forward with its "
            f"dimensions, e.g. {example(layer.forward)}"
        )
    for name in (*layer.primal_names, *layer.options):
        if name != texts.line(name, 200):
            raise DeclarationError(
                f"layer {layer.name!r}: a primal or option is named {texts.line(repr(name), 200)}; "
                "names are short and have no control characters, as they are printed everywhere"
            )
    _mentioned(layer, constants)
    _functions(layer)
    names = {n for primal in layer.primals for n in primal.dims.names}
    if layer.batch is not None and layer.batch not in names:
        raise DeclarationError(f"layer {layer.name!r}, batch: no primal has an axis {layer.batch!r}")
    for name, given in layer.sizes.items():
        _size(layer, name, given, names)
    for primal in layer.primals:
        _domain(layer, primal, names)
    for name, spec in layer.options.items():
        _option(layer, name, spec)
    takes(layer.name, parameters(layer.forward), layer.primal_names, layer.options, settings)
    _predicate(layer)


def example(forward: Callable[..., Any]) -> str:
    """Dimension strings for a forward's own arguments, to be filled in."""
    signature = parameters(forward)
    taken = [] if signature is None else [p for p in signature.parameters.values() if p.default is p.empty]
    given = [p.name for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [name for name in given if name not in ("self", "cls", "ctx")] or ["x", "W"]
    shapes = ("N D", "D H", "H")  # as of a dense layer; which sizes are the same is the author's to say
    return ", ".join(f'{name}="{shapes[min(k, 2)]}"' for k, name in enumerate(names))


def _size(layer: Declaration, name: str, given: object, names: set[str]) -> None:
    if name not in names:
        raise DeclarationError(f"layer {layer.name!r}, sizes: no primal has an axis {name!r}")
    listed = given if isinstance(given, (list, tuple)) and given else [given]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in listed):
        raise DeclarationError(
            f"layer {layer.name!r}, sizes: {name} must be a positive whole number or a list of them, got {given!r}"
        )


def named(name: object) -> str:
    """The name of a layer; raises DeclarationError if it is no string."""
    if isinstance(name, str):
        return texts.line(name, 200)
    raise DeclarationError(f"the name of a layer must be a string, got {name!r}")


def called(label: str, role: str, function: object) -> None:
    """Refuse what is no function; raises DeclarationError, naming its role."""
    if not callable(function):
        raise DeclarationError(f"layer {label!r}: {role} is not callable (got {function!r})")


def mapping(label: str, argument: str, given: Any) -> dict[str, Any]:
    """A dict by name; raises DeclarationError if it is anything else."""
    if isinstance(given, Mapping):
        return dict(given)
    example = {
        "primals": '{"x": "N D"}',
        "options": '{"p": [1, 2]}',
        "returns": '{"h": "N H", "c": "N H"}, or one string for one output',
    }
    raise DeclarationError(
        f"layer {label!r}, {argument}: expected a dict by name, such as {example[argument]}; got {given!r}"
    )


def refusal(layer: Declaration) -> str:
    """Why no case could be drawn, as far as the declaration tells."""
    strategies = [primal.name for primal in layer.primals if primal.domain.strategy is not None]
    zero = any(axis.kind == "fixed" and not axis.size({}) for primal in layer.primals for axis in primal.dims.axes)
    why = [
        *(["assume refused all that was drawn"] if layer.assume is not None else []),
        *([f"the strategy of {' or '.join(strategies)} gave no element"] if strategies else []),
        *(["an axis has size 0, which empty=True allows"] if not layer.empty and zero else []),
    ]
    return f"no case could be drawn: {', or '.join(why) or 'no sizes and values fit the dimensions and domains'}"


def _mentioned(layer: Declaration, constants: tuple[str, ...]) -> None:
    """Settings that speak of primals by name, or have few values."""
    declared, known = layer.declared, set(layer.primal_names)
    factors = declared.factor if isinstance(declared.factor, Mapping) else {}
    for key, mentioned in (("zero", declared.zero), ("constants", constants), ("factor", tuple(factors))):
        unknown = [name for name in mentioned if name not in known]
        around = outside_names(layer.forward, layer.backward) if unknown and key == "constants" else set()
        for name in unknown:
            if name not in around:
                more = f", and functions take no array of that name from outside (take {_listed(sorted(around))})"
                raise DeclarationError(
                    f"layer {layer.name!r}, {key}: there is no primal {name!r} (has {sorted(known)})"
                    f"{more if key == 'constants' else ''}"
                )
    for factor in tuple(factors.values()) if factors else (declared.factor,):
        if not isinstance(factor, Real) or not math.isfinite(factor) or float(factor) == 0:
            raise DeclarationError(f"layer {layer.name!r}, factor: expected a number that is not zero, got {factor!r}")
    rough = declared.accuracy
    if not isinstance(rough, Real) or not 0 <= float(rough) <= 0.1:  # with less than a digit no gradient is told
        raise DeclarationError(
            f"layer {layer.name!r}, accuracy: expected the tolerance at which forward stops, such as 1e-8 "
            f"(at most 0.1), got {rough!r}"
        )
    if declared.kinks not in KINK_CONVENTIONS:
        raise DeclarationError(
            f"layer {layer.name!r}, kinks: {declared.kinks!r} is not one of {', '.join(KINK_CONVENTIONS)}"
            f"{texts.meant(declared.kinks, KINK_CONVENTIONS, 1)}"
        )


def _functions(layer: Declaration) -> None:
    hooks = layer.hooks
    given = {name: getattr(hooks, name) for name in hooks.__slots__}
    for name, function in {"assume": layer.assume, "surrogate": layer.declared.surrogate, **given}.items():
        if function is not None:
            called(layer.name, name, function)


def _domain(layer: Declaration, primal: Primal, names: set[str]) -> None:
    domain = primal.domain
    if domain.option is not None and domain.option not in layer.options:
        raise DeclarationError(
            f"layer {layer.name!r}, primal {primal.name!r}: the domain {domain.text!r} hangs on {domain.option!r}, "
            f"which is no option (has {_listed(layer.options)})"
        )
    for argument in domain.arguments:
        if argument not in names and argument not in layer.options and number(argument) is None:
            raise DeclarationError(
                f"layer {layer.name!r}, primal {primal.name!r}: the domain {domain.name!r} is given "
                f"{argument!r}, which is neither a number, a dimension of a primal nor an option: "
                "a size that only an object is built with is declared with the parameter that has it, "
                f'W="D {argument}", or as an option, options={{"{argument}": [3, 5]}}'
            )
    bounds = [number(argument) for argument in domain.arguments]
    if None in bounds:
        return
    if (domain.name in ("between", "inside") and not bounds[0] < bounds[1]) or (  # type: ignore[operator]
        domain.name == "integers" and not bounds[0] <= bounds[1]  # type: ignore[operator]
    ):
        raise DeclarationError(
            f"layer {layer.name!r}, primal {primal.name!r}: nothing lies between {' and '.join(domain.arguments)}; "
            "the smaller bound comes first"
        )
    if domain.name in ("labels", "indices") and not bounds[0] >= 1:  # type: ignore[operator]
        raise DeclarationError(
            f"layer {layer.name!r}, primal {primal.name!r}: {domain.name} are integers from 0 up to a count, "
            f"which must be at least 1, got {domain.arguments[0]}"
        )


def _option(layer: Declaration, name: str, spec: Any) -> None:
    if name in layer.primal_names:
        raise DeclarationError(f"layer {layer.name!r}: {name!r} is declared both as a primal and as an option")
    for part in spec if isinstance(spec, tuple) else (spec,):
        if isinstance(part, (list, range)) and not part:
            raise DeclarationError(f"layer {layer.name!r}, option {name!r}: the list of its choices is empty")


def takes(
    label: str,
    signature: inspect.Signature | None,
    primals: Iterable[str],
    options: Iterable[str] = (),
    settings: Iterable[str] = (),
    by_name: bool = False,
) -> None:
    """Whether forward can be called with the primals in order, or by name as well, and the options by name.

    Raises DeclarationError, naming what forward takes, and what is declared.
    """
    primals, options = tuple(primals), tuple(options)
    if signature is None or (by_name and _binds(signature, (), (*primals, *options)) is None):
        return
    error = _binds(signature, primals, options)
    if error is not None:
        taken = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        declared = (*primals, *options)
        surplus = [name for name in declared if name not in taken]
        near = (texts.meant(name, (*settings, *ARGUMENTS), 1) for name in surplus)
        hint = next(filter(None, near), "").replace("mean ", "mean the setting ")
        raise DeclarationError(
            f"layer {label!r}: forward takes {_listed(taken)}, declared are {_listed(declared)} ({error}){hint}"
        )


def _binds(signature: inspect.Signature, positional: Iterable[str], named: Iterable[str]) -> TypeError | None:
    """Why a call is refused; None where it is not."""
    try:
        signature.bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        return error
    return None


def _predicate(layer: Declaration) -> None:
    """Whether `assume` asks for what the layer has."""
    signature = parameters(layer.assume) if layer.assume is not None else None
    if signature is None:
        return
    known = {*layer.primal_names, *layer.options, *layer.size_names}
    for p in signature.parameters.values():
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in known:
            raise DeclarationError(
                f"layer {layer.name!r}, assume: it takes {p.name!r}, which is neither a primal, an option nor a size "
                f"(has {_listed(sorted(known))})"
            )


def parameters(function: Callable[..., Any], wrapped: bool = False) -> inspect.Signature | None:
    """The signature by which a function is really called; None where Python cannot tell."""
    try:
        return inspect.signature(function, follow_wrapped=wrapped)
    except (TypeError, ValueError):
        return None


def number(text: str) -> float | None:
    """The number that a text is; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"

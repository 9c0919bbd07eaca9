"""From an object to a Layer: its methods, inputs, parameters, pairs and dimensions, found by calling it once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from gradverify.adapters._chance import Chance
from gradverify.adapters._nested import listed
from gradverify.adapters._normal import (
    TARGETS,
    attempt,
    constants,
    examples,
    finished,
    flat,
    parted,
    required,
    sketch,
    split,
)
from gradverify.adapters._objects.arranging import arrange
from gradverify.adapters._objects.guesses import PREDICTIONS, dimensions, methods_of, with_sizes
from gradverify.adapters._objects.instance import SIZE, Maker, accepted_by, builds, float_arrays
from gradverify.adapters._objects.pairs import Pair, declared_pair, discover
from gradverify.adapters._objects.stateful import Stateful
from gradverify.adapters._objects.undeclared import CHANGED, undeclared
from gradverify.core.declare.held import attributes, fetch
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.outside import outside_names
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array

OPTIMISERS = ("optimizer", "optimiser", "opt", "optim")
RATES = frozenset({"learning_rate", "lr", "alpha", "eta", "rate", "step_size"})
_LOOKS = 3  # sets of sizes at which an object is looked at: 4*N and D+H are the same at two of them


def build(
    kind: type[Stateful],
    target: Any,
    *,
    init: Any,
    pairs: Mapping[str, Any] | None,
    methods: str | tuple[str, ...] | None,
    name: str | None,
    declaration: Mapping[str, Any],
    **fields: Any,
) -> Layer:
    """A Layer from a kind of stateful convention: find inputs, parameters and pairs, in this order."""
    primals, settings = split(declaration)
    label = str(name or getattr(target, "__name__", type(target).__name__))
    primals, lists = listed(label, primals)
    fixed = tuple(n for n in constants(settings) if n not in primals)  # attributes of the object
    settings["constants"] = tuple(n for n in constants(settings) if n in primals)
    cls = target if inspect.isclass(target) else None if builds(target) else type(target)
    told = {n: declared_pair(n, spec) for n, spec in (pairs or {}).items()}
    named = frozenset((*primals, *(settings.get("options") or ())))
    maker = Maker(target, init, Chance(cls, getattr(cls, "forward", None), target), named)
    methods = _named_methods(label, methods)
    inner = kind(maker, ("", ""), (), (), {}, dict(told), lists=lists, **fields)
    looking = with_sizes(settings, primals, maker.sizes())
    first, failure = _first(inner, primals, looking, label, methods)
    if failure is not None or (first is None and cls is None):
        raise failure or DeclarationError(f"{label} cannot be built")
    if cls is None:
        cls = type(first)
        label = name or (cls.__name__ if label in ("<lambda>", "partial") else label)
        maker.chance.reach(cls, getattr(cls, inner.methods[0], None))
    if first is None:
        inner.methods = methods or methods_of(cls) or ("forward", "backward")
        inner.inputs = _inputs(cls, inner.methods[0], primals, told, lists)
    if not inner.inputs:
        raise DeclarationError(_no_inputs(label, cls, inner.methods[0]))
    arranged = arrange(inner, _layer(inner, primals, looking, label)) if first is not None else ""
    if first is not None and (inner.implicit(first) or inner.methods[0] in PREDICTIONS):
        settings["constants"] = (*settings["constants"], *_data(inner, _layer(inner, primals, looking, label)))
        looking["constants"] = settings["constants"]
    if first is not None:
        _told(inner, label, first)
    lines = _complete(inner, primals, looking, label) if first is not None else ()
    settings["constants"] = (*settings["constants"], *(n for n in fixed if n in primals))
    layer = _layer(inner, primals, looking, label)
    around = outside_names(layer.forward, layer.backward)
    settings["constants"] = (*settings["constants"], *(n for n in fixed if n in around and n not in primals))
    fixed = tuple(n for n in fixed if n not in primals and n not in around)
    more, missing = undeclared(inner, layer, primals, fixed, dimensions, first)
    lines = (*lines, *more)
    layer = _layer(inner, primals, settings, label).derive(unverified=missing)
    if inner.dtype is None and first is not None:
        inner.dtype = _low_precision(inner, layer)
        if inner.dtype is not None:
            lines = (*lines, f"parameters and gradients are {inner.dtype}: everything is run in that precision")
    _updated(inner, layer, label)
    _sized(inner, layer, label, first)
    paired = ", ".join(str(inner.pairs[n]) for n in inner.parameters if n in inner.pairs)
    return finished(layer, f"pairs: {paired}" if paired else "", arranged, *lines, chance=maker.chance)


def _named_methods(label: str, given: Any) -> tuple[str, str] | None:
    """Forward and backward as the author names them; "" for the second where one method gives both.

    Raises DeclarationError if they are no names.
    """
    named = (given,) if isinstance(given, str) else given
    if named is None:
        return None
    if isinstance(named, (tuple, list)) and len(named) in (1, 2) and all(isinstance(n, str) for n in named):
        return named[0], named[1] if len(named) == 2 else ""
    raise DeclarationError(
        f'{label}, methods: expected the names of forward and backward, methods=("transform", "pull_back"), or of one '
        f'method that returns (value, gradients), methods="loss"; got {given!r}'
    )


def _data(inner: Stateful, layer: Layer) -> tuple[str, ...]:
    """Inputs of a network that get no gradient, as what it returns for its weights shows."""
    wanted = [p.name for p in layer.differentiable if p.name in inner.inputs]
    free = [n for n in wanted if n.lower() not in TARGETS]
    for arrays, sizes in examples(layer, inner.maker.sizes()):
        inner.assumed = sizes
        try:
            with inner.maker.chance.fixed("data", note=False):
                instance, built = inner.fresh(arrays, layer.default_options)
                output, ran = inner.run(instance, arrays, layer.default_options, built)
                values, named = parted(inner.pull(ran, np.ones(np.shape(output))))
        except (LayerFailure, DeclarationError):
            continue
        finally:
            inner.assumed = {}
        if named:
            return tuple(n for n in wanted if n not in named)
        shapes = [np.shape(v) for v in values if v is not None]
        some = next((o for o in (wanted, free) if o and shapes[: len(o)] == [np.shape(arrays[n]) for n in o]), [])
        return tuple(n for n in wanted if n not in some)
    return ()


def _told(inner: Stateful, label: str, made: Any) -> None:
    """Refuse a backward that needs a learning rate or an optimiser, where nobody gives it one.

    Raises DeclarationError with the line that declares the convention.
    """
    needs = [n for n in inner.upstream(made) if n in RATES or n.lower() in OPTIMISERS]
    if needs and type(inner) is Stateful:
        given = ", ".join(f'"{n}": ...' for n in needs)
        raise DeclarationError(
            f"{label}: backward needs {', '.join(needs)}: if it applies updates, gradverify.adapt.optimiser({label}, "
            f"...) reads gradients from them, with the same declaration; else say what to give it: extra={{{given}}}"
        )


def _updated(inner: Stateful, layer: Layer, label: str) -> None:
    """Refuse an object whose backward changes weights and keeps none of their gradients: it applies updates.

    Raises DeclarationError with the line that declares the convention.
    """
    changed = [item.name for item in layer.unverified if item.reason == CHANGED]
    if changed and type(inner) is Stateful:
        raise DeclarationError(
            f"backward of {label} changes {', '.join(changed)} and keeps no gradient. "
            f"gradverify.adapt.optimiser({label}, ...) reads gradients from such updates, with the same declaration"
        )


def _sized(inner: Stateful, layer: Layer, label: str, made: Any) -> None:
    """Each size that the object is built with must be one of a primal, or no case could tell it."""
    known = {n for p in layer.primals for n in p.dims.names} | set(layer.primal_names) | set(layer.options)
    unknown = [] if inner.maker.is_object else [n for n in inner.maker.sizes() if n not in known]
    if not unknown:
        return
    if inner.maker.init is None and not SIZE.fullmatch(unknown[0]):
        dims = next((n for p in layer.primals for n in reversed(p.dims.names)), "D")
        raise DeclarationError(
            f"{label} is built with {unknown[0]}, and no primal has a dimension of that name. Call a dimension so, or "
            f'say what to give: init={{"{unknown[0]}": "{dims}"}}, with the name of a dimension, a new one as "H", '
            "or a value"
        )
    arrays = [n for n in float_arrays(made) if n not in inner.pairs] if made is not None else []
    why = f": {inner.fault}" if inner.fault else ""
    seen = f" It holds {', '.join(arrays)}, of which no gradient was found{why}." if arrays else ""
    one = arrays[0] if arrays else "W"
    others = [n for n in (*inner.maker.sizes(), "A", "B", "C", "D") if n != unknown[0]]
    rank = np.ndim(float_arrays(made)[one]) if arrays else 2
    dims = " ".join([*others[: max(rank - 1, 0)], unknown[0]])
    raise DeclarationError(
        f"{label} is built with the size {unknown[0]}, which no primal has.{seen} Declare the parameter that has it, "
        f'and where backward leaves its gradient: {one}="{dims}", pairs={{"{one}": "d{one}"}}'
    )


def _first(
    inner: Stateful,
    primals: Mapping[str, Any],
    settings: Mapping[str, Any],
    label: str,
    methods: tuple[str, str] | None,
) -> tuple[Any, Exception | None]:
    """An object built once for a look at it, or why there is none."""
    planned = sketch(primals or {"x": ""}, settings, name=label)
    failure: Exception | None = None
    for arrays, sizes in examples(planned, inner.maker.sizes()):
        try:
            made, built = inner.maker.make(sizes, arrays, planned.default_options)
        except DeclarationError as error:
            return None, error
        except Exception as error:  # noqa: BLE001  whatever the author's constructor raises
            failure = DeclarationError(
                f"{label} cannot be built: {type(error).__name__}: {error}; "
                'say what to give it: init=("D", "H"), with names of axes or values'
                + inner.maker.texts({*sizes, *arrays, *planned.options})
            )
            continue
        inner.maker.prototypes.clear()
        found = methods or methods_of(type(made))
        if found is None:
            raise DeclarationError(
                f"{label} has no pair of methods such as forward and backward; name them: "
                'methods=("transform", "pull_back")'
            )
        inner.methods = found
        inner.inputs = _inputs(type(made), found[0], primals, inner.pairs, inner.lists, made, built)
        return made, None
    return None, failure


def _inputs(
    cls: type,
    forward: str,
    primals: Mapping[str, Any],
    told: Mapping[str, Pair],
    lists: Mapping[str, list[str]],
    made: Any = None,
    built: Mapping[str, Array] | None = None,
) -> tuple[str, ...]:
    """Declared primals that forward takes, by name in its order; else all that name no parameter, as declared."""
    names = [part for n in accepted_by(getattr(cls, forward, None)) for part in lists.get(n, [n])]
    by_name = [n for n in names if n in primals]
    needed = [n for n in required(getattr(cls, forward)) or [] if n != "self"] if hasattr(cls, forward) else []
    needed = [part for n in needed for part in lists.get(n, [n])]
    if by_name and set(needed) <= set(by_name):
        return tuple(by_name)
    known = {*told, *(built or {}), *(discover(made, built) if made is not None else {})}
    known |= set(attributes(made)) if made is not None else set()
    left = [n for n in primals if n not in known]
    return tuple(left[: len(needed)] if needed else left)


def _no_inputs(label: str, cls: type, forward: str) -> str:
    names = [n for n in required(getattr(cls, forward, None) or (lambda x: x)) or [] if n != "self"] or ["x"]
    return f"{label}: name the input(s) of {forward} with their dimensions, e.g. " + ", ".join(
        f'{n}="N D"' for n in names
    )


def _complete(inner: Stateful, primals: dict[str, Any], settings: Mapping[str, Any], label: str) -> tuple[str, ...]:
    """Call the object forward and backward once, and add the parameters and pairs that show."""
    options = _layer(inner, primals, settings, label).default_options
    found: dict[str, Pair] = {}
    shapes: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = []
    for arrays, sizes in examples(_layer(inner, primals, settings, label), inner.maker.sizes()):
        inner.assumed = sizes
        looked = _look(inner, options, arrays)
        if looked is None:
            continue
        found = {**looked[0], **found}
        shapes.append((sizes, looked[1]))
        if len(shapes) == _LOOKS:
            break
    inner.assumed = {}
    taken = {path for p in inner.pairs.values() for path in p.values}
    added = {n: p for n, p in found.items() if n not in inner.pairs and n not in inner.inputs}
    added = {n: p for n, p in added.items() if not taken & set(p.values)}
    inner.pairs.update(added)
    inferred = []
    for name, pair in inner.pairs.items():
        if name not in primals and shapes and not any(pair.name == n for n in primals):
            text = dimensions(name, shapes)
            if text is not None:
                primals[name] = text
                inferred.append(f'{name} "{text}"')
    lines = [f"dimensions: {', '.join(inferred)} (from the object's arrays)"] if inferred else []
    if inner.updated and type(inner) is Stateful:
        changed = ", ".join(sorted(inner.updated))
        lines.append(f"backward changes {changed} in place: each evaluation runs on an object of its own")
    return tuple(lines)


def _look(
    inner: Stateful, options: Mapping[str, Any], arrays: Mapping[str, Array]
) -> tuple[dict[str, Pair], dict[str, tuple[int, ...]]] | None:
    """Pairs and shapes of the parameters that an object shows before and after one forward and backward."""
    given = [np.array(arrays[n]) for n in inner.inputs]
    try:
        made, built = inner.fresh({n: np.array(a) for n, a in arrays.items()}, options)
        start = _arrays_of(made, built)
        with inner.maker.chance.fixed(options):
            output, ran = inner.call(made, given, options)
            cotangent = (
                tuple(np.ones(np.shape(y)) for y in output) if isinstance(output, tuple) else np.ones(np.shape(output))
            )
            before = _arrays_of(made, built)
            try:
                inner.pull(ran, cotangent)
            except LayerFailure as failure:  # what forward shows is shown; the check will report the crash
                inner.fault = str(failure)
    except (LayerFailure, DeclarationError) as failure:
        inner.fault = str(failure)
        return None
    found = discover(made, built)
    lazy = not (set(start) & set(found))
    if lazy and inner.maker.chance.forgotten(options):  # what was drawn were weights; later forwards draw none
        with suppress(LayerFailure), inner.maker.chance.fixed(options):
            inner.call(made, [np.array(a) for a in given], options)
    outside = [*given, *flat(output)]

    def parameter(name: str, value: Any) -> bool:
        """Whether an array was there before forward and is so still, or is none that forward took or gave."""
        if name in built or (name in start and _same(start[name], value)):
            return True
        return (lazy or name in start) and not any(_same(value, a) for a in outside)

    kept = {n: p for n, p in found.items() if parameter(n, fetch(made, p.values[0]))}
    inner.updated |= {n for n, p in kept.items() if n in before and not _same(before[n], fetch(made, p.values[0]))}
    inner.seen |= {
        v.dtype
        for v in (fetch(made, p.values[0]) for p in kept.values())
        if hasattr(v, "dtype") and v.dtype.kind == "f"
    }
    every = {**kept, **inner.pairs}
    return kept, {
        n: np.shape(fetch(made, p.values[0])) for n, p in every.items() if fetch(made, p.values[0]) is not None
    }


def _arrays_of(made: Any, built: Mapping[str, Array]) -> dict[str, Array]:
    """Copies of the floating arrays of an object, by attribute, and of its parameters, by primal name."""
    found = {n: np.array(fetch(made, p.values[0])) for n, p in discover(made, built).items()}
    return found | {n: np.array(a) for n, a in float_arrays(made).items()}


def _low_precision(inner: Stateful, layer: Layer) -> Any:
    """The low precision of an object that is built in it and gives gradients in it; None otherwise.

    One that is built in it and calculates in any other is left to do so.
    """
    if not inner.seen or any(np.finfo(t).bits >= 64 for t in inner.seen):
        return None
    _, evaluation, _ = attempt(layer)
    with suppress(LayerFailure, AttributeError):
        raw = evaluation.pull(tuple(np.ones(y.shape) for y in evaluation.outputs))
        types = [np.asarray(g).dtype for g in raw.values() if g is not None]
        low = [t for t in types if t.kind == "f" and np.finfo(t).bits < 64]
        return np.result_type(*low) if low else None
    return None


def _same(value: Any, other: Any) -> bool:
    return value is other or (
        isinstance(value, np.ndarray) and np.shape(value) == np.shape(other) and np.array_equal(value, other)
    )


def _layer(inner: Stateful, primals: Mapping[str, Any], settings: Mapping[str, Any], label: str) -> Layer:
    ordered = {n: primals[n] for n in (*inner.inputs, *(n for n in primals if n not in inner.inputs))}
    layer = Layer(
        inner.forward,
        inner.backward,
        name=label,
        primals=ordered,
        **{
            "stateful": True,
            "session": inner.session,
            "stored_parameters": inner.stored_parameters,
            "again": inner.again,
            "added": inner.again if inner.accumulates else None,
            "built_with": inner.maker.built_with(),
            "doc": inspect.getdoc(inner.maker.target) or "",
            **settings,
        },
    )
    inner.names, inner.options = layer.primal_names, tuple(layer.options)
    inner.dims = {p.name: p.dims for p in layer.primals}
    inner.wanted = tuple(p.name for p in layer.differentiable if p.name in inner.inputs)
    return layer

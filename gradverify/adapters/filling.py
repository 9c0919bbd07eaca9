"""Functions that write into arrays they are given, as in C: `forward(out, x, W)`, `backward(dx, dW, dout, x, W)`.

Each argument is told by its name: a primal, an option, a size, an output (which `returns` names), the gradient of a
primal or of an output. Arrays for gradients are zero at each call, so that a backward may add to them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._normal import called, finished, flat, nameable, required, sketch, split
from gradverify.adapters._objects.instance import SIZE
from gradverify.adapters._pair import ran, ungiven
from gradverify.adapters.declared import from_pair
from gradverify.core.declare.dims import Dims, sizes_in
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Array

_UPSTREAM = ("dy", "dout", "d_out", "grad_output", "grad_out", "upstream")  # whatever the output is called


@dataclass
class Filling:
    """Such a pair in the normal form.

    Attributes
    ----------
    outputs : dimensions of what forward fills, by argument; empty where it returns its output
    gradients : arguments of backward that it fills, and the primals whose gradients they are
    upstream : arguments of backward that are gradients of the outputs, in the order of these
    aside : outputs that backward takes, with no gradient of them: they are what forward saved
    kept : argument of backward for what forward returns: what it saved, or else its output; "" for none
    """

    forward_function: Callable[..., Any]
    backward_function: Callable[..., Any]
    primals: dict[str, Dims]
    outputs: dict[str, Dims]
    gradients: dict[str, str]
    upstream: tuple[str, ...]
    kept: str = ""
    aside: tuple[str, ...] = ()

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The outputs, and everything that an argument of backward may name."""
        known = {**options, **self._sizes(arrays, options), **dict(zip(self.primals, arrays))}
        known |= {name: np.zeros(dims.shape(known), np.result_type(*arrays)) for name, dims in self.outputs.items()}
        made = _given("forward", self.forward_function, known)
        output, saved = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if self.outputs:
            filled = [known[name] for name in self.outputs if name not in self.aside]
            output = filled[0] if len(filled) == 1 else tuple(filled)
        return output, {**known, self.kept: output if saved is None else saved}

    def backward(self, cotangent: Any, known: Any) -> Any:
        """What was filled, and what is returned beside it, by primal."""
        room = {name: np.zeros_like(known[primal]) for name, primal in self.gradients.items()}
        given = {**known, **dict(zip(self.upstream, flat(cotangent))), **room}
        raw = _given("backward", self.backward_function, given)
        found = {primal: room[name] for name, primal in self.gradients.items()}
        rest = [name for name in self.primals if name not in found]
        return found if raw is None else {**found, **(raw if isinstance(raw, Mapping) else dict(zip(rest, flat(raw))))}

    def _sizes(self, arrays: Iterable[Array], options: Mapping[str, Any]) -> dict[str, Any]:
        sizes: dict[str, Any] = sizes_in(options)
        for dims, array in zip(self.primals.values(), arrays):
            sizes = dims.bind(np.shape(array), sizes)
        return sizes


def _given(stage: str, function: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """A call with those of the values that the function takes, by name as far as Python lets."""
    taken = [p for p in arguments(function) or () if p.name in known]
    first = [p.name for p in taken if p.kind is p.POSITIONAL_ONLY]
    named = {p.name: known[p.name] for p in taken if p.name not in first}
    return called(stage, function, *(known[n] for n in first), **named)


def _filled(names: Iterable[str], primals: Iterable[str]) -> dict[str, str]:
    """Arguments of backward that are named as the gradient of a primal, and as no upstream gradient."""
    free = [n for n in names if n not in _UPSTREAM]
    return {n: p for p in primals for n in free if n in names_of_gradients(p)}


def _fills(target: Any) -> bool:
    """A pair whose backward takes an upstream gradient, and one to fill for each argument of forward.

    Not where some are missing: a cell that takes `h` may have an upstream gradient `dh`.
    """
    if not (isinstance(target, tuple) and len(target) == 2 and all(map(callable, target))):
        return False
    taken, given = required(target[0]) or [], required(target[1]) or []
    filled, upstream = _filled(given, taken).values(), [n for n in given if n in _UPSTREAM]
    others = [p for p in taken if p not in filled and not SIZE.fullmatch(p)]
    return bool(filled and upstream) and all(set(names_of_gradients(p)) & set(upstream) for p in others)


@convention(
    'gradverify.adapt.filling(forward, backward, returns={"out": "N H"}, x="N D", W="D H")',
    _fills,
    priority=91,
)
def filling(
    forward: Any,
    backward: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from functions that fill arrays: each argument is told by its name.

    Parameters
    ----------
    forward : ``forward(out, x, W)`` with `out` among `returns`, or ``forward(x, W) -> out`` or ``(out, saved)``
    backward : ``backward(dx, dW, dout, x, W)``: takes, in any order, arrays to fill that are named as the gradient of
        a primal, the gradient of each output, and primals, options, sizes, outputs, or what forward saved
    **declaration : primals and settings; ``returns={"out": "N H"}`` names the outputs that forward fills

    Raises
    ------
    DeclarationError
        If an argument cannot be told by its name.
    """
    target, told = (forward, False) if backward is None else ((forward, backward), True)
    forward, backward = target
    primals, settings = split(declaration)
    label = str(name or getattr(forward, "__name__", "filling"))
    if not told and _returns_several(forward, sketch(primals, settings, name=label)):
        return from_pair(target, **({"name": name} if name else {}), **declaration)
    taken = nameable(forward)
    primals = {n: primals[n] for n in sorted(primals, key=lambda n: taken.index(n) if n in taken else len(taken))}
    inner = Filling(forward, backward, {}, {}, _filled(nameable(backward), primals), ())
    settings.setdefault("doc", inspect.getdoc(forward) or "")
    given = nameable(backward)
    layer = Layer(inner.forward, inner.backward, name=label, primals=primals, **settings)
    inner.primals = {p.name: p.dims for p in layer.primals}
    inner.outputs = {n: spec for n, spec in layer.returns.items() if n in taken}
    aside = tuple(n for n in inner.outputs if n in given and not set(names_of_gradients(n)) & set(given))
    if len(aside) < len(inner.outputs):
        inner.aside = aside
        layer = layer.derive(returns={n: spec for n, spec in layer.returns.items() if n not in aside})
    inner.upstream = _upstream(inner, layer)
    inner.kept = _told(inner, layer)
    targets = ungiven(layer) if "constants" not in settings else []
    if targets:
        return filling(forward, backward, name=name, **{**declaration, "constants": targets})
    line = ", ".join(f"{n} with the gradient of {p}" for n, p in inner.gradients.items())
    return finished(layer, f"backward fills {line}")


def _returns_several(forward: Any, planned: Layer) -> bool:
    """Whether it has more than one output, as a cell `h -> h, c, cache`: then `dh` is the upstream gradient of one."""
    made = ran(forward, planned)[2]
    return isinstance(made, tuple) and (len(made) > 2 or isinstance(made[0], tuple))


def _upstream(inner: Filling, layer: Layer) -> tuple[str, ...]:
    """Arguments of backward that are gradients of the outputs, in the order of `returns`; else the usual name."""
    free = [n for n in nameable(inner.backward_function) if n not in inner.gradients]
    named = [next((n for n in free if n in names_of_gradients(out)), None) for out in layer.returns]
    if named and None not in named:
        return tuple(n for n in named if n is not None)
    return tuple(n for n in free if n in _UPSTREAM)[:1]


def _told(inner: Filling, layer: Layer) -> str:
    """The one argument of backward whose name tells nothing, where forward returns something for it.

    Raises DeclarationError if there are others, with the names that tell something.
    """
    sizes = {n for dims in inner.primals.values() for n in dims.names}
    known = {*layer.primal_names, *layer.options, *sizes, *inner.outputs}
    after = known | {*inner.gradients, *inner.upstream}
    if not inner.upstream:
        raise DeclarationError(f"{layer.name!r}: backward takes no upstream gradient; call it dout, or d and an output")
    unknown = [n for n in required(inner.backward_function) or () if n not in after]
    kept = unknown.pop() if len(unknown) == 1 and not inner.outputs else ""
    before = [n for n in required(inner.forward_function) or () if n not in known]
    for role, some, names in (("forward", before, known), ("backward", unknown, after)):
        if some:
            raise DeclarationError(
                f"{layer.name!r}: {role} takes {some[0]!r}, which names no primal, option or size"
                + (", and no gradient such as dx or dout" if role == "backward" else "")
                + f' (known: {", ".join(sorted(names))}). Name the outputs that forward fills: returns={{"out": "N H"}}'
            )
    return kept

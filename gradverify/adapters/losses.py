"""Losses that give a number and a gradient, with no cotangent: (loss, grad) in one function, or two functions.

The cotangent of a loss is 1 where its author leaves it out; here every gradient is multiplied by it.
Targets and labels (arguments called y, t, target, y_true, labels, ...) get no gradient unless told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._chance import Chance
from gradverify.adapters._normal import TARGETS, called, constants, examples, finished, flat, required, sketch, split
from gradverify.adapters._objects.instance import accepted_by
from gradverify.core.declare.functions import taken_by
from gradverify.core.declare.held import arrays_of
from gradverify.core.declare.layer import Layer, Loss, as_names
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array

VALUES = ("loss", "value", "compute", "fn", "forward", "__call__")
GRADIENTS = ("grad", "gradient", "loss_gradient", "derivative", "loss_derivative", "prime", "backward")


@dataclass
class Valued:
    """A loss in the normal form.

    Attributes
    ----------
    value : arguments to the loss, or to (loss, gradients) where `gradient` is None
    gradient : arguments to the gradients
    order : of the arguments of value and of gradient
    wrt : primals that the gradients are of, in the order in which they are returned
    """

    value: Callable[..., Any]
    gradient: Callable[..., Any] | None
    names: tuple[str, ...]
    orders: tuple[tuple[str, ...], tuple[str, ...]]
    wrt: tuple[str, ...]
    chance: Chance

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The loss, and what backward needs: the gradients, or the arguments to get them from."""
        primals = dict(zip(self.names, arrays))
        with self.chance.fixed(options):
            taken = taken_by(self.value, options)
            result = called("forward", self.value, *(primals[n] for n in self.orders[0]), **taken)
        if self.gradient is not None:
            return result, (primals, options)
        if not isinstance(result, (tuple, list)) or len(result) < 2:
            raise LayerFailure(
                "outputs", "forward", "the loss must return (loss, gradient), or its gradient be given as a function"
            )
        value, *gradients = result
        return value, (gradients[0] if len(gradients) == 1 else gradients, options)

    def returned(self, saved: Any) -> Any:
        """The gradients as the author returns them."""
        raw, options = saved
        if self.gradient is None:
            return raw
        with self.chance.fixed(("backward", options)):
            taken = taken_by(self.gradient, options)
            return called("backward", self.gradient, *(raw[n] for n in self.orders[1]), **taken)

    def backward(self, cotangent: Any, saved: Any) -> dict[str, Any]:
        """Gradients by name, each times the cotangent."""
        raw = self.returned(saved)
        if not isinstance(raw, Mapping):
            values = _parts(raw)
            if len(values) != len(self.wrt):
                raise LayerFailure(
                    "missing" if len(values) < len(self.wrt) else "surplus",
                    "backward",
                    f"{len(values)} gradient(s) were returned for {', '.join(self.wrt)}; say which they are of: "
                    'wrt=("W", "b"), and declare each with its dimensions: W="D H"',
                )
            raw = dict(zip(self.wrt, values))
        own = {n: self.primal(n) for n in raw}
        surplus = [str(n) for n, known in own.items() if known is None and isinstance(raw[n], (np.ndarray, float))]
        if surplus:
            raise LayerFailure(
                "surplus",
                "backward",
                f"a gradient of {', '.join(surplus)} was returned, and there is no such primal: where the loss takes "
                f'it, declare it with its dimensions, {surplus[0]}="D H"; where an object keeps it, pass the object',
            )
        return {n: None if g is None else np.multiply(g, _broadcast(cotangent, g)) for n, g in raw.items() if own[n]}

    def primal(self, name: Any) -> str | None:
        """The primal that a key of a dict of gradients stands for."""
        return next((n for n in (name, str(name)[1:] if str(name)[:1] == "d" else name) if n in self.names), None)


def _parts(raw: Any) -> list[Any]:
    """The gradients in what was returned; a list of plain numbers is one."""
    values = flat(raw)
    return [raw] if len(values) > 1 and all(np.ndim(v) == 0 and v is not None for v in values) else values


def _broadcast(cotangent: Any, gradient: Any) -> Any:
    """The cotangent, with axes for what a gradient has more than a loss of each row."""
    extra = np.ndim(gradient) - np.ndim(cotangent)
    return np.reshape(cotangent, np.shape(cotangent) + (1,) * max(0, extra))


def _recognises(target: Any) -> bool:
    if isinstance(target, Layer) or inspect.isroutine(target) or inspect.ismodule(target):
        return False
    cls = target if inspect.isclass(target) else type(target)
    if not callable(getattr(cls, "loss", None)) or not any(callable(getattr(cls, n, None)) for n in GRADIENTS[:-1]):
        return False
    # what has weights of its own is a network with the loss inside
    return required(target) == [] if inspect.isclass(target) else not any(map(np.ndim, arrays_of(target).values()))


@convention(
    'gradverify.adapt.loss(value_and_grad, x="N K", y="N: labels K"), or loss(value, grad, ...)',
    _recognises,
    priority=50,
    keywords={"wrt", "order"},
)
def loss(
    value: Any,
    /,
    gradient: Callable[..., Any] | None = None,
    *,
    wrt: str | Sequence[str] | None = None,
    order: Sequence[str] | None = None,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Loss from a function that returns (loss, gradient), from two functions, or from an object with both.

    Parameters
    ----------
    value : ``value(*arrays) -> (loss, gradient)``, with a tuple or dict of gradients for several
        primals; or the loss alone, scalar or one for each row
    gradient : ``gradient(*arrays) -> gradient``, where it is a function of its own. Arguments are
        matched by name where both functions have the names of the primals, else given in order
    wrt : primals that the gradient is of; by default all that are not targets by their name
    order : primals in the order in which the gradient function takes them
    **declaration : primals and settings as for `gradverify.Loss`

    Raises
    ------
    DeclarationError
        If no function for the gradient can be found on an object.
    """
    label = name or getattr(value, "__name__", type(value).__name__)
    if gradient is None and not inspect.isroutine(value) and find(value) is not None:
        value, gradient = find(value) or (value, None)
    if not callable(value):
        raise DeclarationError(
            f"{label} has no pair of methods that are a loss and its gradient; name them: "
            'gradverify.check(OBJECT, methods=("LOSS", "GRADIENT"), ...), or methods="LOSS" where one gives both'
        )
    primals, settings = split(declaration)
    if not primals:
        names = accepted_by(value) or ["x"]
        raise DeclarationError(f'{label}: name its arrays with their dimensions, e.g. {names[0]}="N K"')
    chosen = None if wrt is None else as_names(wrt)
    first = _order(value, tuple(primals))
    second = tuple(order) if order is not None else _order(gradient, first) if gradient is not None else first
    shape = sketch(primals, settings, Loss, name=label)
    of = chosen or tuple(p.name for p in shape.differentiable)
    inner = Valued(value, gradient, tuple(primals), (first, second), of, Chance(value, gradient))
    if chosen is None:
        targets = _ungiven(shape, inner)
        inner.wrt = of = tuple(n for n in of if n not in targets)
    else:
        targets = [n for n in primals if n not in chosen]
    settings["constants"] = constants(settings, *targets)
    _fitting(str(label), sketch(primals, settings, Loss, name=label), inner)
    doc = settings.pop("doc", None) or inspect.getdoc(value)
    layer = Loss(inner.forward, inner.backward, name=label, primals=primals, doc=doc, **settings)
    lines = [f"gradient with respect to {', '.join(of)}" if targets and chosen is None else ""]
    if second != first:
        lines.append(f"order: {label}({', '.join(first)}), gradient({', '.join(second)})")
    return finished(layer, *lines, chance=inner.chance)


def _fitting(label: str, shape: Layer, inner: Valued) -> None:
    """Refuse a loss of several values that are not one for each row or element of what it is differentiated by.

    Tried once, where all sizes differ; code that does not run on what is tried here is told of by the check. Raises
    DeclarationError with the two shapes.
    """
    try:
        arrays = _sample(shape)
        several = np.shape(inner.forward(*arrays.values(), **shape.default_options)[0])
    except Exception:  # noqa: BLE001  whatever the author's code raises on values that nobody drew
        return
    for name, array in arrays.items():
        if several and name in inner.wrt and np.shape(array)[: len(several)] != several:
            raise DeclarationError(
                f"{label}: for {name} of shape {np.shape(array)} the loss returns values of shape {several}; "
                "without an upstream gradient there is one value, or one for each row or element: return their sum, "
                "or declare forward and a backward that takes dy"
            )


def _ungiven(shape: Layer, inner: Valued) -> list[str]:
    """Primals that are targets by their names, less those of which a gradient is returned all the same."""
    names = [p.name for p in shape.primals if p.name.lower() in TARGETS]
    if not names or len(shape.primals) == 1:
        return []
    if len(names) == len(shape.primals):
        names.remove("y" if "y" in names else names[0])  # the prediction, as in loss(y, t)
    try:
        arrays = _sample(shape)
        raw = inner.returned(inner.forward(*arrays.values(), **shape.default_options)[1])
    except Exception:  # noqa: BLE001  whatever the author's code raises on values that nobody drew
        return names
    if isinstance(raw, Mapping):
        given = {inner.primal(key) for key in raw}
        return [n for n in names if n not in given]
    shapes = [np.shape(part) for part in _parts(raw)]
    return [] if len(shapes) > 1 and shapes == [np.shape(arrays[n]) for n in inner.wrt] else names


def _sample(shape: Layer) -> dict[str, Array]:
    """An array for each primal, at sizes that all differ."""
    return next(arrays for arrays, _ in examples(shape))


def _order(function: Callable[..., Any] | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """Primals in the function's own order where it names them all, else as declared."""
    own = [n for n in accepted_by(function) if n in names]
    return tuple(own) if set(own) == set(names) else names


def find(target: Any) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Loss and gradient methods of an object or a class (which is instantiated without arguments)."""
    cls = target if inspect.isclass(target) else type(target)
    value = next(
        (n for n in VALUES if inspect.isroutine(inspect.getattr_static(cls, n, None)) or _static(cls, n)), None
    )
    gradient = next((n for n in GRADIENTS if n in dir(cls) and callable(getattr(cls, n, None))), None)
    if (
        value is None
        or gradient is None
        or (value == "__call__" and inspect.isclass(target) and "__call__" not in dir(cls))
    ):
        return None
    if inspect.isclass(target) and not (_static(cls, value) and _static(cls, gradient)):
        try:
            target = target()
        except TypeError:
            return None
    return getattr(target, value), getattr(target, gradient)


def _static(cls: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(cls, name, None), (staticmethod, classmethod))

"""Objectives of gradient boosting: `(preds, data) -> (grad, hess)`, with the diagonal of the Hessian.

The loss is checked against grad at `preds`. What XGBoost and LightGBM take for hess is the diagonal, so
each grad[i] is differenced along its own entry i: at `preds_grad`, with all other predictions where
`preds_others` has them. A hess that is an upper bound on purpose is declared so, and compared as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._normal import TARGETS, called, constants, finished, flat, on_data, required, split
from gradverify.core.declare.functions import accepted, predicate
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array


class Labels(np.ndarray[Any, Any]):
    """Labels that also answer to what objectives ask of XGBoost's DMatrix and LightGBM's Dataset."""

    def get_label(self) -> Array:
        """The labels as a plain array."""
        return np.asarray(self)

    def get_weight(self) -> Array:
        """No weights."""
        return np.zeros(0)


@dataclass
class Boosting:
    """A boosting objective in the normal form.

    Primals are the predictions of the loss (if there is one), those along which grad is differenced with those of the
    others (unless hess is a bound), and the data.
    """

    objective: Callable[..., Any]
    loss: Callable[..., Any] | None
    diagonal: bool
    labels_first: bool

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The loss at the first predictions, and each grad[i] with its own prediction moved alone."""
        outputs = self._outputs(arrays, options)
        return outputs[0] if len(outputs) == 1 else tuple(outputs), (*self._parted(arrays), options)

    def copies(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """Outputs at stacked primals, where what has not moved since the first of them is not asked for again.

        Each grad[i] takes a call of its own: to difference along all of them costs the cube of their number otherwise.
        """
        rows = [tuple(a[k % len(a)] for a in stack.values()) for k in range(max(map(len, stack.values())))]
        first = self._outputs(rows[0], options)
        rest = (self._outputs(row, options, (rows[0], first)) for row in rows[1:])
        return tuple(np.stack(parts) for parts in zip(first, *rest))

    def _outputs(
        self,
        arrays: tuple[Array, ...],
        options: Mapping[str, Any],
        known: tuple[tuple[Array, ...], list[Any]] | None = None,
    ) -> list[Any]:
        """Outputs at some arrays; those at others may be known."""
        points, data = self._parted(arrays)
        moved = {k for k, a in enumerate(arrays) if known is None or not np.array_equal(a, known[0][k])}
        outputs: list[Any] = []
        if self.loss is not None:
            if known is not None and moved <= {*range(1, self.points)}:
                outputs.append(known[1][0])
            else:
                outputs.append(np.sum(called("forward", self.loss, *self._ordered(points[0], data), **options)))
        if self.diagonal:
            before = (known[0][self.points - 2], known[1][-1]) if known is not None else None
            still = moved <= {*range(self.points - 1)}
            outputs.append(self.alone("forward", 0, points[-2], points[-1], data, options, before if still else None))
        return outputs

    def _parted(self, arrays: tuple[Array, ...]) -> tuple[tuple[Array, ...], list[Any]]:
        """Predictions, and data."""
        return arrays[: self.points], [a.view(Labels) for a in arrays[self.points :]]

    def backward(self, cotangent: Any, saved: Any) -> tuple[Any, ...]:
        """grad times the cotangent of the loss, hess times the cotangent of grad."""
        points, data, options = saved
        cotangents = list(cotangent) if isinstance(cotangent, tuple) else [cotangent]
        gradients = []
        if self.loss is not None:
            gradients.append(self.both("backward", points[0], data, options)[0] * cotangents.pop(0))
        if self.diagonal:
            hess = self.alone("backward", 1, points[-2], points[-1], data, options)
            gradients.append(hess * cotangents.pop(0))
        return tuple(gradients)

    @property
    def points(self) -> int:
        """How many primals are predictions."""
        return (self.loss is not None) + 2 * self.diagonal

    def both(self, stage: str, point: Array, data: list[Any], options: Any) -> tuple[Array, Array]:
        """grad and hess, in the shape of the predictions."""
        raw = flat(called(stage, self.objective, *self._ordered(np.array(point), data), **options))
        if len(raw) != 2:
            raise LayerFailure(
                "outputs", stage, f"the objective must return (grad, hess); it returned {len(raw)} value(s)"
            )
        for name, part in zip(("grad", "hess"), raw):
            if np.size(part) != np.size(point):
                raise LayerFailure(
                    "outputs",
                    stage,
                    f"the objective returned a {name} of shape {np.shape(part)} for predictions of shape {point.shape}",
                )
        return np.array(raw[0]).reshape(point.shape), np.array(raw[1]).reshape(point.shape)

    def alone(
        self,
        stage: str,
        which: int,
        own: Array,
        others: Array,
        data: list[Any],
        options: Any,
        known: tuple[Array, Array] | None = None,
    ) -> Array:
        """Entry i of grad (0) or hess (1) where prediction i is that of `own`, and all others are those of `others`.

        What was found with another `own` may be `known`.
        """
        before, found = known or (others, self.both(stage, others, data, options)[which])
        found = found.copy()
        for index in zip(*np.nonzero(own != before)):
            point = others.copy()
            point[index] = own[index]
            found[index] = self.both(stage, point, data, options)[which][index]
        return found

    def allowed(self, assume: Callable[..., Any], preds: str, arrays: tuple[Array, ...], given: dict[str, Any]) -> bool:
        """Whether the author's predicate, which knows of one array of predictions, holds wherever they are taken."""
        points = list(arrays[:1]) if self.loss is not None else []
        if self.diagonal:
            own, others = arrays[-2:]
            points += [own, others]
            for index in zip(*np.nonzero(own != others)):
                point = np.array(others)
                point[index] = own[index]
                points.append(point)
        return all(bool(assume(**{preds: point, **given})) for point in points)

    def _ordered(self, point: Array, data: list[Any]) -> list[Any]:
        return [*data, point] if self.labels_first else [point, *data]


# a function of two arrays that returns two could be anything
@convention('gradverify.adapt.boosting(objective, loss, preds="N", data="N")')
def boosting(
    objective: Callable[..., Any],
    /,
    loss: Callable[..., Any] | None = None,
    *,
    bound: bool = False,
    labels_first: bool | None = None,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from a boosting objective.

    Parameters
    ----------
    objective : ``objective(preds, data) -> (grad, hess)``; data is an array that also has `get_label()`
    loss : ``loss(preds, data)``, a scalar or one for each row (their sum is taken); without it only
        hess is compared, as the derivative of each entry of grad by its own prediction
    bound : hess is an upper bound on purpose: it may be larger than the diagonal, not smaller, and no mere multiple
    labels_first : arguments are (y_true, y_pred); by default told by the name of the first
    **declaration : predictions, e.g. ``preds="N"``, and what they are compared with, ``data="N: labels 2"``, told
        by their names, else predictions first; default ``"N"`` for both

    Raises
    ------
    DeclarationError
        If there is neither a loss nor a Hessian to compare.
    """
    label = name or getattr(objective, "__name__", "boosting")
    if bound and loss is None:
        raise DeclarationError(f"{label}: hess is declared a bound and there is no loss, so nothing can be compared")
    primals, settings = split(declaration)
    primals = primals or {"preds": "N", "data": "N"}
    preds = next((n for n in primals if n.lower() not in TARGETS), next(iter(primals)))
    data = [n for n in primals if n != preds]
    first = next(iter(required(objective) or ()), "")
    labels_first = first.lower() in TARGETS if labels_first is None else labels_first
    points = [preds] if loss is not None else []
    points += [] if bound else [f"{preds}_grad", f"{preds}_others"]
    inner = Boosting(objective, loss, not bound, labels_first)
    arrays = {**dict.fromkeys(points, primals[preds]), **{n: primals[n] for n in data}}
    settings["constants"] = constants(settings, *data, *points[-1:] * (not bound))
    assume = settings.pop("assume", None)
    assume = predicate(assume) if isinstance(assume, str) else assume
    if assume is not None:
        settings["assume"] = _allowing(inner, assume, preds, points, data)
    if bound:
        settings["bounded"] = _Bounded(Boosting(objective, None, True, labels_first), preds, primals)
    layer = Layer(inner.forward, inner.backward, name=label, primals=arrays, looped=inner.copies, **settings)
    told = f"{preds}: grad against the loss" if loss is not None else ""
    hess = "hess: compared as an upper bound" if bound else f"{preds}_grad: hess against grad, each by its own entry"
    order = f"labels first: {first}" if labels_first else ""
    return finished(on_data(layer), told, hess, order)


def _allowing(
    inner: Boosting, assume: Callable[..., Any], preds: str, points: list[str], data: list[str]
) -> Callable[..., bool]:
    """The author's predicate on the arrays that were declared, asked wherever the objective is called."""

    def allowing(**given: Any) -> bool:
        known = {n: given[n] for n in accepted(assume, tuple(n for n in given if n not in points and n != preds))}
        if preds not in accepted(assume, (preds,)):
            return bool(assume(**known))
        return inner.allowed(assume, preds, tuple(np.asarray(given[n]) for n in points), known)

    return allowing


@dataclass
class _Bounded:
    """Gives the layer whose gradient is hess, at the predictions of a case."""

    inner: Boosting
    preds: str
    primals: dict[str, Any]

    def __call__(self, primals: dict[str, Array], options: dict[str, Any]) -> tuple[Layer, dict[str, Array], Any]:
        data = [n for n in self.primals if n != self.preds]
        names = [f"{self.preds}_grad", f"{self.preds}_others"]
        arrays = {**dict.fromkeys(names, self.primals[self.preds]), **{n: self.primals[n] for n in data}}
        given = {**dict.fromkeys(names, primals[self.preds]), **{n: primals[n] for n in data}}
        layer = Layer(
            self.inner.forward,
            self.inner.backward,
            name="bound",
            primals=arrays,
            constants=(names[1], *data),
            options={n: [v] for n, v in options.items()},
        )

        def both(point: Array) -> tuple[Array, Array]:
            return self.inner.both("forward", point, [primals[n].view(Labels) for n in data], options)

        return layer, given, both

"""Objectives of gradient boosting: `(preds, data) -> (grad, hess)`, with a diagonal Hessian.

The loss is checked against grad, and grad against hess, each at a primal of its own (`preds`,
`preds_grad`). A Hessian that is a bound on purpose is declared so and not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import Adapter, add
from gradverify.adapters._normal import called, constants, finished, flat, required, split
from gradverify.adapters.losses import TARGETS
from gradverify.errors import DeclarationError
from gradverify.evaluate import LayerFailure
from gradverify.layer import Layer
from gradverify.types import Array


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
    """A boosting objective in the normal form."""

    objective: Callable[..., Any]
    loss: Callable[..., Any] | None
    bound: bool
    labels_first: bool
    names: tuple[str, ...]  # of the primals that are predictions

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The loss at the first predictions, the gradient at the second, where they are compared."""
        points, data = arrays[: len(self.names)], [a.view(Labels) for a in arrays[len(self.names) :]]
        outputs: list[Any] = []
        if self.loss is not None:
            outputs.append(np.sum(called("forward", self.loss, *self._ordered(points[0], data), **options)))
        if not self.bound:
            outputs.append(self._both("forward", points[-1], data, options)[0])
        return outputs[0] if len(outputs) == 1 else tuple(outputs), (points, data, options)

    def backward(self, cotangent: Any, saved: Any) -> tuple[Any, ...]:
        """grad times the cotangent of the loss, hess times the cotangent of grad."""
        points, data, options = saved
        cotangents = list(cotangent) if isinstance(cotangent, tuple) else [cotangent]
        gradients = []
        if self.loss is not None:
            gradients.append(self._both("backward", points[0], data, options)[0] * cotangents.pop(0))
        if not self.bound:
            gradients.append(self._both("backward", points[-1], data, options)[1] * cotangents.pop(0))
        return tuple(gradients)

    def _both(self, stage: str, point: Array, data: list[Any], options: Any) -> tuple[Array, Array]:
        raw = flat(called(stage, self.objective, *self._ordered(point, data), **options))
        if len(raw) != 2:
            raise LayerFailure(
                "outputs", stage, f"the objective must return (grad, hess); it returned {len(raw)} value(s)"
            )
        return np.array(raw[0]), np.array(raw[1])

    def _ordered(self, point: Array, data: list[Any]) -> list[Any]:
        return [*data, point] if self.labels_first else [point, *data]


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
        hess is compared, as the derivative of grad
    bound : hess is a bound on purpose, and not compared
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
    points += [f"{preds}_grad"] if not bound else []
    inner = Boosting(objective, loss, bound, labels_first, tuple(points))
    arrays = {**dict.fromkeys(points, primals[preds]), **{n: primals[n] for n in data}}
    settings["constants"] = constants(settings, *data)
    layer = Layer(inner.forward, inner.backward, name=label, primals=arrays, **settings)
    told = f"{preds}: grad against the loss" if loss is not None else ""
    hess = "hess: a bound, not compared" if bound else f"{preds}_grad: hess against grad"
    order = f"labels first: {first}" if labels_first else ""
    return finished(layer, told, hess, order)


add(
    Adapter(
        "boosting",
        lambda target: False,  # a function of two arrays that returns two could be anything
        boosting,
        'gradverify.adapt.boosting(objective, loss, preds="N", data="N")',
        priority=8,
    )
)

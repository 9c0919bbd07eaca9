"""What is guessed of a class: its methods by their names, and dimensions by the sizes that arrays had."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gradverify.adapters._normal import required
from gradverify.core.declare.functions import arguments

FORWARDS = (
    *("forward", "forward_pass", "fprop", "forward_propagation", "feedforward", "feed_forward", "forward_prop"),
    *("propagate", "call", "__call__"),
)
BACKWARDS = (
    *("backward", "backward_pass", "bprop", "backprop", "back_propagation", "backward_propagation", "backpropagate"),
    *("back_prop", "backward_prop", "backpropagation"),
)
VALUES = ("loss", "compute_loss", "cost", "compute_cost", "loss_function", "cost_function", "objective")
PREDICTIONS = ("predict", "predict_proba", "output")
SLOPES = (
    *("compute_gradients", "compute_gradient", "compute_grads", "calculate_gradients", "calc_gradients"),
    *("get_gradients", "gradients", "gradient", "grads", "grad", "derivative", "deriv", *BACKWARDS),
)


def methods_of(cls: type) -> tuple[str, str] | None:
    """Names of the forward and the backward method of a class, or of those for a loss and its gradients.

    The second name is empty where a loss alone is there, which may return both. What is called itself may have its
    `gradient`.
    """

    def first(names: tuple[str, ...]) -> str | None:
        own = {n for base in cls.__mro__ for n in vars(base)}  # every class can be called itself
        return next((n for n in names if n in own and inspect.isroutine(getattr(cls, n, None))), None)

    forward, backward, value = first(FORWARDS), first(BACKWARDS), first(VALUES)
    if forward is not None and backward is not None:
        return forward, backward
    slopes, predicts = first(SLOPES), first(PREDICTIONS)
    if value is None and forward is None and predicts is not None and slopes is not None:
        takes = required(getattr(cls, slopes)) or []
        return (predicts, slopes) if len([n for n in takes if n != "self"]) == 1 else None  # the upstream gradient
    if value is None and forward is not None and slopes is not None:
        return forward, slopes
    return None if value is None else (value, slopes or "")


def dimensions(name: str, shapes: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]]) -> str | None:
    """The dimension string of a parameter, from the shapes it had at a few sets of sizes."""
    seen = [(sizes, found[name]) for sizes, found in shapes if name in found]
    if not seen or any(len(shape) != len(seen[0][1]) for _, shape in seen):
        return None
    tokens = []
    for axis in range(len(seen[0][1])):
        fits = [_tokens(sizes, shape[axis]) for sizes, shape in seen]
        common = sorted(set.intersection(*fits), key=lambda t: (t.isdigit(), len(t), t))
        if not common:
            return None
        tokens.append(common[0])
    return " ".join(tokens)


def _tokens(sizes: Mapping[str, Any], extent: int) -> set[str]:
    named = {n: s for n, s in sizes.items() if isinstance(s, int) and s > 1}
    found = {n for n, s in named.items() if s == extent}
    found |= {f"{k}*{n}" for n, s in named.items() for k in (2, 3, 4) if k * s == extent}
    found |= {f"{n}+{m}" for n in named for m in named if n < m and named[n] + named[m] == extent}
    return found | {str(extent)}


_LOOKED_AT = 3  # a size that no primal is known to have yet


def with_sizes(settings: Mapping[str, Any], primals: Mapping[str, Any], built_with: Sequence[str]) -> dict[str, Any]:
    """The settings for a first look: sizes that domains or `assume` name, and only the object's own arrays have, are
    options until then.
    """
    texts = [spec.partition(":") for spec in primals.values() if isinstance(spec, str)]
    dims, domains = ({word for text in texts for word in re.findall(r"\w+", text[k])} for k in (0, 2))
    asked = {p.name for p in arguments(settings["assume"]) or ()} if settings.get("assume") else set()
    lone = {n: [_LOOKED_AT] for n in built_with if n in (domains | asked) - dims - {*(settings.get("options") or ())}}
    return {**settings, "options": {**(settings.get("options") or {}), **lone}}

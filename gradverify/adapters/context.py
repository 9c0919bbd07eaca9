"""Classes whose forward and backward take a context, as those of torch do, without torch.

class Multiply:
    @staticmethod
    def forward(ctx, x, w): ctx.save_for_backward(x, w); return x * w
    @staticmethod
    def backward(ctx, dy): x, w = ctx.saved_tensors; return dy * w, dy * x
"""

from __future__ import annotations

import inspect
from typing import Any

from gradverify.adapters import convention
from gradverify.adapters._normal import flat
from gradverify.adapters._objects.instance import accepted_by
from gradverify.adapters.stateful import FOREIGN
from gradverify.core.declare.layer import Layer

_CONTEXTS = ("ctx", "context")


class Context:
    """What forward keeps for backward: attributes, items, and what is saved.

    Attributes
    ----------
    saved_tensors, saved_arrays, saved_values, saved : what `save_for_backward` was given last, in its order
    needs_input_grad : for each argument of forward, whether it gets a gradient
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad

    def save_for_backward(self, *values: Any) -> None:
        """Keep values."""
        vars(self).update(dict.fromkeys(("saved_tensors", "saved_arrays", "saved_values", "saved"), values))

    save_for_forward = save_for_backward

    def mark_dirty(self, *values: Any) -> None:
        """As torch has it; nothing is made of it, nor of what follows."""

    mark_non_differentiable = set_materialize_grads = mark_dirty

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"forward has kept no {name!r} in its context")

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]

    def __setitem__(self, key: str, value: Any) -> None:
        vars(self)[key] = value


def _recognises(target: Any) -> bool:
    if not inspect.isclass(target) or any(c.__module__.split(".")[0] in FOREIGN for c in target.__mro__):
        return False
    functions = [getattr(target, role, None) for role in ("forward", "backward")]
    return all(callable(f) and accepted_by(f)[:1] and accepted_by(f)[0] in _CONTEXTS for f in functions)


@convention(
    'gradverify.check(Multiply, x="N D", w="D")  # forward(ctx, x, w) and backward(ctx, dy)', _recognises, priority=45
)
def context(target: Any, /, *, name: str | None = None, **declaration: Any) -> Layer:
    """A Layer from a class of two functions that share a context; each forward gets a new one.

    Parameters
    ----------
    target : a class with ``forward(ctx, *arrays, **options)`` and ``backward(ctx, *cotangents)``, which returns a
        gradient for each argument of forward, or for each primal; None stands for an option's
    **declaration : primals and settings, as for `gradverify.Layer`

    Raises
    ------
    DeclarationError
        As `gradverify.Layer`.
    """
    takes = accepted_by(target.forward)[1:]

    def forward(*arrays: Any, **options: Any) -> tuple[Any, Context]:
        ctx = Context((True,) * len(takes))
        return target.forward(ctx, *arrays, **options), ctx

    def backward(dy: Any, ctx: Context) -> Any:
        raw = target.backward(ctx, *dy) if isinstance(dy, tuple) else target.backward(ctx, dy)
        found = flat(raw)
        whole = len(found) == len(takes) > len(layer.primals)
        return {n: g for n, g in zip(takes, found) if n in layer.primal_names} if whole else raw

    layer = Layer(forward, backward, name=name or target.__name__, doc=inspect.getdoc(target) or "", **declaration)
    return layer

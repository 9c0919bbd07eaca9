"""A backward on tensors that torch never calls, as an autograd Function: of two functions, or of a module.

Autograd would differentiate the forward, and the author's own backward would go unseen.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gradverify.adapters._normal import flat, positional
from gradverify.adapters._pair import in_two
from gradverify.adapters._torch.arrays import Tensor, import_torch
from gradverify.adapters._torch.module import MODE, Called
from gradverify.core.declare.functions import arguments, taken_by
from gradverify.core.declare.gradient_names import names_of_gradients

_FRAMEWORKS = ("torch", "lightning", "pytorch_lightning")  # whose modules have a `backward` that takes the loss


def function_of(forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """A Function that runs ``forward(*tensors) -> (outputs, saved)`` and ``backward(dy, saved)``."""
    torch = import_torch()
    names = [p.name for p in positional(forward) or ()]

    class ByHand(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            ctx.options = {n: v for n, v in zip(names, given) if not isinstance(v, torch.Tensor)}
            output, ctx.kept = in_two(forward(*given))
            return output

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, *cotangents: Any) -> Any:
            raw = backward(*cotangents, ctx.kept, **taken_by(backward, ctx.options, len(cotangents) + 1))
            values = _by_name(raw, names) if isinstance(raw, Mapping) else flat(raw)
            return (*values, *(None for _ in names[len(values) :]))

    ctx = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [p.replace(annotation=p.empty) for p in arguments(forward) or ()]
    vars(ByHand.forward)["__signature__"] = inspect.Signature([ctx, *taken])
    ByHand.__name__ = forward.__name__
    return ByHand


def _by_name(raw: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    return [next((raw[key] for key in (n, *names_of_gradients(n)) if key in raw), None) for n in names]


def has_backward(module: Any) -> bool:
    """Whether the author of a module wrote a backward for it."""
    owner = next((c for c in type(module).__mro__ if "backward" in vars(c)), None)
    return owner is not None and owner.__module__.partition(".")[0] not in _FRAMEWORKS


def by_hand(called: Called) -> Callable[[dict[str, Tensor], dict[str, Any]], Any]:
    """Calls a module whose backward is its own method, and leaves gradients in `.grad` or beside the parameters.

    Each call for gradients runs a copy of the module, whose parameters are those of the case.
    """
    torch = import_torch()

    class ByHand(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, options: dict[str, Any], *tensors: Any) -> Any:
            ctx.own = own = copy.deepcopy(called.module)
            given = dict(zip((*called.inputs, *called.paths), tensors))
            if not called.takes_mode and MODE in options:
                own.train(options[MODE])
            state = {**dict(own.named_parameters()), **dict(own.named_buffers())}
            for name, path in called.paths.items():
                state[path].data = given[name].clone()
            rest = {n: v for n, v in options.items() if n != MODE or called.takes_mode}
            inputs = {n: given[n] for n in called.inputs}
            return own(**inputs, **rest) if called.by_name else own(*inputs.values(), **rest)

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, *cotangents: Any) -> Any:
            for parameter in ctx.own.parameters():
                parameter.grad = None
            raw = ctx.own.backward(*cotangents)
            values = _by_name(raw, called.inputs) if isinstance(raw, Mapping) else flat(raw)
            values += [None] * (len(called.inputs) - len(values))
            return (None, *values, *(_left(ctx.own, path) for path in called.paths.values()))

    spare = replace(called, module=copy.deepcopy(called.module))  # it keeps what forward leaves, in copies even

    def call(tensors: dict[str, Tensor], options: dict[str, Any]) -> Any:
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values())):
            return spare(tensors, options)  # for differences: a copy of the module takes longer than its forward
        return ByHand.apply(dict(options), *(tensors[n] for n in (*called.inputs, *called.paths)))

    return call


def _left(module: Any, path: str) -> Any:
    """The gradient that backward left for a parameter."""
    front, _, name = path.rpartition(".")
    owner = module.get_submodule(front)
    beside = (getattr(owner, key, None) for key in names_of_gradients(name))
    return next((g for g in (getattr(owner, name).grad, *beside) if g is not None), None)

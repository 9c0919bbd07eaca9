"""A backward on tensors that torch never calls, as an autograd Function: of two functions, or of a module.

Autograd would differentiate the forward, and the author's own backward would go unseen.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradverify.adapters._normal import positional, required
from gradverify.adapters._pair import in_order
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
            ctx.moving = [n for n, v in zip(names, given) if n not in ctx.options and v.dtype.is_floating_point]
            output, ctx.kept = forward(*given)
            return output

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, *cotangents: Any) -> Any:
            raw = backward(*cotangents, ctx.kept, **taken_by(backward, ctx.options, len(cotangents) + 1))
            return tuple(in_order(raw, names, ctx.moving))

    ctx = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [p.replace(annotation=p.empty) for p in arguments(forward) or ()]
    vars(ByHand.forward)["__signature__"] = inspect.Signature([ctx, *taken])
    ByHand.__name__ = forward.__name__
    return ByHand


def own_backward(module: Any) -> bool | None:
    """Whether the author of a module wrote a backward for it; None of one that takes no upstream gradient.

    Such a one calls autograd, ``backward(loss)``, or is called in a way of its own.
    """
    owner = next((c for c in type(module).__mro__ if "backward" in vars(c)), None)
    if owner is None or owner.__module__.partition(".")[0] in _FRAMEWORKS:
        return False
    taken = [p.name for p in arguments(module.backward) or () if p.kind is not p.VAR_KEYWORD]
    loss = taken and "loss" in taken[0].lower() and taken[0].lower() not in names_of_gradients("loss")
    return None if not taken or loss else True


def _copy(module: Any) -> Any:
    """A copy of a module; results of an earlier call that it holds lose their graph, which torch copies with none."""
    held = [v for part in module.modules() for v in vars(part).values()]
    results = [v for v in held if isinstance(v, import_torch().Tensor) and not v.is_leaf]
    return copy.deepcopy(module, {id(v): v.detach() for v in results})


def by_hand(called: Called) -> Callable[[dict[str, Tensor], dict[str, Any]], Any]:
    """Calls a module whose backward is its own method, and leaves gradients in `.grad` or beside the parameters.

    Each call for gradients runs a copy of the module, whose parameters are those of the case.
    """
    torch = import_torch()

    class ByHand(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, options: dict[str, Any], *tensors: Any) -> Any:
            ctx.own = own = _copy(called.module)
            given = dict(zip((*called.inputs, *called.paths), tensors))
            if not called.takes_mode and MODE in options:
                own.train(options[MODE])
            state = {**dict(own.named_parameters()), **dict(own.named_buffers())}
            for name, path in called.paths.items():
                state[path].data = given[name].clone()
            rest = {n: v for n, v in options.items() if n != MODE or called.takes_mode}
            ctx.inputs = inputs = {n: given[n] for n in called.inputs}
            return own(**inputs, **rest) if called.by_name else own(*inputs.values(), **rest)

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, *cotangents: Any) -> Any:
            _cleared(ctx.own, called.module)
            names = required(ctx.own.backward) or []
            more = [ctx.inputs[n] for n in names[1:] if n in ctx.inputs]
            whole = len(names) == 1 + len(more) and len(cotangents) > 1
            raw = ctx.own.backward(*((cotangents,) if whole else cotangents), *more)
            moving = [n for n, v in ctx.inputs.items() if v.dtype.is_floating_point]
            told = in_order(raw, (*called.inputs, *called.paths), moving)
            left = [_left(ctx.own, n, ctx.inputs[n]) for n in called.inputs]
            left += [_left(ctx.own, path) for path in called.paths.values()]
            first = len(called.inputs)  # of parameters, what is left for them goes before what is returned
            found = [*zip(told[:first], left), *zip(left[first:], told[first:])]
            return (None, *(b if a is None else a for a, b in found))

    spare = replace(called, module=_copy(called.module))  # it keeps what forward leaves, in copies even

    def call(tensors: dict[str, Tensor], options: dict[str, Any]) -> Any:
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values())):
            return spare(tensors, options)  # for differences: a copy of the module takes longer than its forward
        return ByHand.apply(dict(options), *(tensors[n] for n in (*called.inputs, *called.paths)))

    return call


def _cleared(module: Any, original: Any) -> None:
    """Gradients that a module holds already become zero: backward may add to them. A copy has no `.grad`."""
    torch = import_torch()
    for path, parameter in module.named_parameters():
        parameter.grad = None if original.get_parameter(path).grad is None else torch.zeros_like(parameter)
        owner, keys = _beside(module, path)
        for key in keys:
            held = getattr(owner, key, None)
            if isinstance(held, torch.Tensor) and held.shape == parameter.shape:
                setattr(owner, key, torch.zeros_like(parameter.detach()))
    if type(module).zero_grad is not torch.nn.Module.zero_grad:
        module.zero_grad()  # the author's own


def _beside(module: Any, path: str) -> tuple[Any, tuple[str, ...]]:
    """The part of a module that holds a parameter, and the names under which it may keep the gradient."""
    front, _, name = path.rpartition(".")
    return module.get_submodule(front), names_of_gradients(name)


def _left(module: Any, path: str, tensor: Any = None) -> Any:
    """The gradient that backward left for a parameter, or for a tensor that is an input."""
    owner, keys = _beside(module, path)
    of = module.get_parameter(path) if tensor is None and path in dict(module.named_parameters()) else tensor
    beside = (getattr(owner, key, None) for key in keys)
    return next((g for g in (getattr(of, "grad", None), *beside) if isinstance(g, import_torch().Tensor)), None)

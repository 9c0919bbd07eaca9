"""A backward on tensors that torch never calls, as an autograd Function: of two functions, or of a module.

Autograd would differentiate the forward, and the author's own backward would go unseen. An object that holds tensors
is made a module first.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from gradverify.adapters._normal import flat, positional, required
from gradverify.adapters._objects.pairs import GRADIENTS
from gradverify.adapters._pair import in_order
from gradverify.adapters._torch.arrays import Tensor, import_torch, tensor
from gradverify.adapters._torch.module import MODE, Called
from gradverify.core.declare.functions import arguments, taken_by
from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.declare.held import Path, arrays_of, fetch, show, store
from gradverify.core.evaluate import handed
from gradverify.core.nouns import Array

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
            given = handed(backward, cotangents, ctx.kept)
            raw = backward(*given, **taken_by(backward, ctx.options, len(given)))
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
            left = [gradient_at(ctx.own, _attributes(n), ctx.inputs[n]) for n in called.inputs]
            left += [gradient_at(ctx.own, _attributes(path)) for path in called.paths.values()]
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
        for place in _places(_attributes(path)):
            held = fetch(module, place)
            if isinstance(held, torch.Tensor) and held.shape == parameter.shape:
                store(module, place, torch.zeros_like(parameter.detach()))
    if type(module).zero_grad is not torch.nn.Module.zero_grad:
        module.zero_grad()  # the author's own


def _attributes(path: str) -> Path:
    return tuple(("attr", name) for name in path.split("."))


def module_of(instance: Any, methods: tuple[str, str], inputs: Iterable[Array], options: dict[str, Any]) -> Any:
    """The module, and names of tensors that no gradient was found of.

    Weights are the tensors whose gradient backward leaves in a first run: in their `.grad`, beside them (`dw`,
    `grad_w`), or in a dict or list such as `grads`. Raises what the object raises.

    Parameters
    ----------
    methods : names of forward and backward
    inputs : small arrays to run it on
    """
    torch = import_torch()
    forward, backward = methods
    given = [tensor(a) for a in inputs]
    begun = copy.deepcopy(instance)
    for path, t in _tensors(begun).items():
        store(begun, path, t.double())
    output = getattr(begun, forward)(*given, **options)
    before = _tensors(begun)
    getattr(begun, backward)(*(torch.ones_like(y) for y in flat(output)))
    there = {p: t for p, t in _tensors(instance).items() if before.get(p) is not None and not _is_gradient(p, before)}
    weights = {p: t for p, t in there.items() if gradient_at(begun, p) is not None}
    names = {path: "_".join(str(key).strip("_") for _, key in path) for path in weights}

    class Held(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.held = instance
            for path, name in names.items():
                self.register_parameter(name, torch.nn.Parameter(weights[path].detach().clone()))

        def forward(self, *given: Any, **options: Any) -> Any:
            for path, name in names.items():
                store(self.held, path, getattr(self, name).detach())
            return getattr(self.held, forward)(*given, **options)

        def backward(self, *cotangents: Any) -> Any:
            raw = getattr(self.held, backward)(*cotangents)
            for path, name in names.items():
                setattr(self, f"d{name}", gradient_at(self.held, path))
            return raw

    Held.__name__ = type(instance).__name__
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    own = inspect.signature(getattr(instance, forward)).parameters.values()
    vars(Held.forward)["__signature__"] = inspect.Signature([itself, *own])
    return Held(), tuple(show(p) for p in there if p not in weights)


def _tensors(instance: Any) -> dict[Path, Tensor]:
    kind = import_torch().Tensor
    return {p: t for p, t in arrays_of(instance, tensors=True).items() if isinstance(t, kind)}


def _is_gradient(path: Path, among: Iterable[Path]) -> bool:
    """Whether a tensor is named as the gradient of another one."""
    *front, (_, key) = path
    others = {p[-1][1] for p in among if list(p[:-1]) == front and p != path}
    return any(key in names_of_gradients(str(other)) for other in others) or any(k in GRADIENTS for _, k in front)


def gradient_at(instance: Any, path: Path, tensor: Any = None) -> Tensor | None:
    """The gradient that backward left for the tensor at a path, or for another one that is called so."""
    own = getattr(fetch(instance, path) if tensor is None else tensor, "grad", None)
    beside = (fetch(instance, place) for place in _places(path))
    return next((g for g in (own, *beside) if isinstance(g, import_torch().Tensor)), None)


def _places(path: Path) -> list[Path]:
    """Where the gradient of the tensor at a path may stand, beside its own `.grad`."""
    *front, (kind, key) = path
    keys = (key, *names_of_gradients(key)) if isinstance(key, str) else (key,)
    places = [(*front, (kind, k)) for k in keys[1:]]
    places += [(*front[:-1], ("attr", name), (kind, k)) for name in GRADIENTS if front for k in keys]
    return places + [(*front, ("attr", name), ("item", k)) for name in GRADIENTS for k in keys]

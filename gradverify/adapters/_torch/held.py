"""An object that holds tensors, and has a forward and a backward of its own, as a module."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from gradverify.adapters._normal import flat
from gradverify.adapters._torch.arrays import Tensor, import_torch, tensor
from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.declare.held import Path, arrays_of, fetch, show, store
from gradverify.core.nouns import Array

_TOGETHER = ("grads", "gradients", "dparams", "d_params")  # what holds the gradients of all parameters


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
    return any(key in names_of_gradients(str(other)) for other in others) or any(k in _TOGETHER for _, k in front)


def gradient_at(instance: Any, path: Path) -> Tensor | None:
    """The gradient that backward left for the tensor at a path."""
    *front, (kind, key) = path
    keys = (key, *names_of_gradients(key)) if isinstance(key, str) else (key,)
    places = [(*front, (kind, k)) for k in keys[1:]]
    places += [(*front[:-1], ("attr", name), (kind, k)) for name in _TOGETHER if front for k in keys]
    places += [(*front, ("attr", name), ("item", k)) for name in _TOGETHER for k in keys]
    beside = (fetch(instance, place) for place in places)
    own: Callable[..., Any] | None = getattr(fetch(instance, path), "grad", None)
    found = [g for g in (own, *beside) if isinstance(g, import_torch().Tensor)]
    return found[0] if found else None

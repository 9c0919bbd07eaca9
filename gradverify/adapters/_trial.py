"""While a target is made a layer its code is called, to see what it does: no such call may last for ever."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

from gradverify.core.declare.layer import KEYWORDS, Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate.failures import LayerFailure
from gradverify.core.evaluate.limits import SLOW, time_limit

P = ParamSpec("P")

_SECONDS = 10.0  # of one call, which may import torch first; as a property has for a case


@dataclass
class _Trial:
    """A target that is being made a layer; `hung` is the call that did not return, after which none is made."""

    hung: LayerFailure | None = None


_now: ContextVar[_Trial | None] = ContextVar("gradverify_trial", default=None)


def tried(adapt: Callable[P, Layer]) -> Callable[P, Layer]:
    """An adapter, in which each call of the author's code has a time limit.

    Where one does not return, and no layer comes of it for that, the layer is one whose check finds just this.
    """

    @wraps(adapt)
    def made(*targets: P.args, **declaration: P.kwargs) -> Layer:
        trial = _Trial()
        token = _now.set(trial)
        try:
            return adapt(*targets, **declaration)
        except (LayerFailure, DeclarationError) as error:
            if trial.hung is None:
                raise
            target: Any = targets[0] if targets else adapt
            name = str(declaration.get("name") or getattr(target, "__name__", type(target).__name__))
            own = (*inspect.signature(adapt).parameters, *KEYWORDS)
            primals = {key: dims for key, dims in declaration.items() if key not in own}
            if not primals:
                raise DeclarationError(f"{name}: {trial.hung}") from error
            return _hanging(name, trial.hung, primals)
        finally:
            _now.reset(token)

    return made


@contextmanager
def limited(stage: str = "forward") -> Iterator[None]:
    """One call of the author's code; raises LayerFailure where it does not return while a target is made a layer."""
    trial = _now.get()
    if trial is None:
        yield
        return
    if trial.hung is not None:
        raise trial.hung
    try:
        with time_limit(_SECONDS):
            yield
    except LayerFailure as failure:
        if failure.kind not in ("timeout", SLOW):
            raise
        trial.hung = LayerFailure("timeout", stage, f"the layer did not return within {_SECONDS:g} s")
        raise trial.hung from failure


def _hanging(name: str, failure: LayerFailure, primals: dict[str, Any]) -> Layer:
    """The layer of a target that never returned."""

    def forward(*arrays: Any) -> Any:
        raise LayerFailure("timeout", failure.stage, str(failure))

    return Layer(forward, forward, name=name, **primals)

"""Functions with a cache: `out, cache = f(*args)` and `dx, dw, db = b(dout, cache)`.

Dicts that such functions take beside arrays (`{"mode": "train", "p": 0.5}`, often changed by
forward) are given anew at each call; entries that are lists become options.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradverify.adapters import convention
from gradverify.adapters._chance import Chance
from gradverify.adapters._normal import called, finished, flat, split
from gradverify.core.declare.functions import taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array


@dataclass
class Cached:
    """A pair of functions with a cache, in the normal form."""

    forward_function: Callable[..., Any]
    backward_function: Callable[..., Any]
    dicts: Mapping[str, Mapping[str, Any]]
    chance: Chance
    swapped: bool  # forward returns (cache, out), backward takes (cache, dout)
    gives: tuple[str, ...] | None

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The outputs, and the cache."""
        own = {key for spec in self.dicts.values() for key in spec}
        settings = {
            name: {key: options[key] if key in options else copy.deepcopy(value) for key, value in spec.items()}
            for name, spec in self.dicts.items()
        }
        plain = {k: v for k, v in options.items() if k not in own}
        with self.chance.fixed(options):
            result = called("forward", self.forward_function, *arrays, **settings, **plain)
        if not isinstance(result, (tuple, list)) or len(result) < 2:
            raise LayerFailure("outputs", "forward", "forward must return (out, cache)")
        *outputs, cache = reversed(result) if self.swapped else result
        return outputs[0] if len(outputs) == 1 else tuple(outputs), (cache, options)

    def backward(self, cotangent: Any, saved: Any) -> Any:
        """Gradients in the order of the arguments, or by name where `gives` names them."""
        cache, options = saved
        cotangents = cotangent if isinstance(cotangent, tuple) else (cotangent,)
        known = taken_by(self.backward_function, options)
        arguments = (cache, *cotangents) if self.swapped else (*cotangents, cache)
        with self.chance.anew(options):
            raw = called("backward", self.backward_function, *arguments, **known)
        return raw if self.gives is None or isinstance(raw, Mapping) else dict(zip(self.gives, flat(raw)))


# a pair of functions is recognised as the normal form, which this is
@convention('gradverify.adapt.cached(forward, backward, x="N D", gamma="D", bn_param={"mode": ["train", "test"]})')
def cached(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    *,
    gives: Sequence[str] | None = None,
    swapped: bool = False,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from functions with a cache.

    Parameters
    ----------
    forward : ``forward(*arrays) -> (out, cache)``, or ``(out, ..., cache)``
    backward : ``backward(dout, cache) -> gradients`` in the order of forward's arrays
    gives : primal names of what backward returns, where the order is another
    swapped : the cache stands first, in what forward returns and what backward takes
    **declaration : primals, settings, and dicts that forward takes by keyword, e.g.
        ``bn_param={"mode": ["train", "test"], "eps": 1e-5}`` with lists of choices

    Raises
    ------
    DeclarationError
        If a declaration cannot be used.
    """
    primals, settings = split(declaration)
    dicts = {n: primals.pop(n) for n in [n for n, v in primals.items() if isinstance(v, Mapping)]}
    choices = {key: value for spec in dicts.values() for key, value in spec.items() if isinstance(value, list)}
    repeated = [key for key in choices if key in primals]
    if repeated:
        raise DeclarationError(f"{repeated[0]!r} is declared both as a primal and in a dict of settings")
    settings["options"] = {**choices, **(settings.get("options") or {})}
    order = None if gives is None else tuple(gives)
    inner = Cached(forward, backward, dicts, Chance(forward, backward), swapped, order)
    label = name or getattr(forward, "__name__", "cached")
    settings.setdefault("doc", inspect.getdoc(forward) or "")
    layer = Layer(inner.forward, inner.backward, name=label, primals=primals, **settings)
    given = ", ".join(f"{n}={dict(spec)}" for n, spec in dicts.items())
    return finished(layer, f"given anew at each call: {given}" if given else "", chance=inner.chance)

"""Closures on a tape: values that remember how they came about, and a `backward()` that walks back.

    a, b = Value(2.0), Value(3.0);  c = a * b + a.relu();  c.backward();  a.grad

The graph is built anew for each case. Where every number is a value of its own (micrograd), arrays
become arrays of values; where a tensor wraps an array, each primal is one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._chance import Chance
from gradverify.adapters._normal import called, finished, sketch, split
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array

_VALUES = ("data", "value", "array", "val")
_GRADIENTS = ("grad", "gradient", "g")


@dataclass
class Tape:
    """A function of tape values in the normal form.

    Attributes
    ----------
    wrap : from a number, or an array where `each` is False, to a value on the tape
    backward_of : (output, leaves) -> gradients of the leaves, where there is no method `backward`
    contract : (output, cotangent array) -> scalar value on the tape, the sum of their products
    """

    wrap: Callable[..., Any]
    function: Callable[..., Any]
    each: bool
    backward_of: Callable[..., Any] | None
    contract: Callable[..., Any] | None
    names: tuple[str, ...]
    floating: tuple[bool, ...]
    chance: Chance

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The outputs as arrays; leaves and outputs on the tape are saved."""
        leaves = [self._leaf(a) if real else np.array(a) for a, real in zip(arrays, self.floating)]
        with self.chance.fixed(options):
            result = called("forward", self.function, *leaves, **options)
        results = tuple(result) if isinstance(result, (tuple, list)) and not self.each else (result,)
        outputs = tuple(_data(r) for r in results)
        return outputs[0] if len(outputs) == 1 else outputs, (leaves, results)

    def twice(
        self, primals: Mapping[str, Array], cotangents: tuple[Array, ...], options: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Gradients of f(x) + f(x), both on one tape: a gradient that is assigned, not added, loses one of them."""
        arrays = [primals[n] for n in self.names]
        leaves = [self._leaf(a) if real else np.array(a) for a, real in zip(arrays, self.floating)]
        with self.chance.fixed(options):
            first, second = (called("forward", self.function, *leaves, **options) for _ in range(2))
        try:
            total = first + second
        except Exception:  # noqa: BLE001  the author's values need not add up
            return None
        return None if isinstance(first, (tuple, list)) else self._walk(total, cotangents[0], leaves)

    def backward(self, cotangent: Any, saved: Any) -> dict[str, Any]:
        """Gradients of the leaves after a backward from the contraction with the cotangents."""
        leaves, results = saved
        cotangents = cotangent if isinstance(cotangent, tuple) else (cotangent,)
        total: dict[str, Any] = {}
        if len(results) > 1 and self.contract is None and self.backward_of is not None:
            raise LayerFailure("outputs", "backward", "several outputs on a tape need contract=...")
        for output, v in zip(results, cotangents):
            for name, gradient in self._walk(output, v, leaves).items():
                total[name] = gradient if name not in total else total[name] + gradient
            total = total if self.backward_of is not None or len(results) == 1 else {}
        return total or self._read(leaves)

    def _walk(self, output: Any, v: Array, leaves: list[Any]) -> dict[str, Any]:
        if self.contract is not None:
            root, scale = called("backward", self.contract, output, np.array(v)), 1.0
        elif isinstance(output, np.ndarray) and output.dtype == object:  # one value for each entry
            root, scale = _weighted(output, v), 1.0
        elif self._takes_seed(output):
            called("backward", output.backward, np.array(v))
            return self._read(leaves)
        elif np.size(v) == 1:
            root, scale = output, float(np.ravel(v)[0])
        else:
            root, scale = self._contracted(output, v), 1.0
        if self.backward_of is not None:
            gradients = called("backward", self.backward_of, root, [x for x in leaves if not _plain(x)])
            names = [n for n, x in zip(self.names, leaves) if not _plain(x)]
            return {n: None if g is None else np.asarray(_data(g)) * scale for n, g in zip(names, gradients)}
        called("backward", root.backward)
        return {n: None if g is None else g * scale for n, g in self._read(leaves).items()}

    def _takes_seed(self, output: Any) -> bool:
        """Whether the walk takes an upstream gradient: it takes an argument that is no flag."""
        if self.backward_of is not None or not hasattr(output, "backward"):
            return False
        return any(not isinstance(p.default, bool) for p in arguments(output.backward) or ())

    def _contracted(self, output: Any, v: Array) -> Any:
        """The sum of the products with the cotangent, on the tape; else the output with that for its gradient."""
        try:
            return (output * self.wrap(np.array(v))).sum()
        except Exception:  # noqa: BLE001  the author's values need not know of products and sums
            for name in (n for n in _GRADIENTS if hasattr(output, n)):
                wrapped = isinstance(getattr(output, name), type(output)) or getattr(output, name) is None
                setattr(output, name, self.wrap(np.array(v)) if wrapped else np.array(v))
                break
            return output

    def _leaf(self, array: Array) -> Any:
        if not self.each:
            return self.wrap(np.array(array))
        values = np.empty(array.shape, dtype=object)
        for index in np.ndindex(array.shape):
            values[index] = self.wrap(float(array[index]))
        return values[()] if array.ndim == 0 else values

    def _read(self, leaves: list[Any]) -> dict[str, Any]:
        return {n: _gradient(leaf) for n, leaf in zip(self.names, leaves) if not _plain(leaf)}


def _plain(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype != object


def _weighted(output: Array, v: Array) -> Any:
    terms = [value * float(weight) for value, weight in zip(output.ravel(), np.ravel(v))]
    return sum(terms[1:], terms[0])


def _data(value: Any) -> Array:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.array([_data(x) for x in value.ravel()], float).reshape(value.shape)
    for name in _VALUES:
        if hasattr(value, name) and not isinstance(value, (np.ndarray, np.generic)):
            return np.asarray(getattr(value, name))
    return np.asarray(value)


def _gradient(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return np.array([_gradient(x) for x in leaf.ravel()], float).reshape(leaf.shape)
    found = next((getattr(leaf, n) for n in _GRADIENTS if hasattr(leaf, n)), None)
    return None if found is None else np.array(_data(found))


# two callables would be taken for forward and backward
@convention('gradverify.adapt.tape(Value, lambda a, b: a * b, a="", b="", each=True)')
def tape(
    wrap: Callable[..., Any],
    function: Callable[..., Any],
    *,
    each: bool = False,
    backward: Callable[..., Any] | None = None,
    contract: Callable[..., Any] | None = None,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from a function of values on a tape.

    Parameters
    ----------
    wrap : class of the values: ``Value(2.0)`` or ``Tensor(array)``
    function : from values to a value; also an object array of them with `each`
    each : every number is a value of its own, as in micrograd
    backward : ``(output, leaves) -> gradients`` in the order of leaves, where values have no
        method `backward` that leaves `grad` on them
    contract : ``(output, array) -> scalar value``, the sum of products, where an output has several
        entries and `backward` starts from a scalar
    **declaration : primals and settings; discrete primals are handed over as arrays
    """
    primals, settings = split(declaration)
    label = name or getattr(function, "__name__", "tape")
    label = "tape" if label == "<lambda>" else label
    planned = sketch(primals, settings, name=label)
    floating = tuple(p.differentiable for p in planned.primals)
    chance = Chance(function)
    settings.setdefault("stateful", backward is None)  # gradients are left on the values, and add up
    inner = Tape(wrap, function, each, backward, contract, planned.primal_names, floating, chance)
    settings.setdefault("twice", inner.twice)
    return finished(Layer(inner.forward, inner.backward, name=label, primals=primals, **settings), chance=chance)

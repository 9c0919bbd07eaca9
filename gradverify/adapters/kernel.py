"""Kernels of Gaussian processes: `K, dK = kernel(X, eval_gradient=True)`, with respect to log theta.

dK has one more axis at the end, for the parameters. The primal is log theta: a kernel object in
scikit-learn's manner is cloned for each value, a function of theta is given its exponential.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._normal import called, constants, finished, flat, split
from gradverify.adapters._objects.instance import accepted_by
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array


@dataclass
class Kernel:
    """A kernel in the normal form."""

    target: Any
    log: bool
    gradient: Callable[..., Any] | None

    def forward(self, theta: Array, *data: Array, **options: Any) -> tuple[Any, Any]:
        """The kernel matrix alone, as users call it without a gradient."""
        result = self._call("forward", theta, data, False, options)
        return result[0] if isinstance(result, tuple) else result, (theta, data, options)

    def backward(self, cotangent: Any, saved: Any) -> tuple[Any, ...]:
        """dK contracted with the cotangent, for each parameter; None for the data."""
        theta, data, options = saved
        if self.gradient is not None:
            point = np.exp(theta) if self.log else theta
            derivative = called("backward", self.gradient, point, *data, **options)
        else:
            raw = flat(self._call("backward", theta, data, True, options))
            if len(raw) != 2:
                raise LayerFailure("missing", "backward", "the kernel returned no pair (K, dK)")
            derivative = raw[1]
        derivative = np.asarray(derivative)
        if derivative.shape != (*np.shape(cotangent), theta.size):
            raise LayerFailure(
                "shape",
                "backward",
                f"dK has shape {derivative.shape}; K has {np.shape(cotangent)} and theta {theta.size} entries",
            )
        return np.tensordot(cotangent, derivative, np.ndim(cotangent)), *(None for _ in data)

    def _call(self, stage: str, theta: Array, data: tuple[Array, ...], gradient: bool, options: Any) -> Any:
        """K, or with `gradient` the pair (K, dK)."""
        if hasattr(self.target, "clone_with_theta"):
            function = self.target.clone_with_theta(np.array(theta))
            first: tuple[Array, ...] = ()
        else:
            function, first = self.target, (np.exp(theta) if self.log else np.array(theta),)
        known = {"eval_gradient": True} if gradient and "eval_gradient" in accepted_by(function) else {}
        return called(stage, function, *first, *data, **known, **options)


def _recognises(target: Any) -> bool:
    return hasattr(target, "clone_with_theta") and hasattr(target, "theta") and not isinstance(target, type)


@convention(
    'gradverify.adapt.kernel(kernel, X="N D"), or kernel(function, theta="3", X="N D")', _recognises, priority=55
)
def kernel(
    target: Any,
    /,
    gradient: Callable[..., Any] | None = None,
    *,
    log: bool = True,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from a kernel with a gradient in its parameters.

    Parameters
    ----------
    target : an object in scikit-learn's manner (`theta`, `clone_with_theta`); or a function
        ``(theta, *data, eval_gradient=False) -> K, or (K, dK)``
    gradient : ``(theta, *data) -> dK``, where it is a function of its own
    log : the derivative is the one in log theta, and theta itself is handed to functions
    **declaration : ``theta="3"`` (taken from an object's own theta), and the data, ``X="N D"``

    Raises
    ------
    DeclarationError
        If the number of parameters or the data are not declared.
    """
    primals, settings = split(declaration)
    own = getattr(target, "theta", None)
    if own is not None and "theta" not in primals:
        primals = {"theta": f"{np.size(own)}: between -2 2", **primals}
    label = name or getattr(target, "__name__", type(target).__name__)
    if len(primals) < 2:
        raise DeclarationError(f'{label}: declare its parameters and its data: theta="3", X="N D"')
    first, *data = primals
    settings["constants"] = constants(settings, *data)
    inner = Kernel(target, log, gradient)
    layer = Layer(inner.forward, inner.backward, name=label, primals=primals, **settings)
    return finished(layer, f"{first} is {'log ' if log or own is not None else ''}theta of the kernel")

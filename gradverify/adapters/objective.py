"""Objectives on a flat vector: value, gradient, Hessian and Hessian-vector product.

objective(theta) -> (f, g)          SciPy's jac=True, scikit-learn
f(theta), score(theta), hessian(theta), hess_prod(theta, v)          SciPy, statsmodels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._chance import Chance
from gradverify.adapters._normal import called, constants, finished, on_data, split
from gradverify.adapters._trial import tried
from gradverify.core.declare.layer import Layer, Loss
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array


@dataclass
class Objective:
    """An objective in the normal form; the first primal is the flat vector, the others are data."""

    value: Callable[..., Any]
    gradient: Callable[..., Any] | None
    hess: Callable[..., Any] | None
    hessp: Callable[..., Any] | None
    theta: str
    args: tuple[Any, ...]
    chance: Chance

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The value, and the gradient or where to get it from."""
        with self.chance.fixed(options):
            result = called("forward", self.value, *arrays, *self.args, **options)
        if self.gradient is not None:
            return result, (arrays, options)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise LayerFailure(
                "outputs", "forward", "the objective must return (value, gradient), or the gradient be given: jac=..."
            )
        return result[0], (np.array(result[1]), None)

    def backward(self, cotangent: Any, saved: Any) -> dict[str, Any]:
        """The gradient times the cotangent; of one row for each element, a matrix of gradients."""
        raw, options = saved
        if self.gradient is not None and options is not None:
            with self.chance.fixed(("gradient", options)):
                raw = np.asarray(called("backward", self.gradient, *raw, *self.args, **options))
        if np.ndim(cotangent) == 1 and np.ndim(raw) == 2:  # a value for each observation: score_obs
            return {self.theta: cotangent @ raw}
        return {self.theta: raw * cotangent}

    def second(
        self, primals: Mapping[str, Array], cotangents: tuple[Array, ...], weights: Mapping[str, Array], **options: Any
    ) -> dict[str, Any]:
        """Hessian times the weights, times the cotangent."""
        arrays, u = tuple(primals.values()), weights[self.theta]
        if self.hessp is not None:
            theta, *data = arrays
            product = called("backward", self.hessp, theta, u, *data, *self.args, **options)
        else:
            assert self.hess is not None
            matrix = np.asarray(called("backward", self.hess, *arrays, *self.args, **options))
            if matrix.shape != (u.size, u.size):
                raise LayerFailure("shape", "backward", f"the Hessian has shape {matrix.shape} for {u.size} parameters")
            product = matrix @ u
        return {self.theta: np.asarray(product) * cotangents[0]}


# a function alone says nothing; see `function`
@convention("gradverify.adapt.objective(fun, n=5), or objective(f, grad, hess=..., n=5)")
def objective(
    fun: Callable[..., Any],
    jac: Callable[..., Any] | None = None,
    *,
    hess: Callable[..., Any] | None = None,
    hessp: Callable[..., Any] | None = None,
    n: int | None = None,
    maximise: bool = False,
    args: Sequence[Any] = (),
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Loss from an objective on a flat vector.

    Parameters
    ----------
    fun : ``fun(theta, *data, *args) -> (value, gradient)``, or the value alone where `jac` is given
    jac, hess : ``(theta, *data, *args)`` to gradient (n,) and Hessian (n, n)
    hessp : ``(theta, v, *data, *args)`` to the Hessian times v, as in SciPy
    n : number of parameters, where they are not declared; short for ``theta="5"``
    maximise : the gradient is the one of -fun, for a descent (or fun is minus what jac is of)
    args : what is handed on as it is
    **declaration : the vector first, e.g. ``theta="P"``; further primals are data and get no gradient

    Raises
    ------
    DeclarationError
        If the number of parameters is not told, or both `hess` and `hessp` are given.
    """
    primals, settings = split(declaration)
    if n is not None:
        primals = {"theta": str(n), **primals}
    label = name or getattr(fun, "__name__", "objective")
    if not primals:
        raise DeclarationError(f'{label}: how many parameters has it? write n=5, or theta="P" to draw the number')
    if hess is not None and hessp is not None:
        raise DeclarationError(f"{label}: give hess or hessp; the other one is checked by adapt.hessian")
    theta, *data = primals
    settings["constants"] = constants(settings, *data)
    inner = Objective(fun, jac, hess, hessp, theta, tuple(args), Chance(fun, jac))
    if hess is not None or hessp is not None:
        settings["second"] = inner.second
    if maximise:
        settings["factor"] = -1.0
    doc = settings.pop("doc", None) or getattr(fun, "__doc__", None) or ""
    layer = Loss(inner.forward, inner.backward, name=label, primals=primals, doc=doc, **settings)
    return finished(
        on_data(layer), "maximised: the gradient is that of minus the value" if maximise else "", chance=inner.chance
    )


@tried
def hessian(
    jac: Callable[..., Any],
    hess: Callable[..., Any] | None = None,
    *,
    hessp: Callable[..., Any] | None = None,
    n: int | None = None,
    args: Sequence[Any] = (),
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from a gradient and its Hessian, whose every column is then compared.

    Parameters
    ----------
    jac, hess, hessp, n, args : as for `objective`; the pullback of a gradient is v times the Hessian

    Raises
    ------
    DeclarationError
        If the number of parameters, or the Hessian, is missing.
    """
    primals, settings = split(declaration)
    primals = {"theta": str(n), **primals} if n is not None else primals
    label = name or f"{getattr(jac, '__name__', 'gradient')}_hessian"
    if not primals or (hess is None and hessp is None):
        raise DeclarationError(f"{label}: give hess or hessp, and the number of parameters: n=5")
    theta, *data = primals
    settings["constants"] = constants(settings, *data)

    def forward(*arrays: Array, **options: Any) -> tuple[Any, Any]:
        return called("forward", jac, *arrays, *args, **options), (arrays, options)

    def backward(cotangent: Any, saved: Any) -> dict[str, Any]:
        (point, *rest), options = saved
        if hessp is not None:
            return {theta: called("backward", hessp, point, cotangent, *rest, *args, **options)}
        assert hess is not None
        return {theta: cotangent @ np.asarray(called("backward", hess, point, *rest, *args, **options))}

    return finished(on_data(Layer(forward, backward, name=label, primals=primals, **settings)))

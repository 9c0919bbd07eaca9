"""Other gradient checkers behind one call: does it accept this hand-written backward at this point?

Each is run with its own defaults, in float64 unless the point says otherwise. Where a tool returns
numbers instead of a verdict, its documented error estimate or example threshold decides.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import screen
from gradverify.core.differentiate.point import Point
from gradverify.core.judge.sweep import sweep
from gradverify.core.nouns import Array, Case, Verdict
from gradverify.core.properties import gradient

Forward = Callable[[Array], Array]  # one array to one array
Backward = Callable[[Array, Array], Array]  # (cotangent, primal) to gradient
Accepts = Callable[[Forward, Backward, Array, int], bool]


def _layer(forward: Forward, backward: Backward, x: Array) -> Layer:
    axes = " ".join(f"A{k}" for k in range(x.ndim))
    return Layer(lambda x: (forward(x), x), backward, name="peer", x=axes)


def gradverify_every(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
    """The gradient property: every entry."""
    return not gradient.holds(_layer(forward, backward, x), Case("peer", {"x": x}, seed=seed)).findings


def gradverify_screen(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
    """Joint directions only, about 40 forwards; what stands out is confirmed entry by entry."""
    layer = _layer(forward, backward, x)
    case, _ = evaluate.completed(layer, Case("peer", {"x": x}, seed=seed))
    raw = evaluate.gradients(layer, case.primals, case.options, case.cotangents or ())
    point = Point(layer, case)
    analytic = point.vector(evaluate.usable(layer, case, raw)[0])
    if screen.screen(point, analytic, seed).agrees:
        return True
    places = screen.localise(point, analytic, seed)
    result = sweep(point, analytic, entries=places)
    return not (result.verdicts[places] == Verdict.DISAGREES).any()


def _torch(fast: bool) -> Accepts:
    def accepts(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
        import torch

        torch.manual_seed(seed)

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.save_for_backward(x)
                return torch.from_numpy(np.array(forward(x.detach().numpy())))

            @staticmethod
            def backward(ctx: Any, dy: Any) -> Any:
                return torch.from_numpy(np.array(backward(dy.numpy(), ctx.saved_tensors[0].detach().numpy())))

        point = torch.from_numpy(x.copy()).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(torch.autograd.gradcheck(Function.apply, (point,), raise_exception=False, fast_mode=fast))

    return accepts


def jax_check_grads(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
    import jax
    from jax.test_util import check_grads

    jax.config.update("jax_enable_x64", True)
    np.random.seed(seed)

    @jax.custom_vjp
    def function(x: Any) -> Any:
        return jax.numpy.asarray(forward(np.asarray(x)))

    function.defvjp(
        lambda x: (jax.numpy.asarray(forward(np.asarray(x))), x),
        lambda x, dy: (jax.numpy.asarray(backward(np.asarray(dy), np.asarray(x))),),
    )
    try:
        check_grads(function, (x,), order=1, modes=["rev"])
    except AssertionError:
        return False
    return True


def autograd_check_grads(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    np.random.seed(seed)
    function = primitive(forward)
    defvjp(function, lambda ans, x: lambda dy: backward(np.asarray(dy), x))
    try:
        check_grads(function, modes=["rev"], order=1)(x)
    except AssertionError:
        return False
    return True


def _scalar(forward: Forward, backward: Backward, x: Array, seed: int) -> tuple[Callable[[Array], float], Array]:
    v = np.random.default_rng(seed).choice([-1.0, 1.0], np.shape(forward(x))) * 1.5
    return lambda flat: float(np.sum(v * forward(flat.reshape(x.shape)))), np.asarray(backward(v, x)).ravel()


def scipy_check_grad(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
    """`check_grad` returns the norm of the difference; 1e-6 relative to the gradient is called wrong."""
    from scipy.optimize import check_grad

    function, analytic = _scalar(forward, backward, x, seed)
    return bool(check_grad(function, lambda _: analytic, x.ravel()) <= 1e-6 * max(1.0, np.linalg.norm(analytic)))


def scipy_jacobian(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
    """`differentiate.jacobian`, with ten times its own error estimate and 1e-12 of the largest entry as the bound."""
    from scipy.differentiate import jacobian

    function, analytic = _scalar(forward, backward, x, seed)
    several = np.vectorize(function, signature="(n)->()")
    told = jacobian(lambda points: several(np.moveaxis(points, 0, -1)), x.ravel())
    return _within(np.ravel(told.df), np.ravel(told.error), analytic)


def numdifftools_gradient(forward: Forward, backward: Backward, x: Array, seed: int) -> bool:
    """`Gradient`, with ten times its own error estimate and 1e-12 of the largest entry as the bound."""
    import numdifftools

    function, analytic = _scalar(forward, backward, x, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value, error = numdifftools.Gradient(function, full_output=True)(x.ravel())[:2]
    return _within(np.ravel(value), np.ravel(error), analytic)


def _within(value: Array, error: Array, analytic: Array) -> bool:
    bound = 10 * error + 1e-12 * np.abs(analytic).max()
    return bool((np.abs(value - analytic) <= bound).all())


PEERS: dict[str, tuple[str, Accepts]] = {
    "gradverify": ("gradverify", gradverify_every),
    "gradverify, screen": ("gradverify", gradverify_screen),
    "torch gradcheck": ("torch", _torch(fast=False)),
    "torch gradcheck, fast": ("torch", _torch(fast=True)),
    "JAX check_grads": ("jax", jax_check_grads),
    "autograd check_grads": ("autograd", autograd_check_grads),
    "SciPy check_grad": ("scipy", scipy_check_grad),
    "SciPy jacobian": ("scipy", scipy_jacobian),
    "numdifftools Gradient": ("numdifftools", numdifftools_gradient),
}

"""One constructor for each calling convention: `adapt.objective(fun, n=5)` is a Layer like any other.

What `gradverify.check(target, ...)` recognises by itself needs none of these.
"""

from gradverify.adapters.boosting import boosting
from gradverify.adapters.cached import cached
from gradverify.adapters.context import context
from gradverify.adapters.elementwise import elementwise
from gradverify.adapters.filling import filling
from gradverify.adapters.kernel import kernel
from gradverify.adapters.losses import loss
from gradverify.adapters.objective import hessian, objective
from gradverify.adapters.optimiser import optimiser
from gradverify.adapters.stateful import stateful
from gradverify.adapters.stepwise import stepwise
from gradverify.adapters.tape import tape
from gradverify.adapters.vjp_maker import pullback, vjp_maker

__all__ = [
    "boosting",
    "cached",
    "context",
    "elementwise",
    "filling",
    "hessian",
    "kernel",
    "loss",
    "objective",
    "optimiser",
    "pullback",
    "stateful",
    "stepwise",
    "tape",
    "vjp_maker",
]

"""What several properties ask of the same Case, evaluated once: its outputs, and its gradients in the plain way.

Whoever wants to know whether another call gives the same makes that call himself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.nouns import Array, Case

Usable = tuple[dict[str, Array], list[evaluate.LayerFailure]]
Measure = Callable[[Layer, Case], dict[str, Array]]


@dataclass(slots=True)
class Once:
    """One forward on a Case, and the gradients of one forward and backward as soon as somebody has asked for them.

    Attributes
    ----------
    given, case : the Case as it was asked about, and with its cotangents
    outputs : copies, since a layer may write into what it returned
    gradients : by primal name, not writeable; None before they are known
    measured : what each measure gave, by primal name
    """

    layer: Layer
    given: Case
    case: Case
    outputs: tuple[Array, ...]
    gradients: dict[str, Array] | None = None
    measured: dict[Measure, dict[str, Array]] = field(default_factory=dict)

    def keep(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Keep copies of usable gradients."""
        self.gradients = {name: np.array(gradient) for name, gradient in gradients.items()}
        for array in self.gradients.values():
            array.flags.writeable = False
        return self.gradients


_MOST = 2  # the case of all properties, and the other one that some of them call in between
_kept: ContextVar[tuple[Once, ...]] = ContextVar("gradverify_once", default=())


def at(layer: Layer, case: Case) -> Once:
    """The Case completed, with its outputs; raises LayerFailure as `evaluate.completed`."""
    known = _known(layer, case)
    if known is not None:
        return known
    completed, outputs = evaluate.completed(layer, case)
    return _keep(Once(layer, case, completed, tuple(np.array(y) for y in outputs)))


def evaluated(layer: Layer, case: Case) -> tuple[Once, Callable[[], Usable]]:
    """The same, and what gives the gradients of that very forward, as `evaluate.usable` splits them.

    It is to be called before anybody else calls the layer.
    """
    known = _known(layer, case)
    if known is not None and known.gradients is not None:
        return known, lambda: (dict(known.gradients or {}), [])
    completed, evaluation = evaluate.evaluated(layer, case)
    once = _keep(Once(layer, case, completed, tuple(np.array(y) for y in evaluation.outputs)))

    def pull() -> Usable:
        good, bad = evaluate.usable(layer, completed, evaluate.pulled(evaluation, completed.cotangents or ()))
        return good if bad else once.keep(good), bad

    return once, pull


def gradients(layer: Layer, case: Case, cotangents: tuple[Array, ...] | None = None) -> dict[str, Array]:
    """Usable gradients of one fresh forward and backward, on copies; the case must be completed."""
    given = cotangents if cotangents is not None else case.cotangents or ()
    return usable(layer, case, evaluate.gradients(layer, case.primals, case.options, given))


def usable(layer: Layer, case: Case, raw: Mapping[str, Any]) -> dict[str, Array]:
    """Copies of gradients that can be compared, since backward may write into them again; LayerFailure where not."""
    good, bad = evaluate.usable(layer, case, raw)
    if bad:
        raise bad[0]
    return {name: np.array(gradient) for name, gradient in good.items()}


def measured(measure: Measure, layer: Layer, case: Case) -> dict[str, Array]:
    """What a measure gives at a Case: a dear one, that is asked for wherever two gradients differ."""
    known = _known(layer, case)
    if known is None:
        return measure(layer, case)
    if measure not in known.measured:
        known.measured[measure] = measure(layer, case)
    return known.measured[measure]


def _known(layer: Layer, case: Case) -> Once | None:
    kept = (known for known in _kept.get() if known.layer is layer)
    return next((known for known in kept if case is known.case or case is known.given), None)


def _keep(known: Once) -> Once:
    _kept.set((known, *_kept.get()[: _MOST - 1]))
    return known

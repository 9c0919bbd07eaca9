"""Names for the axes of outputs: those that the author gave, or the one size that an axis always has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.probe import Probe
from gradverify.core.shrink.search import sizes_of

_TRIED = 5  # cases on which the sizes must be the same; on few, an axis of L - K + 1 places is as long as K


def labels_of(evidence: Evidence, output: int, rank: int) -> tuple[str, ...]:
    """A readable name for each axis of an output of that rank.

    Where the author names none, an axis is called after the one dimension of the primals that has its
    size on every plain case; their sizes all differ, so that no other has.
    """
    returns = list(evidence.layer.returns.values())
    if output < len(returns):
        return returns[output].labels(rank)
    probes = [p for p in (evidence.probe(evidence.plain(draw)) for draw in range(_TRIED)) if p is not None]
    probes = [p for p in probes if output < len(p.outputs) and p.outputs[output].ndim == rank]
    return tuple(_inferred(evidence, probes, output, axis) for axis in range(rank))


def _inferred(evidence: Evidence, probes: list[Probe], output: int, axis: int) -> str:
    if axis == 0 and evidence.layer.batch is not None:
        return evidence.layer.batch
    sizes = [_lone(p) for p in probes]
    lengths = [p.outputs[output].shape[axis] for p in probes]
    names = [n for n in sizes[0] if [s.get(n) for s in sizes] == lengths] if len(set(lengths)) > 2 else []
    unnamed = (
        f"axis {axis}" if len(evidence.own.outputs if evidence.own else ()) < 2 else f"axis {axis} of output {output}"
    )
    return names[0] if len(names) == 1 else unnamed


def _lone(probe: Probe) -> Mapping[str, Any]:
    """Sizes by name, a group of leading axes only where it is one axis."""
    found = sizes_of(probe.layer, probe.case.primals, probe.case.options) or {}
    lone = {n.lstrip("*"): v[0] if isinstance(v, tuple) and len(v) == 1 else v for n, v in found.items()}
    return {n: v for n, v in lone.items() if n not in probe.layer.options}

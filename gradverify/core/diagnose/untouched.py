"""Arrays that backward may write into without changing what is read of them: to try what a mutation explains."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array


class Untouched(np.ndarray[Any, Any]):
    """Reads as it was when it was made; what is written into it, or into a slice of it, goes to `written`."""

    written: Array | None = None

    def __array_finalize__(self, other: object) -> None:
        self.written = None

    def __getitem__(self, key: Any) -> Any:
        got = super().__getitem__(key)
        if isinstance(got, Untouched) and self.written is not None:
            if not np.shares_memory(got, self):
                return np.asarray(got)
            got.written = self.written[key]
        return got

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.written is None:
            super().__setitem__(key, value)
        else:
            self.written[key] = np.asarray(value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        plain = [np.asarray(i) if isinstance(i, Untouched) else i for i in inputs]
        if method == "at":
            return ufunc.at(_target(inputs[0]), *plain[1:])
        if out is None:
            return getattr(ufunc, method)(*plain, **keywords)
        getattr(ufunc, method)(*plain, out=tuple(map(_target, out)), **keywords)
        return out[0] if len(out) == 1 else out


def _target(array: Any) -> Any:
    """Where what is written to an array goes."""
    if not isinstance(array, Untouched):
        return array
    return np.asarray(array) if array.written is None else array.written


def untouched(array: Array) -> Untouched:
    """A copy of an array that keeps its values."""
    made = np.array(array).view(Untouched)
    made.written = np.array(array)
    return made


def explains(evidence: Evidence) -> bool:
    """Whether the gradient is right once backward cannot change the cotangent and the primals as it reads them.

    Or whether it is the right one for the cotangent, and the parameters of an object, as backward has left them.
    """
    own = evidence.own
    probes = evidence.probes or ((own,) if own is not None and own.failure is None else ())
    return evidence.everywhere(lambda probe: _explained(evidence, probe), probes)


def _explained(evidence: Evidence, probe: Probe) -> bool:
    name, case = evidence.primal, probe.case
    primals = {n: untouched(a) for n, a in case.primals.items()}
    cotangents = tuple(untouched(v) for v in case.cotangents or ())
    raw = evaluate.run(evidence.layer, primals, case.options).pull(cotangents)
    got = raw.get(name)
    got = _target(got) if isinstance(got, Untouched) and got.written is not None else got
    if got is not None and close(np.asarray(got), probe.numerical(name)):
        return True
    left = tuple(np.array(v) for v in case.cotangents or ())
    evaluation = evaluate.run(evidence.layer, evaluate.copies(case.primals), case.options)
    evaluation.pull(left)
    held = evidence.layer.hooks.stored_parameters
    now = {n: np.array(a) for n, a in held(evaluation.saved).items() if n in case.primals} if held else {}
    then = evidence.probe(case.but(cotangents=left, primals={**case.primals, **now}))
    return then is not None and close(probe.analytic[name], then.numerical(name))

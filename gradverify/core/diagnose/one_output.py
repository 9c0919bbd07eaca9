"""Signature of one of several outputs: what it sends back is ignored, scaled or wrong, and the rest is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import CLOSE, Probe, close
from gradverify.core.judge.facts import best_ratio
from gradverify.core.nouns import Array, Diagnosis, Fit

_NEGATED = "has the wrong sign"


@dataclass(frozen=True, slots=True)
class Share:
    """What the upstream gradient of one output makes of the finding's gradient: that of backward, and the right one."""

    analytic: Array
    numerical: Array

    @property
    def factor(self) -> float | None:
        """Of analytic over numerical, where it is one number for all entries; 1 where both are zero."""
        if close(self.analytic, self.numerical):
            return 1.0
        ratio, _ = best_ratio(self.analytic.ravel(), self.numerical.ravel())
        clean = np.isfinite(ratio) and close(self.analytic, ratio * self.numerical)
        return float(ratio) if clean and np.any(self.numerical) else None


@add("one_output", "UPSTREAM", ANYWHERE, probes=True)
def one_output(evidence: Evidence) -> Diagnosis | None:
    """The upstream gradient of one output does not reach the primal as it should, and those of the others do."""
    if len(evidence.probes[0].outputs) < 2:
        return None
    cases = [_shares(evidence, probe) for probe in evidence.probes]
    if not all(cases):
        return None
    names = list(evidence.layer.returns) or [f"output {k}" for k in range(len(cases[0]))]
    of_output = [[shares[k].factor for shares in cases] for k in range(len(names))]
    wrong = [k for k, factors in enumerate(of_output) if any(f is None or abs(f - 1) > CLOSE for f in factors)]
    ignored = [k for k in wrong if all(not np.any(shares[k].analytic) for shares in cases)]
    told = ignored or wrong
    reach = {k for shares in cases for k, share in enumerate(shares) if np.any(share.numerical)}
    if not told or not reach - set(told):  # of what reaches the primal nothing else is right
        return None
    said, facts = " and ".join(names[k] for k in told), {"outputs": [names[k] for k in told]}
    if ignored:
        text = f"backward ignores the upstream gradient of {said}: changing it changes no gradient of {evidence.primal}"
        return Diagnosis("one_output", "UPSTREAM", text, Fit.SEEN if ignored == wrong else Fit.PART, facts)
    factors = [f for k in told for f in of_output[k]]
    rest = " and ".join(names[k] for k in range(len(names)) if k not in told)
    d = f"what {said} sends back to {evidence.primal}"
    text = f"{d} {_words(factors)}{evidence.given}, and what {rest} sends back is right"
    bug_class = "SIGN" if _words(factors) == _NEGATED else "TERM"
    return Diagnosis("one_output", bug_class, text, Fit.SOME if None in factors else Fit.LAW, facts)


def _words(factors: list[float | None]) -> str:
    known = [f for f in factors if f is not None]
    if len(known) < len(factors) or np.ptp(known) > CLOSE * abs(known[0]):
        return "is wrong"
    return _NEGATED if abs(known[0] + 1) < CLOSE else f"is {known[0]:.6g} times the right one"


def _shares(evidence: Evidence, probe: Probe) -> list[Share]:
    """What each output sends back alone; empty where these do not add up to the gradient."""
    cotangents, found = probe.case.cotangents or (), []
    for k, span in enumerate(probe.spans):
        alone = probe.pulled(tuple(v if j == k else np.zeros_like(v) for j, v in enumerate(cotangents)))
        if evidence.primal not in alone or not np.isfinite(alone[evidence.primal]).all():
            return []
        weights = np.zeros_like(probe.point.weights)
        weights[span] = probe.point.weights[span]
        found.append(Share(alone[evidence.primal], probe.under(evidence.primal, weights)))
    total = sum(share.analytic for share in found)
    return found if close(np.asarray(total), probe.analytic[evidence.primal]) else []

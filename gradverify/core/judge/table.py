"""The ordered table of rules, and how a dispute goes through it.

A rule looks at entries that disagree and may take some out of the dispute, as a kink or as unresolved. No rule can
turn an entry into one that agrees: only a measurement can.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradverify.core import tuning
from gradverify.core.declare.registry import Registry
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Answer, Dispute
from gradverify.core.nouns import DISAGREES, KINK, UNRESOLVED, Array


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason for which an entry that looks wrong may be right.

    Attributes
    ----------
    name : short identifier; reports print it
    says : the reason in one clause that a user can read, after "unresolved:" or "kink:"
    asks : ``(dispute) -> Answer``
    cost : forwards for each entry, about; dear rules are asked last
    applies : whether it may be asked at all
    """

    name: str
    says: str
    asks: Callable[[Dispute], Answer]
    cost: int
    applies: Callable[[Dispute], bool] = lambda dispute: True


rules: Registry[Rule] = Registry("rule", "gradverify.rules")


def add(
    name: str, says: str, *, cost: int, applies: Callable[[Dispute], bool] = lambda dispute: True
) -> Callable[[Callable[[Dispute], Answer]], Callable[[Dispute], Answer]]:
    """Register a function as a rule: a decorator."""

    def decorate(asks: Callable[[Dispute], Answer]) -> Callable[[Dispute], Answer]:
        rules.add(name, Rule(name, says, asks, cost, applies))
        return asks

    return decorate


def ordered() -> list[Rule]:
    """Every rule, the cheapest first."""
    return sorted((rules.get(name) for name in rules.names()), key=lambda rule: (rule.cost, rule.name))


def tried(dispute: Dispute) -> tuple[Array, Array]:
    """The dispute before every rule, until nothing is left of it: what became of each entry, KINK, UNRESOLVED or
    DISAGREES, and the name of the rule that decided, "" where none did.
    """
    verdicts, reasons = np.full(dispute.size, DISAGREES, np.int8), np.full(dispute.size, "", object)
    left = np.arange(dispute.size)
    vain = tuning.current().vain
    for rule in ordered():
        if not dispute.size:
            break
        if (vain is not None and rule.name in vain) or not rule.applies(dispute):
            continue
        answer = asked(rule, dispute)
        if answer.vain and vain is not None:
            vain.add(rule.name)
        settled = answer.verdicts != DISAGREES
        verdicts[left[settled]] = answer.verdicts[settled]
        reasons[left[settled]] = rule.name
        left = left[~settled]
        dispute = dispute.only(~settled)
    return verdicts, reasons


def asked(rule: Rule, dispute: Dispute) -> Answer:
    """The rule's answer; one that fails, or answers what no rule may, is named, and takes nothing out."""
    nothing = Answer(np.full(dispute.size, DISAGREES, np.int8))
    try:
        with np.errstate(all="ignore"):
            answer = rule.asks(dispute)
            legal = np.isin(answer.verdicts, (KINK, UNRESOLVED, DISAGREES)).all()
            if np.shape(answer.verdicts) == (dispute.size,) and legal:
                return answer
        why = "it may answer kink, unresolved or disagrees, one for each entry"
    except LayerFailure:
        raise
    except Exception as error:  # noqa: BLE001  somebody's rule must cost neither a report nor a finding
        why = f"{type(error).__name__}: {error}"
    warnings.warn(f"the rule {rule.name!r} failed, and excuses nothing: {why}", RuntimeWarning, stacklevel=2)
    return nothing

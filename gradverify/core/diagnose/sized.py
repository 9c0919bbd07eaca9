"""Signatures of sizes: for which lengths of an axis, or for which ranks, the gradient is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import PLAIN, Evidence
from gradverify.core.nouns import Diagnosis, Fit

_LENGTHS = range(1, 9)  # sizes that are tried: a law of parity or of a block of 4 shows among them


@add("sizes", "SHAPE", PLAIN)
def sizes(evidence: Evidence) -> Diagnosis | None:
    """Wrong for some lengths of an axis: odd ones, those that a block does not divide, short or long ones."""
    if evidence.finding.kind == "shape" and evidence.situation.needs == "nothing":
        return None
    for name in variants.axis_names(evidence.layer):
        if name.startswith("*"):
            continue
        wrong, right = _scan(evidence, name, 0)
        pattern = _pattern(wrong, right)
        if pattern is None or any(_scan(evidence, name, draw) != (wrong, right) for draw in (1, 2)):
            continue  # nothing in common, or it was the values
        words, bug_class, fit = pattern
        block = _option_of(evidence, wrong, right)
        text = (
            f"{evidence.fault} where {name} is {block or words}{evidence.with_options} ({name} = {_list(wrong)}), and "
            f"{evidence.sound} for {name} = {_list(right)}"
        )
        if max(right) == 2 < min(wrong):
            bug_class, cause = _of_two(evidence, name)
            text, fit = f"{text}, as where {cause}", Fit.FORM
        return Diagnosis("sizes", bug_class, text, fit, {"wrong": wrong, "right": right})
    return None


def _of_two(evidence: Evidence, name: str) -> tuple[str, str]:
    """What two places hide and three do not: the class, and the cause in words.

    Where a primal that lies along the axis is wrong, it is not what is added up over it alone.
    """
    along = [p.name for p in evidence.layer.differentiable if name in p.dims.names]
    if evidence.primal in along or any(probe.wrong(n).any() for probe in evidence.probes for n in along):
        return "INDEX", "an order, a direction or what goes on from place to place is wrong, which two places hide"
    return "OVERWRITE", f"what several places along {name} contribute is lost, or added up wrongly"


def _scan(evidence: Evidence, name: str, draw: int) -> tuple[list[int], list[int]]:
    wrong: list[int] = []
    right: list[int] = []
    for n in _LENGTHS:
        case = evidence.plain(draw, sizes={name: n})
        probe = evidence.probe(case)
        sizes = {} if probe is None else evidence.layer.named_sizes(probe.case.primals, probe.case.options) or {}
        if probe is None or sizes.get(name) != n:
            continue
        (wrong if evidence.wrong(probe) else right).append(n)
    return wrong, right


def _pattern(wrong: Sequence[int], right: Sequence[int]) -> tuple[str, str, Fit] | None:
    """What the wrong lengths have in common and the right ones have not; wrong from 2 on is nothing special."""
    if not wrong or not right or len(wrong) + len(right) < 4:
        return None
    right_beyond_one = [n for n in right if n > 1]  # one place is right in many wrong ways
    for block in (2, 3, 4, 5):
        if all(n % block for n in wrong) and all(n % block == 0 for n in right_beyond_one) and len(right) > 1:
            return f"not a multiple of {block}", "SHAPE", Fit.PLACES
        among = bool(right) and max(right) > min(wrong)  # else they are the long ones that are allowed
        if among and all(n % block == 0 for n in wrong) and all(n % block for n in right) and len(wrong) > 1:
            return f"a multiple of {block}", "SHAPE", Fit.SOME
    if max(right) < min(wrong) and min(wrong) > 2:
        return f"{min(wrong)} or more", "SHAPE", Fit.SOME
    if max(wrong) < min(right):
        return ("1" if max(wrong) == 1 else f"{max(wrong)} or less"), "SHAPE", Fit.SOME
    return None


def _option_of(evidence: Evidence, wrong: Sequence[int], right: Sequence[int]) -> str:
    for name, value in evidence.options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 2:
            continue
        if all(n % value for n in wrong) and all(n % value == 0 for n in right if n > 1):
            return f"not a multiple of {name} = {value}"
    return ""


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


@add("rank", "SHAPE", PLAIN)
def rank(evidence: Evidence) -> Diagnosis | None:
    """Wrong for some numbers of leading axes."""
    groups = [n for n in variants.axis_names(evidence.layer) if n.startswith("*")]
    if not groups or any(axis.optional for p in evidence.layer.primals for axis in p.dims.axes):
        return None
    tried = {
        count: [evidence.plain(draw, sizes=dict.fromkeys(groups, (3, 2, 4)[:count])) for draw in range(3)]
        for count in range(4)
    }
    wrong = [count for count, cases in tried.items() if all(map(evidence.fails, cases))]
    right = [count for count, cases in tried.items() if evidence.holds(*cases)]
    if not wrong or not right or len(wrong) + len(right) < len(tried) or wrong == [1, 2, 3]:
        return None
    text = (
        f"{evidence.fault} with {_list(wrong)} leading axes ({groups[0]}), and {evidence.sound} with {_list(right)}: "
        f"backward counts on a number of axes"
    )
    return Diagnosis("rank", "SHAPE", text, Fit.LAW, {"wrong": wrong, "right": right})


@add("only_these_sizes", "SHAPE", ("sizes",))
def only_these_sizes(evidence: Evidence) -> Diagnosis | None:
    """Right on plain sizes, wrong on those of the finding, whatever the values."""
    if not evidence.situation.failing:
        return None
    if evidence.situation.equal is not None:
        return None
    others = [variants.plain(evidence.layer, evidence.case, evidence.options, k, like=evidence.case) for k in range(6)]
    if not all(map(evidence.fails, others)):
        return None
    shapes = ", ".join(f"{n} {'x'.join(map(str, np.shape(a))) or 'scalar'}" for n, a in evidence.case.primals.items())
    text = (
        f"{evidence.fault} on these shapes, whatever the values, and {evidence.sound} on plain ones: "
        f"{shapes}{evidence.with_options}"
    )
    return Diagnosis("only_these_sizes", "SHAPE", text, Fit.PART, {"cases": len(evidence.situation.failing)})

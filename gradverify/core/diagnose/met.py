"""The signature of contributions that meet in a place which forward computes: a nearest neighbour, a bin, a winner."""

from __future__ import annotations

from itertools import product

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.nouns import Case, Diagnosis, Fit

_APART = 9  # places, among which two seldom choose the same
_CROWD = 6  # that must meet where there is one place
_DRAWS = 4  # cases where no two should meet, of which most must be right: by chance two meet now and then


@add("met", "OVERWRITE")
def met(evidence: Evidence) -> Diagnosis | None:
    """Right where no two can meet in one place, wrong where they must, and now this, now that in between.

    Along one axis lie what chooses a place, along another the places, which the primal has. Where an index is
    given as a primal, its repetitions tell more.
    """
    layer = evidence.layer
    if not evidence.about_gradient or evidence.situation.needs not in ("nothing", "sizes", "values"):
        return None
    if any(p.domain.kind == "int" for p in layer.primals) or evidence.finding.kind != "wrong":
        return None
    names = [n for n in variants.axis_names(layer) if not n.startswith("*")]
    own = layer.primal(evidence.primal).dims.names
    for chooser, place in product([n for n in names if n not in own], [n for n in names if n in own]):
        if not all(map(evidence.holds, _cases(evidence, {chooser: 1}, 2))):
            continue
        if not all(map(evidence.fails, _cases(evidence, {chooser: _CROWD, place: 1}, 2))):
            continue
        apart = _cases(evidence, {chooser: 2, place: _APART}, _DRAWS)
        near = _cases(evidence, {chooser: 2, place: 2}, 2 * _DRAWS)
        failing = [evidence.fails(case) for case in near]
        if sum(map(evidence.holds, apart)) > _DRAWS // 2 and any(failing) and not all(failing):
            text = (
                f"contributions to one place of {place} overwrite one another in the gradient of {evidence.primal}: it "
                f"is right for {chooser} = 1, mostly right where two of {chooser} choose among {_APART} places, and "
                f"wrong where all must meet in one; the place is computed in forward (a minimum, a nearest "
                "neighbour, a bin), and what meets there must be added up"
            )
            return Diagnosis("met", "OVERWRITE", text, Fit.LAW, {"chooser": chooser, "place": place})
    return None


def _cases(evidence: Evidence, sizes: dict[str, int], count: int) -> list[Case | None]:
    return [evidence.plain(draw, sizes=sizes) for draw in range(count)]

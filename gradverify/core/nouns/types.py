"""The frozen nouns that flow through the house: Case, Comparison, Finding, Outcome, Report."""

from __future__ import annotations

import builtins
import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradverify.core.nouns.verified import Ledger, NotVerified, ledger

if TYPE_CHECKING:
    from gradverify.core.summarise.coverage import Coverage
    from gradverify.core.summarise.ran import Ran
    from gradverify.core.summarise.tally import Tally

Array = Any  # numpy.ndarray of any dtype; shapes stand in the docstrings


@dataclass(frozen=True, eq=False)
class Case:
    """Everything concrete that one check needs; it can be saved, sent and replayed.

    Attributes
    ----------
    layer : name of the layer it was drawn for
    primals : every primal by name, as stored
    options : option values by name (numbers, strings, booleans, None, tuples of these)
    cotangents : one array for each output; None until a forward has told their shapes
    step : relative step of the first central difference (the tutorial's epsilon); None lets the
        checker choose
    seed : source of all randomness that a property needs beyond the arrays
    target : what `gradverify replay` loads: a registered name, "package.module:object" or "file.py:object"
    """

    layer: str
    primals: Mapping[str, Array]
    options: Mapping[str, Any] = field(default_factory=dict)
    cotangents: tuple[Array, ...] | None = None
    step: float | None = None
    seed: int = 0
    target: str | None = None

    def but(self, **changes: Any) -> Case:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def rng(self, *stream: int) -> np.random.Generator:
        """A generator of its own for each stream of numbers; the same for the same Case."""
        return np.random.default_rng([self.seed, *stream])

    @property
    def size(self) -> int:
        """Number of array elements of all primals and cotangents."""
        return sum(int(a.size) for a in (*self.primals.values(), *(self.cotangents or ())))

    def save(self, path: Any) -> None:
        """Write this Case to one file; see `gradverify.casefile`."""
        from gradverify import casefile

        casefile.save(self, path)

    @staticmethod
    def load(path: Any) -> Case:
        """Read a Case file.

        Raises
        ------
        CaseFileError
            If the file is damaged or of an unknown version.
        """
        from gradverify import casefile

        return casefile.load(path)


class Verdict(enum.IntEnum):
    """Of one entry or direction, from the comparison of an Estimate with the analytic value."""

    AGREES = 0
    KINK = 1  # the analytic value lies between the one-sided slopes
    UNRESOLVED = 2  # the bound is too wide to tell
    DISAGREES = 3


# As plain numbers: up to Python 3.11, looking a member of an Enum up takes as long as adding two small arrays.
AGREES, KINK, UNRESOLVED, DISAGREES = (int(verdict) for verdict in Verdict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Numerical derivatives with their bounds, all arrays of the same shape.

    Attributes
    ----------
    value : numerical derivative
    truncation, rounding : bounds on the two parts of its error, same unit as `value`
    """

    value: Array
    truncation: Array
    rounding: Array

    @property
    def bound(self) -> Array:
        """Bound on the error of `value`: truncation plus rounding."""
        return self.truncation + self.rounding


@dataclass(frozen=True, slots=True)
class Comparison:
    """Analytic against numerical gradient of one primal; every array has the primal's shape.

    Attributes
    ----------
    primal : its name
    analytic, numerical : the two gradients
    bound : bound on the error of their difference
    verdicts : `Verdict` values (int8)
    scale : magnitude against which an unresolved bound is judged; same unit as the gradient
    labels : a readable name for each axis
    reasons : for each entry, the place in `rules` of what its verdict rests on (int8); None where nobody says
    rules : names; the first is "", for a verdict that a measurement gives by itself
    """

    primal: str
    analytic: Array
    numerical: Array
    bound: Array
    verdicts: Array
    scale: float
    labels: tuple[str, ...] = ()
    reasons: Array | None = None
    rules: tuple[str, ...] = ("",)

    def reason(self, place: tuple[int, ...]) -> str:
        """Name of what the verdict of an entry rests on, "" where it is plain; see `gradverify.core.judge.says`."""
        return "" if self.reasons is None else self.rules[int(self.reasons[place])]

    def because(self) -> dict[tuple[str, str], int]:
        """Number of entries for each verdict and name of its reason, plain ones left out."""
        if self.reasons is None:
            return {}
        found: dict[tuple[str, str], int] = {}
        for verdict in Verdict:
            counts = np.bincount(self.reasons[self.verdicts == verdict].ravel().astype(int), minlength=len(self.rules))
            found |= {(verdict.name.lower(), self.rules[k]): int(counts[k]) for k in np.flatnonzero(counts) if k}
        return found

    @property
    def error(self) -> Array:
        difference: Array = np.abs(self.analytic - self.numerical)
        return difference

    @property
    def wrong(self) -> Array:
        """Mask of the entries that disagree."""
        return self.verdicts == DISAGREES

    @property
    def ratio(self) -> Array:
        """Disagreement in units of the bound; 0 where both are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.error == 0, 0.0, self.error / self.bound)

    @property
    def resolution(self) -> float:
        """Smallest error that would have been noticed in most entries: the median bound relative to the scale."""
        decided = self.bound[self.verdicts != UNRESOLVED]
        if decided.size == 0:
            return float("inf")
        return float(np.median(decided)) / (self.scale or 1.0)

    @property
    def worst(self) -> tuple[int, ...]:
        """Index of the entry that disagrees most, in units of its bound."""
        told = (self.verdicts == AGREES) | (self.verdicts == DISAGREES)
        ratio = np.where(told, np.where(np.isnan(self.ratio), np.inf, self.ratio), -1.0)
        return tuple(int(k) for k in np.unravel_index(int(np.argmax(ratio)), ratio.shape)) if ratio.size else ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A signature that fits a finding, in words and with the evidence that was tried.

    Attributes
    ----------
    name : short identifier, e.g. "factor"
    bug_class : class of mutants it belongs to, e.g. "FACTOR"
    text : one sentence in the author's names
    confidence : in [0, 1]; used for ranking only
    evidence : numbers and facts behind the sentence, plain Python values
    """

    name: str
    bug_class: str
    text: str
    confidence: float
    evidence: Mapping[str, Any] = field(default_factory=dict)


WORST_SEEN = "worst seen"  # name of a fact of findings


@dataclass(frozen=True, eq=False)
class Finding:
    """A property that does not hold, where and by how much.

    Attributes
    ----------
    property, kind : what was asked, and how it failed ("wrong", "missing", "shape", "nan", "crash", ...)
    primal : which gradient, None if it concerns no single primal
    message : one sentence in the author's names
    case : the Case that shows it
    comparison : the full matrices, where two gradients were compared
    severity : error in units of its bound (inf where there is no bound)
    facts : plain numbers for diagnosis and reports
    worst : the Case with the largest severity seen, when it is not `case`; that severity is among the facts
    follows : fingerprint of another finding that looks the same, or that explains this one: one mistake, told once
    """

    property: str
    kind: str
    primal: str | None
    message: str
    case: Case
    comparison: Comparison | None = None
    severity: float = float("inf")
    facts: Mapping[str, Any] = field(default_factory=dict)
    diagnoses: tuple[Diagnosis, ...] = ()
    worst: Case | None = None
    follows: tuple[str, str, str] | None = None

    def but(self, **changes: Any) -> Finding:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    @builtins.property  # a field of this class is called property
    def fingerprint(self) -> tuple[str, str, str]:
        """What makes two findings the same: property, kind and primal."""
        return (self.property, self.kind, self.primal or "")

    def _repr_html_(self) -> str:
        from gradverify.report import html

        return html.render_finding(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one property said of one Case.

    Attributes
    ----------
    compared : comparisons made, by primal (may be empty for exact properties)
    entries : number of numbers compared
    skipped : the reason, if the property was not tried on this Case
    outputs : entries that a cotangent weighed, by output, where gradients were compared with numerical ones
    """

    property: str
    findings: tuple[Finding, ...] = ()
    compared: tuple[Comparison, ...] = ()
    entries: int = 0
    skipped: str | None = None
    outputs: Mapping[str, int] = field(default_factory=dict)


DIFFERENTIATING = ("gradient", "special", "reference")  # properties that compare with numerical derivatives


@dataclass(frozen=True, eq=False)
class Report:
    """The result of checking one layer.

    Attributes
    ----------
    layer : its name
    tallies : one `Tally` for each property, by name
    findings : what does not hold, most severe first
    declared : the author's declarations that bear on the result, one line each
    seed, seconds, examples : how the cases were drawn, and how long it took
    coverage : which sizes, options, types and values were drawn; None where nothing was
    lines : which lines of the author's code ran in a verified case; None where nothing was drawn
    unverified : what the layer holds that no property can look at, as its adapter saw it
    origin : the target that loads the layer, which tells two of one name apart
    """

    layer: str
    tallies: Mapping[str, Tally]
    findings: tuple[Finding, ...] = ()
    declared: tuple[str, ...] = ()
    seed: int | None = None
    seconds: float = 0.0
    examples: int = 0
    notes: Sequence[str] = ()
    coverage: Coverage | None = None
    lines: Ran | None = None
    unverified: tuple[NotVerified, ...] = ()
    origin: str | None = None

    @property
    def ok(self) -> bool:
        """No finding, and something was verified."""
        return not self.findings and self.verified

    @property
    def verified(self) -> bool:
        """Whether anything was decided, as below, and no weight left out of the gradients that were asked for."""
        return self.decided and not self.blocking

    @property
    def decided(self) -> bool:
        """Whether anything was decided, and of the gradients themselves where they were asked for."""
        asked = [tally for tally in self.tallies.values() if tally.property in DIFFERENTIATING]
        gradient = self.tallies.get("gradient")
        if gradient is None or gradient.verified:
            return any(tally.verified for tally in asked or self.tallies.values())
        return any(tally.decided or (tally.property == "reference" and tally.verified) for tally in asked)

    @property
    def verified_by(self) -> Ledger:
        """What was verified of each primal and output, and what was not."""
        return ledger((t for t in self.tallies.values() if t.property in DIFFERENTIATING), self.unverified)

    @property
    def blocking(self) -> tuple[NotVerified, ...]:
        """Weights that no gradient was found for, and primals at whose values forward jumps though nobody declares that
        it may: with them, no check of the gradients passes.
        """
        asked = any(name in self.tallies for name in DIFFERENTIATING)
        return self.verified_by.blocking if asked else ()

    @property
    def cases(self) -> int:
        return max((tally.cases for tally in self.tallies.values()), default=0)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __str__(self) -> str:
        from gradverify.report import terminal

        return terminal.render(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from gradverify.report import html

        return html.render_report(self)

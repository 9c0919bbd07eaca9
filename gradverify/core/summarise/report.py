"""The Report: the result of checking one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradverify.core.nouns import Finding
from gradverify.core.nouns.forms import form
from gradverify.core.nouns.ledger import Ledger, NotVerified, ledger
from gradverify.core.summarise.coverage import Coverage
from gradverify.core.summarise.lines_ran import Ran
from gradverify.core.summarise.tally import Tally

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
    def remarks(self) -> tuple[str, ...]:
        """The notes, and where nothing is wrong, what properties have to say all the same."""
        more = () if self.findings else tuple(note for tally in self.tallies.values() for note in tally.notes)
        return (*self.notes, *more)

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
        return str(form("report_text")(self))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return str(form("report_html")(self))

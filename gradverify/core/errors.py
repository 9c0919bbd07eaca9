"""Exceptions that a user can catch."""

from __future__ import annotations


class GradverifyError(Exception):
    """Base of every error that gradverify raises for a user's mistake."""


class DeclarationError(GradverifyError, ValueError):
    """A layer, loss, dimension string, domain or option was declared in a way that cannot be used."""


class TargetError(GradverifyError, LookupError):
    """A target names nothing that can be found or loaded."""


class CaseFileError(GradverifyError, ValueError):
    """A saved Case is damaged, or was written by an unknown version."""


class UsageError(GradverifyError, ValueError):
    """An argument has a value that makes no sense (zero examples, a step that is NaN, ...)."""


class NoPass(AssertionError):
    """Raised by `gradverify.check` where a check does not pass; carries the Report.

    Attributes
    ----------
    report : gradverify.Report
        Everything that was checked, with the findings.
    """

    def __init__(self, report: object, text: str) -> None:
        super().__init__(text)
        self.report = report


class GradientMismatch(NoPass):
    """Raised by `gradverify.check` when there is a finding; carries the Report."""


class PartlyVerified(NoPass):
    """Raised by `gradverify.check` when weights that the output depends on were left out, or forward jumps
    though nobody declares that it may; carries the Report.

    The text says how to declare each of them.
    """


class NothingVerified(NoPass):
    """Raised by `gradverify.check` when no entry could be decided; carries the Report."""

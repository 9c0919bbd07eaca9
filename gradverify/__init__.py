"""gradverify: the test that every backward pass must pass.

Names are imported on first use, so that `import gradverify` (and with it the pytest plugin) costs
nothing in a project that does not need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradverify import adapt as adapt
    from gradverify.adapters import register as register
    from gradverify.api import check as check
    from gradverify.api import verify as verify
    from gradverify.core.declare.layer import Layer as Layer
    from gradverify.core.declare.layer import Loss as Loss
    from gradverify.core.errors import CaseFileError as CaseFileError
    from gradverify.core.errors import DeclarationError as DeclarationError
    from gradverify.core.errors import GradientMismatch as GradientMismatch
    from gradverify.core.errors import GradverifyError as GradverifyError
    from gradverify.core.errors import NothingVerified as NothingVerified
    from gradverify.core.errors import PartlyVerified as PartlyVerified
    from gradverify.core.errors import TargetError as TargetError
    from gradverify.core.errors import UsageError as UsageError
    from gradverify.core.nouns import Case as Case
    from gradverify.core.nouns import Finding as Finding
    from gradverify.core.nouns import Verdict as Verdict
    from gradverify.core.summarise.report import Report as Report
    from gradverify.decorator import given as given
    from gradverify.recurrent import register_cell as register_cell

__version__ = "0.1.0"

FORMS = {  # how the nouns of the core are shown and kept, which they do not know themselves
    "save": "casefile:save",
    "load": "casefile:load",
    "report_text": "report.terminal:render",
    "report_html": "report.html:render_report",
    "finding_html": "report.html:render_finding",
}

_HOMES = {
    "check": "api",
    "given": "decorator",
    "verify": "api",
    "Layer": "core.declare.layer",
    "Loss": "core.declare.layer",
    "register": "adapters",
    "register_cell": "recurrent",
    "Case": "core.nouns",
    "Finding": "core.nouns",
    "Report": "core.summarise.report",
    "Verdict": "core.nouns",
    "CaseFileError": "core.errors",
    "DeclarationError": "core.errors",
    "GradientMismatch": "core.errors",
    "GradverifyError": "core.errors",
    "NothingVerified": "core.errors",
    "PartlyVerified": "core.errors",
    "TargetError": "core.errors",
    "UsageError": "core.errors",
}
_MODULES = ("adapt",)  # that are used as `gradverify.NAME` without an import of their own
__all__ = [*_HOMES, *_MODULES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"gradverify.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gradverify' has no attribute {name!r}")
    value = getattr(import_module(f"gradverify.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})

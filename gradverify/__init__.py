"""gradverify: the test that every backward pass must pass.

Names are imported on first use, so that `import gradverify` (and with it the pytest plugin) costs
nothing in a project that does not need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradverify.adapters import register as register
    from gradverify.api import check as check
    from gradverify.api import verify as verify
    from gradverify.core.declare.layer import Layer as Layer
    from gradverify.core.declare.layer import Loss as Loss
    from gradverify.core.errors import DeclarationError as DeclarationError
    from gradverify.core.errors import GradientMismatch as GradientMismatch
    from gradverify.core.errors import GradverifyError as GradverifyError
    from gradverify.core.errors import NothingVerified as NothingVerified
    from gradverify.core.errors import PartlyVerified as PartlyVerified
    from gradverify.core.errors import TargetError as TargetError
    from gradverify.core.errors import UsageError as UsageError
    from gradverify.core.nouns.case import Case as Case
    from gradverify.core.nouns.comparison import Verdict as Verdict
    from gradverify.core.nouns.finding import Finding as Finding
    from gradverify.core.summarise.report import Report as Report
    from gradverify.decorator import given as given
    from gradverify.recurrent import register_cell as register_cell

__version__ = "0.1.0"

_HOMES = {
    "check": "checking",
    "given": "decorator",
    "verify": "verification",
    "Layer": "layer",
    "Loss": "layer",
    "register": "registry",
    "register_cell": "recurrent",
    "Case": "types",
    "Finding": "types",
    "Report": "types",
    "Verdict": "types",
    "DeclarationError": "errors",
    "GradientMismatch": "errors",
    "GradverifyError": "errors",
    "NothingVerified": "errors",
    "PartlyVerified": "errors",
    "TargetError": "errors",
    "UsageError": "errors",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "adapt":
        return import_module("gradverify.adapt")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gradverify' has no attribute {name!r}")
    value = getattr(import_module(f"gradverify.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

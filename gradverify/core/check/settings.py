"""How cases are drawn and compared: what a user may set for one check."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Integral, Real

from gradverify.core import tuning
from gradverify.core.errors import UsageError
from gradverify.core.texts import meant
from gradverify.core.verify import selected

EXAMPLES = 100  # cases for each property, unless told otherwise
DTYPES = ("float64", "float32", "float16")
METHODS = ("adaptive", "central", "complex")


@dataclass(frozen=True, slots=True)
class Settings:
    """How cases are drawn and compared.

    Attributes
    ----------
    examples : cases drawn for each property
    seed : of the drawing; None takes 0, so that a run can be repeated
    eps : relative step of the first central difference; None draws it with each case
    dtype : floating type of the primals
    properties : names of the properties to try; None tries all that apply
    method : "adaptive", "central" (the tutorial's procedure at `eps` alone) or "complex"
    sweep : True compares every entry whatever their number, False screens only, None decides by size
    memory : bytes of perturbed copies in flight
    shrink : whether failing cases are made small and diagnosed
    """

    examples: int = EXAMPLES
    seed: int | None = None
    eps: float | None = None
    dtype: str = "float64"
    properties: tuple[str, ...] | None = None
    method: str = "adaptive"
    sweep: bool | None = None
    memory: int | None = None
    shrink: bool = True

    def __post_init__(self) -> None:
        if not _whole(self.examples) or self.examples < 1:
            raise UsageError(f"examples must be a whole number of at least 1, got {self.examples!r}")
        if self.eps is not None and not (isinstance(self.eps, Real) and 0 < self.eps < 1):
            raise UsageError(f"eps must be a finite step between 0 and 1 (relative to the entry), got {self.eps!r}")
        if self.dtype not in DTYPES:
            near = meant(self.dtype, DTYPES, 1)
            raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}{near}")
        if self.method not in METHODS:
            near = meant(self.method, METHODS, 1)
            raise UsageError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}{near}")
        if self.seed is not None and not _whole(self.seed):
            raise UsageError(f"seed must be a whole number, got {self.seed!r}")
        if self.memory is not None and (not _whole(self.memory) or self.memory < 1):
            raise UsageError(f"memory must be a positive number of bytes, got {self.memory!r}")
        selected(self.properties)

    @property
    def tuning(self) -> tuning.Tuning:
        limit = {None: tuning.current().sweep_limit, True: sys.maxsize, False: 0}[self.sweep]
        return tuning.Tuning(method=self.method, eps=self.eps, sweep_limit=limit, memory=self.memory)


def _whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)

"""What travels between a campaign and its workers: plain data that every executor can carry.

Layers travel as targets (import paths), cases as rows of bytes or as Case files, never as pickled code.
"""

from __future__ import annotations

import builtins
import ctypes
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradverify.core.declare.regime import Regime
from gradverify.core.errors import CaseFileError
from gradverify.core.verify import SECONDS
from gradverify.files import Fields, packed, unpacked

Fingerprint = tuple[str, str, str]  # property, kind and primal ("" for none), as in Finding.fingerprint


@dataclass(frozen=True, slots=True)
class Plan:
    """How every unit of a campaign draws and compares.

    Attributes
    ----------
    dtype, eps, properties, method : as in `gradverify.core.check.settings.Settings`
    case_seconds : time limit of one property on one case; what takes longer is a finding of kind "timeout"
    memory : bytes that a worker may allocate beyond what it has when it starts; None for no limit
    folder : working directory of the campaign, so that relative targets mean the same in every worker
    learn : whether interesting rows are kept and mutated
    named, loss : all targets that were named, and the loss above them; a worker loads them together, as a file that
        several of its layers are taken from is run only once then; None where a layer is loaded by its own target
    """

    dtype: str = "float64"
    eps: float | None = None
    properties: tuple[str, ...] | None = None
    method: str = "adaptive"
    case_seconds: float = SECONDS
    memory: int | None = 4 << 30
    folder: str = "."
    learn: bool = True
    named: tuple[str, ...] | None = None
    loss: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of bytes from which a case of one layer is decoded, and why it was kept.

    Attributes
    ----------
    regime : what the case was drawn for
    data : the row
    features : hashes of what was new in its case
    ratio : its worst disagreement in units of the bound, if that was a record
    reached : whether it reached code that no case before it had
    """

    regime: Regime
    data: bytes
    features: tuple[int, ...] = ()
    ratio: float = 0.0
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work: a layer for a slice of time.

    Attributes
    ----------
    number, attempt : of the unit in its campaign, and how often it was begun anew after a worker died
    layer, target : the layer's name, and what loads it
    seed : of the drawing
    seconds, cases : the slice ends when either is used up
    rows : kept rows, to be mutated
    features : hashes of what has been seen before
    ratio : worst disagreement seen before, in units of the bound
    known : fingerprints found before, with the size of the smallest case
    pending : found or begun before and not settled, as journal records; they are tried first
    fragile : digests of pending records that ended a process while they were settled; they are not made smaller
    journal : folder in which a case is written down before the layer sees it; None for a temporary one
    """

    number: int
    layer: str
    target: str
    seed: int
    seconds: float
    plan: Plan = field(default_factory=Plan)
    cases: int | None = None
    attempt: int = 0
    rows: tuple[Row, ...] = ()
    features: frozenset[int] = frozenset()
    ratio: float = 0.0
    known: tuple[tuple[Fingerprint, int], ...] = ()
    pending: tuple[bytes, ...] = ()
    fragile: frozenset[str] = frozenset()
    journal: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A finding as plain data.

    Attributes
    ----------
    layer, property, kind, primal, diagnosis : what makes it one finding; see `key`
    asked : the property that was being tried
    raw : its fingerprint when it was first seen, by which it is known again
    message, report : in one sentence, and in full
    severity : error in units of its bound
    case : the bytes of a Case file; empty if no file can hold one of its options
    regime : what the case was drawn for
    size : number of array elements of the case
    settled : False while the case is not yet small and confirmed
    """

    layer: str
    property: str
    kind: str
    primal: str | None
    diagnosis: str | None
    asked: str
    raw: Fingerprint
    message: str
    report: str
    severity: float
    case: bytes
    size: int
    regime: Regime = field(default_factory=Regime)
    settled: bool = True

    @builtins.property  # a field of this class is called property
    def key(self) -> str:
        """Same layer, property, primal and diagnosis (where there is none, kind): the same finding."""
        return key_of(self.layer, self.property, self.primal, self.diagnosis or self.kind)


def key_of(*parts: str | None) -> str:
    """Eight hexadecimal digits."""
    return hashlib.sha256("\0".join(part or "" for part in parts).encode()).hexdigest()[:8]


@dataclass(slots=True)
class Delta:
    """What happened since the last one.

    Attributes
    ----------
    unit, layer : whose it is
    host, pid, memory : the worker, and its resident bytes
    cases, entries, seconds, verified : what was tried, what was compared, and whether anything was decided
    ratio : largest disagreement in units of its bound
    found, again : new findings; and how often known ones were met again, by raw fingerprint
    dropped : pending records (their `digest`) that are done with
    unfit : pending records that do not fit the layer any more, and why
    held : records that ended, or held up, a process when there was no time left to try them again
    stuck : the pending record that was being settled when its process ended
    rows : rows worth keeping
    lost : a worker process died, was no fault of the layer's, and was replaced
    failed : the traceback of an error in gradverify itself
    idle : why no property that is asked for applies to the layer
    error : why the layer cannot be tried on this worker
    """

    unit: int
    layer: str
    host: str = ""
    pid: int = 0
    memory: int = 0
    cases: int = 0
    entries: int = 0
    seconds: float = 0.0
    verified: bool = False
    ratio: float = 0.0
    found: list[Found] = field(default_factory=list)
    again: dict[Fingerprint, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    held: list[bytes] = field(default_factory=list)
    stuck: str | None = None
    rows: list[Row] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failed: str | None = None
    idle: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A case that a layer was about to see, as the journal holds it: a row, or a Case file."""

    layer: str
    target: str
    asked: str  # the property about to be tried
    regime: Regime
    content: bytes
    is_row: bool

    def dumps(self) -> bytes:
        """One line of JSON, then the row or the Case file."""
        return self.head(self.layer, self.target, self.asked, self.regime, self.is_row) + self.content

    @staticmethod
    def head(layer: str, target: str, asked: str, regime: Regime, is_row: bool) -> bytes:
        about: dict[str, Any] = {"layer": layer, "target": target, "asked": asked, "is_row": is_row}
        return packed(about | {"regime": regime_to_json(regime)}, b"")

    @staticmethod
    def loads(data: bytes) -> Record:
        """Read a record; raises CaseFileError if it is none."""
        try:
            about, content = unpacked(data)
            layer, target, asked = (about.text(name) for name in ("layer", "target", "asked"))
            return Record(layer, target, asked, regime_of(about.inner("regime")), content, about.flag("is_row"))
        except CaseFileError as error:
            raise CaseFileError(f"the journal record is damaged: {error}") from None


def record_of(found: Found, target: str) -> bytes:
    """The journal record by which an unsettled finding is tried again."""
    return Record(found.layer, target, found.asked, found.regime, found.case, False).dumps()


def digest(data: bytes) -> str:
    """What names a pending record."""
    return hashlib.sha256(data).hexdigest()[:16]


def regime_to_json(regime: Regime) -> dict[str, Any]:
    return {"special": regime.special, "dtype": regime.dtype, "small": regime.small}


def regime_of(about: Fields) -> Regime:
    """Read it back; raises CaseFileError."""
    return Regime(about.flag("special"), about.name("dtype"), about.flag("small"))


def row_to_json(layer: str, row: Row) -> dict[str, Any]:
    """For the store; a ratio may be infinite, which JSON cannot say."""
    return {
        "layer": layer,
        "regime": regime_to_json(row.regime),
        "row": row.data.hex(),
        "features": list(row.features),
        "ratio": repr(float(row.ratio)),
        "reached": row.reached,
    }


def row_of(about: Fields) -> tuple[str, Row]:
    """Read it back, with the name of its layer; raises CaseFileError."""
    try:
        data = bytes.fromhex(about.text("row"))
    except ValueError:
        raise CaseFileError("the row is damaged") from None
    features = about.listed("features", int)
    if any(not 0 <= feature < 1 << 32 for feature in features):
        raise CaseFileError("a feature is no hash")
    row = Row(regime_of(about.inner("regime")), data, tuple(features), about.number("ratio"), about.flag("reached"))
    return about.text("layer"), row


def give_back() -> None:
    """Return memory that was freed to the system: else a process keeps what its largest work once needed."""
    with suppress(OSError, AttributeError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0

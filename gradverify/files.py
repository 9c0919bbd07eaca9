"""What is kept on disk: one way to write a file, one way to read it back, and one form of a finding.

A file is whole or it is not there: it is written beside its place, flushed to the disk and renamed. What is read
back may be damaged, of another version, or not ours at all; whatever is wrong with it is a CaseFileError, and it
costs no more memory than the file has bytes.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gradverify.core import texts
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Finding

FORMAT, VERSION = "gradverify-finding", 1
MOST = 1 << 26  # bytes of a file that is read whole; a Case of 8 million numbers
TEXT = 1 << 20  # bytes of a JSON text: Python's objects are some twenty times as large
_WHOLE = 1 << 63
OWN = ".gradverify"  # folder of a project's own cases, corpus and campaigns
_IGNORED = """\
# Written by gradverify. The corpus is worth committing: every run of pytest replays it first.
/*
!/.gitignore
!/corpus/
"""


def write(path: Path, content: bytes) -> None:
    """Write a whole file, onto the disk, before it takes its name; no half-written one is left.

    Raises OSError if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unversioned(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def unversioned(path: Path) -> None:
    """Where a path leads into a folder `.gradverify`: the file there that keeps what is of one machine out of git."""
    home = next((folder for folder in path.parents if folder.name == OWN), None)
    ignored = None if home is None else home / ".gitignore"
    if ignored is not None and not ignored.exists():
        with suppress(OSError):  # a folder that cannot be written is told by whoever writes into it
            ignored.parent.mkdir(parents=True, exist_ok=True)
            ignored.write_text(_IGNORED, encoding="utf-8")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, to be read; raises CaseFileError if it is missing or no regular file, or reading it fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe must not hold us up
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is no regular file")
            yield file
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, CaseFileError):
            raise
        why = getattr(error, "strerror", None) or error
        raise CaseFileError(f"cannot read {os.fspath(path)!r}: {why}") from None


def read(path: Path, most: int = MOST) -> bytes:
    """The bytes of a regular file.

    Raises CaseFileError if it is missing, no regular file, or larger than `most` bytes.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(f"it is larger than {most:,} bytes")
        return file.read(most)


class Fields:
    """A JSON object that was read back: each value is asked for by its type; anything else is a CaseFileError."""

    def __init__(self, content: Any) -> None:
        if type(content) is not dict:
            raise CaseFileError("it holds no JSON object")
        self.content: dict[str, Any] = content

    @staticmethod
    def parse(text: bytes) -> Fields:
        """Read a JSON object; raises CaseFileError for any other text."""
        try:
            if len(text) > TEXT:
                raise ValueError(f"it is larger than {TEXT:,} bytes")
            return Fields(json.loads(text, parse_constant=_refused))
        except CaseFileError:
            raise
        except (ValueError, RecursionError) as error:
            raise CaseFileError(f"it is no JSON text ({type(error).__name__}: {error})") from None

    def of(self, form: str, version: int) -> Fields:
        """Itself, if its format and version are these."""
        if self.content.get("format") != form or self.content.get("version") != version:
            raise CaseFileError(f"it is not of the format {form}, version {version}")
        return self

    def text(self, name: str) -> str:
        """A string."""
        return str(self._one(name, str))

    def line(self, name: str, most: int = texts.LINE) -> str:
        """A string, fit to be shown on one line."""
        return texts.line(self.text(name), most)

    def name(self, name: str) -> str | None:
        """A short string on one line, or None."""
        return None if self.content.get(name) is None else self.line(name, 200)

    def flag(self, name: str) -> bool:
        """True or False."""
        return bool(self._one(name, bool))

    def whole(self, name: str) -> int:
        """A whole number, however large."""
        return int(self._one(name, int))

    def count(self, name: str) -> int:
        """A whole number that is not negative, of at most 63 bits."""
        found = self.whole(name)
        if not 0 <= found < _WHOLE:
            raise CaseFileError(f"{name!r} is no count")
        return int(found)

    def number(self, name: str) -> float:
        """A number as `repr` writes it, infinite ones included."""
        found = self._one(name, str, int, float)
        try:
            return float(found)
        except (ValueError, OverflowError):
            raise CaseFileError(f"{name!r} is no number") from None

    def inner(self, name: str) -> Fields:
        """An object inside."""
        return Fields(self._one(name, dict))

    def listed(self, name: str, kind: type) -> list[Any]:
        """A list of values of one type."""
        found: list[Any] = self._one(name, list)
        if any(type(part) is not kind for part in found):
            raise CaseFileError(f"{name!r} is no list of {kind.__name__}")
        return found

    def _one(self, name: str, *kinds: type) -> Any:
        if type(self.content.get(name)) not in kinds:
            raise CaseFileError(f"{name!r} is missing, or of another type")
        return self.content[name]


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number in JSON")


def dumps(content: Mapping[str, Any]) -> bytes:
    """JSON, one value a line."""
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"


def packed(about: Mapping[str, Any], content: bytes) -> bytes:
    """A JSON object on one line, and bytes behind it."""
    return json.dumps(about, allow_nan=False).encode() + b"\n" + content


def unpacked(data: bytes) -> tuple[Fields, bytes]:
    """What `packed` was given; raises CaseFileError for anything else."""
    line, _, content = data.partition(b"\n")
    return Fields.parse(line), content


@dataclass(frozen=True, slots=True)
class FindingText:
    """What a finding says, without its Case and its matrices.

    Attributes
    ----------
    property, kind, primal, message, severity : as in `Finding`
    asked : the property that was being tried
    """

    property: str
    kind: str
    primal: str | None
    message: str
    severity: float
    asked: str

    @staticmethod
    def of(finding: Finding, asked: str) -> FindingText:
        """What a finding of the core says."""
        severity = float(finding.severity)
        return FindingText(finding.property, finding.kind, finding.primal, finding.message, severity, asked)

    def to_json(self, **more: Any) -> dict[str, Any]:
        """Plain values, and `more` that whoever keeps the finding wants to keep beside it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "property": self.property,
            "kind": self.kind,
            "primal": self.primal,
            "message": self.message,
            "severity": repr(self.severity),  # JSON knows no infinity
            "asked": self.asked,
            **more,
        }

    @staticmethod
    def from_json(fields: Fields) -> FindingText:
        """Read it back; raises CaseFileError."""
        fields.of(FORMAT, VERSION)
        return FindingText(
            fields.line("property", 200),
            fields.line("kind", 200),
            fields.name("primal"),
            fields.line("message", 4 * texts.LINE),
            fields.number("severity"),
            fields.line("asked", 200),
        )

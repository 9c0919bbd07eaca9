"""The store of campaigns: a folder from which nothing is lost, and nothing half-written is read back.

    campaign.json       format and version
    findings/           one JSON file for each finding, and the Case file that it names
    pending/            findings that are not settled yet, as journal records
    journal/            the cases that the workers are looking at
    rows/               interesting rows of each run, one JSON object a line
    runs/               what each run has counted, and a lock that it holds while it lives
    events.ndjson       what happened, one JSON object a line

Files are written as `gradverify.files` does it; lines are appended whole. What is damaged costs that one
file, or line, and is named in `damaged`. Several campaigns may use one store: each has a run of its own,
and findings are merged under a lock.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import gradverify
from gradverify import files
from gradverify.campaign import journal
from gradverify.campaign.unit import Found, Row, digest, row_of, row_to_json
from gradverify.core import texts
from gradverify.core.errors import CaseFileError, UsageError
from gradverify.files import Fields, FindingText

T = TypeVar("T")

FORMAT, VERSION = "gradverify-campaign", 1


class StoreError(UsageError):
    """The store cannot be used, or can no longer be written."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a run has counted.

    Attributes
    ----------
    cases, entries, verified : by layer
    counts : how often each finding was met, by its key
    """

    cases: dict[str, int]
    entries: dict[str, int]
    verified: dict[str, bool]
    counts: dict[str, int]

    @staticmethod
    def of(about: Fields) -> Counted:
        """Read it back; raises CaseFileError."""
        every, counts = (about.inner(name) if name in about.content else Fields({}) for name in ("layers", "counts"))
        layers = {name: every.inner(name) for name in every.content}
        return Counted(
            {name: layer.count("cases") for name, layer in layers.items()},
            {name: layer.count("entries") for name, layer in layers.items()},
            {name: layer.flag("verified") for name, layer in layers.items()},
            {key: counts.count(key) for key in counts.content},
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A finding in the store.

    Attributes
    ----------
    file : its Case file, None where no file can hold the case
    count : how often it was met, over all runs
    """

    found: Found
    file: Path | None
    count: int = 1


class Store:
    """One run's hold on the folder; close it when the run is over."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.damaged: list[str] = []
        with _readable_errors(self.folder):
            for name in ("findings", "pending", "journal", "rows", "runs"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                files.unversioned(self.folder / name / "any")
            self._check_format()
            self.run, self._lock = self._claim()
            self._events = _appended(self.folder / "events.ndjson")
            self._rows = _appended(self.folder / "rows" / f"{self.run}.ndjson")

    @property
    def journals(self) -> Path:
        """Where this run's workers keep their journals."""
        path = self.folder / "journal" / str(self.run)
        path.mkdir(exist_ok=True)
        return path

    def event(self, event: str, /, **about: Any) -> None:
        """Append one line to the event log; raises StoreError if it cannot be written."""
        line = {"event": event, "time": round(time.time(), 3), "run": self.run, **about}
        self._append(self._events, line)

    def keep_row(self, layer: str, row: Row) -> None:
        """Keep an interesting row."""
        self._append(self._rows, row_to_json(layer, row))

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Rows of all runs, oldest run first."""
        for path in sorted((self.folder / "rows").glob("*.ndjson"), key=_number):
            yield from self._tried(path, self._rows_in) or []

    def _rows_in(self, path: Path) -> list[tuple[str, Row]]:
        """The rows in a file; lines that cannot be read are noted, and left out."""
        rows, broken = [], 0
        for line in _lines(path):
            try:
                rows.append(row_of(Fields.parse(line)))
            except CaseFileError:
                broken += 1
        if broken:
            self.damaged.append(f"{path.name}: {broken} line{'s' * (broken != 1)} cannot be read")
        return rows

    def count(self, counted: Mapping[str, Any]) -> None:
        """Replace what this run has counted."""
        with _readable_errors(self.folder):
            files.write(self.folder / "runs" / f"{self.run}.json", files.dumps({"run": self.run, **counted}))

    def runs(self) -> list[Counted]:
        """What every run has counted so far."""
        paths = sorted((self.folder / "runs").glob("*.json"), key=_number)
        read = [
            self._tried(path, lambda path: Counted.of(Fields.parse(files.read(path, files.TEXT)))) for path in paths
        ]
        return [counted for counted in read if counted is not None]

    def keep(self, found: Found) -> Entry:
        """Keep a finding: a new one, or a smaller case of a known one; gives what is in the store now."""
        with _readable_errors(self.folder), self._alone():
            stem = "-".join(re.sub(r"[^\w.+]+", "_", p) for p in (found.layer, found.property, found.primal or "") if p)
            path = self.folder / "findings" / f"{stem[:80]}-{found.key}.json"
            known = self._tried(path, _entry) if path.exists() else None
            if known is not None and known.found.size <= found.size:
                return known
            file = None
            if found.case:
                file = path.with_name(f"{path.stem}-{hashlib.sha256(found.case).hexdigest()[:8]}.npz")
                files.write(file, found.case)
            files.write(path, files.dumps(_finding_to_json(found, file)))
            if known is not None and known.file is not None and known.file != file:
                known.file.unlink(missing_ok=True)
            return Entry(found, file)

    def findings(self) -> list[Entry]:
        """Every finding, most severe first, with its count over all runs; damaged ones are noted in `damaged`."""
        counts: dict[str, int] = {}
        for run in self.runs():
            for key, number in run.counts.items():
                counts[key] = counts.get(key, 0) + number
        entries = [self._tried(path, _entry) for path in sorted((self.folder / "findings").glob("*.json"))]
        found = [replace(entry, count=max(1, counts.get(entry.found.key, 1))) for entry in entries if entry is not None]
        return sorted(found, key=lambda entry: (-entry.found.severity, entry.found.layer, entry.found.property))

    def fix(self, key: str) -> None:
        """Forget a finding that does not fail any more."""
        with _readable_errors(self.folder), self._alone():
            for path in (self.folder / "findings").glob(f"*-{key}.json"):
                entry = self._tried(path, _entry)
                path.unlink(missing_ok=True)
                if entry is not None and entry.file is not None:
                    entry.file.unlink(missing_ok=True)

    def hold(self, record: bytes) -> None:
        """Keep a record until it is settled."""
        with _readable_errors(self.folder):
            files.write(self.folder / "pending" / f"{self.run}-{digest(record)}", record)

    def release(self, name: str) -> None:
        """Forget a settled record, by its digest."""
        with _readable_errors(self.folder):
            (self.folder / "pending" / f"{self.run}-{name}").unlink(missing_ok=True)

    def inherit(self) -> list[bytes]:
        """What runs that live no more have left unsettled, or were just looking at; it is this run's from now on."""
        left: list[bytes] = []
        with _readable_errors(self.folder), self._alone():
            dead = [number for number in self._numbers() if number != self.run and not self._lives(number)]
            for number in dead:
                paths = list((self.folder / "pending").glob(f"{number}-*"))
                journals = list((self.folder / "journal" / str(number)).glob(f"*{journal.SUFFIX}"))
                records = [self._tried(path, _pending) for path in paths if "." not in path.name]
                for record in (*records, *map(journal.read, journals)):
                    if record is not None:
                        self.hold(record)
                        left.append(record)
                for path in [*paths, *(self.folder / "journal" / str(number)).glob("*")]:
                    with suppress(IsADirectoryError):  # of somebody else's making
                        path.unlink(missing_ok=True)
        return left

    def close(self) -> None:
        """Give up the run's lock; journals of living workers must be gone by now."""
        with suppress(OSError):  # the disk may be read-only by now
            for path in (self.folder / "journal" / str(self.run)).glob("*"):
                path.unlink(missing_ok=True)
            (self.folder / "journal" / str(self.run)).rmdir()
        for descriptor in (self._events, self._rows, self._lock):
            os.close(descriptor)

    def _check_format(self) -> None:
        """Refuse a folder that another version wrote, or somebody else; what is damaged in a store is written anew."""
        path = self.folder / "campaign.json"
        try:
            if path.exists():
                Fields.parse(files.read(path, files.TEXT)).of(FORMAT, VERSION)
                return
        except CaseFileError as error:
            about = self._tried(path, lambda path: Fields.parse(files.read(path, files.TEXT)))
            if (about is not None and "format" in about.content) or not self._numbers():
                said = f"{FORMAT}, version {VERSION} ({path.name}: {error})"
                raise StoreError(f"{str(self.folder)!r} is no store of {said}") from None
        files.write(path, files.dumps({"format": FORMAT, "version": VERSION, "gradverify": gradverify.__version__}))

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in (self.folder / "runs").glob("*.lock") if path.stem.isdecimal())

    def _claim(self) -> tuple[int, int]:
        """The next number that no run has had, and the lock that shows that this run lives."""
        number = max(self._numbers(), default=0) + 1
        while True:
            try:
                lock = os.open(self.folder / "runs" / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                number += 1
                continue
            _flock(lock)
            return number, lock

    def _lives(self, number: int) -> bool:
        try:
            descriptor = os.open(self.folder / "runs" / f"{number}.lock", os.O_RDWR)
        except OSError:
            return False
        try:
            return not _flock(descriptor, wait=False)
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _tried(self, path: Path, read: Callable[[Path], T]) -> T | None:
        """What is in a file; None, and a note, if it is damaged."""
        try:
            return read(path)
        except CaseFileError as error:
            self.damaged.append(texts.line(f"{path.name}: {error}"))
            return None

    def _append(self, descriptor: int, line: Mapping[str, Any]) -> None:
        with _readable_errors(self.folder):
            data = json.dumps(line, allow_nan=False).encode() + b"\n"
            written = os.write(descriptor, data)
            if written < len(data):  # the disk is full; end the broken line if that is still possible
                os.write(descriptor, b"\n")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _pending(path: Path) -> bytes:
    """A record that is not settled; raises CaseFileError if it is not the one that its name says."""
    record = files.read(path)
    if not path.name.endswith(f"-{digest(record)}"):
        raise CaseFileError("it is not what its name says")
    return record


def _entry(path: Path) -> Entry:
    """A finding read back; raises CaseFileError if the file or its case is not whole."""
    about = Fields.parse(files.read(path, files.TEXT))
    content, file = b"", None
    if about.content.get("case") is not None:
        name = about.text("case")
        if not re.fullmatch(re.escape(path.stem) + r"-\w+\.npz", name):
            raise CaseFileError(f"{texts.line(name, 200)!r} is no case of it")
        file = path.with_name(name)
        content = files.read(file)
        if hashlib.sha256(content).hexdigest() != about.text("sha256"):
            raise CaseFileError(f"the case file {file.name!r} is damaged")
    return Entry(_finding_of(about, content), file)


def _finding_to_json(found: Found, file: Path | None) -> dict[str, Any]:
    text = FindingText(found.property, found.kind, found.primal, found.message, found.severity, found.asked)
    return text.to_json(
        id=found.key,
        layer=found.layer,
        diagnosis=found.diagnosis,
        raw=list(found.raw),
        size=found.size,
        case=None if file is None else file.name,
        sha256=hashlib.sha256(found.case).hexdigest(),
        report=found.report,
    )


def _finding_of(about: Fields, case: bytes) -> Found:
    text = FindingText.from_json(about)
    raw = about.listed("raw", str)
    if len(raw) != 3:
        raise CaseFileError("'raw' is no fingerprint")
    return Found(
        about.line("layer", 200),
        text.property,
        text.kind,
        text.primal,
        about.name("diagnosis"),
        text.asked,
        raw=(raw[0], raw[1], raw[2]),
        message=text.message,
        report=texts.block(about.text("report")),
        severity=text.severity,
        case=case,
        size=about.count("size"),
    )


def _appended(path: Path) -> int:
    """A file to which lines are appended; a pipe in its place is an error, and does not hold us up."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)


def _lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file; half a line at its end is that of a process that was killed."""
    with files.opened(path) as file:
        while line := file.readline(files.TEXT):
            if line.endswith(b"\n"):
                yield line
            elif len(line) == files.TEXT:
                yield b""  # no line of ours is as long
                while line and not line.endswith(b"\n"):
                    line = file.readline(files.TEXT)


def _number(path: Path) -> tuple[int, str]:
    return (int(path.stem), "") if path.stem.isdecimal() else (0, path.stem)


def _flock(descriptor: int, wait: bool = True) -> bool:
    """Whether the lock was had; it is given up when the file is closed, or the process ends however."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        which = f" ({Path(str(error.filename)).name})" if error.filename is not None else ""
        raise StoreError(f"the store {str(folder)!r} cannot be written: {error.strerror or error}{which}") from None

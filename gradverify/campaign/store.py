"""The store of campaigns: a folder from which nothing is lost, and nothing half-written is read back.

    campaign.json       format and version
    findings/           one JSON file for each finding, and the Case file that it names
    pending/            findings that are not settled yet, as journal records
    journal/            the cases that the workers are looking at
    rows/               interesting rows of each run, one JSON object a line
    runs/               what each run has counted, and a lock that it holds while it lives
    events.ndjson       what happened, one JSON object a line

Whole files are written beside their place, flushed to the disk and renamed; lines are appended whole,
and a broken line is skipped. Several campaigns may use one store: each has a run of its own, and
findings are merged under a lock.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradverify
from gradverify.campaign import journal
from gradverify.campaign.unit import Found, Row, digest, row_from_json, row_to_json
from gradverify.errors import UsageError

FORMAT, VERSION = "gradverify-campaign", 1


class StoreError(UsageError):
    """The store cannot be used, or can no longer be written."""


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
        with _told(self.folder):
            for name in ("findings", "pending", "journal", "rows", "runs"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._check_format()
            self.run, self._lock = self._claim()
            self._events = os.open(self.folder / "events.ndjson", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            self._rows = os.open(
                self.folder / "rows" / f"{self.run}.ndjson", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666
            )

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
            for line in _lines(path):
                try:
                    yield row_from_json(line)
                except (KeyError, TypeError, ValueError):
                    continue  # written by another version

    def count(self, counted: Mapping[str, Any]) -> None:
        """Replace what this run has counted."""
        with _told(self.folder):
            _replace(self.folder / "runs" / f"{self.run}.json", _json({"run": self.run, **counted}))

    def runs(self) -> list[dict[str, Any]]:
        """What every run has counted so far."""
        found = []
        for path in sorted((self.folder / "runs").glob("*.json"), key=_number):
            try:
                found.append(dict(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                self.damaged.append(f"{path.name}: {error}")
        return found

    def keep(self, found: Found) -> Entry:
        """Keep a finding: a new one, or a smaller case of a known one; gives what is in the store now."""
        with _told(self.folder), self._alone():
            stem = "-".join(re.sub(r"[^\w.+]+", "_", p) for p in (found.layer, found.property, found.primal or "") if p)
            path = self.folder / "findings" / f"{stem[:80]}-{found.key}.json"
            known = self._entry(path) if path.exists() else None
            if known is not None and known.found.size <= found.size:
                return known
            file = None
            if found.case:
                file = path.with_name(f"{path.stem}-{hashlib.sha256(found.case).hexdigest()[:8]}.npz")
                _replace(file, found.case)
            _replace(path, _json(_finding_to_json(found, file)))
            if known is not None and known.file is not None and known.file != file:
                known.file.unlink(missing_ok=True)
            return Entry(found, file)

    def findings(self) -> list[Entry]:
        """Every finding, most severe first, with its count over all runs; damaged ones are noted in `damaged`."""
        counts: dict[str, int] = {}
        for run in self.runs():
            for key, number in dict(run.get("counts", {})).items():
                counts[key] = counts.get(key, 0) + int(number)
        entries = [self._entry(path) for path in sorted((self.folder / "findings").glob("*.json"))]
        told = [replace(entry, count=max(1, counts.get(entry.found.key, 1))) for entry in entries if entry is not None]
        return sorted(told, key=lambda entry: (-entry.found.severity, entry.found.layer, entry.found.property))

    def fix(self, key: str) -> None:
        """Forget a finding that does not fail any more."""
        with _told(self.folder), self._alone():
            for path in (self.folder / "findings").glob(f"*-{key}.json"):
                entry = self._entry(path)
                path.unlink(missing_ok=True)
                if entry is not None and entry.file is not None:
                    entry.file.unlink(missing_ok=True)

    def hold(self, record: bytes) -> None:
        """Keep a record until it is settled."""
        with _told(self.folder):
            _replace(self.folder / "pending" / f"{self.run}-{digest(record)}", record)

    def release(self, name: str) -> None:
        """Forget a settled record, by its digest."""
        with _told(self.folder):
            (self.folder / "pending" / f"{self.run}-{name}").unlink(missing_ok=True)

    def inherit(self) -> list[bytes]:
        """What runs that live no more have left unsettled, or were just looking at; it is this run's from now on."""
        left: list[bytes] = []
        with _told(self.folder), self._alone():
            dead = [number for number in self._numbers() if number != self.run and not self._lives(number)]
            for number in dead:
                paths = list((self.folder / "pending").glob(f"{number}-*"))
                journals = list((self.folder / "journal" / str(number)).glob(f"*{journal.SUFFIX}"))
                records = [path.read_bytes() for path in paths if "." not in path.name]
                records += [record for record in map(journal.read, journals) if record is not None]
                for record in records:
                    self.hold(record)
                    left.append(record)
                for path in [*paths, *(self.folder / "journal" / str(number)).glob("*")]:
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
        path = self.folder / "campaign.json"
        if not path.exists():
            _replace(path, _json({"format": FORMAT, "version": VERSION, "gradverify": gradverify.__version__}))
            return
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            about = {}
        if about.get("format") != FORMAT or about.get("version") != VERSION:
            raise StoreError(f"{str(self.folder)!r} is no store of {FORMAT}, version {VERSION}")

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

    def _entry(self, path: Path) -> Entry | None:
        """A finding read back; None, and a note, if the file or its case is not whole."""
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            content, file = b"", None
            if about["case"] is not None:
                file = path.with_name(about["case"])
                content = file.read_bytes()
                if hashlib.sha256(content).hexdigest() != about["sha256"]:
                    raise ValueError(f"the case file {file.name!r} is damaged")
            return Entry(_finding_from_json(about, content), file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.damaged.append(f"{path.name}: {error}")
            return None

    def _append(self, descriptor: int, line: Mapping[str, Any]) -> None:
        with _told(self.folder):
            data = json.dumps(line, allow_nan=False).encode() + b"\n"
            written = os.write(descriptor, data)
            if written < len(data):  # the disk is full; end the broken line if that is still possible
                os.write(descriptor, b"\n")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _finding_to_json(found: Found, file: Path | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": found.key,
        "layer": found.layer,
        "property": found.property,
        "kind": found.kind,
        "primal": found.primal,
        "diagnosis": found.diagnosis,
        "asked": found.asked,
        "raw": list(found.raw),
        "message": found.message,
        "severity": repr(found.severity),
        "size": found.size,
        "case": None if file is None else file.name,
        "sha256": hashlib.sha256(found.case).hexdigest(),
        "report": found.report,
    }


def _finding_from_json(about: Mapping[str, Any], case: bytes) -> Found:
    layer, prop, kind, primal, diagnosis, asked = (
        about[name] for name in ("layer", "property", "kind", "primal", "diagnosis", "asked")
    )
    first, second, third = about["raw"]
    return Found(
        layer,
        prop,
        kind,
        primal,
        diagnosis,
        asked,
        raw=(first, second, third),
        message=str(about["message"]),
        report=str(about["report"]),
        severity=float(about["severity"]),
        case=case,
        size=int(about["size"]),
    )


def _replace(path: Path, content: bytes) -> None:
    """Write a whole file, onto the disk, before it takes its name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        try:
            yield dict(json.loads(line))
        except (ValueError, TypeError):
            continue  # half a line of a process that was killed


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
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"the store {str(folder)!r} cannot be written: {error.strerror or error}") from None

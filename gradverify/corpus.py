"""The corpus: a folder of failing Cases, kept until they fail no more.

One Case file (see `gradverify.casefile`) for each finding, and beside it a JSON file that says what
was found, and by which check (its *owner*). A Case file without one is a regression case of the
team's own: it is replayed with every check of its layer, and never removed; nor is one whose JSON
file says ``"pinned": true``. Files are renamed into place, so several processes may share a folder.
A file that is damaged costs its case, and no other one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gradverify import casefile, files
from gradverify.core import texts
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Case, Finding
from gradverify.files import Fields, FindingText


@dataclass(frozen=True, eq=False)
class Entry:
    """One case of the corpus.

    Attributes
    ----------
    path : its Case file
    owner : the check that found it, as the caller names its checks; None for a case of the team's own
    asked : the property that was being tried
    fingerprint : property, kind and primal of the finding
    pinned : whether it stays when it fails no more
    """

    path: Path
    case: Case
    owner: str | None = None
    asked: str | None = None
    fingerprint: tuple[str, str, str] = ("", "", "")
    message: str = ""
    pinned: bool = True


@dataclass(frozen=True)
class Damaged:
    """A file of the corpus that cannot be read, and why."""

    path: Path
    reason: str


class Corpus:
    """A folder of failing cases; it is created when the first one is kept."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def read(self) -> tuple[list[Entry], list[Damaged]]:
        """Everything in the folder and its subfolders, by path; what cannot be read comes as `Damaged`."""
        entries: list[Entry] = []
        damaged: list[Damaged] = []
        for path in sorted(self.folder.rglob("*.npz")):
            if path.name.startswith("."):
                continue  # another process is writing it
            try:
                entries.append(_entry(path))
            except CaseFileError as error:
                if path.exists():  # else another process has removed it meanwhile
                    damaged.append(Damaged(path, texts.line(str(error))))
        return entries, damaged

    def keep(self, finding: Finding, owner: str, asked: str, failing: Iterable[Entry] = ()) -> Path:
        """Keep the case of a finding, and return its file; of the same finding, only the smallest case is kept.

        Raises OSError if the folder cannot be written, and CaseFileError if the case holds an option that no file can
        hold.

        Parameters
        ----------
        owner, asked : the check that found it, and the property it was trying
        failing : cases of the corpus that still show the same finding
        """
        known = sorted(failing, key=lambda entry: (entry.case.size, entry.path.name))
        if known and known[0].case.size <= finding.case.size:
            smallest, larger = known[0].path, known[1:]
        else:
            smallest, larger = self._write(finding, owner, asked), known
        for entry in larger:
            if not entry.pinned:
                remove(entry)
        return smallest

    def _write(self, finding: Finding, owner: str, asked: str) -> Path:
        parts = (finding.case.layer, *finding.fingerprint)
        stem = "-".join(re.sub(r"[^\w.+]+", "_", part) for part in parts if part)
        digest = hashlib.sha256(f"{owner} {asked} {casefile.digest(finding.case)}".encode()).hexdigest()[:8]
        path = self.folder / f"{stem[:100]}-{digest}.npz"
        about = FindingText.of(finding, asked).to_json(owner=owner, pinned=False)
        # the JSON file first: a Case file on its own would count as a regression case
        files.write(_beside(path), files.dumps(about))
        return casefile.save(finding.case, path)


def remove(entry: Entry) -> None:
    """Remove a case from its folder; not an error if another process did so before."""
    entry.path.unlink(missing_ok=True)
    _beside(entry.path).unlink(missing_ok=True)


def replay_command(path: str | os.PathLike[str], case: Case) -> str:
    """What to type; a layer that no target names needs one."""
    return f"gradverify replay {shlex.quote(os.fspath(path))}{'' if case.target else ' --target TARGET'}"


def _entry(path: Path) -> Entry:
    case, beside = casefile.load(path), _beside(path)
    if not os.path.lexists(beside):
        return Entry(path, case)
    try:
        fields = Fields.parse(files.read(beside, files.TEXT))
        text = FindingText.from_json(fields)
        owner, pinned = fields.text("owner"), fields.flag("pinned")
    except CaseFileError as error:
        raise CaseFileError(f"{beside.name!r} beside it is damaged: {error}") from None
    fingerprint = (text.property, text.kind, text.primal or "")
    return Entry(path, case, owner, text.asked, fingerprint, text.message, pinned)


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")

"""The write-ahead journal: the case at hand, and what was found so far, on disk before the layer's code runs.

A process that is killed in the middle of a check leaves its journal behind. The controller of
pytest-xdist reads it when it hears of the death, any other run when the next one starts.
"""

from __future__ import annotations

import os
import platform
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from gradverify import casefile
from gradverify.campaign import journal
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Case, Outcome
from gradverify.core.properties import Property
from gradverify.core.verify import SECONDS, watcher
from gradverify.files import FindingText, packed
from gradverify.pytest_plugin import supervisor
from gradverify.pytest_plugin.kept import Kept
from gradverify.pytest_plugin.left import FOUND, RUNNING

_UNWRITABLE = (OSError, CaseFileError)  # a journal that cannot be written must not stop the check


class Journal:
    """The journal of one process in a folder that all processes of all runs share."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder = folder
        self.stem = f"{worker}-{platform.node()}-{os.getpid()}"
        self.owner = ""
        self.found: dict[tuple[str, str, str], Path] = {}
        self.kept = Kept()
        self.threads = False  # whether a check has left threads behind that keep the process alive
        self._running: journal.Journal | None = None
        self._case: Case | None = None
        self._content = b""

    @contextmanager
    def watching(self, owner: str) -> Iterator[None]:
        """Write down every case that is examined inside; leaves no file behind."""
        self.owner = owner
        token, running = watcher.set(self), set(threading.enumerate())
        try:
            yield
        finally:
            watcher.reset(token)
            supervisor.free()
            self.kept.mend()
            self.threads |= any(not thread.daemon for thread in {*threading.enumerate()} - running)
            self.forget()

    def before(self, layer: Layer, case: Case, prop: Property) -> None:
        with suppress(*_UNWRITABLE):
            if case is not self._case:  # one case is shown to several properties
                self._case, self._content = case, casefile.dumps(case)
            record = packed({"owner": self.owner, "asked": prop.name, "layer": layer.name}, self._content)
            self._running = self._running or journal.Journal(self._path(RUNNING))
            self._running.write(record)
        supervisor.busy(max(SECONDS, prop.seconds))
        self.kept.begin()

    def after(self, layer: Layer, outcome: Outcome) -> None:
        self.kept.end()
        supervisor.free()
        for finding in outcome.findings:
            if finding.fingerprint not in self.found:
                path = self._path(f"-{len(self.found)}{FOUND}")
                self.found[finding.fingerprint] = path
                with suppress(*_UNWRITABLE):
                    record = packed(FindingText.of(finding, outcome.property).to_json(), casefile.dumps(finding.case))
                    with closing(journal.Journal(path)) as kept:
                        kept.write(record)

    def forget(self) -> None:
        """Remove the files of this process."""
        if self._running is not None:
            self._running.close()
            self._running = None
        for path in (self._path(RUNNING), *self.found.values()):
            path.unlink(missing_ok=True)
        self.found.clear()

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}{suffix}"


def folder_of(cache: Path | None) -> Path:
    """Where journals lie: in the folder that pytest keeps for its plugins, else in the temporary folder."""
    folder = cache or Path(tempfile.gettempdir()) / f"gradverify-journal-{os.getuid() if hasattr(os, 'getuid') else 0}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

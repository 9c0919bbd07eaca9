"""The worker process: loads layers, works on units, and may be killed by any of them."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from gradverify import targets
from gradverify.campaign.explore import Explorer
from gradverify.campaign.journal import Journal, JournalError
from gradverify.campaign.trial import confirm
from gradverify.campaign.unit import Plan, Unit, give_back
from gradverify.errors import GradverifyError
from gradverify.layer import Layer

_FRAMES = 8  # of a traceback that is told


class Child:
    """A worker process: answers one task after another until its parent closes the connection."""

    def __init__(self, connection: Connection, journal: Journal) -> None:
        self.connection = connection
        self.journal = journal
        self.stopping = False
        self._memory = data_size()
        self._layers: dict[str, Layer] = {}
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True

    def serve(self) -> None:
        """Answer tasks: ("list", targets, plan), ("unit", unit), ("confirm", unit, record, status)."""
        while True:
            try:
                kind, *arguments = self.connection.recv()
                try:
                    answer = ("done", getattr(self, f"_{kind}")(*arguments))
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    raise
                except JournalError as error:
                    answer = ("unwritten", str(error))
                except BaseException:  # noqa: BLE001  ours: what layers raise is a finding
                    answer = ("failed", traceback.format_exc(limit=-_FRAMES))
                self.connection.send(answer)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return

    def _list(self, named: tuple[str, ...], plan: Plan) -> list[tuple[str, str]] | str:
        """Name and target of every layer, once each; or why a target cannot be loaded."""
        self._prepare(plan)
        try:
            found = [layer for target in named or (None,) for layer in targets.load(target)]
        except GradverifyError as error:
            return str(error)
        return list(dict.fromkeys((layer.name, layer.origin or layer.name) for layer in found))

    def _unit(self, unit: Unit) -> str | None:
        """Work on a unit; the answer is why its layer cannot be loaded, if it cannot."""
        os.ftruncate(1, 0)  # what the layers print must not fill the disk
        give_back()
        layer = self._layer(unit)
        if isinstance(layer, str):
            return layer
        self.connection.send(("loaded", None))
        Explorer(unit, layer, lambda d: self.connection.send(("delta", d)), self.journal, lambda: self.stopping).run()
        return None

    def _confirm(self, unit: Unit, record: bytes, status: int | str) -> Any:
        layer = self._layer(unit)
        return None if isinstance(layer, str) else confirm(unit, layer, record, status)

    def _prepare(self, plan: Plan) -> None:
        """Go to the folder of the campaign, where there is one, and limit the memory."""
        if os.path.isdir(plan.folder):
            os.chdir(plan.folder)
        if plan.memory is not None and self._memory is not None:
            limit_memory(self._memory + plan.memory)

    def _layer(self, unit: Unit) -> Layer | str:
        self._prepare(unit.plan)
        if unit.target not in self._layers:
            try:
                found = targets.load(unit.target)
            except GradverifyError as error:
                return str(error)
            if len(found) != 1:
                return f"{unit.target!r} names {len(found)} layers"
            self._layers[unit.target] = found[0]
        return self._layers[unit.target]


def data_size() -> int | None:
    """Bytes that RLIMIT_DATA counts of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def limit_memory(size: int) -> None:
    """Let allocations fail that would make the data of this process larger."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard < 0 else min(size, hard), hard))
    except (ImportError, OSError, ValueError):
        return  # a system that has no such limit


def die_with_parent() -> None:
    """Ask Linux to end this process with its parent, even while a layer hangs in compiled code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main(descriptor: int, journal: str, log: str) -> None:
    """Entry point of the process; what the layers print goes to the log."""
    die_with_parent()
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(written, 1)
    os.dup2(written, 2)
    faulthandler.enable(written)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass
    Child(Connection(descriptor), Journal(journal)).serve()

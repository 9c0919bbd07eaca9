"""The worker process: loads layers, does what it is asked to, and may be killed by any of them."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from gradverify import targets
from gradverify.campaign import parcel
from gradverify.campaign.explore import Explorer
from gradverify.campaign.journal import Journal, JournalError, out_of_reach
from gradverify.campaign.process import data_size, limit_memory
from gradverify.campaign.state import SWITCH, State
from gradverify.campaign.trial import confirm
from gradverify.campaign.unit import Plan, Unit, give_back
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import GradverifyError
from gradverify.ending import die_with_parent, kept_alive

_MOST_SAID = 1 << 20  # bytes that the layers may have printed until it is forgotten
_FRAMES = 8  # of a traceback that is told
_leave = os._exit


class Child:
    """A worker process: answers one task after another until its parent closes the connection."""

    def __init__(self, connection: Connection, journal: Journal, log: int) -> None:
        self.connection = connection
        self.journal = journal
        self.pid, self._log = os.getpid(), log
        self._stopping = False
        self._memory = data_size()
        self._layers: dict[str, Layer] = {}
        self._state = State()
        self._news = select.poll()
        self._news.register(connection.fileno(), select.POLLIN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business

    def stopped(self) -> bool:
        """Whether the parent has asked for the end of the task: nothing else is sent while one is worked on."""
        self._stopping = self._stopping or bool(self._news.poll(0))
        return self._stopping

    def tell(self, content: Any) -> None:
        """Send something that the parent hears while the task goes on."""
        self._send("told", content)

    def tidy(self) -> None:
        """Before a case: this is the process that it was, and what the layer prints does not fill the disk."""
        self.mine()
        if os.fstat(self._log).st_size > _MOST_SAID:
            os.ftruncate(self._log, 0)

    def mine(self) -> None:
        """End this process if it is one that a layer has forked, and that runs on into here."""
        if os.getpid() != self.pid:
            _leave(0)

    def _send(self, *message: Any) -> None:
        self.mine()
        self.connection.send_bytes(parcel.dumps(message))

    def serve(self) -> None:
        """Answer tasks: a name of a method below and its arguments; "stop" ends the task at hand."""
        while True:
            try:
                kind, *arguments = self.connection.recv()
                if kind == "stop":
                    continue  # the task was done before it came
                self._stopping = False
                self._send(*self._answer(getattr(self, f"_{kind}"), arguments))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return

    def _answer(self, task: Callable[..., Any], arguments: list[Any]) -> tuple[Any, ...]:
        """Kind of the answer, its content, and what the layer leaves behind that cannot be put back."""
        try:
            with kept_alive():
                answer: tuple[str, Any] = ("done", task(*arguments))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except JournalError as error:
            answer = ("unwritten", str(error))
        except BaseException:  # noqa: BLE001  ours: what layers raise is a finding
            self.mine()
            answer = ("failed", traceback.format_exc(limit=-_FRAMES))
        self.mine()
        return (*answer, self._state.put_back())

    def _list(self, plan: Plan) -> Any:
        """Name, target and weight of every layer, once each, and who does not fit the loss; or why none can be had."""
        self._prepare(plan)
        try:
            found, left_out = self._load(plan)
        except GradverifyError as error:
            return str(error)
        listed = ((layer.name, layer.origin or layer.name, _weight(layer)) for layer in found)
        return list(dict.fromkeys(listed)), left_out

    def _load(self, plan: Plan) -> tuple[list[Layer], list[str]]:
        """Every layer that was named, and who was left out; they are known by their targets then."""
        try:
            found, left_out = targets.chosen(plan.named or (), plan.loss)
        finally:
            self._state = State()  # an import may change what it likes
        self._layers.update((layer.origin, layer) for layer in found if layer.origin is not None)
        return found, left_out

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Whatever a function of one of our modules answers; it gets this worker as its first argument."""
        os.ftruncate(self._log, 0)
        give_back()
        return function(self, *arguments)

    def _unit(self, unit: Unit) -> str | None:
        """Work on a unit; the answer is why its layer cannot be loaded, if it cannot."""
        os.ftruncate(self._log, 0)
        give_back()
        layer = self.layer(unit.target, unit.plan)
        if isinstance(layer, str):
            return layer
        Explorer(unit, layer, self).run()
        return None

    def _confirm(self, unit: Unit, record: bytes, status: int | str) -> Any:
        layer = self.layer(unit.target, unit.plan)
        return None if isinstance(layer, str) else confirm(unit, layer, record, status)

    def _prepare(self, plan: Plan) -> None:
        """Go to the folder of the campaign, where there is one, and limit the memory."""
        if os.path.isdir(plan.folder):
            os.chdir(plan.folder)
        if plan.memory is not None and self._memory is not None:
            limit_memory(self._memory + plan.memory)

    def layer(self, target: str, plan: Plan) -> Layer | str:
        """The layer that a target names, or why it cannot be loaded; the parent hears when it is."""
        self._prepare(plan)
        if target not in self._layers and plan.named is not None:
            with suppress(GradverifyError):
                self._load(plan)
        if target not in self._layers:
            try:
                found = targets.load(target)
            except GradverifyError as error:
                return str(error)
            finally:
                self._state = State()  # an import may change what it likes
            if len(found) != 1:
                return f"{target!r} names {len(found)} layers"
            self._layers[target] = found[0]
        self._send("loaded", None)
        return self._layers[target]


def _weight(layer: Layer) -> int:
    """How long its check may take beside those of others: the catalogue's take longer the more a layer is declared
    with, from 1.8 s for `log` (1) to 19 s for `bilstm` (21).
    """
    return sum(len(primal.dims.axes) for primal in layer.primals) + len(layer.options)


def main(descriptor: int, journal: str, log: str, parent: int) -> None:
    """Entry point of the process; what the layers print goes to the log."""
    die_with_parent(parent)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(written, 1)
    os.dup2(written, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    written = out_of_reach(written)
    faulthandler.enable(written)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass
    sys.setswitchinterval(SWITCH)
    connection = out_of_reach(descriptor)
    os.register_at_fork(after_in_child=lambda: os.close(connection))  # else it keeps the line open after our end
    Child(Connection(connection), Journal(journal), written).serve()

"""What the plugin knows of a run in one process: its settings, what it found, and the room of the run."""

from __future__ import annotations

from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gradverify.pytest_plugin import settings
from gradverify.pytest_plugin.shared import ROOT

if TYPE_CHECKING:
    from gradverify.pytest_plugin.collection import Planned
    from gradverify.pytest_plugin.run import Run


class State:
    """What the plugin knows of the run in this process.

    Attributes
    ----------
    wanted : node ids `gradverify::...` of the command line
    collects : whether layers become tests in this run
    records : what the tests of all processes came to
    used : whether a test of the project's own may call gradverify
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = settings.resolve(config)
        self.wanted = _wanted(config)
        self.collects = bool(self.wanted) or (self.settings.collects and _everything(config))
        self.tests: list[Planned] = []
        self.records: list[dict[str, Any]] = []
        self.item: pytest.Item | None = None
        self.lost: list[str] = []
        self.used = False
        self._run: Run | None = None

    def run(self) -> Run:
        """The room of the run, made when it is first needed."""
        if self._run is None:
            from gradverify.pytest_plugin.run import Run

            self._run = Run(self.config, self.settings)
            if not hasattr(self.config, "workerinput"):
                self._mourn(self._run)
        return self._run

    def left_threads(self) -> bool:
        """Whether layers have left threads behind that keep the process from its end."""
        return self._run is not None and self._run.journal.threads

    def close(self) -> None:
        """End the processes of the run, and those that layers have left."""
        if self._run is not None:
            from gradverify.ending import end_all

            end_all(self._run.journal.kept.forked)
            self._run.journal.kept.close()
        if self._run is not None and "workers" in vars(self._run) and self._run.workers is not None:
            self._run.workers.close()

    def _mourn(self, run: Run) -> None:
        """Tell and keep what an earlier run left behind that was killed."""
        from gradverify.pytest_plugin.left import left_by_the_dead
        from gradverify.pytest_plugin.summary import of_the_dead

        for left in left_by_the_dead(run.journal_folder):
            _, text = of_the_dead(run, left)
            self.lost.append(f"an earlier run ended inside {left.owner}\n{text}")


STATE = pytest.StashKey[State]()


def _wanted(config: pytest.Config) -> tuple[str, ...]:
    """Take node ids `gradverify::...` out of the arguments: pytest would look for a file of that name."""
    wanted = [arg for arg in config.args if arg.startswith(f"{ROOT}::")]
    config.args = [arg for arg in config.args if arg not in wanted]
    return tuple(arg.rstrip(":") for arg in wanted)


def _everything(config: pytest.Config) -> bool:
    """Whether the arguments ask for the whole project, and not for some of its files."""
    if config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        return True
    paths = [str(config.rootpath / path) for path in config.getini("testpaths")]
    whole = [Path(found) for path in paths for found in glob(path, recursive=True)] or [config.rootpath]
    folders = {(config.invocation_params.dir / arg).resolve() for arg in config.args}
    return all(folders.intersection((path, *path.parents)) for path in whole)

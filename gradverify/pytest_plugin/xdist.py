"""pytest-xdist: the seed of the run goes to the workers, and what a dead worker left behind is told and kept."""

from __future__ import annotations

from typing import Any

import pytest

from gradverify.pytest_plugin import shared


class Controller:
    """Hooks of the process that starts the workers; registered only where pytest-xdist is."""

    def __init__(self, run_of: Any, seed: int) -> None:
        self.run_of = run_of
        self.seed = seed

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["gradverify_seed"] = self.seed

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:
        """Name the case that ended the worker, and keep what the worker had found by then."""
        from gradverify.pytest_plugin.journal import left_by
        from gradverify.pytest_plugin.summary import of_the_dead

        run = self.run_of()
        told = report.node.workerinput
        left = left_by(run.journal_folder, f"{told['testrunuid']}-{told['workerid']}")
        if left is None:
            return
        record, text = of_the_dead(run, left)
        report.location = (left.owner.partition("::")[0], None, left.owner.partition("::")[2])
        report.longrepr = f"{report.longrepr}\n\n{text}"
        setattr(report, shared.ATTRIBUTE, [record])

"""pytest-xdist: the seed of the run goes to the workers, and what a dead worker left behind is told and kept."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from gradverify.pytest_plugin import shared

if TYPE_CHECKING:
    from gradverify.pytest_plugin.state import State


class Controller:
    """Hooks of the process that starts the workers; registered only where pytest-xdist is."""

    def __init__(self, state: State) -> None:
        self.state = state

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["gradverify_seed"] = self.state.settings.seed
        if self.state.settings.pages is not None:
            node.workerinput["gradverify_pages"] = str(self.state.settings.pages)

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_xdist_make_scheduler(self) -> Generator[None, Any, Any]:
        """Where layers are tests, a dead worker must not stop the run."""
        scheduler = yield
        return enduring(scheduler) if self.state.tests else scheduler

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:
        """Name the case that ended the worker, and keep what the worker had found by then."""
        from gradverify.pytest_plugin.left import left_by
        from gradverify.pytest_plugin.summary import of_the_dead

        run = self.state.run()
        told = report.node.workerinput
        left = left_by(run.journal_folder, f"{told['testrunuid']}-{told['workerid']}")
        if left is None:
            return
        record, text = of_the_dead(run, left)
        report.location = (left.owner.partition("::")[0], None, left.owner.partition("::")[2])
        report.longrepr = f"{report.longrepr}\n\n{text}"
        setattr(report, shared.ATTRIBUTE, [record])


def enduring(scheduler: Any) -> Any:
    """The scheduler of loadscope, loadfile and loadgroup, such that a run ends after the death of a worker.

    That of pytest-xdist 3.8 gives the test that killed a worker to the next one, until none may be
    started any more; gives out groups that are done already; and lets a worker wait for ever that
    has one test left (pytest-dev/pytest-xdist issues 1323, 1327 and 1378). Others come back as they are.
    """
    if not hasattr(scheduler, "assigned_work"):
        return scheduler

    class Enduring(type(scheduler)):  # type: ignore[misc]
        def remove_node(self, node: Any) -> str | None:
            groups = self.assigned_work[node]
            crashed = next((test for group in groups.values() for test, done in group.items() if not done), None)
            for name, group in list(groups.items()):
                if crashed in group:
                    group[crashed] = True
                if all(group.values()):
                    del groups[name]
            super().remove_node(node)
            return crashed

        def schedule(self) -> None:
            again = self.collection is not None
            super().schedule()
            if again:  # a worker starts on a test when it has a second one, or knows that there is none
                super().schedule()

    Enduring.__name__ = type(scheduler).__name__  # pytest -v names it
    scheduler.__class__ = Enduring
    return scheduler

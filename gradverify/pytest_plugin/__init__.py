"""The pytest plugin: options, the fixture, and hooks that cost nothing until a run has work for them.

Imports the standard library and pytest only; the rooms beside `settings`, `shared` and `state` are
imported when a run first needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from gradverify.pytest_plugin import settings, shared, supervisor
from gradverify.pytest_plugin.shared import ROOT
from gradverify.pytest_plugin.state import STATE, State

if TYPE_CHECKING:
    from gradverify.pytest_plugin.fixture import Checker


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Before anything of the project runs, and before output is captured."""
    with suppress(pytest.UsageError):  # it is told when the settings are read
        if supervisor.first() and settings.mentioned(early_config):
            supervisor.begin()
    return (yield)


def pytest_addoption(parser: pytest.Parser) -> None:
    settings.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{ROOT}: checks a backward pass; added by the plugin")
    state = config.stash[STATE] = State(config)
    if config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput"):
        from gradverify.pytest_plugin.xdist import Controller

        config.pluginmanager.register(Controller(state), "gradverify-xdist")
    if state.settings.junit == "system-out":
        from gradverify.pytest_plugin.junit import Output

        config.pluginmanager.register(Output(config), "gradverify-junit")


def pytest_sessionstart(session: pytest.Session) -> None:
    state = session.config.stash[STATE]
    if state.collects:  # in the controller of pytest-xdist as well, where a usage error can be told
        from gradverify.pytest_plugin.collection import plan

        state.tests = plan(state.settings, state.wanted)
        if not session.config.getoption("collectonly"):
            state.run()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Before anything runs, so that one that hangs can be repeated; silent where nothing was set."""
    state = config.stash[STATE]
    said = [state.settings.heading] if state.settings.where else []
    if state.settings.collects and not state.collects:
        said.append(f"gradverify: only part of the project was asked for, so no layers; '{ROOT}::' asks for them")
    return said


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """For tests that use the fixture, or gradverify itself, where nothing was set."""
    settings = config.stash[STATE].settings
    if config.stash[STATE].used:
        supervisor.begin_late(config)
    return [settings.heading] if not settings.where and any(map(_uses_fixture, items)) else []


def _uses_fixture(item: pytest.Item) -> bool:
    return ROOT in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The layers stand beside the files of the project."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        state = collector.config.stash[STATE]
        if state.tests:
            from gradverify.pytest_plugin.collection import Root

            report.result = [*report.result, Root.of(collector, state.run(), state.tests)]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m gradverify` selects tests that use the fixture as well."""
    for item in items:
        if _uses_fixture(item):
            item.add_marker(ROOT)
            item.config.stash[STATE].used = True
    if items and not items[0].config.stash[STATE].used:
        items[0].config.stash[STATE].used = _imported({getattr(item, "module", None) for item in items})


def _imported(modules: set[Any]) -> bool:
    """Whether anything of gradverify is at hand in test modules, or was used while they were imported."""
    mine = {f"{ROOT}.{name}" for name in ("core", "core.errors", "core.nouns", "core.nouns.forms", "project")}
    others = (name for name in sys.modules if name.startswith(f"{ROOT}.") and name not in mine)
    if any(not name.startswith(f"{ROOT}.pytest_plugin") for name in others):
        return True
    values = (value for module in modules if module is not None for value in vars(module).values())
    return any(getattr(value, "__name__", None) == ROOT or _home(value) == ROOT for value in values)


def _home(value: object) -> str:
    """The package that something comes from; "" where it does not say."""
    home = getattr(value, "__module__", None)
    return home.partition(".")[0] if isinstance(home, str) else ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[STATE].item = item


@pytest.fixture(scope="session")
def gradverify(request: pytest.FixtureRequest) -> Checker:
    """Check a layer, like `gradverify.check`, with the examples, the seed and the corpus of this run."""
    from gradverify.pytest_plugin.fixture import Checker

    state = request.config.stash[STATE]

    def current() -> pytest.Item:
        assert state.item is not None
        return state.item

    return Checker(state.run(), current)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and shared.RECORDS in item.stash:
        setattr(report, shared.ATTRIBUTE, item.stash[shared.RECORDS])
        del item.stash[shared.RECORDS]
        if report.skipped and item.nodeid.startswith(f"{ROOT}::") and isinstance(report.longrepr, tuple):
            # not our line that raised it, which means nothing to the author; -rs folds alike reasons
            report.longrepr = (ROOT, None, report.longrepr[2])  # type: ignore[assignment]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """What a test of the project's own checks is written down as well, in case that it ends the process."""
    if not item.config.stash[STATE].used:
        return (yield)
    from gradverify.ending import kept_alive

    with item.config.stash[STATE].run().journal.watching(item.nodeid), kept_alive():
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    supervisor.done()
    state = config.stash.get(STATE, None)
    if state is not None and state.left_threads():
        supervisor.leaving()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """A run in which less of the layers' code ran than was asked for has failed; then the parent is told the status."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    state = session.config.stash[STATE]
    least = state.settings.least
    if least and reporter is not None and not hasattr(session.config, "workerinput") and not session.exitstatus:
        from gradverify.pytest_plugin.summary import too_low

        if too_low(_all(reporter), least):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    try:
        return (yield)
    finally:
        state.close()
        supervisor.tell(session.exitstatus)


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    state = config.stash[STATE]
    records = _all(terminalreporter)
    if not records and state.settings.json is None and state.settings.html is None:
        return
    from gradverify.core.texts import many
    from gradverify.pytest_plugin import summary

    run = state.run()  # asks whether an earlier run was killed
    layers = {test.layer.name for test in state.tests} if state.collects and not state.wanted else None
    summary.show(terminalreporter, records, state.lost, summary.orphans(run, layers) if records else [])
    if not state.settings.where:  # with pytest-xdist, nobody could know at the start that the fixture is used
        terminalreporter.line(state.settings.heading)
    for line in summary.too_low(records, state.settings.least):
        terminalreporter.line(line)
    if state.settings.json is not None:
        summary.write_json(state.settings.json, summary.as_json(state.settings, records))
    if state.settings.html is not None and state.settings.pages is not None and not hasattr(config, "workerinput"):
        from gradverify.pytest_plugin import pages

        count = pages.write(state.settings.pages, state.settings.html)
        other = "" if count else "; checks by gv.check are not on it, those by the fixture `gradverify` are"
        terminalreporter.line(f"{ROOT}: {many(count, 'layer')} on the page {state.settings.html}{other}")


def _all(reporter: pytest.TerminalReporter) -> list[dict[str, Any]]:
    every = (report for reports in reporter.stats.values() for report in reports)
    return [record for report in every for record in getattr(report, shared.ATTRIBUTE, [])]

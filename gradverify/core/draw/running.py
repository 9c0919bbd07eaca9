"""Running Hypothesis for its cases alone: no database, no output, no deadline, no folder left behind."""

from __future__ import annotations

import contextvars
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, configuration, currently_in_test_context, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from gradverify import casefile
from gradverify.core.nouns.case import Case


class _Stop(KeyboardInterrupt):
    """Ends a run at once: Hypothesis replays, shrinks and reports any exception but a KeyboardInterrupt."""


class _Found(Exception):
    """Marks a failing case to Hypothesis; one class and one line, so that it is one bug."""


def each(strategy: st.SearchStrategy[Case], examples: int, seed: int, body: Callable[[Case], None]) -> None:
    """Call `body` on cases of the strategy, the same ones for the same seed; there may be fewer than `examples`.

    What `body` raises ends the run and comes out unchanged; an exception derived from BaseException
    is a good way to stop early.
    """
    raised: list[BaseException] = []

    def visit(case: Case) -> None:
        try:
            body(case)
        except BaseException as error:  # noqa: BLE001  raised again below
            raised.append(error)
            raise _Stop from None

    _run(strategy, examples, seed, (Phase.generate,), visit)
    if raised:
        raise raised[0]


def minimal(
    strategy: st.SearchStrategy[Case], examples: int, seed: int, fails: Callable[[Case], bool], seconds: float
) -> Case | None:
    """The first failing case that `each` would meet, as far as Hypothesis can shrink it in the time given.

    Parameters
    ----------
    fails : whether a case fails; asked once for each case, so that it cannot be flaky
    seconds : time limit of the whole search

    Returns
    -------
    The smallest failing case found, or None if none fails.
    """
    deadline = time.perf_counter() + seconds
    verdicts: dict[str, bool] = {}
    failing: list[Case] = []
    raised: list[BaseException] = []

    def visit(case: Case) -> None:
        if time.perf_counter() > deadline:
            raise _Stop
        key = casefile.digest(case)
        try:
            if key not in verdicts:
                verdicts[key] = bool(fails(case))
        except BaseException as error:  # noqa: BLE001  raised again below
            raised.append(error)
            raise _Stop from None
        if verdicts[key]:
            failing[:] = [case]
            raise _Found

    _run(strategy, examples, seed, (Phase.generate, Phase.shrink), visit)
    if raised:
        raise raised[0]
    return failing[0] if failing else None


def _run(
    strategy: st.SearchStrategy[Case],
    examples: int,
    run_seed: int,
    phases: tuple[Phase, ...],
    visit: Callable[[Case], None],
) -> None:
    if currently_in_test_context():
        _in_thread(lambda: _run_here(strategy, examples, run_seed, phases, visit))
    else:
        _run_here(strategy, examples, run_seed, phases, visit)


def _run_here(
    strategy: st.SearchStrategy[Case],
    examples: int,
    run_seed: int,
    phases: tuple[Phase, ...],
    visit: Callable[[Case], None],
) -> None:
    def test(case: Case) -> None:
        visit(case)

    quiet = settings(
        max_examples=examples,
        phases=phases,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        backend="hypothesis",
    )
    with _storage_elsewhere(), suppress(_Stop, _Found, Flaky, Unsatisfiable):
        quiet(seed(run_seed)(given(strategy)(test)))()


def _in_thread(work: Callable[[], None]) -> None:
    """Hypothesis refuses to run inside one of its own tests, but knows its tests by thread."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again below
            raised.append(error)

    context = contextvars.copy_context()  # numpy.errstate and the like
    thread = threading.Thread(target=context.run, args=(guarded,), daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@contextmanager
def _storage_elsewhere() -> Iterator[None]:
    """What Hypothesis notes about local modules goes to a folder that is removed, not to the working directory."""
    storage = configuration.storage_directory(intent_to_write=False)
    home = storage if isinstance(storage, Path) else storage.home_directory  # Hypothesis 6.100 gives the folder itself
    with tempfile.TemporaryDirectory(prefix="gradverify-", ignore_cleanup_errors=True) as folder:
        configuration.set_hypothesis_home_dir(Path(folder))
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(home)

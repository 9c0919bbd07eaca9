"""Running Hypothesis for its cases alone: no database, no output, no deadline, no folder left behind."""

from __future__ import annotations

import contextvars
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, configuration, currently_in_test_context, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from gradverify.core.nouns import Case


class _Stop(KeyboardInterrupt):
    """Ends a run at once: Hypothesis replays, shrinks and reports any exception but a KeyboardInterrupt."""


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

    work = partial(_run, strategy, examples, seed, visit)
    if currently_in_test_context():
        _in_thread(work)
    else:
        work()
    if raised:
        raise raised[0]


def _run(strategy: st.SearchStrategy[Case], examples: int, run_seed: int, visit: Callable[[Case], None]) -> None:
    quiet = settings(
        max_examples=examples,
        phases=(Phase.generate,),
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        backend="hypothesis",
    )
    with _storage_elsewhere(), _constants_unread(), suppress(_Stop, Flaky, Unsatisfiable):
        quiet(seed(run_seed)(given(strategy)(visit)))()


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
def _constants_unread() -> Iterator[None]:
    """Inside, Hypothesis does not parse the local modules for constants: what is drawn here are bytes that stand for
    cases, and two hundred modules take two seconds.
    """
    providers: Any = sys.modules.get("hypothesis.internal.conjecture.providers")
    seen = getattr(providers, "_seen_modules", None)  # older releases read no constants
    if not isinstance(seen, set):
        yield
        return
    added = {id(module) for module in list(sys.modules.values())} - seen
    seen |= added
    try:
        yield
    finally:
        seen -= added
        providers._sys_modules_len = None  # so that the user's own tests look again


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

"""The fixture `gradverify`: one line in a test of one's own, with the settings of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gradverify.adapters import layer_of
from gradverify.compose import under_loss
from gradverify.core.check.settings import Settings
from gradverify.core.errors import GradientMismatch
from gradverify.core.summarise.report import Report
from gradverify.core.verify import no_pass
from gradverify.pytest_plugin import shared
from gradverify.pytest_plugin.replays import Check
from gradverify.pytest_plugin.run import Run
from gradverify.report.terminal import raised


class Checker:
    """What the fixture gives: called like `gradverify.check`, once or more in a test.

    Its scope is the session, so that it may be used together with `hypothesis.given`.
    """

    def __init__(self, run: Run, current: Callable[[], pytest.Item]) -> None:
        self._run = run
        self._current = current

    def __call__(
        self,
        target: Any,
        backward: Callable[..., Any] | None = None,
        /,
        *,
        loss: str | None = None,
        examples: int | None = None,
        seed: int | None = None,
        eps: float | None = None,
        dtype: str = "float64",
        properties: Sequence[str] | str | None = None,
        method: str = "adaptive",
        raises: bool = True,
        quiet: bool = True,  # as it is anyway
        **declaration: Any,
    ) -> Report:
        """Check that a backward pass is right; arguments, result and errors are those of `gradverify.check`.

        Examples, seed and properties that are not given are those of the run. Cases that fail are
        kept in the corpus, and replayed first by the same test in the next run.
        """
        __tracebackhide__ = True
        told, item = self._run.settings, self._current()
        layer = layer_of(target, backward, **declaration)
        layer = layer if loss is None else under_loss(layer, loss)
        names = (properties,) if isinstance(properties, str) else tuple(properties or ())
        settings = Settings(
            examples=told.examples if examples is None else examples,
            seed=told.seed_of(item.nodeid, layer.name) if seed is None else seed,
            eps=eps,
            dtype=dtype,
            properties=names or told.properties,
            method=method,
        )
        result = self._run.check(Check(layer, item.nodeid, settings))
        shared.attach(item, result.records, told.junit)
        if raises and result.report.findings:
            raise GradientMismatch(result.report, raised(result.report, result.replays))
        if raises and not result.report.verified:
            raise no_pass(result.report)
        return result.report

"""One line for whoever waits: shown where somebody looks on, from the first second on, and gone at the end."""

from __future__ import annotations

import io
import sys
import time

import pytest

import gradverify as gv
from gradverify.core.check import progress
from gradverify.core.check.progress import SMALLER, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Cell(io.StringIO):
    """As the output of a notebook."""


Cell.__module__ = "ipykernel.iostream"


@pytest.fixture
def clock(monkeypatch):
    times = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: times[0])
    return times


def said(monkeypatch, stream, clock, quiet=False) -> str:
    """What is written on a stream while a check of three seconds runs."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    with progress.shown(quiet) as listen:
        for k in range(30):
            clock[0] += 0.1
            listen(Progress("dense", k, 230, int(k > 20), SMALLER if k > 25 else progress.DRAWING))
    return stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal, Cell])
def test_a_check_of_more_than_a_second_shows_one_line_that_is_gone_at_the_end(monkeypatch, clock, stream):
    *lines, _ = said(monkeypatch, stream(), clock).split("\r")[1:]
    assert lines[0].startswith("gradverify: dense: 9 of 230 cases (1 s)") or lines[0].startswith(
        "gradverify: dense: 10"
    )
    assert any("1 finding, making it smaller" in line for line in lines)
    assert len(lines) <= 13
    assert not lines[-1].strip()


def test_nothing_is_shown_where_nobody_looks_or_it_is_not_wanted_or_over_in_a_second(monkeypatch, clock):
    assert said(monkeypatch, io.StringIO(), clock) == ""
    assert said(monkeypatch, Terminal(), clock, quiet=True) == ""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.shown(False) as listen:
        clock[0] += 0.9
        listen(Progress("dense", 3, 230, 0))
    assert stream.getvalue() == ""


def test_nothing_is_shown_under_pytest(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    gv.check("relu", examples=3, properties="gradient")
    assert stream.getvalue() == ""


def test_check_shows_its_line_and_can_be_quiet(monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    for quiet in (False, True):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        gv.check("relu", examples=3, properties="gradient", quiet=quiet)
        assert ("gradverify: relu: " in stream.getvalue()) is not quiet

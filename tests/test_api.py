"""`check` and `verify`: what they take, what they refuse, and how code that fails outright is told."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext

import numpy as np
import pytest

import gradverify as gv
from gradverify.core.declare.registry import layers
from gradverify.core.errors import UsageError
from gradverify.core.evaluate import LayerFailure, guarded
from gradverify.core.evaluate.limits import time_limit


def test_verify_takes_one_concrete_case_and_names_what_does_not_fit():
    dense = layers.get("dense")
    primals = {"x": np.ones((2, 3)), "W": np.ones((3, 1)), "b": np.zeros(1)}
    assert gv.verify(dense, gv.Case("dense", primals)).ok
    with pytest.raises(UsageError, match="no array for the primal 'b'"):
        gv.verify(dense, gv.Case("dense", {"x": primals["x"], "W": primals["W"]}))
    with pytest.raises(UsageError, match="primal 'W'"):
        gv.verify(dense, gv.Case("dense", {**primals, "W": np.ones((2, 1))}))


def backward_by_name(dy, saved):
    x, W = saved
    return {"db": dy.sum(0), "dW": x.T @ dy, "x": dy @ W.T}


def test_gradients_may_come_by_name_and_cotangents_one_by_one():
    gv.check(lambda x, W, b: (x @ W + b, (x, W)), backward_by_name, x="N D", W="D H", b="H", examples=10)
    gv.check(
        lambda x: ((np.sin(x), np.cos(x)), x),
        lambda ds, dc, x: ds * np.cos(x) - dc * np.sin(x),
        x="N: between -3 3",
        examples=10,
    )


@pytest.mark.parametrize(
    ("backward", "kind"),
    [
        (lambda dy, s: None, "missing"),
        (lambda dy, s: (dy * 1.0, dy), "surplus"),
        (lambda dy, s: {"x": dy * 1.0, "q": dy}, "surplus"),
        (lambda dy, s: dy.sum(0), "shape"),
        (lambda dy, s: dy * np.nan, "nan"),
        (lambda dy, s: np.array(["a"]), "dtype"),
        (lambda dy, s: 1 / 0, "crash"),
    ],
)
def test_a_backward_that_fails_outright_is_a_finding_of_its_own_kind(backward, kind):
    report = gv.check(lambda x: (x * 1.0, None), backward, x="N D", examples=8, raises=False)
    assert {(f.property, f.kind) for f in report.findings} == {("complete", kind)}


@pytest.mark.parametrize(
    "keywords",
    [{"eps": 0}, {"eps": float("nan")}, {"examples": 0}, {"dtype": "int8"}, {"seed": "a"}, {"method": "guess"}],
)
def test_an_argument_that_makes_no_sense_is_named(keywords):
    with pytest.raises(UsageError, match=next(iter(keywords))):
        gv.check("dense", **keywords)


def test_the_same_seed_draws_the_same_cases():
    def run(seed):
        tallies = gv.check("dense", examples=20, seed=seed).tallies
        return [(t.cases, t.entries, t.worst_ratio) for t in tallies.values()]

    assert run(3) == run(3) != run(4)


def test_a_layer_that_never_returns_is_found_once(monkeypatch):
    def forward(x):
        while x.size > 2:
            pass
        return x * 1.0, None

    monkeypatch.setattr("gradverify.core.verify.SECONDS", 0.2)
    monkeypatch.setattr("gradverify.core.verify.examine.__defaults__", (0.2,))
    monkeypatch.setattr("gradverify.core.lines.recorder.TRIAL", 0.2)
    few = dict(examples=10, properties=("complete", "gradient", "linear", "pure"), raises=False)
    report = gv.check(forward, lambda dy, s: dy * 1.0, x="N D", **few)
    assert [(f.property, f.kind) for f in report.findings] == [("complete", "timeout")]


@pytest.mark.parametrize(
    ("share", "starved", "ends"),
    [(1.0, 0.0, True), (0.1, 0.0, False), (0.0, 0.0, True), (0.001, 0.999, False), (0.0, 0.5, True)],
)
def test_the_time_limit_counts_computing_where_others_use_the_processor_too(monkeypatch, share, starved, ends):
    monkeypatch.setattr(time, "process_time", lambda: share * time.perf_counter())
    monkeypatch.setattr("gradverify.core.evaluate.limits._starved", lambda: starved * time.perf_counter())
    finish = time.perf_counter() + 0.5

    def busy():
        while time.perf_counter() < finish:
            pass

    with pytest.raises(LayerFailure, match=r"not return within 0.2 s") if ends else nullcontext(), time_limit(0.2):
        guarded("forward", busy)
    assert ends == (time.perf_counter() < finish)


@pytest.mark.parametrize("after", [0.0, 0.04])  # both end before the limit would come again by itself
def test_a_time_limit_that_ends_in_a_destructor_ends_what_follows(after):
    class Slow:
        def __del__(self):
            _compute(0.3)

    def body():
        Slow()
        _compute(after)

    with pytest.raises(LayerFailure), time_limit(0.2):
        body()


@pytest.mark.parametrize("caught", [Exception, BaseException])
def test_whoever_catches_what_a_layer_raises_does_not_catch_the_limit(caught):
    """A rule takes a failure for "no value there"; an interpreter wraps what its kernel raises."""
    failures = []

    def wrapping():
        try:
            _compute(0.3)
        except caught as error:
            raise RuntimeError(f"kernel: {error!r}") from error

    def asking():
        try:
            guarded("backward", wrapping)
        except LayerFailure as failure:
            failures.append(failure)

    with pytest.raises(LayerFailure, match="did not return within") as told, time_limit(0.2):
        asking()
    assert told.value.kind == "timeout"
    assert len(failures) == (caught is BaseException)


def test_what_else_a_destructor_raises_is_told_as_before(monkeypatch):
    class Wrong:
        def __del__(self):
            raise LayerFailure("crash", "forward", "in a destructor")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    before = sys.unraisablehook
    with time_limit(1.0):
        Wrong()
    assert told == ["in a destructor"]
    assert sys.unraisablehook is before


def _compute(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

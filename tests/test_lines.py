"""Which lines ran: of the author's code alone, in cases that were verified, and in the author's words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gradverify as gv
from gradverify import adapt
from gradverify.core.lines.recorder import Recorder, decides
from gradverify.core.nouns import Case, Outcome
from gradverify.core.properties import properties
from gradverify.core.summarise.lines_ran import Ran, restored

PLACES = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python tells from 3.11 on where in a line code stands")


def forward(x, W, mode="mean"):
    y = x @ W
    if mode == "sum":
        y = y * 2
    return y, (x, W, mode)


def helper(a):
    return a.T


def backward(dy, saved):
    x, W, mode = saved
    if mode == "sum":
        dy = dy * 2
        if x.shape[0] > 2:
            dy = dy + 0
    if x.shape[0] > 4000:
        raise ValueError("too long")
    scale = 1 if mode == "mean" else 3
    return dy * scale @ helper(W), (
        x.T @ dy
    )  # fmt: skip


DENSE = {"x": "N D", "W": "D H"}
NEVER = "never: "


def ran_of(*target, **declaration) -> Ran:
    """What ran in a short check."""
    return gv.check(*target, raises=False, properties="gradient", examples=20, **declaration).lines


def line_of(text: str, function=backward) -> int:
    """The line of a function's source on which a text stands."""
    import inspect

    lines, first = inspect.getsourcelines(function)
    return first + next(k for k, line in enumerate(lines) if text in line)


@PLACES
def test_lines_behind_an_option_that_is_not_declared_never_ran():
    ran = ran_of(forward, backward, **DENSE)
    assert ran.counts("forward") == (3, 4)
    assert ran.counts("backward") == (6, 9)  # `raise` is no line to run, and a call on three lines is one
    first, last = line_of("dy = dy * 2"), line_of("dy = dy + 0")
    said = ran.said()[1]
    assert said.startswith(f"backward: 6 of 9 lines ran; never: {first}-{last} (`if mode == 'sum'`)")
    assert '`mode == "mean"` was never False' in said
    assert "3 lines and 1 branch of backward never ran" in ran.headline
    assert 0 < ran.percent < 100
    assert restored(json.loads(json.dumps(ran.plain()))) == ran


def test_an_argument_that_nobody_declares_is_told_with_the_lines_that_read_it():
    def forward(x, smoothing=0.0, eps=1e-5):
        return x * (1 - smoothing) / (1 + eps), x

    def backward(dy, x, eps=1e-5):
        return dy / (1 + eps)

    line = forward.__code__.co_firstlineno + 1
    said = ran_of(forward, backward, x="N").said()
    assert f"not declared: {line}: `smoothing` was always 0.0, {line}: `eps` was always 1e-05" in said[0]
    bound = ran_of(partial(forward, smoothing=0.5), backward, x="N", factor=2.0)
    assert "`smoothing` was always 0.5" in bound.said()[0]
    lines = ran_of(forward, backward, x="N", options={"eps": [1e-5, 0.1]})
    assert [argument.name for argument in lines.fixed] == ["smoothing"]
    assert restored(lines.plain()) == lines
    assert lines.merged(lines) == lines


def test_lines_behind_an_option_that_is_declared_run():
    ran = ran_of(forward, backward, **DENSE, options={"mode": ["mean", "sum"]})
    assert ran.counts("forward") == (4, 4)
    assert "never: " not in ran.said()[1]


def test_a_layer_of_which_all_ran_says_so_and_its_headline_says_nothing():
    def plain(dy, x):
        return 2 * x * dy

    ran = ran_of(lambda x: (x * x, x), plain, x="N")
    assert ran.complete and ran.headline == "" and ran.percent == 100.0
    assert ran.said() == ("forward: 1 of 1 line ran", "backward: 1 of 1 line ran")


@pytest.mark.parametrize(("name", "loss"), [("sigmoid_mlp", "mse"), ("lstm", None)])
def test_python_and_gradverify_are_nobodys_layer(name, loss):
    """A layer under a loss leads to properties of gradverify's own, and through them to functools."""
    lines = gv.check(name, loss=loss, examples=3, properties="gradient").lines
    assert not [said for said in lines.said() if ".py" in said]
    files = {part.file for part in lines.functions if part.file}
    assert {os.path.basename(os.path.dirname(file)) for file in files} <= {"layers"}


@PLACES
def test_both_sides_of_a_condition_on_one_line_are_told_apart():
    def one_sided(dy, x):
        big = x.size > 10_000
        if big and x.size:
            dy = dy * 1
        if x is None or x.ndim != 1:
            raise ValueError
        return np.where(big, 0, 2 * x * dy)

    (function,) = ran_of(lambda x: (x * x, x), one_sided, x="N").of("backward")
    # what leads to a line that never ran is told by that line, and what leads to an error by nothing
    assert [side.value for side in function.missed] == [True] and "big" in next(iter(function.missed)).text
    assert len(function.never) == 1


@PLACES
def test_a_lambda_that_never_ran_is_told():
    def table(dy, saved):
        x, mode = saved
        rules = {"sum": lambda g: g, "mean": lambda g: g / x.size}
        return 2 * x * rules[mode](dy)

    ran = ran_of(lambda x, mode="sum": (x * x, (x, mode)), table, x="N")
    assert "`g / x.size` never ran" in ran.said()[1]


class Dense:
    def __init__(self, mode="mean"):
        self.mode = mode

    def forward(self, x, W):
        self.x, self.W = x, W
        return x @ W

    def backward(self, dy):
        if self.mode == "sum":
            dy = dy * 2
        return dy @ self.W.T, self.x.T @ dy


def made():
    scale = 2.0

    def maker(answer, x):
        def pull(dy):
            if scale == 3.0:
                dy = dy * 7
            return 2 * x * dy

        return pull

    return (lambda x: x * x), maker


@pytest.mark.parametrize(
    ("layer", "header"),
    [
        (lambda: adapt.stateful(Dense, x="N D", W="D H"), "if self.mode == 'sum'"),
        (lambda: adapt.stateful(Dense(), x="N D", W="D H"), "if self.mode == 'sum'"),
        (lambda: adapt.vjp_maker(*made(), x="N"), "if scale == 3.0"),
    ],
    ids=["class", "object", "closure"],
)
def test_lines_behind_adapters_are_those_of_the_author(layer, header):
    ran = ran_of(layer())
    assert f"`{header}`" in ran.said()[1]
    assert {function.file for function in ran.functions} == {__file__}


def test_torch_functions(tmp_path):
    torch = pytest.importorskip("torch")

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, mode="plain"):
            ctx.save_for_backward(x)
            ctx.mode = mode
            return x * x

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            if ctx.mode == "double":
                dy = 2 * dy
            return 2 * x * dy, None

    ran = ran_of(Square, x="N")
    assert "never: " in ran.said()[1] and "ctx.mode == 'double'" in ran.said()[1]
    assert {function.file for function in ran.functions} == {__file__}


def test_jax_custom_rules():
    jax = pytest.importorskip("jax")

    @jax.custom_vjp
    def square(x):
        return x * x

    def fwd(x):
        return x * x, x

    def bwd(x, dy):
        if x.shape == (4000,):
            dy = dy * 2
        return (2 * x * dy,)

    square.defvjp(fwd, bwd)
    ran = ran_of(square, x="N")
    assert "x.shape == (4000,)" in "".join(ran.said())


def test_a_function_that_few_cases_lead_to_is_seen_although_nothing_seemed_left_to_see():
    table = {"a": helper, "b": rare}

    def chosen(x, kind="a"):
        return table[kind](x), (x, kind)

    def pulled(dy, saved):
        return table[saved[1]](dy)

    kinds = {"kind": ["a"] * 9 + ["b"]}  # a table has no side that did not run
    report = gv.check(chosen, pulled, x="N D", returns="D N", options=kinds, properties="gradient")
    assert {"helper", "rare"} <= {function.name for function in report.lines.functions}


def rare(a):
    return np.swapaxes(a, 0, 1)


def test_code_without_source_has_no_coverage_and_is_checked_all_the_same():
    space: dict[str, object] = {}
    exec("def f(x): return x * x, x\ndef g(dy, x): return 2 * x * dy", space)
    report = gv.check(space["f"], space["g"], x="N", examples=5)
    assert report.ok and report.lines.said() == ("no coverage: no source",)
    assert report.lines.percent is None


def test_only_what_was_verified_counts():
    layer = gv.Layer(forward, backward, **DENSE)
    case = Case("f", {"x": np.ones((2, 2)), "W": np.ones((2, 3))}, {})
    prop = properties.get("gradient")
    with Recorder(layer) as recorder:
        recorder.begin(case, prop)
        prop.holds(layer, case)
        recorder.add(Outcome("gradient", skipped="the layer is slow"))
        assert recorder.end() == ()
        assert not any(function.ran for function in recorder.result().functions)
        recorder.begin(case, prop)
        outcome = prop.holds(layer, case)
        recorder.add(outcome)
        assert decides(outcome) and recorder.end()
        assert recorder.result().counts("backward")[0] == 6
        recorder.begin(case, prop)
        recorder.add(prop.holds(layer, case))
        assert recorder.end() == ()  # nothing new


def test_what_ran_in_two_checks_is_united():
    short = ran_of(forward, backward, **DENSE)
    long = ran_of(lambda x, W: forward(x, W, "sum"), backward, **DENSE)
    both = short.merged(long)
    assert both.counts("backward") == (9, 9) and not [s for f in both.of("backward") for s in f.missed]


def test_a_trace_function_of_the_author_or_a_debugger_stays():
    seen = []

    def theirs(frame, event, argument):
        seen.append(frame.f_code.co_name)

    sys.settrace(theirs)
    try:
        ran = ran_of(forward, backward, **DENSE)
        assert sys.gettrace() is theirs
    finally:
        sys.settrace(None)
    assert "backward" in seen and ran.counts("backward") == (6, 9)


def test_a_layer_that_sets_a_trace_function_keeps_it():
    def quiet(frame, event, argument):
        return None

    def traced(dy, x):
        sys.settrace(quiet)
        return 2 * x * dy

    try:
        report = gv.check(lambda x: (x * x, x), traced, x="N", examples=5, properties="gradient")
        assert sys.gettrace() is quiet and report.ok
    finally:
        sys.settrace(None)


@dataclass
class Ended(Exception):
    """Raised by a layer."""


def test_a_layer_that_raises_leaves_nothing_behind():
    def raising(dy, x):
        raise Ended

    before = sys.gettrace()
    report = gv.check(lambda x: (x * x, x), raising, x="N", examples=5, raises=False)
    assert report.findings and sys.gettrace() is before


def test_coverage_py_sees_what_it_saw_before(tmp_path):
    pytest.importorskip("coverage")
    (tmp_path / "measured.py").write_text(
        textwrap.dedent(
            """
            import coverage
            tool = coverage.Coverage(data_file=None)
            tool.start()
            import layer
            import gradverify as gv
            report = gv.check(layer.forward, layer.backward, x="N", examples=5, properties="gradient")
            tool.stop()
            print(tool.analysis2(layer.__file__)[3], report.lines.counts("backward"))
            """
        )
    )
    (tmp_path / "layer.py").write_text(
        "def forward(x):\n    return x * x, x\n\n\ndef backward(dy, x):\n    if x.ndim > 3:\n        return 0\n"
        "    return 2 * x * dy\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(gv.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "measured.py"], cwd=tmp_path, capture_output=True, text=True, check=False, env=env
    )
    assert done.stdout.strip() == "[7] (2, 3)", done.stderr

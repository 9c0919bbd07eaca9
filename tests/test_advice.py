"""Whatever a user gets wrong, the message names the fix, and the fix works when it is pasted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradverify as gv
from gradverify.cli import run


def f(x):
    return np.tanh(x)


def f_grad(x):
    return 1 - np.tanh(x) ** 2


def scale(x, w):
    return x * w, (x, w)


def scale_backward(dy, saved):
    x, w = saved
    return dy * w, dy * x


def lonely(x, w):
    return x * w


class Half:
    def forward(self, x):
        return x


class Neither:
    pass


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(gv.GradverifyError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (f, "pass both functions: gradverify.check(gradverify.adapt.elementwise(f, f_grad))"),
        (scale, 'pass both functions: gradverify.check(scale, scale_backward, x="N D", w="D H")'),
        (lonely, 'a forward alone has no backward: gradverify.check(lonely, BACKWARD, x="N D", w="D H")'),
        (Half, 'gradverify.check(Half, methods=("forward", "BACKWARD"), x="N D")'),
        (Neither, "Neither has no forward and no backward"),
        (3, 'pass two functions: gradverify.check(forward, backward, x="N D")'),
    ],
)
def test_a_target_that_is_not_understood_gets_one_line_that_names_the_fix(target: Any, line: str) -> None:
    said = message(lambda: gv.check(target))
    assert line in said
    assert len(said.splitlines()) == 3


def test_the_line_for_a_function_and_its_derivative_works_when_pasted() -> None:
    line = re.search(r"gradverify\.check\(.*\)", message(lambda: gv.check(f)))
    assert line is not None
    short = line[0].removesuffix(")") + ", examples=5)"
    assert eval(short, {"gradverify": gv, "f": f, "f_grad": f_grad}).ok


def pair(**declared: Any) -> Callable[[], Any]:
    return lambda: gv.check(scale, scale_backward, **{"x": "N", "w": "N", "examples": 2} | declared)


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (pair(x="N: postive"), "did you mean positive?"),
        (pair(x="N: nowhere"), "known words"),
        (pair(exmaples=5), "did you mean examples?"),
        (pair(option={"p": [1]}), "did you mean options?"),
        (pair(properties="gradiant"), "did you mean gradient?"),
        (pair(dtype="flaot32"), "did you mean float32?"),
        (pair(method="adaptiv"), "did you mean adaptive?"),
        (pair(kinks="lefft"), "did you mean left?"),
        (lambda: gv.check("lstm_cel"), "did you mean lstm_cell"),
        (lambda: gv.check("dense", loss="msee"), "did you mean mse?"),
    ],
)
def test_a_misspelt_word_is_told_with_the_one_that_was_meant(call: Callable[[], Any], near: str) -> None:
    assert near in message(call)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["chekc"], "did you mean check?"),
        (["dense"], "to check it: gradverify check dense"),
        (["check", "--exmples", "3"], "--examples"),
        (["list", "adapter"], "'adapters'"),
    ],
)
def test_so_is_a_command(arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert near in capsys.readouterr().err


def test_one_kind_is_listed_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "adapters"]) == 0
    out = capsys.readouterr().out
    assert "layers (" not in out
    assert 'gradverify.adapt.elementwise(f, df), with of="output" where df takes the output of f' in out


class Scaled:
    def __init__(self, units: int) -> None:
        self.v = np.ones(units)

    def forward(self, x: Any) -> Any:
        self.x = x
        return x[:, :1] * self.v

    def backward(self, dy: Any) -> Any:
        dx = np.zeros_like(self.x)
        dx[:, 0] = dy @ self.v
        return dx


class Kept(Scaled):
    def backward(self, dy: Any) -> Any:
        self.dv = (dy * self.x[:, :1]).sum(0)
        return super().backward(dy)


def test_the_hint_for_a_parameter_without_a_primal_works_as_it_stands() -> None:
    said = message(lambda: gv.check(Scaled, init=("H",), x="N D"))
    hint = re.search(r'v="H", pairs=\{.*?\}', said)
    assert hint is not None
    report = eval(f'gv.check(Kept, init=("H",), x="N D", examples=5, {hint[0]})', {"gv": gv, "Kept": Kept})
    assert report.tallies["gradient"].primals.keys() >= {"x", "v"}


def test_apply_of_a_function_is_taken_for_the_function() -> None:
    torch = pytest.importorskip("torch")

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            return 2 * dy

    report = gv.check(Doubled.apply, x="N D", examples=3, properties="gradient")
    assert report.layer == "Doubled"
    assert "pass an instance" in message(lambda: gv.check(torch.nn.Linear, x="N 3"))

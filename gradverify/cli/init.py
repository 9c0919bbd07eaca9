"""`gradverify init`: a first test, which runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from gradverify.cli._output import data_stream, targets_named, writable, write
from gradverify.core.errors import UsageError

_HEAD = '"""Backward passes, checked by gradverify: python -m pytest {file}"""'
_EXAMPLE = """\
import gradverify as gv


def forward(x, W, b):
    return x @ W + b, (x, W)  # output, and what backward needs


def backward(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(0)  # in the order of forward's arguments


def test_dense():  # put your own forward and backward in place of these two; the same letter is the same size
    gv.check(forward, backward, x="N D", W="D H", b="H")
"""
_LOAD = """\
import gradverify as gv
from gradverify.targets import load
"""
_TEST = """\


def test_{name}():
    for layer in load({target!r}):
        gv.check(layer)
"""


@click.command("init")
@click.argument("targets", metavar="[TARGET]...", nargs=-1, shell_complete=targets_named)
@click.option("--output", "file", metavar="FILE", default="test_gradients.py", show_default=True, help="What to write.")
def command(targets: tuple[str, ...], file: str) -> int:
    """Write a first test that runs as it stands.

    TARGET is as for `gradverify check`, and loaded once to see that it can be; without one, the test is a
    dense layer to be replaced by your own. A file that exists is left alone.
    """
    with data_stream() as data:
        path = Path(file)
        if path.exists():
            raise UsageError(f"{file!r} exists; name another file: gradverify init --output FILE")
        writable(file)
        text = "\n".join([_HEAD.format(file=file), "", _tests(targets) if targets else _EXAMPLE])
        path.write_text(text, encoding="utf-8")
        write(f"wrote {file}; run it: python -m pytest {file}", data)
    return 0


def _tests(targets: tuple[str, ...]) -> str:
    from gradverify.targets import load

    found: dict[str, Any] = {}
    for target in targets:
        load(target)  # what cannot be loaded is told now, and not by the test
        word = re.sub(r"\W+", "_", target.removesuffix(".py").replace(".py:", "_")).strip("_").lower()
        found.setdefault(word if word not in found else f"{word}_{len(found)}", target)
    return _LOAD + "".join(_TEST.format(name=name, target=target) for name, target in found.items())

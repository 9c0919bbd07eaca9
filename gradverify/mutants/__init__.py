"""Known wrong backward passes: each a change of a line or a few of a right one, with the class of its bug.

A verifier is worth what it catches. The shelf is gradverify's proof of itself, modelled on bugs that
projects released; `gradverify.mutants.generic` does the same to a layer of your own. Each family writes down what
is changed as a diff, and the wrong code is made of the right one.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

from gradverify.core.declare.layer import Layer

_FAMILIES = ("mlp", "recurrent", "conv", "pooling", "norms", "losses", "indexing", "attention", "pointwise", "shapes")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A wrong backward planted into a right layer.

    Attributes
    ----------
    number : what it is called by
    layer : the layer it is planted into, in words
    bug_class : the class of its bug, e.g. "UNBROADCAST"
    text : the change, in one line
    right, build : give the right layer, and the same layer with the wrong backward
    needs : the condition without which it cannot be seen
    copies : the released bug it is modelled on, if there is one: project#issue
    """

    number: int
    layer: str
    bug_class: str
    text: str
    right: Callable[[], Layer]
    build: Callable[[], Layer]
    needs: str = ""
    copies: str = ""


_shelf: dict[int, Mutant] = {}


def plant(
    number: int,
    layer: str,
    bug_class: str,
    *,
    of: Callable[[], Layer],
    into: Callable[[Layer, Any], Layer] = lambda right, wrong: right.derive(backward=wrong),
    needs: str = "",
    copies: str = "",
) -> Callable[[Any], Any]:
    """Put a wrong backward on the shelf: a decorator. The docstring of what it decorates says in a line what is wrong.

    Parameters
    ----------
    of : gives the right layer that gets the backward
    into : how it gets it, where what is decorated is not the backward itself
    """

    def decorate(wrong: Any) -> Any:
        text = wrong.__doc__ or wrong.__name__  # without docstrings under `python -OO`
        _put(Mutant(number, layer, bug_class, text, of, lambda: into(of(), wrong), needs, copies))
        return wrong

    return decorate


def _put(mutant: Mutant) -> None:
    if mutant.number in _shelf:
        raise ValueError(f"there are two mutants {mutant.number}")

    def build() -> Layer:
        return mutant.build().derive(name=f"mutant_{mutant.number}", origin=None)

    _shelf[mutant.number] = replace(mutant, build=build)


Change = tuple[str, str]  # what stands in the right code, and what stands there in the wrong one
_HEAD = re.compile(r"(\d+) ([A-Z0-9-]+): (.*?)(?: \|(| .*?))?(?: \| (.*?))?")


def diffs(
    layer: str,
    of: Callable[[], Layer],
    text: str,
    *,
    within: Sequence[str] = (),
    finish: Callable[[Layer], Layer] = lambda layer: layer,
) -> None:
    """Put mutants of one layer on the shelf, each a diff of its code.

    Parameters
    ----------
    of : gives the right layer
    text : for each mutant a line ``NUMBER CLASS: what is wrong | what it needs to be seen | what it is modelled on``,
        and below it what is changed, in lines ``- right`` and ``+ wrong``; what is changed stands once in the backward,
        else once in the forward (what that saves), else in one of the functions `within`
    within : names of functions that the backward calls
    finish : what is done to both layers before they are checked, e.g. repeating a cell over time
    """

    def right() -> Layer:
        return finish(of())

    def wrong(changes: Sequence[Change]) -> Callable[[], Layer]:
        return lambda: finish(_changed(of(), changes, within))

    for head, changes in _read(text):
        number, bug_class, said, needs, copies = ((part or "").strip() for part in head)
        _put(Mutant(int(number), layer, bug_class, said, right, wrong(changes), needs, copies))


def _read(text: str) -> Iterator[tuple[Sequence[str | None], list[Change]]]:
    """Head and changes of each mutant in a text of diffs."""
    for block in re.split(r"^(?=\d)", textwrap.dedent(text), flags=re.MULTILINE)[1:]:
        first, *rest = block.strip().splitlines()
        head = _HEAD.fullmatch(first)
        changes: list[tuple[list[str], list[str]]] = []
        for line in rest:
            sign, code = line.lstrip()[:1], line.lstrip()[2:]
            if sign == "-" and (not changes or changes[-1][1]):
                changes.append(([], []))
            changes[-1][sign == "+"].append(code)
        if head is None:
            raise ValueError(f"{first!r} is no head of a mutant")
        yield head.groups(), [("\n".join(old), "\n".join(new)) for old, new in changes]


def _changed(right: Layer, changes: Sequence[Change], within: Sequence[str]) -> Layer:
    """A layer whose code is that of another one with some lines changed."""
    backward = inspect.unwrap(right.backward)
    scope = dict(backward.__globals__)
    sources = {"backward": _source(backward), "forward": _source(inspect.unwrap(right.forward))}
    forward = sources["forward"]
    sources |= {name: _source(scope[name]) for name in within}
    for old, new in changes:
        first, *more = old.split("\n")
        name = next((name for name, source in sources.items() if source.count(first) == 1), None)
        if name is None:
            raise ValueError(f"{first!r} does not stand once in the code of {right.name}")
        code = r"\n( *)(.*?)" + r"\n\1".join(map(re.escape, (first, *more)))
        replaced = partial(_replaced, new.split("\n"))
        sources[name] = re.sub(code, replaced, sources[name], count=1)
    for source in sources.values():
        exec(source, scope)
    other = {"forward": scope["forward"]} if sources["forward"] != forward else {}
    return right.derive(backward=scope["backward"], **other)


def _replaced(lines: Sequence[str], found: re.Match[str]) -> str:
    """Lines in place of what was found, as far to the right."""
    indent, before = found.groups()
    return f"\n{indent}{before}" + f"\n{indent}".join(lines)


def _source(function: Callable[..., Any]) -> str:
    return "\n" + textwrap.dedent(inspect.getsource(function)).removeprefix("@staticmethod\n")


def shelf() -> tuple[Mutant, ...]:
    """Every mutant, by number."""
    for family in _FAMILIES:
        import_module(f"{__name__}.{family}")
    return tuple(_shelf[number] for number in sorted(_shelf))


def catalogue(name: str) -> Callable[[], Layer]:
    """Gives a layer of the catalogue by its name, when it is asked for."""

    def find() -> Layer:
        from gradverify.core.declare.registry import layers

        return layers.get(name)

    return find


def declared(target: Any) -> Callable[[], Layer]:
    """A class with static forward and backward as a layer, without putting it into the registry."""

    def find() -> Layer:
        from gradverify.adapters import as_layer

        return as_layer(target)

    return find

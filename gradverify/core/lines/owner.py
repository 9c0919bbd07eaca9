"""Whose code it is: the author's, a library's or without source; its arguments that keep one value in every case."""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sysconfig
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from gradverify.core.declare.authored import behind, contents, foreign, ours, roots
from gradverify.core.declare.layer import Layer
from gradverify.core.lines.places import source_of
from gradverify.core.summarise.lines_ran import Fixed

_HERE = str(Path(__file__).absolute().parents[2])  # gradverify itself
_PATHS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
LIBRARIES = (*sorted(p + os.sep for p in _PATHS if p), _HERE + os.sep)
# what a layer leads to, as through a cached property of its own, and what no author of a layer has written
_STANDARD = tuple(sorted({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")}))
_CORE = os.path.join(_HERE, "core", "")
_INSTALLED = tuple(os.sep + name for name in ("site-packages", "dist-packages"))
_BUILDS = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__set_name__", "__repr__", "<module>"}


class Home:
    """Tells the author's code from all other code, once for each code object.

    The author's is what forward and backward lead to, with the other files of its folder, and all that lies
    outside Python's libraries. What only builds objects is left out: weights are drawn, whatever they began as.
    """

    def __init__(self, layer: Layer) -> None:
        files = {function.__code__.co_filename for function in roots(layer)}
        self._files = {name for name in files if _source(name) and not _never(name)}
        folders = {os.path.dirname(name) for name in self._files}
        self._folders = {folder for folder in folders if not folder.endswith(_INSTALLED)}
        self._known: dict[str, bool] = {}
        self.sourceless = not self._files

    def owns(self, code: CodeType) -> bool:
        """Whether it is code of the author's, with a source that can be shown."""
        if code.co_name in _BUILDS:
            return False
        name = code.co_filename
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._owns(name)
        return known

    def _owns(self, name: str) -> bool:
        if name not in self._files and (name.startswith(LIBRARIES) or any(part in name for part in _INSTALLED)):
            return os.path.dirname(name) in self._folders and _source(name)
        return _source(name)


def _never(name: str) -> bool:
    return name.startswith(_CORE) or (name.startswith(_STANDARD) and not any(part in name for part in _INSTALLED))


def _source(name: str) -> bool:
    return not name.startswith("<frozen") and bool(linecache.getlines(name))


_DEEP = 4  # steps through what stands between a layer and the author's code


def fixed(layer: Layer) -> tuple[Fixed, ...]:
    """Arguments of forward and backward that are neither primals nor options, and have a value nevertheless.

    Nothing is known of other values, and no line tells it: what is multiplied by 0 runs all the same.
    """
    given = {*layer.primal_names, *layer.options}
    found: dict[Fixed, None] = {}
    for role in ("forward", "backward"):
        for function, bound in _called(getattr(layer, role), _DEEP):
            for name, value in {**_defaults(function), **bound}.items():
                lines = _uses(function, name)
                if name not in given and lines and isinstance(value, (bool, int, float, str, type(None))):
                    found[Fixed(role, function.__code__.co_filename, lines, name, repr(value))] = None
    return tuple(found)


def _called(value: Any, deep: int) -> Iterator[tuple[FunctionType, Mapping[str, Any]]]:
    """The author's functions that are called with the arrays, and what `partial` gives them besides."""
    if isinstance(value, partial):
        for function, bound in _called(value.func, deep):
            yield function, {**bound, **value.keywords}  # those that it does not read have no lines
    elif deep and ours(value):
        for part in behind(value):
            if isinstance(part, (FunctionType, partial)) or ours(part):
                yield from _called(part, deep - 1)
    elif isinstance(value, FunctionType) and not foreign(value):
        yield value, {}
        inner = inspect.unwrap(value)
        within = [inner] if inner is not value else [contents(cell) for cell in value.__closure__ or ()]
        hands_on = value.__code__.co_flags & inspect.CO_VARKEYWORDS  # arguments of any name, as decorators do
        for part in within if deep and hands_on else ():
            if isinstance(part, (FunctionType, partial)) or ours(part):
                yield from _called(part, deep - 1)


def _defaults(function: FunctionType) -> dict[str, Any]:
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _uses(function: FunctionType, name: str) -> tuple[int, ...]:
    """The lines of a function that read an argument."""
    source = source_of(function.__code__.co_filename)
    first, last = function.__code__.co_firstlineno, max((n for *_, n in function.__code__.co_lines() if n), default=0)
    names = (n for n in source.names if first <= n.lineno <= last and n.id == name)
    return tuple(sorted({source.starts.get(n.lineno, n.lineno) for n in names if isinstance(n.ctx, ast.Load)}))

"""Whose code it is: the author's, a library's, or code that has no source."""

from __future__ import annotations

import linecache
import os
import sysconfig
from pathlib import Path
from types import CodeType

from gradverify.core.declare.authored import roots
from gradverify.core.declare.layer import Layer

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

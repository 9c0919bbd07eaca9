"""What a worker says, as bytes that its parent can read without running any code of the layer's.

Pickled, with one difference: whatever is not plain Python, NumPy or gradverify travels as its text.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MappingProxyType
from typing import Any

_LONGEST = 200  # characters of the text of a foreign object
_BUILTINS = frozenset({"bytearray", "complex", "frozenset", "list", "object", "range", "set", "slice", "dict", "tuple"})
_OURS = ("gradverify", "numpy", "ml_dtypes")
_PLAIN = frozenset({("collections", "Counter"), ("collections", "OrderedDict"), ("collections", "defaultdict")})


class Garbled(Exception):
    """Bytes that no worker of ours has written."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An object that does not travel, by its text."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _allowed(module: str, name: str) -> bool:
    if module == "builtins":
        return name in _BUILTINS
    return module.partition(".")[0] in _OURS or (module, name) in _PLAIN


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        try:
            if isinstance(thing, MappingProxyType):
                return dict, (dict(thing),)
            named = isinstance(thing, (type, FunctionType, BuiltinFunctionType))
            home = thing if named else type(thing)
            if _allowed(str(home.__module__), str(home.__qualname__)):
                return NotImplemented
            text = repr(thing)[:_LONGEST]
        except BaseException:  # noqa: BLE001  whatever a foreign object raises when it is looked at
            text = f"<{type(thing).__name__}>"
        return Shown, (text,)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if not _allowed(module, name):
            raise Garbled(f"{module}.{name} is nothing that a worker sends")
        return super().find_class(module, name)


def dumps(thing: Any) -> bytes:
    """Any object as bytes."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(thing)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """What was written by `dumps`; raises Garbled if it was not."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except Garbled:
        raise
    except Exception as error:  # noqa: BLE001  damaged bytes make a pickle raise whatever they happen to mean
        raise Garbled(f"{type(error).__name__}: {error}") from None

"""The arrays that an object is made of: where they stand, and a copy of the object in which views stay views."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from gradverify.adapters._pairs import Path, attributes, shared

_DEEP = 6  # attributes of attributes of ..., as elsewhere
_PLAIN = (str, bytes, int, complex, type(None), type, np.generic, ModuleType)
_CALLED = (FunctionType, BuiltinFunctionType, MethodType, np.ufunc)


def arrays_of(holder: Any) -> dict[Path, Any]:
    """Float arrays and float numbers within an object, by path, each array once."""
    return dict(_walk(holder, (), set()))


def _walk(holder: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Any]]:
    if isinstance(holder, (float, np.floating)):
        yield path, holder
        return
    if isinstance(holder, (*_PLAIN, *_CALLED)) or id(holder) in seen or len(path) > _DEEP:
        return
    seen.add(id(holder))
    if isinstance(holder, np.ndarray) and holder.dtype.kind in "fc" and holder.size:
        yield path, holder
    parts: list[tuple[tuple[str, Any], Any]] = []
    if isinstance(holder, Mapping):
        parts = [(("item", key), value) for key, value in holder.items() if isinstance(key, (str, int))]
    elif isinstance(holder, (list, tuple)):
        parts = [(("item", k), value) for k, value in enumerate(holder)]
    else:
        held = attributes(holder) | shared(holder)
        parts = [(("attr", name), value) for name, value in held.items()]
    for step, value in parts:
        yield from _walk(value, (*path, step), seen)


def duplicate(instance: Any) -> Any:
    """A deep copy; arrays that are views of another one are views of its copy.

    Raises
    ------
    TypeError, ValueError, AttributeError, RuntimeError
        If something in it cannot be copied: generators, locks, open files.
    """
    arrays = [a for a in arrays_of(instance).values() if isinstance(a, np.ndarray)]
    memo: dict[int, Any] = {}
    for array in arrays:
        owner = array.base
        if type(array) is not np.ndarray or type(owner) is not np.ndarray or not owner.flags.c_contiguous:
            continue
        if any(a is not array and np.may_share_memory(a, owner) for a in arrays):
            whole = memo.setdefault(id(owner), owner.copy())
            offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            memo[id(array)] = np.ndarray(array.shape, array.dtype, whole, offset, array.strides)
    return copy.deepcopy(instance, memo)

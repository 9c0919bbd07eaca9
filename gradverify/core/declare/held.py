"""What an object holds: ways to what stands in it, and the float arrays it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from gradverify.core.nouns import Array

Path = tuple[tuple[str, Any], ...]  # ("attr", name) and ("item", key), outermost first

_DEEP = 6  # attributes of attributes of ..., as elsewhere
_TENSORS = ("torch", "jax", "jaxlib")
_REGISTERED = ("_parameters", "_buffers", "_modules")  # dicts of a torch module, which shows their items as attributes
_PLAIN = (str, bytes, int, complex, type(None), type, np.generic, ModuleType)
_CALLED = (FunctionType, BuiltinFunctionType, MethodType, np.ufunc)


def arrays_of(holder: Any, tensors: bool = False, every: bool = False) -> dict[Path, Any]:
    """Float arrays and float numbers within an object, by path.

    Parameters
    ----------
    tensors : whether arrays of torch and JAX count as well
    every : whether an array that stands in several places is told for each of them, and not once
    """
    found, seen = {}, set()
    for path, array in _walk(holder, (), set()):
        number = isinstance(array, (float, np.floating))
        if (number or tensors or isinstance(array, np.ndarray)) and (number or every or id(array) not in seen):
            seen.add(id(array))
            found[path] = array
    return found


def values(array: Any) -> Array:
    """A copy of an array of any library in NumPy; a type that NumPy has not becomes float64."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = (array.resolve_conj() if array.is_complex() else array.double()).numpy()
    found = np.array(array)
    return found.astype(float) if found.dtype.kind == "V" else found


def _root(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _walk(holder: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Any]]:
    if isinstance(holder, (float, np.floating)):
        yield path, holder
        return
    if isinstance(holder, (*_PLAIN, *_CALLED)) or len(path) > _DEEP:
        return
    if isinstance(holder, np.ndarray) and holder.dtype.kind in "fc" and holder.size:
        yield path, holder
        return
    if hasattr(holder, "dtype") and _root(holder) in _TENSORS:
        if hasattr(holder, "shape") and re.search("float|complex", str(holder.dtype)):
            yield path, holder
        return
    if id(holder) in seen:
        return
    seen.add(id(holder))
    parts: list[tuple[tuple[str, Any], Any]] = []
    if isinstance(holder, Mapping):
        parts = [(("item", key), value) for key, value in holder.items() if _plain_key(key)]
    elif isinstance(holder, np.ndarray) and holder.dtype == object:
        parts = [(("item", k[0] if len(k) == 1 else k), value) for k, value in np.ndenumerate(holder)]
    elif isinstance(holder, np.ndarray) and holder.dtype.names:
        parts = [(("item", name), holder[name]) for name in holder.dtype.names]
    elif isinstance(holder, Sequence) and not isinstance(holder, (str, bytes, range, memoryview)):
        parts = [(("item", k), value) for k, value in enumerate(holder)]
    elif type(holder) is not np.ndarray:  # which has a class of 150 names, and holds nothing
        held = attributes(holder) | shared(holder)
        for registered in _REGISTERED if hasattr(holder, "named_parameters") else ():
            held |= held.pop(registered, {})
        parts = [(("attr", name), value) for name, value in held.items()]
    for step, value in parts:
        yield from _walk(value, (*path, step), seen)


def _plain_key(key: Any) -> bool:
    """Whether a dict keeps something under a name or a number, and not what it remembers of earlier arguments."""
    return isinstance(key, (str, int)) or (isinstance(key, tuple) and all(isinstance(part, str) for part in key))


def show(path: Path) -> str:
    """A path as an author would write it."""
    parts = [f".{key}" if kind == "attr" else f"[{key!r}]" for kind, key in path]
    return "".join(parts).removeprefix(".")


def fetch(holder: Any, path: Path) -> Any:
    """What stands at a path; None if there is nothing."""
    for kind, key in path:
        try:
            holder = getattr(holder, key) if kind == "attr" else holder[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            return None
    return holder


def store(holder: Any, path: Path, value: Any) -> None:
    """Put a value at a path; raises what the object raises."""
    *front, (kind, key) = path
    inner = fetch(holder, tuple(front))
    if isinstance(inner, tuple):
        parts = (*inner[:key], value, *inner[key + 1 :])
        store(holder, tuple(front), type(inner)(*parts) if hasattr(inner, "_fields") else parts)
        return
    holder = inner
    if kind == "attr":
        setattr(holder, key, value)
    else:
        holder[key] = value


def attributes(instance: Any) -> dict[str, Any]:
    """The attributes kept on an object itself, slots included."""
    slots = [s for c in type(instance).__mro__ for s in _slots(c)]
    found = {s: getattr(instance, s) for s in slots if hasattr(instance, s)}
    own = getattr(instance, "__dict__", None)
    return {**found, **own} if isinstance(own, Mapping) else found  # what answers to every name has none


def shared(instance: Any) -> dict[str, Array]:
    """Float arrays that the classes of an object hold for all of their objects."""
    found = {n: v for c in reversed(type(instance).__mro__) for n, v in vars(c).items() if isinstance(v, np.ndarray)}
    return {n: v for n, v in found.items() if v.dtype.kind in "fc" and n not in attributes(instance)}


def own(instance: Any, path: Path) -> bool:
    """Whether what stands at a path belongs to the object, and not to its class, where it must not be changed."""
    *front, (kind, key) = path
    holder = fetch(instance, tuple(front))
    return kind != "attr" or key in getattr(holder, "__dict__", ()) or key in attributes(holder)


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)

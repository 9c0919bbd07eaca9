"""Copies of an object in which arrays that are views of one another stay views."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from gradverify.core.declare.held import arrays_of
from gradverify.core.nouns import Array


class Original:
    """An object that stays as it is while copies are made of it."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self._views = list(_views(instance))  # looked for once: that takes longer than a copy

    @property
    def runs_copies_of(self) -> tuple[Any, ...]:
        """What is never run itself, so that to change its arrays would show nothing."""
        return (self.instance,)

    def copy(self) -> Any:
        """A deep copy; arrays that are views of another one are views of its copy.

        Raises
        ------
        TypeError, ValueError, AttributeError, RuntimeError
            If something in it cannot be copied: generators, locks, open files.
        """
        memo: dict[int, Any] = {}
        for array, owner in self._views:
            whole = memo.setdefault(id(owner), owner.copy())
            offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            memo[id(array)] = np.ndarray(array.shape, array.dtype, whole, offset, array.strides)
        return copy.deepcopy(self.instance, memo)


def _views(instance: Any) -> Iterator[tuple[Array, Array]]:
    """Arrays within an object that lie in memory which another one lies in as well, with the owner of that memory."""
    arrays = [a for a in arrays_of(instance).values() if isinstance(a, np.ndarray)]
    for array in arrays:
        owner = array.base
        if type(array) is not np.ndarray or type(owner) is not np.ndarray or not owner.flags.c_contiguous:
            continue
        if any(a is not array and np.may_share_memory(a, owner) for a in arrays):
            yield array, owner

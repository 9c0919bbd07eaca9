"""A copy of an object in which arrays that are views of one another stay views."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gradverify.core.declare.held import arrays_of


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

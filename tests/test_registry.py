"""The registry: where a name came from, and what is near to one that nobody registered."""

from __future__ import annotations

import pytest

from gradverify.core.declare.registry import Registry, layers
from gradverify.core.errors import DeclarationError, TargetError


def test_a_name_registered_twice_says_where_both_came_from():
    registry: Registry[object] = Registry("thing", "gradverify.no_such_group")
    with registry.source("first.py"):
        registry.add("a", object())
    with pytest.raises(DeclarationError, match=r"'a' is registered twice: first from first\.py, now from second\.py"):  # noqa: SIM117
        with registry.source("second.py"):
            registry.add("a", object())
    with registry.source("first.py"):
        registry.add("a", object())  # the same file, loaded again


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(TargetError, match="did you mean"):
        layers.get("lstm_sell")

"""`gradverify.given`: drawn Cases in a test function of one's own, beside strategies of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from gradverify.core.declare.regime import Regime
from gradverify.core.declare.registry import layers
from gradverify.core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def given(
    target: Any,
    /,
    *,
    dtype: str = "float64",
    eps: float | None = None,
    special: bool = False,
    small: bool = False,
    **strategies: Any,
) -> Callable[[F], F]:
    """Run a test function on drawn Cases of a layer: `hypothesis.given` with an argument `case`.

    The test is one of Hypothesis: its profiles, `@settings`, `@example`, database, flags and
    shrinking hold, and nothing of gradverify's runs unless the test calls it.

    Parameters
    ----------
    target : a Layer, a registered name, or anything that an adapter recognises
    dtype : floating type of the primals
    eps : step of every case; by default one is drawn with each
    special : draw special points only (zeros, ties, borders, saturation, empty axes)
    small : keep every axis at 3 or less
    **strategies : Hypothesis strategies for the other arguments of the test function

    Raises
    ------
    UsageError
        If the test function takes no argument `case`, or there is a strategy of that name.
    DeclarationError, TargetError
        If the target is no layer.
    """
    import hypothesis

    from gradverify.adapters import layer_of
    from gradverify.core.draw import cases

    if "case" in strategies:
        raise UsageError("the argument 'case' is the drawn Case; give your own strategy another name")
    layer = layer_of(target)
    origin = layer.origin or (layer.name if layer.name in layers else None)
    drawn = cases(layer, Regime(special=special, small=small), dtype=dtype, eps=eps, target=origin)

    def decorate(test: F) -> F:
        if "case" not in inspect.signature(test).parameters:
            raise UsageError(f"{getattr(test, '__name__', test)!r} takes no argument 'case' for the drawn Case")
        decorated: Any = hypothesis.given(case=drawn, **strategies)(test)
        return decorated  # type: ignore[no-any-return]

    return decorate

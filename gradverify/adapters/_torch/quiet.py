"""Dispatch modes that run a reference's operations as they are, and hear of results or of the sizes of their terms."""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from gradverify.adapters._engines.closed import LEAST, Closed, Off
from gradverify.adapters._torch.arrays import Tensor, floats
from gradverify.adapters._torch.noise import mode
from gradverify.adapters._torch.operations import PRODUCTS


@functools.lru_cache(maxsize=2)
def _quiet(guarded: bool) -> type:
    class Quiet(mode(guarded)):  # type: ignore[misc]
        """Operations as they are; `looked` hears of each result: its number, itself, whether it is a product."""

        looked: Callable[[int, Tensor, bool], None]

        def done(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
            """The result of an operation as it is."""
            result = func(*args, **kwargs)
            if floats(result) and 0 not in result.stride():
                self.looked(self.count + 1, result, name in PRODUCTS)
            return result

        def softmax(self, name: str, args: Any, result: Any) -> Any:
            """As it is."""
            return result

    return Quiet


def quiet() -> Any:
    """A dispatch mode that counts operations as `noise` does: see `Quiet`."""
    return _quiet("torch._dynamo" in sys.modules)(None, None, 0, False, False, False)


@functools.lru_cache(maxsize=2)
def _slopes(guarded: bool) -> type:
    class Slopes(_quiet(guarded)):  # type: ignore[misc]
        """By how much slopes are off, by what they are slopes in and the number of the operation: see `Closed`."""

        found: dict[int, list[Off]]
        closed: Closed

        def done(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
            """The result of an operation as it is."""
            result = func(*args, **kwargs)
            if floats(result) and not func._schema.is_mutable:
                off = self.closed.off(name, args, result, lambda a: floats(a) and a.requires_grad)
                if off is not None and (off > LEAST).any():
                    self.found[self.closed.root(result)].append((self.count + 1, off.nan_to_num_(0.0, 0.0, 0.0)))
            return result

    return Slopes


def slopes() -> Any:
    """A dispatch mode for a forward: see `Slopes`."""
    found = _slopes("torch._dynamo" in sys.modules)(None, None, 0, False, False, False)
    found.found, found.closed = defaultdict(list), Closed()
    return found


@functools.lru_cache(maxsize=2)
def _sizes(guarded: bool) -> type:
    class Sizes(_quiet(guarded)):  # type: ignore[misc]
        """What comes of `known` upstream gradients is a sum of the sizes of terms: nothing cancels."""

        known: dict[int, Tensor]

        def done(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
            """The result, made of sizes where an argument is."""
            parts = [part for a in args for part in (a if isinstance(a, (tuple, list)) else (a,))]
            if not any(id(part) in self.known for part in parts):
                return func(*args, **kwargs)
            if name in ("sub", "neg", "mul", "div", *PRODUCTS):
                args = tuple(abs(a) if floats(a) or isinstance(a, float) else a for a in args)
            result = sum(args) if name == "sub" else func(*args, **kwargs)
            for part in result if isinstance(result, (tuple, list)) else (result,):
                if floats(part):
                    self.known[id(part)] = part if func.is_view else part.abs_()
            return result

    return Sizes


def sizes(upstream: tuple[Tensor, ...]) -> Any:
    """A dispatch mode for a backward with these upstream gradients, which are not negative: see `Sizes`."""
    found = _sizes("torch._dynamo" in sys.modules)(None, None, 0, False, False, False)
    found.known = {id(v): v for v in upstream}
    return found

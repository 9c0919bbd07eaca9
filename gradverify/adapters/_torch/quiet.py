"""Dispatch modes that run the operations of a reference, or of a kernel, as they are, and hear of what they make:
results, the sizes of their terms, their largest values, products in the kernel's type.
"""

from __future__ import annotations

import functools
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from gradverify.adapters._engines.closed import LEAST, Closed, Off
from gradverify.adapters._torch.arrays import Tensor, floats
from gradverify.adapters._torch.noise import mode
from gradverify.adapters._torch.operations import FOURIER, PRODUCTS


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


_MOVES = {"copy", "clone", "cat", "stack", "detach", "index_put", "_index_put_impl"}
_EXPONENTIALS = {"exp", "exp2", "_softmax", "_log_softmax", "logsumexp"}


@functools.lru_cache(maxsize=1)
def _modes() -> tuple[type, type]:
    """The classes, made when torch is there."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Peaks(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
        """Hears how large arguments of exponentials are, operands and results of matrix products, and all results."""

        exponent, factor, result = -math.inf, 0.0, 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result, name = func(*args, **(kwargs or {})), _named(func)
            if name in _EXPONENTIALS and args[0].numel():
                self.exponent = max(self.exponent, float(args[0].max()))
            for t in _floats((result,)):
                if t.numel():  # an infinity is a mask, unless an exponential made it
                    known = t if name in _EXPONENTIALS else t.masked_fill(t.isinf(), 0.0)
                    self.result = max(self.result, float(known.max()), -float(known.nan_to_num(neginf=0.0).min()))
            if name in PRODUCTS:
                self.factor = max(self.factor, *(float(t.abs().max()) for t in _floats((*args, result)) if t.numel()))
            return result

    class Products(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
        """Keeps copies of the results of matrix products in a type, `found`, the sizes of all, and what is transformed.

        A result that is made wider, rounded to the type and used so is one of them; one that is rounded and given is
        not. Of no type it hears of Fourier transforms alone: how long they are.
        """

        def __init__(self, dtype: Any) -> None:
            super().__init__()
            self.dtype, self.found, self.sizes, self.transforms = dtype, list[Tensor](), set[int](), set[int]()
            self.wide, self.narrow = set[int](), dict[int, Tensor]()  # where products are, and what they are rounded to

        def __enter__(self) -> Any:
            """Before forward, and before backward: what forward rounds for backward is kept, and told by that."""
            self.wide.clear()
            self.narrow.clear()
            return super().__enter__()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result, name = func(*args, **(kwargs or {})), _named(func)
            if name in FOURIER:
                self.transforms.update(max(args[0].shape[axis], result.shape[axis]) for axis in args[1])
            if name in PRODUCTS and self.dtype is not None:
                made = _floats((result,))
                self.sizes.update(t.numel() for t in made)
                self.found += [t.detach().clone() for t in made if t.dtype == self.dtype]  # it may be written into
                self.wide.update(t.data_ptr() for t in made if t.dtype != self.dtype)
            elif self.wide and not func.is_view:
                self.used(name, args, result)
            return result

        def used(self, name: str, args: Any, result: Any) -> None:
            """Hears that a product was rounded, once what it was rounded to is more than moved."""
            given = [t for t in _floats(args) if t.numel()]
            if name not in _MOVES:
                self.found += [self.narrow.pop(t.data_ptr()) for t in given if t.data_ptr() in self.narrow]
            if name == "_to_copy" and result.dtype == self.dtype and given and given[0].data_ptr() in self.wide:
                self.narrow[result.data_ptr()] = result

    return Peaks, Products


def peaks() -> Any:
    """A dispatch mode: see `Peaks`."""
    return _modes()[0]()


def products_made(dtype: Any) -> Any:
    """A dispatch mode: see `Products`."""
    return _modes()[1](dtype)


def _named(func: Any) -> str:
    return str(func._schema.name.removeprefix("aten::").rstrip("_"))


def _floats(values: Any) -> list[Tensor]:
    """Tensors of floating point among them, or in tuples among them."""
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return [part for part in parts if hasattr(part, "is_floating_point") and part.is_floating_point()]

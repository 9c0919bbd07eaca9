"""What is heard of a kernel's operations, or of a reference's, while they run as they are."""

from __future__ import annotations

import functools
import math
from typing import Any

from gradverify.adapters._torch.arrays import Tensor
from gradverify.adapters._torch.operations import FOURIER, PRODUCTS

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

        Of no type it hears of Fourier transforms alone: how long they are.
        """

        def __init__(self, dtype: Any) -> None:
            super().__init__()
            self.dtype, self.found, self.sizes, self.transforms = dtype, list[Tensor](), set[int](), set[int]()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result, name = func(*args, **(kwargs or {})), _named(func)
            if name in FOURIER:
                self.transforms.update(max(args[0].shape[axis], result.shape[axis]) for axis in args[1])
            if name in PRODUCTS and self.dtype is not None:
                made = _floats((result,))
                self.sizes.update(t.numel() for t in made)
                self.found += [t.detach().clone() for t in made if t.dtype == self.dtype]  # it may be written into
            return result

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

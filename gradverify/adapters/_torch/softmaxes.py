"""Softmaxes that a reference writes by hand: exp(x) over its sum is one operation, as in a kernel.

What a kernel loses there is no sum of what the steps lose. It takes exp(x - lse) with a log-sum-exp that was rounded,
which is off in all entries of a row alike: nothing is normalised after it, where exp(x) over its sum takes that out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gradverify.adapters._torch.arrays import Tensor, floats, import_torch

_OVER = {"div", "divide", "true_divide", "__truediv__", "div_"}
_LESS = {"sub", "subtract", "__sub__"}
_LARGEST = {"amax", "max"}


@functools.lru_cache(maxsize=1)
def _mode() -> type:
    from torch.overrides import TorchFunctionMode

    class Softmaxes(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
        """Gives a softmax in place of an exponential over its own sum.

        Attributes
        ----------
        made : results by id, with their version, what they are made by and of, and along which axis
        """

        def __init__(self) -> None:
            super().__init__()
            self.made: dict[int, tuple[Tensor, int, str, Tensor, int | None]] = {}

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs, name = kwargs or {}, getattr(func, "__name__", "")
            if name in _OVER and len(args) == 2:
                found = self.softmax(*args)
                if found is not None:
                    return found
            result = func(*args, **kwargs)
            if name in ("exp", "sum", "detach", *_LARGEST, *_LESS) and args and floats(args[0]):
                self.remember(name, args, kwargs, result)
            return result

        def remember(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
            """What may become part of a softmax: x less its largest, exp of that, and the sum of it."""
            of, axis = args[0], None
            if name in _LARGEST or name == "sum":
                result = getattr(result, "values", result) if name == "max" else result
                axis = _axis(of, result, args[1:2], kwargs) if isinstance(result, import_torch().Tensor) else None
                if axis is None:
                    return
            if name == "detach":
                if self.by(of) not in _LARGEST:
                    return
                _, _, name, of, axis = self.made[id(of)]
            if name in _LESS:
                axis = self.along(args[1], args[0], _LARGEST)
                if axis is None or kwargs:
                    return
                name = "less"
            self.made[id(result)] = result, result._version, name, of, axis

        def by(self, value: Any) -> str:
            """What made it; nothing where that was written into since."""
            known = self.made.get(id(value))
            return known[2] if known is not None and known[0]._version == known[1] else ""

        def along(self, value: Any, of: Any, names: set[str]) -> int | None:
            """The axis over which a value is the sum, or the largest, of another one."""
            return self.made[id(value)][4] if self.by(value) in names and self.made[id(value)][3] is of else None

        def softmax(self, e: Any, total: Any) -> Tensor | None:
            """Of what is divided by that; None where it is no softmax."""
            axis = self.along(total, e, {"sum"})
            if axis is None or self.by(e) != "exp":
                return None
            scores = self.made[id(e)][3]
            if self.by(scores) == "less" and self.made[id(scores)][4] == axis:
                scores = self.made[id(scores)][3]
            if not scores.requires_grad == e.requires_grad == total.requires_grad:
                return None  # a part of it is detached
            return import_torch().softmax(scores, axis)

    return Softmaxes


def _axis(of: Tensor, result: Tensor, given: Any, kwargs: Any) -> int | None:
    """The one axis that was taken together and kept as one of length 1; None otherwise."""
    axis = kwargs.get("dim", kwargs.get("axis", given[0] if given else None))
    axis = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
    if not isinstance(axis, int) or result.ndim != of.ndim:
        return None
    return axis % int(of.ndim)


def fused(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, with the softmaxes in it as one operation each."""

    @functools.wraps(call)
    def with_softmaxes(*args: Any, **kwargs: Any) -> Any:
        with _mode()():
            return call(*args, **kwargs)

    return with_softmaxes

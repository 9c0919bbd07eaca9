"""The reference of a low-precision kernel: plain torch operations, run in float64 and in the kernel's own type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradverify.adapters._torch_arrays import Array, import_torch
from gradverify.adapters._torch_engine import Engine


@dataclass(frozen=True)
class Reference:
    """Called like forward, gives the outputs alone, in the precision of its arguments.

    Attributes
    ----------
    eps : of the kernel's type
    """

    high: Engine
    low: Engine
    eps: float

    def __call__(self, *arrays: Array, **options: Any) -> Any:
        return self.high.forward(*arrays, **options)[0]

    def batched(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """See `Hooks.batched`."""
        return self.high.batched(stack, options)

    def plain(
        self, arrays: tuple[Array, ...], cotangents: tuple[Array, ...], options: Mapping[str, Any]
    ) -> tuple[Any, Mapping[str, Array | None]]:
        """Outputs and gradients of the plain implementation in the kernel's type."""
        outputs, tape = self.low.forward(*arrays, **options)
        return outputs, self.low.backward(cotangents, tape)


def reference_of(engine: Engine, target: Any, declared: dict[str, Any]) -> Reference:
    """The reference for an engine, from a function of tensors with the same arguments."""
    from gradverify.adapters.torch_ import caller

    call, _ = caller(target, declared)
    high = engine.but(name=f"the reference of {engine.name}", call=call, kernel=None, strict=False)
    eps = float(import_torch().finfo(engine.kernel).eps)
    return Reference(high, high.but(kernel=engine.kernel), eps)

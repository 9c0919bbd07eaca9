"""Kernels, right and wrong: each a torch Function with float32 sums, blocks and tails, and its faults by name.

`make("")` gives the right kernel, `make(fault)` a wrong twin of a kind that public reports tell of. The reference is
the same function in plain torch operations. Run all of them with `python -m tests.bench.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gradverify.adapters import as_layer
from gradverify.core.declare.layer import Layer

Function = type[torch.autograd.Function]


@dataclass(frozen=True)
class Kernel:
    """One kernel with its twins.

    Attributes
    ----------
    make : from the name of a fault, or "" for none, to a Function
    reference : the same in plain torch operations
    declared : primals, options and settings, as `gradverify.check` takes them
    faults : names of the wrong twins
    types : in which the right one is checked
    """

    name: str
    make: Callable[[str], Function]
    reference: Callable[..., Any]
    declared: Mapping[str, Any]
    faults: tuple[str, ...]
    types: tuple[str, ...] = ("bfloat16", "float16", "float32")
    more: Mapping[str, Any] = field(default_factory=dict)

    def layer(self, fault: str = "", kernel: str | None = None, **more: Any) -> Layer:
        """The layer of the right kernel or of a twin, in the first of its types or in another."""
        kernel = kernel or self.types[0]
        name = f"{self.name} ({fault})" if fault else self.name
        given = {**self.declared, **more}
        return as_layer(self.make(fault), name=name, kernel=kernel, reference=self.reference, **given)


def catalogue() -> list[Kernel]:
    """Every kernel that runs on a CPU without Triton."""
    from tests.kernels import attention, eight, losses, norms, pointwise, sequences, sums

    return [k for module in (losses, norms, attention, pointwise, sums, sequences, eight) for k in module.KERNELS]

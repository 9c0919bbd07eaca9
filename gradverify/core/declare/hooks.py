"""Extra ways into a layer, beside its forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Moves:
    """Entries of one primal that are moved, each alone, to either side.

    Attributes
    ----------
    name : of the primal
    entries : flat indices into it, shape (n,)
    a, b : offsets, shape (n,)
    """

    name: str
    entries: Any
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Contraction:
    """How differences of outputs become numbers; K is the number of flat outputs.

    Attributes
    ----------
    way : how copies are evaluated together, "broadcast", "batched" or "looped": what was tried and gave the same as
        one by one
    sigma : rounding noise of the flat outputs, shape (K,)
    coarse : steps are so large that outputs round more coarsely than at the point
    relative : rounding noise of an output relative to its size
    """

    way: str
    sigma: Any
    coarse: bool
    relative: float


class NativePoint(Protocol):
    """A layer at one point, where it computes: on a device, or in another package's arrays.

    Methods raise `LayerFailure` where they cannot; the host does it then.
    """

    ahead: int  # bytes of copies that cost less than another call

    def slopes(self, moves: Sequence[Moves], how: Contraction) -> list[tuple[Any, Any, Any, Any]]:
        """For each of `moves`, and in it for each entry: the contracted change of the outputs from b to a, its noise,
        whether any output moved, and the realised step; four arrays of shape (n,).
        """

    def along(
        self, directions: Mapping[str, Any], a: Any, b: Any | None, gradients: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], Any]:
        """Outputs where primals move along their directions by each of the steps a, and then b, with a leading axis.

        Besides, for each step, the product of the gradients with what was moved between a and b, or a and the point.
        """


@dataclass(frozen=True, slots=True)
class Hooks:
    """Optional extra ways into a layer, filled in by adapters and by authors.

    Attributes
    ----------
    session : returns a new (forward, backward) pair that shares one instance of a stateful layer
    reference : a high-precision forward with forward's arguments, returning the outputs alone
    jvp : (primals, tangents, **options) -> tangents of the outputs
    accumulate : (cotangents, saved, buffers by name) -> None, adds the gradients into the buffers
    wants : (cotangents, saved, names) -> gradients by name of a subset of the primals; None where the author's code is
        not told which
    second : (primals, cotangents, weights by name, **options) -> gradient by primal name of the
        weighted sum of the gradients: the backward of the backward; under None, where it is known, the gradients by
        cotangent
    batched : (stacked primals by name, options) -> outputs with the same leading axis
    broadcast : (primals by name, some with leading axes, options) -> outputs by the code's own broadcasting, tried
        before `batched`
    looped : as `batched`, one copy after the other where the code computes; tried last
    native : (primals, options, cotangents as weights on the flat outputs, shapes of the outputs, bytes of copies
        that fit a cache) -> a `NativePoint`, which forms differences where the code computes, many at once
    twice : (primals by name, cotangents, options) -> gradients by name of the sum of two uses of the
        layer on the same primals in one graph; None where the author's code cannot add
    again : (rounds, options) -> gradients that a stateful layer holds after rounds of forward and backward on one
        object that nobody clears, by name; a round is (primals by name, cotangents)
    added : as `again`, where the author declares that it leaves the sums over the rounds
    gradient_rounding : (primals by name) -> what gradients are rounded to beyond the arithmetic of backward, by name
    bounded : (primals by name, options) -> a layer whose gradient is declared an upper bound on the derivative, its
        primals, and (array) -> (derivative, bound on the second one); see `gradverify.core.properties.bound`
    uncompiled : () -> a context in which forward runs as it is written, with what it takes from outside as that is now
    stored_parameters : (saved) -> copies of the parameters that a stateful layer keeps on itself, by primal name
    steady : () -> a context in which each backward starts its random numbers from one state
    """

    session: Callable[[], tuple[Callable[..., tuple[Any, Any]], Callable[..., Any]]] | None = None
    reference: Callable[..., Any] | None = None
    jvp: Callable[..., Any] | None = None
    accumulate: Callable[..., None] | None = None
    wants: Callable[..., Any] | None = None
    second: Callable[..., Any] | None = None
    batched: Callable[..., Any] | None = None
    looped: Callable[..., Any] | None = None
    broadcast: Callable[..., Any] | None = None
    native: Callable[..., NativePoint] | None = None
    twice: Callable[..., Mapping[str, Any] | None] | None = None
    again: Callable[..., Mapping[str, Any]] | None = None
    added: Callable[..., Mapping[str, Any]] | None = None
    gradient_rounding: Callable[..., Mapping[str, Any]] | None = None
    bounded: Callable[..., Any] | None = None
    uncompiled: Callable[[], AbstractContextManager[Any]] | None = None
    stored_parameters: Callable[[Any], Mapping[str, Any]] | None = None
    steady: Callable[[], AbstractContextManager[Any]] | None = None

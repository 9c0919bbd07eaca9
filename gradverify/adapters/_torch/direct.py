"""Evaluation surroundings of torch code: fixed random numbers, poisoned allocations, Functions without a tape."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gradverify.adapters._torch.arrays import import_torch
from gradverify.adapters.context import Context
from gradverify.core.evaluate import LayerFailure

SEED = 20240229
_EMPTY = np.empty
_SMALL = 1 << 18  # elements


@contextmanager
def one_thread(elements: int) -> Iterator[None]:
    """Inside, torch runs small work in one thread: waking others costs more, and far more on a busy machine."""
    torch = import_torch()
    before = torch.get_num_threads()
    if before == 1 or elements > _SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fixed(device: Any, stage: int = 0) -> Iterator[None]:
    """Inside, random numbers start from one seed; afterwards they go on as if nothing had been drawn.

    `stage` gives backward other numbers than forward: a backward that draws its mask anew must not get
    the right one by luck.
    """
    states = _states(device)
    for generator, _ in states:
        generator.manual_seed(SEED + stage)
    try:
        with poisoned_if_asked():
            yield
    finally:
        _restore(states)


@contextmanager
def unmoved(device: Any) -> Iterator[None]:
    """As `fixed`, for code that must draw nothing; what it says of more axes than it expects is not heard.

    Raises RuntimeError if it draws.
    """
    with fixed(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        states = _states(device)
        yield
        if _drawn(states):
            raise RuntimeError("random numbers are drawn")


def laid_out_alike(call: Callable[[dict[str, Any]], Any], tensors: dict[str, Any], device: Any) -> Any:
    """`call` of these tensors; of contiguous ones, where it draws random numbers.

    Torch draws in the order in which a tensor lies in memory, so that another layout gets another mask.
    """
    if all(t.is_contiguous() for t in tensors.values()):
        return call(dict(tensors))
    states = _states(device)
    made = call(dict(tensors))
    if not _drawn(states):
        return made
    _restore(states)
    return call({name: t.contiguous() for name, t in tensors.items()})


def with_saved_moved(run: Callable[[], tuple[Any, ...]], seed: int, part: float | None) -> tuple[Any, ...]:
    """What `run` gives, where tensors that autograd keeps move by a unit in their last place, or by that part."""
    torch = import_torch()
    generator = torch.Generator().manual_seed(seed)

    def moved(kept: Any) -> Any:
        if not (kept.is_floating_point() or kept.is_complex()):
            return kept
        turns = torch.randint(-1, 2, kept.shape, generator=generator).to(kept)
        return kept.detach() * (1 + (torch.finfo(kept.dtype).eps if part is None else part) * turns)

    with torch.autograd.graph.saved_tensors_hooks(moved, lambda kept: kept):
        return run()


def from_the_start(device: Any) -> None:
    """Inside `fixed`: let random numbers start from its seed once more."""
    for generator in _generators(device):
        generator.manual_seed(SEED)


def one_by_one(call: Callable[[int], tuple[Any, ...]], count: int, device: Any) -> tuple[Any, ...]:
    """Outputs of call(0), call(1), ..., stacked; each starts from the same random numbers. For use in `fixed`."""
    parts = []
    for k in range(count):
        from_the_start(device)
        parts.append(call(k))
    return tuple(import_torch().stack(outputs) for outputs in zip(*parts))


def _states(device: Any) -> list[tuple[Any, Any]]:
    """Each generator of random numbers, and its state now."""
    return [(generator, generator.get_state()) for generator in _generators(device)]


def _drawn(states: list[tuple[Any, Any]]) -> bool:
    """Whether a generator has moved on since."""
    return not all(generator.get_state().equal(state) for generator, state in states)


def _restore(states: list[tuple[Any, Any]]) -> None:
    for generator, state in states:
        generator.set_state(state)


def _generators(device: Any) -> list[Any]:
    torch = import_torch()
    cuda = getattr(device, "type", "cpu") == "cuda"
    more = [torch.cuda.default_generators[device.index or torch.cuda.current_device()]] if cuda else []
    return [torch.default_generator, *more]


REENTRANT = "use_reentrant"  # torch names it where it refuses


def pulled(outputs: list[Any], inputs: list[Any], cotangents: list[Any]) -> tuple[Any, ...]:
    """`torch.autograd.grad` for upstream gradients of the outputs' shapes; the graph stays.

    Given them, torch compares shapes in a way that imports sympy, which takes a second. So they come from the backward
    of a node behind the outputs instead, as they are in memory. A reentrant checkpoint cannot be asked by name, and
    adds to what leaves hold.
    """
    torch = import_torch()
    start = _start().apply(len(outputs), *cotangents, *outputs)
    try:
        found: tuple[Any, ...] = torch.autograd.grad(start, inputs, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if REENTRANT not in str(error):
            raise
        for leaf in inputs:
            leaf.grad = None
        start.backward(retain_graph=True)
        found = tuple(leaf.grad for leaf in inputs)
        for leaf in inputs:
            leaf.grad = None
    return found


def recorded(outputs: list[Any], inputs: list[Any], cotangents: list[Any]) -> tuple[Any, ...]:
    """The same, with a graph of its own; LayerFailure where torch has none."""
    try:
        found: tuple[Any, ...] = import_torch().autograd.grad(
            outputs, inputs, cotangents, retain_graph=True, create_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        if REENTRANT not in str(error):
            raise
        said = "no second backward: torch has none of a reentrant checkpoint (use_reentrant=False has)"
        raise LayerFailure("missing", "second backward", said) from None
    return found


@functools.cache
def _start() -> Any:
    torch: Any = import_torch()

    class Start(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
        """A zero behind all outputs."""

        @staticmethod
        def forward(ctx: Any, count: int, *tensors: Any) -> Any:
            ctx.save_for_backward(*tensors[:count])
            return torch.zeros(())

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            cotangents = ctx.saved_tensors
            return (None, *(None for _ in cotangents), *cotangents)

    return Start


@contextmanager
def poisoned_if_asked() -> Iterator[None]:
    """Where `numpy.empty` is poisoned, by the property `fresh`, so are torch's, with the same value."""
    if np.empty is _EMPTY:
        yield
        return
    value = float(np.empty(()))
    torch = import_torch()
    homes = [(torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")]
    originals = [getattr(home, name) for home, name in homes]
    for (home, name), original in zip(homes, originals):
        setattr(home, name, _poison(original, value))
    try:
        yield
    finally:
        for (home, name), original in zip(homes, originals):
            setattr(home, name, original)


def _poison(allocate: Callable[..., Any], value: float) -> Callable[..., Any]:
    def allocated(*arguments: Any, **keywords: Any) -> Any:
        made = allocate(*arguments, **keywords)
        if made.is_floating_point() or made.is_complex():
            made.fill_(value)
        return made

    return allocated


@contextmanager
def without_tape() -> Iterator[None]:
    """Inside, `Function.apply` calls forward alone, so that `torch.func.vmap` sees through it.

    A Function that brings its own rule for vmap keeps it.
    """
    function = import_torch().autograd.Function
    original = function.__dict__["apply"]

    def apply(cls: Any, *arguments: Any, **keywords: Any) -> Any:
        if cls.vmap is not function.vmap:
            return original.__get__(None, cls)(*arguments, **keywords)
        if cls.setup_context is not function.setup_context:
            return cls.forward(*arguments, **keywords)
        return cls.forward(Context((False,) * len(arguments)), *arguments, **keywords)

    function.apply = classmethod(apply)
    try:
        yield
    finally:
        function.apply = original

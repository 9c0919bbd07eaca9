"""What a kernel in torch keeps for backward, where its reference makes the same, and what both lose by rounding it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters._engines.lossy import Held, Sought, least
from gradverify.adapters._torch.arrays import Array, Tensor, import_torch, tensors_in
from gradverify.adapters._torch.engine import Tape


@dataclass(frozen=True)
class Kept:
    """A tensor that the kernel's forward kept for backward in its low type."""

    tensor: Any
    output: int | None  # which output it is; None for another tensor

    @property
    def values(self) -> Array:
        """In float64."""
        return _values(self.tensor)

    def put(self, values: Array) -> None:
        """Let backward meet other values."""
        self.tensor.data.copy_(import_torch().from_numpy(np.array(values)))


def _values(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().double().cpu().numpy())


def low(tape: Tape, dtype: Any) -> Iterator[Kept]:
    """What the kernel keeps in its type beside its primals, each once."""
    taken = {t.data_ptr() for t in tape.leaves.values()}
    outputs = {y.data_ptr(): k for k, y in enumerate(tape.outputs)}
    for t in _saved(tape):
        if t.dtype == dtype and t.data_ptr() not in taken:
            taken.add(t.data_ptr())
            yield Kept(t, outputs.get(t.data_ptr()))


def held(tape: Tape, dtype: Any, watched: Any) -> Held:
    """See `Held`. Row statistics do not count: to round those is a fault.

    Parameters
    ----------
    watched : see `_torch.quiet.Products`; of no type, what is kept is off by more than its rounding already
    """
    products, as_large, transforms = tuple(map(_values, watched.found)), watched.sizes, frozenset(watched.transforms)
    known = [t for t in (*tape.leaves.values(), *tape.outputs) if t.is_floating_point()]
    size = least([tuple(t.shape) for t in known])
    rank = max((t.ndim for t in known), default=0)

    def whole(tensor: Tensor) -> bool:
        return tensor.ndim == rank and (1 not in tensor.shape or tensor.numel() in as_large)

    many = [(k, k.tensor.numel() >= size) for k in low(tape, dtype)]
    kept = [k for k, enough in many if enough or whole(k.tensor)]
    given = least([tuple(t.shape) for t in tape.leaves.values() if t.is_floating_point()])
    several = tape.outputs if len(tape.outputs) > 1 and watched.dtype is not None else ()
    outputs = tuple(_values(y) for y in several if y.dtype == dtype and (y.numel() >= given or whole(y)))
    if not kept:
        return Held(products=products, outputs=outputs, transforms=transforms)
    have = {t.data_ptr() for t in _saved(tape)}
    wanted = {n: t for n, t in tape.leaves.items() if t.is_floating_point()} if _alone(tape) else {}
    lost = {n for n, t in wanted.items() if t.data_ptr() not in have}
    copies = {n for n in lost for k in kept if _same(k.tensor, tape.leaves[n])}
    seen = size if any(enough for _, enough in many) else None
    if watched.dtype is None:
        return Held(seen, frozenset(lost - copies), transforms=transforms)
    values = tuple(k.values for k in kept if k.output is None)
    handed = tuple(k.values for k in kept if k.output is not None)
    return Held(seen, frozenset(lost - copies), values, products, outputs, handed, transforms)


def _alone(tape: Tape) -> bool:
    """Whether one Function is all there is between primals and outputs: of others nobody sees what they keep."""
    nodes = (node for y in tape.outputs if y.grad_fn is not None for node, _ in y.grad_fn.next_functions)
    return all(node is None or node.name().endswith("AccumulateGrad") for node in nodes)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether a tensor is a copy of another, in whatever layout."""
    if one.numel() != other.numel():
        return False
    return bool(import_torch().equal(*(t.detach().flatten().sort().values.to(one.dtype) for t in (one, other))))


def _saved(tape: Tape) -> list[Tensor]:
    return [t for y in tape.outputs for t in _saved_by(y)]


def _saved_by(output: Any) -> list[Tensor]:
    node = output.grad_fn
    if node is None:
        return []
    try:
        kept = [t for t in getattr(node, "saved_tensors", ()) if t is not None]
    except RuntimeError:  # freed, or changed in place since
        kept = []
    return [*kept, *tensors_in(list(getattr(node, "__dict__", {}).values()))]


def as_it_is(value: Tensor) -> Tensor:
    """What is saved, by no operation that a mode would count."""
    from torch.utils._python_dispatch import _disable_current_modes as unwatched

    with unwatched():
        return value.detach()


@dataclass(frozen=True)
class Made:
    """What of a reference is rounded as the kernel keeps it.

    Attributes
    ----------
    places : operations that make a value that the kernel keeps, or a product that it rounds
    least : number of elements from which on what backward is handed is rounded; None for none
    lost : where primals lie in what autograd saved that the kernel does not keep
    outputs : operations that make an output that the kernel keeps for backward
    """

    places: frozenset[int] = frozenset()
    least: int | None = None
    lost: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


def made(held: Held, eps: float, tape: Tape, quiet: Any, run: Callable[[], Any]) -> Made:
    """What of a reference is rounded.

    Parameters
    ----------
    tape : of the reference's forward
    quiet : a dispatch mode that counts operations as that of samples does
    run : a forward and backward of the reference
    """
    sought = held.values, held.products, held.outputs, held.handed
    kept, produced, given, handed = (Sought.of(values, eps) for values in sought)
    places, sizes = dict[int, Any](), [held.least] if held.least is not None else []

    of_products, of_outputs = set[int](), set[int]()  # sizes that no statistics of rows have, and operations

    def look(at: int, result: Tensor, product: bool) -> None:
        size, memory = result.numel(), result.untyped_storage()
        if handed.found(lambda: _values(result), result.shape):
            of_outputs.add(at)
        if product:
            of_products.add(size)
        if any(memory.data_ptr() == other.data_ptr() for other in places.values()):
            return  # a view is rounded with it
        values = size in of_products or (held.least is not None and size >= held.least)
        if values and kept.found(lambda: _values(result), result.shape):
            places[at] = memory
            sizes.append(size)
        elif (product and produced.found(lambda: _values(result), result.shape)) or given.found(
            lambda: _values(result), result.shape
        ):
            places[at] = memory

    if any(sought):
        quiet.looked = look
        with (
            quiet,
            import_torch().autograd.graph.saved_tensors_hooks(as_it_is, as_it_is),
        ):  # those are operations, too
            run()
    lost = frozenset(t.data_ptr() for n, t in tape.leaves.items() if n in held.lost)
    return Made(frozenset(places), min(sizes, default=None), lost, frozenset(of_outputs))


class Moved:
    """What a disturbed forward saves for backward: off by what made it off, and as much again in every entry.

    A backward by hand rests on what holds between exact values, such as a mean of zero, and may compute a value again
    in another way. Autograd's own keeps such laws: it takes out of the gradient the same mean that forward took out.

    Parameters
    ----------
    disturbed : the dispatch mode
    exact : what an undisturbed forward saves
    made : what the kernel keeps is rounded to the type, and so is a primal that has to be had from it
    """

    def __init__(self, disturbed: Any, exact: tuple[Tensor, ...], made: Made, dtype: Any, share: float) -> None:
        self.disturbed, self.exact, self.made = disturbed, exact, made
        self.dtype, self.share, self.at = dtype, share, 0

    def __call__(self, value: Tensor) -> Tensor:
        """The tensor that backward gets."""
        from torch.utils._python_dispatch import _disable_current_modes as unwatched

        exact = self.exact[self.at] if self.at < len(self.exact) else None
        self.at += 1
        with import_torch().no_grad(), unwatched():
            if exact is not None and exact.data_ptr() in self.made.lost:
                return value.detach() + self.disturbed.off(value.detach(), self.dtype)
            if not value.is_floating_point() or (value.is_leaf and value.requires_grad):
                return value.detach()
            given, value = value, value.detach()
            moved, off = value, None
            if exact is not None and exact.shape == value.shape:
                off = (value - exact).nan_to_num_(0.0, 0.0, 0.0).to(value.dtype)
                moved = value + off.mul_(self.disturbed.signs(off)) * self.share
            if self.made.least is not None and value.numel() >= self.made.least:
                moved = self.disturbed.low(moved, self.dtype)
            if off is not None:
                self.disturbed.handed(given, moved, off)
            return moved

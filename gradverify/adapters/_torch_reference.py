"""The reference of a kernel: plain torch operations, differentiated by torch itself in float64.

The same operations give what a good kernel may lose: see `_torch_noise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters._lossy import Lossy, as_much_again, least
from gradverify.adapters._torch_arrays import Array, import_torch, tensor, tensors_in
from gradverify.adapters._torch_engine import Engine, Tape
from gradverify.adapters._torch_noise import noise, peaks
from gradverify.core.errors import DeclarationError

_EXACT_ENOUGH = 1e-5  # eps of types in which statistics may be kept
_LARGE = 1 << 18  # elements above which samples run in float32, where elementwise operations round by themselves


@dataclass(frozen=True)
class Kept:
    """A tensor that the kernel's forward kept for backward in its low type.

    Attributes
    ----------
    output : which output it is; None for another tensor
    """

    tensor: Any
    output: int | None

    @property
    def values(self) -> Array:
        """In float64."""
        return np.asarray(self.tensor.detach().double().cpu().numpy())

    def put(self, values: Array) -> None:
        """Let backward meet other values."""
        self.tensor.data.copy_(import_torch().from_numpy(np.array(values)))


@dataclass(frozen=True)
class Truth:
    """What a forward of the reference keeps: its tape, and the tensors that autograd saved, in their order."""

    tape: Tape
    saved: tuple[Any, ...]


@dataclass(frozen=True)
class Reference(Lossy):
    """See `Lossy`.

    Attributes
    ----------
    products : type in which matrix products take their operands
    function : the author's
    grid : see `Engine`
    """

    products: Any
    function: Any
    grid: Any = None

    @property
    def dtype(self) -> Any:
        return getattr(import_torch(), self.type)

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Truth]:
        """Outputs in float64, and what `backward` and `sample` need."""
        saved: list[Any] = []

        def keep(value: Any) -> Any:
            saved.append(value.detach())  # an output that its own node holds would never be freed
            return saved[-1]

        with _packing(keep):
            outputs, tape = self.high.forward(*arrays, **options)
        return outputs, Truth(tape, tuple(saved))

    def stored(self, array: Array) -> Array:
        """See `Lossy`."""
        return self._rounded(array, self.dtype)

    def at(self, primals: Mapping[str, Array]) -> dict[str, Array]:
        """See `Lossy`; of values that the 8-bit type has, where there is one."""
        coarse = self.high.differentiable if self.grid is not None else ()
        return {n: self._rounded(a, self.grid if n in coarse else self.dtype) for n, a in primals.items()}

    @staticmethod
    def _rounded(array: Array, dtype: Any) -> Array:
        if array.dtype.kind != "f":
            return array
        return np.asarray(tensor(array, dtype=dtype).double().numpy())

    def sample(
        self,
        arrays: tuple[Array, ...],
        cotangents: tuple[Array, ...],
        options: Mapping[str, Any],
        seed: int,
        kept: int | None,
        truth: Truth,
    ) -> tuple[Any, dict[str, Array], int]:
        """Outputs and gradients, every operation displaced by as much as a good kernel may be off.

        Parameters
        ----------
        truth : what `forward` kept at this point
        kept : number of elements from which on tensors for backward are rounded to the kernel's type; None for none

        Returns
        -------
        Outputs, gradients by name, and the number of elements of all results on the way
        """
        torch = import_torch()
        large = sum(a.size for a in (*arrays, *cotangents)) > _LARGE
        engine = self.high.but(kernel=torch.float32) if large else self.high
        single = any(a.ndim > 1 and 1 in a.shape for a in (*arrays, *cotangents))
        disturbed = noise(self.dtype, self.products, seed, not large, kept is not None, single)
        with disturbed, _packing(_Moved(disturbed, truth.saved, kept, self.dtype, as_much_again(seed))):
            outputs, tape = engine.forward(*arrays, **options)
        with disturbed:
            gradients = engine.backward(cotangents, tape)
        disturbed.forget()
        found = {n: np.asarray(g, float) for n, g in gradients.items() if g is not None}
        return outputs, found, disturbed.work

    def kept(self, saved: Any) -> int | None:
        """From which number of elements on the kernel was seen to save tensors of its own in its type.

        Row statistics do not count: to round those is a fault.
        """
        if not isinstance(saved, Tape):
            told: int | None = getattr(saved, "kept", None)
            return told
        own = {t.data_ptr() for t in saved.leaves.values()}
        known = [t for t in (*saved.leaves.values(), *saved.outputs) if t.is_floating_point()]
        size = least([tuple(t.shape) for t in known])
        kept = (t for y in saved.outputs for t in _saved_by(y) if t.dtype == self.dtype and t.data_ptr() not in own)
        return size if any(t.numel() >= size for t in kept) else None

    def peak(self, *arrays: Array, **options: Any) -> float:
        """The largest argument of an exponential, a softmax or a log-sum-exp; minus infinity where there is none."""
        with peaks() as heard:
            self.high.forward(*arrays, **options)
        return float(heard.largest)

    def low(self, saved: Any) -> list[Kept]:
        """What the kernel was seen to keep in its type beside its primals, each once; nothing in float32."""
        if not isinstance(saved, Tape) or self.eps < _EXACT_ENOUGH:
            return []
        taken = {t.data_ptr() for t in saved.leaves.values()}
        outputs = {y.data_ptr(): k for k, y in enumerate(saved.outputs)}
        found = []
        for t in (t for y in saved.outputs for t in _saved_by(y)):
            if t.dtype == self.dtype and t.data_ptr() not in taken:
                taken.add(t.data_ptr())
                found.append(Kept(t, outputs.get(t.data_ptr())))
        return found


def _saved_by(output: Any) -> list[Any]:
    node = output.grad_fn
    if node is None:
        return []
    try:
        kept = [t for t in getattr(node, "saved_tensors", ()) if t is not None]
    except RuntimeError:  # freed, or changed in place since
        kept = []
    return [*kept, *tensors_in(list(getattr(node, "__dict__", {}).values()))]


class _Moved:
    """What a disturbed forward saves for backward: off by what made it off, and as much again in every entry.

    A backward by hand rests on what holds between exact values, such as a mean of zero, and may compute a value again
    in another way. Autograd's own keeps such laws: it takes out of the gradient the same mean that forward took out.
    """

    def __init__(self, disturbed: Any, exact: tuple[Any, ...], kept: int | None, dtype: Any, share: float) -> None:
        self.disturbed, self.exact, self.kept, self.dtype, self.share = disturbed, exact, kept, dtype, share
        self.at = 0

    def __call__(self, value: Any) -> Any:
        from torch.utils._python_dispatch import _disable_current_modes as unwatched

        exact = self.exact[self.at] if self.at < len(self.exact) else None
        self.at += 1
        with import_torch().no_grad(), unwatched():
            if not value.is_floating_point() or (value.is_leaf and value.requires_grad):
                return value.detach()
            value = value.detach()
            moved, off = value, None
            if exact is not None and exact.shape == value.shape:
                off = (value - exact).nan_to_num_(0.0, 0.0, 0.0).to(value.dtype)
                moved = value + off.mul_(self.disturbed.signs(off)) * self.share
            if self.kept is not None and value.numel() >= self.kept:
                moved = self.disturbed.low(moved, self.dtype)
            if off is not None:
                self.disturbed.handed(value, moved, off)
            return moved


def _packing(pack: Any) -> Any:
    """Inside, what is saved for backward goes through `pack`."""
    return import_torch().autograd.graph.saved_tensors_hooks(pack, lambda value: value)


def reference_of(engine: Engine, target: Any, declared: dict[str, Any], products: Any = None) -> Reference:
    """The reference for an engine, from a function of tensors with the same arguments.

    Parameters
    ----------
    products : type in which matrix products take their operands, default the kernel's own
    """
    from gradverify.adapters.torch_ import caller

    if not callable(target):
        raise DeclarationError(
            f"layer {engine.name!r}: reference is a {type(target).__name__}; it takes a function of tensors with the "
            "arguments of the kernel"
        )
    call, _ = caller(target, declared)
    high = engine.but(name=f"the reference of {engine.name}", call=call, kernel=None, grid=None, strict=False)
    kind = str(engine.kernel).removeprefix("torch.")
    return Reference(high, kind, products or engine.kernel, target, engine.grid)

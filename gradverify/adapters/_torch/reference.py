"""The reference of a kernel: plain torch operations, differentiated by torch itself in float64.

The same operations give what a good kernel may lose: see `_torch.noise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradverify.adapters._engines.closed import Off, one_of_each
from gradverify.adapters._engines.lossy import FEW, UNIT, Held, Lossy, as_much_again, told
from gradverify.adapters._torch import kept as _kept
from gradverify.adapters._torch.arrays import Array, array, import_torch, tensor
from gradverify.adapters._torch.engine import Engine, Tape
from gradverify.adapters._torch.kept import Kept, Made, Moved, made
from gradverify.adapters._torch.module import caller
from gradverify.adapters._torch.noise import noise
from gradverify.adapters._torch.quiet import peaks, products_made, quiet, sizes, slopes
from gradverify.adapters._torch.softmaxes import fused
from gradverify.core.errors import DeclarationError

_EXACT_ENOUGH = 1e-5  # eps of types in which statistics may be kept
# Elements above which samples run in float32, where elementwise operations round by themselves: of the primals, and for
# types beside which those roundings are nothing, of what autograd keeps, such as the scores of an attention.
_LARGE = 1 << 18


@dataclass(frozen=True)
class Truth:
    """What a forward of the reference keeps.

    Attributes
    ----------
    arrays, options : that forward got
    saved : tensors that autograd saved, in their order
    made : what of it is rounded as the kernel keeps it, once that is known
    slopes : by what part of themselves gradients of results are off, for each array they are made of, once it is asked
    """

    arrays: tuple[Array, ...]
    options: Mapping[str, Any]
    tape: Tape
    saved: tuple[Any, ...]
    made: list[Made] = field(default_factory=list)
    slopes: list[list[Off]] = field(default_factory=list)


@dataclass(frozen=True)
class Reference(Lossy):
    """See `Lossy`.

    Attributes
    ----------
    products : type in which matrix products take their operands
    function : the author's
    kernel : the engine of the kernel
    """

    products: Any
    function: Any
    kernel: Engine

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
        return outputs, Truth(arrays, options, tape, tuple(saved))

    def stored(self, array: Array) -> Array:
        return self._rounded(array, self.dtype)

    def at(self, primals: Mapping[str, Array]) -> dict[str, Array]:
        """See `Lossy`; of values that the 8-bit type has, where there is one."""
        grid = self.kernel.grid
        coarse = self.high.differentiable if grid is not None else ()
        return {n: self._rounded(a, grid if n in coarse else self.dtype) for n, a in primals.items()}

    @staticmethod
    def _rounded(array: Array, dtype: Any) -> Array:
        if array.dtype.kind != "f":
            return array
        return np.asarray(tensor(array, dtype=dtype).double().numpy())

    def sample(
        self, cotangents: tuple[Array, ...], seed: int, held: Held, truth: Truth, closed: bool = False
    ) -> tuple[Any, dict[str, Array], int]:
        torch, arrays, options = import_torch(), truth.arrays, truth.options
        large = sum(a.size for a in (*arrays, *cotangents)) > _LARGE
        large |= self.eps > _EXACT_ENOUGH and max((t.numel() for t in truth.saved), default=0) > _LARGE
        engine = self.high.but(kernel=torch.float32) if large else self.high
        single = any(a.ndim > 1 and 1 in a.shape for a in (*arrays, *cotangents))
        if not truth.made:

            def run() -> None:
                engine.backward(cotangents, engine.forward(*arrays, **options)[1])

            truth.made.append(made(held, self.eps, truth.tape, quiet(), run))
        rounds = truth.made[0]
        disturbed = noise(self.dtype, self.products, seed, not large, rounds.least is not None, single)
        disturbed.places, disturbed.transforms = rounds.places, held.transforms
        disturbed.slopes = one_of_each(self._slopes(rounds, truth), seed) if closed else {}
        with disturbed, _packing(Moved(disturbed, truth.saved, rounds, self.dtype, as_much_again(seed))):
            outputs, tape = engine.forward(*arrays, **options)
        for made_here, factor in disturbed.steep:
            if made_here.requires_grad:
                made_here.register_hook(lambda g, factor=factor: _times(g, factor))
        with disturbed:
            gradients = engine.backward(cotangents, tape)
        disturbed.forget()
        found = {n: np.asarray(g, float) for n, g in gradients.items() if g is not None}
        return outputs, found, disturbed.work

    def _slopes(self, rounds: Made, truth: Truth) -> list[list[Off]]:
        """By what part of themselves gradients of results are off; more of what the kernel keeps in its type."""
        if not truth.slopes:
            heard, low = slopes(), rounds.places | rounds.outputs
            with heard, _packing(_kept.as_it_is):
                self.high.forward(*truth.arrays, **truth.options)
            unit = {True: self.eps / 2 + FEW * UNIT, False: FEW * UNIT}
            truth.slopes.extend([(k, off * unit[k in low]) for k, off in group] for group in heard.found.values())
        return truth.slopes

    def terms(self, cotangents: tuple[Array, ...], truth: Truth) -> dict[str, Array]:
        tape = truth.tape
        vs = self.high._cotangents(tuple(map(np.abs, cotangents)), tape.outputs)
        with sizes(vs):
            found = self.high._grad(tape.outputs, tape.leaves, vs, tape.options)
        return {n: np.abs(array(g)) for n, g in found.items() if g is not None}

    @property
    def exact(self) -> Engine:
        return self.kernel.but(kernel=None, grid=None)

    def watching(self) -> Any:
        return products_made(self.dtype if self.eps > _EXACT_ENOUGH else None)

    def kept(self, saved: Any, watched: Any, cotangents: tuple[Array, ...]) -> Held:
        if not isinstance(saved, Tape):
            return told(saved)
        return _kept.held(saved, self.dtype, watched)

    def peak(self, *arrays: Array, **options: Any) -> float:
        """The largest argument of an exponential, a softmax or a log-sum-exp; minus infinity where there is none."""
        with peaks() as heard:
            self.high.forward(*arrays, **options)
        return float(heard.exponent)

    def beyond(self, cotangents: tuple[Array, ...], truth: Truth) -> bool:
        with peaks() as heard:
            self.high.backward(cotangents, self.high.forward(*truth.arrays, **truth.options)[1])
        return self.leaves(heard)

    def low(self, saved: Any) -> list[Kept]:
        """What the kernel was seen to keep in its type beside its primals, each once; nothing in float32."""
        if not isinstance(saved, Tape) or self.eps < _EXACT_ENOUGH:
            return []
        return list(_kept.low(saved, self.dtype))


def _times(gradient: Any, factor: Any) -> Any:
    from torch.utils._python_dispatch import _disable_current_modes as unwatched

    with unwatched():
        return gradient * factor


def _packing(pack: Any) -> Any:
    """Inside, what is saved for backward goes through `pack`."""
    return import_torch().autograd.graph.saved_tensors_hooks(pack, lambda value: value)


def reference_of(engine: Engine, target: Any, declared: dict[str, Any], products: Any = None) -> Reference:
    """The reference for an engine, from a function of tensors with the same arguments.

    Parameters
    ----------
    products : type in which matrix products take their operands, default the kernel's own
    """
    if not callable(target):
        raise DeclarationError(
            f"layer {engine.name!r}: reference is a {type(target).__name__}; it takes a function of tensors with the "
            "arguments of the kernel"
        )
    call, _ = caller(target, declared)
    high = engine.but(name=f"the reference of {engine.name}", call=fused(call), kernel=None, grid=None, strict=False)
    kind = str(engine.kernel).removeprefix("torch.")
    return Reference(high, kind, products or engine.kernel, target, engine)

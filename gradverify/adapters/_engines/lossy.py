"""What a kernel's type and the float32 that it computes in lose: the numbers of the model, and what every reference is.

The bounds are told in `_torch.noise`; torch and JAX run a reference's operations with them in their own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gradverify.core.declare.hooks import Hooks
from gradverify.core.declare.layer import Layer
from gradverify.core.properties._allowance import rounded

Array = Any  # numpy.ndarray

UNIT = 2.0**-24  # unit roundoff of float32
TINY = 2.0**-126  # its smallest normal number, below which vectorised code and GPUs give zero
FEW = 4.0  # roundings of an elementwise operation: special functions of a GPU are good to two units
TIED = 16 * FEW  # roundings by which orders are decided: more than scores of ten terms or so are off by in every sample
FLOOR = 0.5  # of the root mean square: three times that is as much as two equal terms can be off by
_MANY = 4096  # terms up to which the order of a sum may be the worst one


def counted(n: float) -> float:
    """Roundings of a sum of n terms, in units of the sum of their sizes."""
    return float(min(n, (_MANY * n) ** 0.5))


def as_much_again(seed: int) -> float:
    """By what share of its error in forward a tensor that backward is handed is off besides, to either side.

    By as much in every other sample. In the others by half: where all of it is taken back the truth is left, and a
    number that comes from there alone would not be heard of in so many samples as its sign is against it.
    """
    return 1.0 if seed % 2 else 0.5


def least(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements from which on a tensor holds values and not statistics of rows, by the shapes of primals and outputs."""
    rank = max(map(len, shapes), default=0)
    return min((math.prod(shape) for shape in shapes if len(shape) == rank), default=0)


@dataclass(frozen=True)
class Held:
    """What a kernel was seen to keep for backward, and to make on the way.

    Attributes
    ----------
    least : number of elements from which on it keeps tensors of its own in its type; None if it keeps none
    lost : primals that it does not keep, so that backward knows them by what is rounded alone
    values : what it keeps in its type besides primals and outputs; those of less than `least` elements are statistics
        of rows, which are not to be rounded, unless a matrix product is as large
    products : results of matrix products that it makes in its type, in forward or backward: a product is a kernel of
        its own, which adds up in float32 and rounds once
    outputs : what it gives in its type, where it gives several: one may be made of another as that is stored, as the
        norm of a sum with a residual is, where the sum is an output, too
    handed : outputs in its type that it keeps for backward
    transforms : lengths of the Fourier transforms that it makes: see `_torch.noise`
    """

    least: int | None = None
    lost: frozenset[str] = frozenset()
    values: tuple[Array, ...] = ()
    products: tuple[Array, ...] = ()
    outputs: tuple[Array, ...] = ()
    handed: tuple[Array, ...] = ()
    transforms: frozenset[int] = frozenset()


def told(saved: Any) -> Held:
    """What the process of a kernel told of it; nothing where it does not run in one."""
    found: Held = saved.held() if hasattr(saved, "held") else Held()
    return found


@dataclass(frozen=True)
class Sought:
    """Where the reference makes a value that the kernel keeps: there it is rounded, for forward as for backward.

    The values are compared in order of size, for nobody knows how the kernel lays them out.

    Attributes
    ----------
    kept : values, each as it is, in order, and its norm
    eps : of the kernel's type
    """

    kept: list[tuple[Array, Array, float]]
    eps: float

    @classmethod
    def of(cls, values: Iterable[Array], eps: float) -> Sought:
        """What is sought: these."""
        return cls([(v, np.sort(np.ravel(v)), _norm(v)) for v in values], eps)

    def found(self, made: Callable[[], Array], shape: Sequence[int]) -> bool:
        """Whether a value of this shape is one of them, but for roundings: those are as large together as alone.

        A rounding takes half of an eps, and the kernel computes the value in float32, in another order. Or whether
        some entries of every row are, as the largest scores of all.
        """
        size, rows = math.prod(shape), tuple(shape[:-1])
        alike = [k for k in self.kept if k[0].size == size]
        parts = [k[0] for k in self.kept if rows and k[0].shape[:-1] == rows and 1 < k[0].shape[-1] < shape[-1]]
        value = made() if alike or parts else np.zeros(0)
        norm = _norm(value)  # most are told apart by it, before any is put in order
        alike = [k for k in alike if abs(norm - k[2]) <= self.eps * k[2]]
        ordered = np.sort(np.ravel(value)) if alike else value
        if any(_norm(ordered - kept) <= self.eps * of for _, kept, of in alike):
            return True
        return any(self._among(part, value) for part in parts) or self._in_pieces(made, tuple(shape))

    def _in_pieces(self, made: Callable[[], Array], shape: tuple[int, ...]) -> bool:
        """Whether pieces along an axis, or of rows of all axes before the last, are the whole, one after another."""
        size = math.prod(shape)
        for axis in range(len(shape)):
            if axis == 0:  # rows of several heads are rows
                pieces = [
                    k.reshape(-1, k.shape[-1]) for k, _, _ in self.kept if k.ndim > 1 and k.shape[-1] == shape[-1]
                ]
            else:
                rest = shape[:axis] + shape[axis + 1 :]
                known = (k for k, _, _ in self.kept if k.ndim == len(shape) and k.size < size)
                pieces = [np.moveaxis(k, axis, 0) for k in known if k.shape[:axis] + k.shape[axis + 1 :] == rest]
            pieces = [piece for piece in pieces if piece.size < size]
            if size and sum(piece.size for piece in pieces) >= size:
                value = made()
                whole = np.moveaxis(value, axis, 0) if axis else value.reshape(-1, shape[-1])
                if self._covered(whole, pieces):
                    return True
        return False

    def _covered(self, whole: Array, pieces: list[Array]) -> bool:
        """From the first on or from the last on, as the loop of a kernel goes; others may lie between."""
        first, last = 0, len(whole)
        for piece in pieces:
            count, most = len(piece), self.eps * _norm(piece)
            if count <= last - first and _norm(whole[first : first + count] - piece) <= most:
                first += count
            elif count <= last - first and _norm(whole[last - count : last] - piece) <= most:
                last -= count
        return first == last

    def _among(self, part: Array, value: Array) -> bool:
        """Row by row, as the first tells nearly always."""
        rows = zip(part.reshape(-1, part.shape[-1]), value.reshape(-1, value.shape[-1]))
        return all((np.abs(row - few[:, None]).min(1) <= self.eps * np.abs(few)).all() for few, row in rows)


def _norm(value: Array) -> float:
    """Without BLAS, whose threads wait for each other on a busy machine."""
    return float(np.sqrt(np.sum(np.square(value))))


class Terms(NamedTuple):
    """What a product was summed of, entry by entry.

    Attributes
    ----------
    of : the product itself, or what was made of it by moves and factors
    size, number : sum |term|, of the shape of `of`; and how many terms there are
    least : what such a product is off by at the least where a factor of it was rounded to float16, which has no other
        numbers below its smallest; or None
    shift : by what `of` moves where each factor is rounded by itself; or None
    """

    of: Array
    size: Array
    number: float
    least: Array | None = None
    shift: Callable[[], Array] | None = None

    def made(self, of: Array, how: Callable[[Array], Array]) -> Terms:
        """Those of what was made of the product, and of its terms alike."""
        least, shift = self.least, self.shift
        return Terms(
            of,
            abs(how(self.size)),
            self.number,
            None if least is None else abs(how(least)),
            None if shift is None else lambda: how(shift()),
        )


class Format(NamedTuple):
    """A floating type: distance from 1 to the next number, largest number, and what may become zero.

    float16 has its subnormal numbers everywhere, wider types are flushed.
    """

    eps: float
    largest: float
    smallest: float


FORMATS = {
    "bfloat16": Format(2.0**-7, (2 - 2.0**-7) * 2.0**127, TINY),
    "float16": Format(2.0**-10, 65504.0, 2.0**-24),
    "float32": Format(2.0**-23, (2 - 2.0**-23) * 2.0**127, TINY),
}


class OfType:
    """The numbers of a kernel's type, by its name `type`."""

    type: str

    @property
    def eps(self) -> float:
        return FORMATS[self.type].eps

    @property
    def largest(self) -> float:
        return FORMATS[self.type].largest

    @property
    def smallest(self) -> float:
        return FORMATS[self.type].smallest


@dataclass(frozen=True)
class InNumPy(OfType):
    """A reference in NumPy has no derivative of its own: it is screened along directions, and localised."""

    function: Any
    type: str

    def __call__(self, *arrays: Array, **options: Any) -> Any:
        return self.function(*arrays, **options)

    def stored(self, array: Array) -> Array:
        """As the kernel's type holds it, in the type that it came in; an infinity where it is out of range."""
        if array.dtype.kind != "f":
            return array
        with np.errstate(over="ignore"):
            narrow = array.astype("float32" if self.type == "bfloat16" else self.type)
        return rounded(narrow, self.eps).astype(array.dtype)


@dataclass(frozen=True)
class Lossy(OfType):
    """What every reference of a kernel can that is differentiated: called like forward, it gives the outputs alone.

    Attributes
    ----------
    high : the engine that runs it in float64
    type : name of the kernel's type
    """

    high: Any
    type: str

    def __call__(self, *arrays: Array, **options: Any) -> Any:
        return self.high.forward(*arrays, **options)[0]

    def batched(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """See `Hooks.batched`."""
        found: tuple[Array, ...] = self.high.batched(stack, options)
        return found

    def backward(self, cotangents: Any, truth: Any) -> dict[str, Array]:
        """Gradients by the framework's own differentiation."""
        found = self.high.backward(cotangents, truth.tape)
        return {n: np.asarray(g, float) for n, g in found.items() if g is not None}

    def terms(self, cotangents: tuple[Array, ...], truth: Any) -> dict[str, Array]:
        """Sizes of the terms of every gradient, multiplied out: what its entries are where nothing cancels.

        A kernel that writes several steps as one formula, such as the softmax of what a softmax was renormalised to,
        takes one sum where the reference takes several. An error that all terms share, and that a later step of the
        reference takes out again, stays in it.
        """
        raise NotImplementedError

    def watching(self) -> AbstractContextManager[Any]:
        """Around a forward and a backward of the kernel, for `kept`."""
        return nullcontext()

    def kept(self, saved: Any, watched: Any, cotangents: tuple[Array, ...]) -> Held:
        """What the kernel was seen to keep and to make, by what its forward saved or by what its own process tells.

        Parameters
        ----------
        saved : of its forward
        watched : the `watching` that its forward was in, and its backward
        cotangents : that its backward got
        """
        raise NotImplementedError

    def sample(
        self, cotangents: tuple[Array, ...], seed: int, held: Held, truth: Any, closed: bool = False
    ) -> tuple[Any, dict[str, Array], int]:
        """Outputs, gradients by name, and elements of all results, each operation off by as much as a good kernel's.

        Parameters
        ----------
        held : what the kernel was seen to keep
        truth : what `forward` kept at this point
        closed : whether gradients may be had from what forward gave: see `Closed`
        """
        raise NotImplementedError

    def beyond(self, cotangents: tuple[Array, ...], truth: Any) -> bool:
        """Whether an operand or a result of a matrix product leaves the range of the type, in forward or backward.

        There a good kernel may give what is not finite, since tensor cores take nothing else. So it may where any
        other result leaves the range of float32, as an exponential of 100 does.
        """
        raise NotImplementedError

    def leaves(self, heard: Any) -> bool:
        """See `beyond`, of what was heard of a forward and backward."""
        return bool(heard.factor > self.largest / 2 or heard.result > FORMATS["float32"].largest)

    def formula(self, layer: Layer) -> Layer:
        """Outputs of the reference, and gradients of the kernel's code in float64, where its type loses nothing."""

        exact = getattr(getattr(layer.forward, "__self__", None), "exact", None) or self.exact  # in its own process

        def forward(*arrays: Array, **options: Any) -> tuple[Any, Any]:
            return self(*arrays, **options), (arrays, options)

        def backward(cotangents: Any, saved: Any) -> dict[str, Any]:
            arrays, options = saved
            found: dict[str, Any] = exact.backward(cotangents, exact.forward(*arrays, **options)[1])
            return found

        return layer.derive(forward=forward, backward=backward, hooks=Hooks(batched=self.batched))

    @property
    def exact(self) -> Any:
        """The engine of the kernel's code, on arrays of float64."""
        raise NotImplementedError

    def at(self, primals: Mapping[str, Array]) -> dict[str, Array]:
        """The point at which the kernel is: every primal as it is stored, in float64."""
        return {n: self.stored(a) for n, a in primals.items()}

    def stored(self, array: Array) -> Array:
        """As the kernel's type holds it, in float64; an infinity where it is out of range."""
        raise NotImplementedError

"""Plain torch operations as a good kernel might compute them: each result displaced by as much as it may be off.

Monte Carlo arithmetic (D. S. Parker 1997; J. Vignes 1993 displaces by a unit at random, too): the reference runs in
float64 under a dispatch mode, and every operation's result moves by plus or minus its own bound. How far the
gradient then lies from the undisturbed one is what a kernel may lose, with cancellation and all that follows from
it. The bounds, u = 2^-24 being the unit roundoff of float32:

- an elementwise operation: a few u of its result; the argument of exp is rounded first, so (4 + |x|) u there; what
  float32 has no normal number for may become zero, whatever it is multiplied by later;
- a sum of n terms: n u sum |term|, which holds for any order and blocking (N. J. Higham, Accuracy and Stability of
  Numerical Algorithms, section 4.2: gamma_n = n u / (1 - n u)); from 4096 terms on 64 sqrt(n) in place of n, which
  holds with a probability that leaves no doubt (N. J. Higham and T. Mary 2019);
- a Fourier transform of n numbers: a few u in each of log2 n steps, of the root mean square of its results (Higham,
  chapter 24: the error is bounded in norm, and not in each entry);
- an operand of a matrix product: what rounding it to the kernel's type takes away, since tensor cores take no other;
  and the product itself by one more, where the kernel was seen to make it in its type;
- a matrix product that is written with elementwise ones is one all the same, as in a recurrence S = a S + k v',
  o = S' q, which a kernel computes in chunks, by products of other factors. The factors of a product that is summed
  are off by a rounding to the type, where one of them is spread over an axis that is left; an outer product, whose
  factors are spread over each other's axes, is itself, and then those of backward, too. Where an axis has one entry,
  nobody can tell which products are such, and all are taken for one;
- what backward is handed: what made it off in forward, and as much again (see `_torch.reference`);
- a tensor that backward is handed and that the kernel was seen to save in its type: as much;
- a softmax: 4 u |x| of its result besides, and where x is a product, what that may be off by: backward computes
  scores x again, scales them, and takes from them a log-sum-exp; each of the four is rounded at the size of x, and
  nothing is normalised after it; where that comes to more than 1, e to the power of four times that, up to 1: too
  few samples would tell which of the scores may be the largest one;
- the gradient of a softmax, p (g - sum p g): the sum may be taken as the product of upstream gradient and output
  (T. Dao 2023). Its p are those of forward, so that what p is off by does not cancel; and where the kernel saves its
  outputs in its type, every term is off by a rounding, and their sum by another. In float16 an output is off by half of
  the smallest number at the least, however small its share of p is, as beside a sink that takes the rest.
"""

from __future__ import annotations

import functools
import math
import sys
import weakref
from collections.abc import Callable
from typing import Any

from gradverify.adapters._engines.lossy import FEW, FLOOR, TINY, UNIT, Terms, counted
from gradverify.adapters._torch.arrays import Tensor, floats, import_torch
from gradverify.adapters._torch.operations import (
    CUT,
    EXACT,
    FOURIER,
    FUSED,
    PRODUCTS,
    SUMS,
    TF32,
    decompositions,
    of_transform,
    rounded,
    spans,
    terms_of,
    unit_of,
)
from gradverify.adapters._torch.signs import Signs, alone
from gradverify.adapters._torch.signs import moved as decided

_LEAST = 2.0**-25  # what rounding to float16 may take away at the least: half of its smallest number
_SCALED = 16.0  # by which a kernel may scale an operand down before it multiplies: 1 / sqrt(D) for heads up to 256


@functools.lru_cache(maxsize=2)
def mode(guarded: bool) -> type:
    """The class, made when torch is there.

    Parameters
    ----------
    guarded : whether torch.compile must stay out of it; that imports all of dynamo, which takes seconds
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Noise(Signs, TorchDispatchMode):  # type: ignore[misc, unused-ignore]
        """See `noise`."""

        def __init__(self, dtype: Any, products: Any, seed: int, elementwise: bool, kept: bool, vague: bool) -> None:
            TorchDispatchMode.__init__(self)
            Signs.__init__(self, seed)
            self.vague, self.outer = vague, False  # whether forward has outer products
            self.unit = 0.0 if products is None else unit_of(products)
            self.factors: tuple[Any, tuple[bool, ...]] | None = None  # of the last product: see `contracted`
            self.dtype, self.products, self.elementwise, self.kept = dtype, products, elementwise, kept
            self.sizes: dict[int, Terms] = {}  # of products
            self.doubts: dict[int, tuple[Tensor, Tensor | None]] = {}  # of softmaxes, by how much backward's are off
            self.work = 0  # elements of all results
            self.places: frozenset[int] = frozenset()  # operations whose result the kernel keeps in its type
            self.slopes: dict[int, Tensor] = {}  # by what part of themselves gradients of results are off: see `Closed`
            self.steep: list[tuple[Tensor, Tensor]] = []  # those results, and factors of their gradients
            self.transforms: frozenset[int] = frozenset()  # lengths of Fourier transforms that the kernel makes

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return guarded

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = func._schema.name.removeprefix("aten::").rstrip("_")
            if name in FUSED:
                apart = decompositions().get(func)
                if apart is not None:
                    with self:
                        result = apart(*args, **kwargs)
                    return self.softmax(name, args, result)  # whose own operations are none of the reference
            result, self.count = self.done(func, name, args, kwargs), self.count + 1
            if self.count in self.slopes:
                off = self.slopes[self.count].to(result.dtype)
                self.steep.append((result, self.paired(off) * off + 1))
            if self.count in self.places and floats(result):
                result.copy_(self.low(result, self.dtype))
                known = self.sizes.get(id(result))
                if known is not None:
                    count = unit_of(self.dtype) / UNIT + known.number
                    self.sizes[id(result)] = known._replace(size=known.size.maximum(result.abs()), number=count)
            return result

        def done(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
            """The result of an operation, displaced."""
            if func.is_view or name in EXACT:
                result = func(*(args if func.is_view else decided(self, name, args)), **kwargs)
                if name in CUT:
                    return self.carried(result, args, lambda size: size.where(result == args[0], 0.0))
                return self.carried(result, args, lambda size: func(size, *args[1:], **kwargs))
            args = decided(self, name, args)
            spread: Any = None
            bound: Any = self.summed(func, name, args, kwargs) if name in SUMS else None
            if name in PRODUCTS and self.products is not None:
                exact, args = args, tuple(self.operand(a) if floats(a) else a for a in args)
                spread = self.spread(func, exact, args, kwargs)
            if name in ("sum", "mean") and self.contracted(args):
                bound = bound + self.unit * func(args[0] * args[0], *args[1:], **kwargs).sqrt_()
            result = alone(self, name, args, func(*args, **kwargs))
            if name in FOURIER:
                return self.transformed(args[1], result)
            if name == "div" and self.sizes:
                self.carried(result, args, lambda size: size / args[1])
            if name == "mul" and self.sizes:
                product, by = args[:2] if id(args[0]) in self.sizes else args[1::-1]
                self.carried(result, (product,), lambda size: size * by)
            if name == "mul" and self.unit:
                self.multiplied(args, result)
            if name in PRODUCTS and floats(result):
                count = counted(terms_of(name, args, result))
                least, shift = self.least(func, args, kwargs), functools.partial(self.shift, func, args, kwargs)
                self.sizes[id(result)] = Terms(result, bound / (UNIT * count), count, least, shift)
                if self.unit and terms_of(name, args, result) == 1:
                    self.of_one_term(result, import_torch().is_grad_enabled())
            if name in ("add", "sub") and self.sizes:
                self.added(result, args, kwargs)
            if spread is not None:
                result.add_(spread.mul_(self.signs(spread)).nan_to_num_(0.0, 0.0, 0.0))
            self.work += result.numel() if floats(result) else 0
            for k, part in enumerate(result if isinstance(result, (tuple, list)) else (result,)):
                if floats(part) and part.numel():
                    self.displace(part, name, args, bound[k] if isinstance(bound, (tuple, list)) else bound)
            return result

        def transformed(self, axes: Any, result: Tensor) -> Tensor:
            """Off by a few roundings in each of log2 n steps, at the size of all entries together."""
            square, count = result.abs().square(), math.prod(result.shape[axis] for axis in axes)
            size = square.mean(axes, keepdim=True).sqrt_().mul_(of_transform(count)).expand_as(square)
            parts, sizes = result, size
            if result.is_complex():
                parts, sizes = import_torch().view_as_real(result), size.unsqueeze(-1).expand(*size.shape, 2)
            parts.add_(sizes * self.signs(parts))
            self.work += parts.numel()
            return result

        def multiplied(self, args: Any, result: Tensor) -> None:
            """Displaces an outer product, and remembers which factor is spread over which axis of any."""
            self.factors, forward = None, import_torch().is_grad_enabled()
            if not all(floats(a) for a in args) or (forward and not any(a.requires_grad for a in args)):
                return
            over = [spans(a, result.ndim) for a in args]
            one, other = (any(x and not y for x, y in zip(*pair)) for pair in (over, over[::-1]))
            if self.vague or (one and other):
                self.of_one_term(result, forward)
            elif (one or other) and not all(self.holds(a) for a in args):
                self.factors = weakref.ref(result), tuple(map(all, zip(*over)))

        def holds(self, value: Tensor) -> bool:
            """Whether operands of products have the type that holds this as it is."""
            return self.products != TF32 and bool(import_torch().equal(rounded(value, self.products), value))

        def of_one_term(self, result: Tensor, forward: bool) -> None:
            """Displaces an outer product, if it is one of forward or forward has some; see `operand` for its size."""
            self.outer |= forward
            if self.outer:
                result.add_(self.off(result, self.products, size=self.size(result)))

        def contracted(self, args: Any) -> bool:
            """Whether a sum is over axes that both factors of a product have."""
            if self.factors is None or self.factors[0]() is not args[0]:
                return False
            both = self.factors[1]
            axes = args[1] if len(args) > 1 and args[1] else range(len(both))
            return all(both[axis] for axis in ([axes] if isinstance(axes, int) else axes))

        def spread(self, func: Any, exact: Any, args: Any, kwargs: Any) -> Tensor | None:
            """Half of what the displaced operands move a product by in the mean; None where they stay.

            The signs of a few terms may cancel in every sample, as where two of them sum to nearly 0, and the samples
            then tell nothing of how the operands are rounded.
            """
            if func._schema.is_mutable or len(func._schema.returns) > 1:  # gradients of a convolution, of a part each
                return None
            found: Tensor | None = None
            for k, (a, moved) in enumerate(zip(exact, args)):
                if not floats(a) or import_torch().equal(a, moved):
                    continue
                squares = [x * x if floats(x) else x for x in exact]
                squares[k] = (moved - a).square_()
                one = func(*squares, **kwargs)
                found = one if found is None else found.add_(one)
            return None if found is None else found.abs_().sqrt_().mul_(FLOOR)

        def carried(self, result: Any, args: Any, how: Callable[[Tensor], Tensor]) -> Any:
            """The result; the sizes of its terms are those of its first argument, moved or scaled alike."""
            known = self.sizes.get(id(args[0])) if args and self.sizes and floats(result) else None
            if known is not None:
                self.sizes[id(result)] = known.made(result, how)
            return result

        def added(self, result: Tensor, args: Any, kwargs: Any) -> None:
            """Remembers the sizes of terms of a sum of two, as of scores and a bias."""
            known = [self.sizes.get(id(a)) for a in args[:2]]
            counts = [k.number for k in known if k is not None]
            if counts:
                one, other = (abs(a) if k is None else k.size for a, k in zip(args, known))
                sizes = import_torch().add(one, other, alpha=abs(kwargs.get("alpha", 1)))
                self.sizes[id(result)] = Terms(result, sizes, max(counts))

        def softmax(self, name: str, args: Any, result: Any) -> Any:
            """A softmax or its gradient with the errors that its arguments' sizes bring."""
            if name in ("_softmax", "_log_softmax"):
                size = args[0].abs().mul_(FEW * UNIT).nan_to_num_(0.0, 0.0, 0.0)  # what is masked is none
                known = self.sizes.get(id(args[0]))
                if known is not None:
                    size.add_(known.size.nan_to_num(0.0, 0.0, 0.0), alpha=UNIT * known.number)
                signs, logs = self.paired(result), result if name == "_log_softmax" else result.log()
                # two scores are each off by that, and either may be so here
                most = (logs + 4 * size).clamp_(max=0.0)
                off = size.clamp(max=1.0).mul_(signs)
                off, most = (result + off, most) if name == "_log_softmax" else (result * (off + 1), most.exp_())
                result.copy_(off.where((size <= 1) | (signs < 0), most))
                if name == "_softmax":
                    self.doubts[result.data_ptr()] = result, None
            elif name == "_softmax_backward_data":
                g, p, dim = args[:3]
                off = import_torch().zeros_like(p.sum(dim, keepdim=True))
                if self.kept:
                    known = self.sizes.get(id(g), Terms(g, g.abs(), 1.0))
                    off += (known.size * p).sum(dim, keepdim=True) + (g * p).sum(dim, keepdim=True).abs()
                    off *= import_torch().finfo(self.dtype).eps / 2
                    if known.least is not None:
                        off += known.least.amax(dim, keepdim=True)
                doubt = self.doubts.get(p.data_ptr(), (p, None))[1]
                if doubt is not None:
                    off += (g.abs() * doubt).sum(dim, keepdim=True)
                result.add_(p * off.mul_(self.signs(off)))
            return result

        def forget(self) -> None:
            """Let tensors go: the graph holds the hook that saves, which holds this, and would never be freed."""
            self.sizes.clear()
            self.doubts.clear()
            self.steep.clear()

        def handed(self, value: Tensor, moved: Tensor, off: Tensor) -> None:
            """Backward gets `moved` for what forward made, `off` being how much it was off."""
            if value.data_ptr() in self.doubts:
                self.doubts[moved.data_ptr()] = moved, off.abs()
            if id(value) in self.sizes:
                self.sizes[id(moved)] = self.sizes[id(value)]._replace(of=moved)

        def summed(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
            """u n sum |term| of every result; in-place operations start from zero."""
            sums = self.sums(func, args, kwargs, self.size)
            found = [p.mul_(UNIT * counted(terms_of(name, args, p))) if floats(p) and p.numel() else None for p in sums]
            if self.transforms:
                for p, level in zip(found, self.sums(func, args, kwargs, self.level)):
                    if p is not None and (axes := self.transformed_axes(p)):
                        p.add_(level.amax(axes, keepdim=True) * of_transform(max(self.transforms)))
            return found if len(found) > 1 else found[0]

        def sums(self, func: Any, args: Any, kwargs: Any, size: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
            """Results of a sum, of sizes of what is summed."""
            given = [size(a) if floats(a) else a for a in args]
            if func._schema.is_mutable and floats(args[0]):
                given[0] = import_torch().zeros_like(args[0])
            sums = func(*given, **{k: size(v) if floats(v) else v for k, v in kwargs.items()})
            return tuple(sums) if isinstance(sums, (tuple, list)) else (sums,)

        def size(self, value: Tensor) -> Tensor:
            """Of terms: of a product as large as its own, none of which may cancel in another order of products."""
            known = self.sizes.get(id(value))
            return value.abs() if known is None else value.abs().maximum(known.size / known.number**0.5)

        def least(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
            """What a product of backward is off by where either factor is, by half of the smallest number of float16.

            Which of them is the one that was handed over, nobody can tell.
            """
            torch = import_torch()
            if self.dtype != torch.float16 or not self.kept or torch.is_grad_enabled():
                return None
            at = [k for k, a in enumerate(args) if floats(a)]
            found = []
            for moved in at:
                sizes = [torch.full_like(a, _LEAST) if k == moved else a.abs() for k, a in enumerate(args) if k in at]
                found.append(func(*(sizes[at.index(k)] if k in at else a for k, a in enumerate(args)), **kwargs))
            return functools.reduce(torch.maximum, found)

        def level(self, value: Tensor) -> Tensor:
            """The root mean square along what the kernel transforms: a transform is off by that in every entry."""
            axes = self.transformed_axes(value)
            return value.square().mean(axes, keepdim=True).sqrt_().expand_as(value) if axes else value.abs()

        def transformed_axes(self, value: Tensor) -> list[int]:
            """Axes that are as long as the kernel's transforms, or padded to them: to the next power of 2 of twice."""
            return [k for k, n in enumerate(value.shape) if any(n <= length <= 4 * n for length in self.transforms)]

        def displace(self, result: Tensor, name: str, args: Any, bound: Tensor | None) -> None:
            if bound is not None:
                result.add_(bound.mul_(self.signs(bound)).nan_to_num_(0.0, 0.0, 0.0))
            elif self.elementwise:
                if name in ("exp", "exp2") and floats(args[0]) and args[0].shape == result.shape:
                    size = args[0].abs().nan_to_num_(0.0, 0.0, 0.0).add_(FEW)
                    result.mul_(self.signs(result) * (UNIT * size) + 1)
                else:
                    result.mul_(self.signs(result, FEW * UNIT))
                self.flush(result)

        def flush(self, result: Tensor) -> None:
            """Of numbers that are no normal ones in float32, by chance some become zero and some do not."""
            torch = import_torch()
            flushed = torch.hardshrink(result, TINY)
            if not torch.equal(flushed, result):
                result.copy_(torch.where(self.signs(result) > 0, flushed, result))

        def operand(self, value: Tensor) -> Tensor:
            """As the type of operands holds it; what is a product by as much as one that is multiplied in other order.

            A kernel that has (a b) c as a (b c) never rounds a b, whose terms may cancel, but b c, which does not: one
            rounding for all rows of a, as if b were rounded. Every other sample has it so.
            """
            known = self.sizes.get(id(value))
            if known is None or known.shift is None or self.seed % 2:
                return self.low(value, self.products, _SCALED, None if known is None else self.size(value))
            return self.low(value, self.products, _SCALED).add_(known.shift().nan_to_num_(0.0, 0.0, 0.0))

        def shift(self, func: Any, args: Any, kwargs: Any) -> Tensor:
            """By what a product moves where each of its factors is rounded, even one that its type holds."""
            moved = (a * self.signs(a, self.unit) if floats(a) else a for a in args)
            return func(*moved, **kwargs) - func(*args, **kwargs)

        def low(self, value: Tensor, dtype: Any, scaled: float = 1.0, size: Tensor | None = None) -> Tensor:
            """Displaced by as much as rounding to a type may take; what the type holds exactly stays.

            Parameters
            ----------
            size : of what is rounded, where that may be more than the value, and another one
            """
            off = self.off(value, dtype, scaled, size)
            stays = dtype != TF32 and size is None
            return (off.masked_fill_(rounded(value, dtype) == value, 0.0) if stays else off).add_(value)

        def off(self, value: Tensor, dtype: Any, scaled: float = 1.0, size: Tensor | None = None) -> Tensor:
            """As much as rounding to a type may take, to either side, of a value that may be that much smaller."""
            least = scaled * _LEAST if dtype == import_torch().float16 else 0.0  # it has no other below
            signs = self.alike(value, unit_of(dtype)) if self.seed & 2 else self.signs(value)
            return (value.abs() if size is None else size).mul(unit_of(dtype)).add_(least).mul_(signs)

    return Noise


def noise(
    dtype: Any, products: Any, seed: int, elementwise: bool = True, kept: bool = False, vague: bool = False
) -> Any:
    """A dispatch mode in which operations are as inexact as a kernel's may be.

    Parameters
    ----------
    dtype : of the kernel's inputs and outputs
    products : type that operands of matrix products are rounded to; None leaves them
    elementwise : whether elementwise operations are displaced; in float32 they round by themselves
    kept : whether the kernel saves outputs or intermediate tensors in its type
    vague : whether axes have one entry, so that an elementwise product may stand for a matrix product
    """
    return mode("torch._dynamo" in sys.modules)(dtype, products, seed, elementwise, kept, vague)

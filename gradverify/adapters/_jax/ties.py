"""Operations of a jaxpr that decide by order or sign, and scores less their largest: see `_torch.signs`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.adapters._engines.lossy import FEW, TIED, TINY, UNIT

Array = Any  # numpy.ndarray or jax.Array
_SIGNS = {"gt", "ge", "lt", "le", "sign"}
_ORDERS = {"top_k", "sort", "argmax", "argmin"}
_TWO = {"max", "min"}
_SAME = {"max", "min", "broadcast_in_dim", "stop_gradient", "select_n", "reshape", "squeeze", "copy"}


class Ties:
    """What of a sample decides, and may decide the other way at a tie.

    Attributes
    ----------
    seed : of the sample
    moving : values that depend on primals that get a gradient; None in a pullback, where all count
    peaks : largest entries of rows, and of what
    """

    def __init__(self, seed: int, moving: list[Array]) -> None:
        self.seed, self.count = seed, 0
        self.moving: dict[int, Array] | None = {id(a): a for a in moving}
        self.peaks: dict[int, tuple[Array, Array]] = {}

    def paired(self, like: Array) -> Array:
        """Signs that are the other way round in the other of two samples."""
        signs = np.random.default_rng([self.seed // 2, self.count]).choice((-1.0, 1.0), np.shape(like))
        return signs if self.seed % 2 else -signs

    def lots(self, size: tuple[int, ...]) -> Array:
        """See `_torch.signs`."""
        if self.seed % 4 > 1:
            return np.random.default_rng([self.seed, self.count]).uniform(-1, 1, size)
        rising = np.linspace(-1, 1, int(np.prod(size))).reshape(size)
        return rising if self.seed % 2 else -rising

    def before(self, name: str, given: list[Array]) -> list[Array]:
        """Arguments of an operation, with what decides displaced."""
        self.count += 1
        value = np.asarray(given[0]) if given else np.zeros(0, int)
        if name not in _SIGNS | _ORDERS or value.dtype.kind != "f" or not self.moves(given[:1]):
            return given
        s = self.lots(value.shape) * TIED if name in _ORDERS else self.paired(value) * FEW
        return [np.where(value != 0, value * (1 + UNIT * s), TINY * s), *given[1:]]

    def after(self, name: str, given: list[Array], result: Array) -> Array:
        """The result, where equality or the larger of two decides."""
        if name in _TWO and np.shape(result) and not self.seed % 2 and self.moves(given):  # see `as_much_again`
            beside = np.where(result != 0, result * (1 + FEW * UNIT), TINY)
            result = np.where(np.equal(*given) & np.isfinite(result), beside, result)
        if name == "eq" and np.asarray(given[0]).dtype.kind == "f":
            over = tuple(k for k in range(np.ndim(result)) if any(_spread(a, k) for a in given))
            if over and np.sum(result, over).max(initial=0) > 1:
                lots = np.where(result, self.lots(np.shape(result)), -2.0)
                result = result & (lots == lots.max(over, keepdims=True))
        return result

    def moves(self, given: list[Array]) -> bool:
        """Whether any of these depends on a primal that gets a gradient."""
        return self.moving is None or any(id(a) in self.moving for a in given)

    def follow(self, name: str, given: list[Array], results: list[Array]) -> None:
        """Remember what depends on primals, and where a largest entry goes."""
        if self.moving is not None and self.moves(given):
            self.moving.update((id(r), r) for r in results)
        of = given[0] if name == "reduce_max" else None
        if name in _SAME:
            of = next((self.peaks[id(a)][1] for a in given if id(a) in self.peaks), None)
        if of is not None:
            self.peaks[id(results[0])] = results[0], of

    def shifted(self, given: list[Array], result: Array, terms: Array | None, count: float) -> Array:
        """Scores less their largest, off by what their sizes bring; any may be it that is unsure by more than 1."""
        known = self.peaks.get(id(given[1]))
        if known is None or known[1] is not given[0]:
            return result
        size = np.nan_to_num(np.abs(given[0]), posinf=0.0) * (FEW * UNIT)
        if terms is not None:
            size = size + np.nan_to_num(terms, posinf=0.0) * (UNIT * count)
        signs = self.paired(result)
        most = np.minimum(result + 4 * size, 0.0)
        return np.where((size <= 1) | (signs < 0), result + np.minimum(size, 1.0) * signs, most)


def _spread(factor: Array, axis: int) -> bool:
    """Whether an array has no entries of its own along an axis."""
    return np.ndim(factor) <= axis or factor.shape[axis] == 1 or getattr(factor, "strides", (1,) * 99)[axis] == 0

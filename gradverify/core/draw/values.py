"""Values of one primal: normal numbers with nice digits, and everything that normal numbers never are.

Ties, exact zeros, tiny, large and saturating values, near-constant and equal rows, heavy tails and a
mean that is not zero each show bugs that the others hide. One way is drawn for the case, and each
primal follows it or has its own; then a few single entries are replaced ("planted").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.core.declare.declaration import Primal
from gradverify.core.draw import streams
from gradverify.core.draw.knobs import Knobs

Array = Any  # numpy.ndarray; the shape is in the docstrings
Shape = tuple[int, ...]

LARGEST = 1e4  # what float16 still holds, with room for a sum
# What is drawn, as often as it stands here: most arrays are plain ones of the size of 1, as a user has them.
_STYLES = ("integers", "tenths", "full", "full", "tenths", "full", "full", "full")
_SCALES = (1.0,) * 28 + (0.1, 0.1, 0.1, 10.0, 10.0, 10.0, 0.01, 0.01, 100.0, 100.0, 1e-4, 1e3)
_PLANTED = (0, 0, 1, 0, 1, 2, 1, 3)
_ROUND_NUMBERS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 10.0, -10.0, 100.0, -100.0)


@dataclass(frozen=True, slots=True)
class Manner:
    """How the values of a whole array are drawn."""

    regime: str
    style: str = "full"
    scale: float = 1.0
    about: tuple[float, ...] = ()  # numbers that the layer mentions


def draw_manner(knobs: Knobs, constants: tuple[float, ...] = (), low: bool = False) -> Manner:
    """The manner of a case; half of those in a low type ask what their digits are worth."""
    return Manner(
        knobs.pick(_LOW_REGIMES if low else _CASE_REGIMES), knobs.pick(_STYLES), knobs.pick(_SCALES), constants
    )


def reals(knobs: Knobs, seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    """Raw real values of one primal, in the manner of the case or, one time in four, in its own."""
    own, regime, scale = knobs.chance(25), knobs.pick(_OWN_REGIMES), knobs.pick(_SCALES)
    if own:
        manner = Manner(regime, manner.style, scale, manner.about)
    values = _REGIMES[manner.regime](seed, stream, shape, manner)
    most = LARGEST if manner.regime not in _WIDE else np.inf
    return np.asarray(np.minimum(np.maximum(values, -most), most) + 0.0)  # no negative zeros


def _plain(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    values = streams.normal(seed, stream, shape)
    if manner.style == "integers":
        values = np.rint(1.5 * values)
    elif manner.style == "tenths":
        values = np.rint(10.0 * values) / 10.0
    return values if manner.scale == 1.0 else values * manner.scale


def _ties(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    return np.floor(5.0 * streams.uniform(seed, stream, shape)) - 2.0


def _sparse(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    kept = streams.uniform(seed, ~stream & 255, shape) < 0.4
    return _plain(seed, stream, shape, manner) * kept


def _zeros(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    return np.zeros(shape)


def _large(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    return np.clip(np.rint(300.0 * streams.normal(seed, stream, shape)), -1e3, 1e3)


def _saturating(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    return np.rint(20.0 * streams.normal(seed, stream, shape))


def _tiny(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    return 1e-8 * streams.normal(seed, stream, shape)


def _near_constant_rows(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    values = streams.normal(seed, stream, shape)
    return np.rint(2.0 * values[..., :1]) + 1e-3 * values if shape else values


def _equal_rows(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    if not shape:
        return _plain(seed, stream, shape, manner)
    row = _plain(seed, stream, (min(shape[0], 1), *shape[1:]), manner)
    return np.broadcast_to(row, shape).copy() if shape[0] else row


def _heavy_tails(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    values = streams.normal(seed, stream, shape)
    return np.clip(values * np.abs(values) ** 4, -1e3, 1e3)


def _offset(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    offset = (3.0, -3.0, 10.0, 100.0)[streams.scramble(seed, stream, 1) % 4]
    return offset + streams.normal(seed, stream, shape)


def _far_offset(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    """A large offset and a small spread: what is computed as a difference of large numbers loses digits there."""
    chosen = streams.scramble(seed, stream, 2)
    # the ratio is what loses digits; offsets that are large as well saturate whatever multiplies two of them
    offset = (1.0, -1.0, 10.0, -10.0, 100.0, -3.0)[chosen % 6]
    spread = abs(offset) / (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)[chosen // 6 % 7]
    return offset + spread * streams.normal(seed, stream, shape)


def _cancelling(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    """The same for float32, which keeps half of its digits to a ratio of 60 in a difference of squares."""
    chosen = streams.scramble(seed, stream, 2)
    offset = (1.0, -1.0, 3.0, -3.0, 5.0)[chosen % 5]
    spread = abs(offset) / (10.0, 30.0, 100.0, 300.0, 1e3, 3e3)[chosen // 5 % 6]
    return offset + spread * streams.normal(seed, stream, shape)


def _about(seed: int, stream: int, shape: Shape, manner: Manner) -> Array:
    """All entries about a number that the layer mentions, so that their mean, norm and extremes are as well."""
    if not manner.about:
        return _plain(seed, stream, shape, manner)
    chosen = streams.scramble(seed, stream, 3)
    center = near(manner.about, chosen >> 8, chosen >> 24)
    spread = (0.01, 0.1, 0.3, 1e-3)[chosen % 4] * center
    return (-1.0 if chosen & 4 else 1.0) * center + spread * streams.normal(seed, stream, shape)


def near(numbers: tuple[float, ...], choice: int, way: int) -> float:
    """One of the numbers, or one beside it: a little more or less, by one, half way to the next, half and double."""
    k = choice % len(numbers)
    number = numbers[k]
    following = numbers[min(k + 1, len(numbers) - 1)]
    beside = (
        number,
        0.5 * (number + following),
        number * (1 + 2.0**-6),
        number * (1 - 2.0**-6),
        number + 1.0,
        number - 1.0,
        2.0 * number,
        0.5 * number,
    )
    return beside[(0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 2)[way % 16]]


_WIDE = ("about",)  # as far as the layer's own numbers go
_REGIMES: Mapping[str, Callable[[int, int, Shape, Manner], Array]] = {
    "plain": _plain,
    "ties": _ties,
    "sparse": _sparse,
    "zeros": _zeros,
    "large": _large,
    "saturating": _saturating,
    "tiny": _tiny,
    "near-constant rows": _near_constant_rows,
    "equal rows": _equal_rows,
    "heavy tails": _heavy_tails,
    "offset": _offset,
    "far offset": _far_offset,
    "cancelling": _cancelling,
    "about": _about,
}
_CASE_REGIMES = (
    *("plain",) * 13,
    *("ties", "sparse", "offset", "saturating", "heavy tails", "near-constant rows"),
    *("far offset", "far offset", "about", "about"),
)
_LOW_REGIMES = (*_CASE_REGIMES, *("cancelling",) * len(_CASE_REGIMES))
_OWN_REGIMES = (*("plain",) * 3, "zeros", *(r for r in _REGIMES if r != "cancelling"))  # planting spoils most zeros


def plant(knobs: Knobs, arrays: Mapping[str, Array], constants: tuple[float, ...], special: bool = False) -> None:
    """Replace up to three single entries in place: constants of the layer, round or (unless special) any numbers."""
    names = [name for name, array in arrays.items() if array.size]
    for _ in range(knobs.pick(_PLANTED) if names else 0):
        array = arrays[knobs.pick(names)]
        array.flat[knobs.word() % array.size] = planted(knobs, constants, special)


def planted(knobs: Knobs, constants: tuple[float, ...], special: bool) -> float:
    """One number: a round one, one that the layer mentions (of either sign), or any up to 1000."""
    kind, choice, fine = knobs.byte(), knobs.byte(), knobs.byte()
    sign = -1.0 if fine & 1 else 1.0
    if constants and kind >= 128:
        if special:
            return sign * constants[choice * len(constants) >> 8]
        return sign * near(constants, choice * len(constants) >> 8, fine >> 1)
    if special or kind < 64:
        return _ROUND_NUMBERS[choice * len(_ROUND_NUMBERS) >> 8]
    return float(sign * round(10.0 ** (choice / 64.0 - 1.0) * (1.0 + fine / 256.0), 3))


_LOWEST, _HIGHEST = 0.0, 1.0 - 2.0**-32


def uniforms(knobs: Knobs, seed: int, stream: int, shape: Shape, special: bool) -> Array:
    """Raw uniforms in [0, 1) of a discrete primal: mixed, or with the repeats and extremes that layers trip over.

    Low values become the first index or a kept entry of a mask, high ones the last or a dropped one.
    """
    manners = _SPECIAL_DISCRETE if special else _DISCRETE
    manner, place = knobs.pick(manners), knobs.byte()
    mixed = streams.uniform(seed, stream, shape)
    if manner == "few":
        return np.where(mixed < 0.5, *(streams.scramble(seed, stream, k) / 2.0**64 * _HIGHEST for k in (1, 2)))
    if manner == "row" and shape and shape[0]:
        mixed[place % shape[0]] = _HIGHEST
    elif manner in ("first", "one last"):
        mixed = np.full(shape, _LOWEST)
    elif manner in ("last", "one first"):
        mixed = np.full(shape, _HIGHEST)
    elif manner == "same":
        mixed = np.full(shape, streams.scramble(seed, stream) / 2.0**64 * _HIGHEST)
    if manner.startswith("one") and mixed.size:
        mixed.flat[place % mixed.size] = _LOWEST if manner == "one first" else _HIGHEST
    return mixed


_SPECIAL_DISCRETE = ("first", "last", "one first", "one last", "few", "same", "row")
_DISCRETE = ("mixed",) * 7 + _SPECIAL_DISCRETE


_SPECIAL_REGIMES = (
    *("zeros", "ties", "borders", "saturation", "mixed", "mixed", "few zeros", "rows", "copy", "identity"),
    "absorbing",
)
ABSORBING = (1e16, -1e16, 1e50)  # in float64, a change by 1 is lost in them
_SATURATION = (40.0, -40.0, 100.0, -100.0, 1e3, -1e3)


def special_reals(
    knobs: Knobs,
    seed: int,
    stream: int,
    shape: Shape,
    borders: tuple[float, ...],
    others: Iterable[Array],
    far: tuple[float, ...] = (),
) -> Array:
    """Raw real values of one primal, all of them at special points.

    Parameters
    ----------
    borders : numbers at which the layer may change its branch
    others : raw values of other primals, to be copied where the shape is the same (coincident inputs)
    far : offsets that absorb whatever is added to them, so that all entries are ties
    """
    regime, rows = knobs.pick(_SPECIAL_REGIMES), knobs.byte()
    chance = streams.uniform(seed, stream, shape)
    ties = np.floor(3.0 * chance) - 1.0
    pools = {"borders": borders, "saturation": (0.0, *_SATURATION), "mixed": (0.0, *borders, *_SATURATION)}
    if regime in pools:
        pool = np.asarray(pools[regime])
        return pool[np.minimum((chance * pool.size).astype(int), pool.size - 1)]
    if regime == "absorbing" and far:
        return far[rows % len(far)] + ties
    if regime == "zeros":
        return np.zeros(shape)
    if regime == "few zeros":  # a product with no zero, one and two of them
        values = np.floor(3.0 * chance) + 1.0
        values.reshape(-1)[: rows % 3] = 0.0
        return values
    if regime == "rows" and len(shape) > 1 and shape[0]:  # equal rows, one of them perhaps all zeros
        values = np.repeat(ties[:1], shape[0], axis=0)
        if rows & 1:
            values[rows % shape[0]] = 0.0
        return values
    if regime == "copy":
        return next((other.copy() for other in others if other.shape == shape), ties)
    if regime == "identity" and len(shape) > 1:
        return np.broadcast_to(np.eye(shape[-2], shape[-1]), shape).copy()
    return ties


def fits(primal: Primal, array: Array, sizes: Mapping[str, Any]) -> bool:
    """Whether the array is in the primal's domain; domains given by a strategy are taken on trust."""
    domain = primal.domain
    return domain.strategy is not None or domain.name in ("real", "complex") or domain.contains(array, sizes)


def stored(primal: Primal, values: Array, dtype: np.dtype[Any]) -> Array:
    """The values in the type of the check; integers and booleans stay as they are, subnormals become normal."""
    if values.dtype.kind not in "fc":
        return values.astype(dtype) if primal.differentiable else values
    smallest = np.finfo(dtype).tiny
    if smallest > 1e-300 and values.size:
        parts = values.reshape(-1).view(float)
        low = (np.abs(parts) < smallest) & (parts != 0)
        parts[low] = np.copysign(float(smallest), parts[low])
        values = parts.view(values.dtype).reshape(values.shape)
    return values.astype(np.result_type(dtype, np.complex64) if values.dtype.kind == "c" else dtype, copy=False)


def imaginary(seed: int, stream: int, real: Array) -> Array:
    """Imaginary parts of the magnitude of the real parts, some of them zero."""
    turn = streams.uniform(seed, 128 + stream, real.shape)
    return np.where(turn < 0.2, 0.0, np.rint(20.0 * turn - 12.0) / 4.0) * np.where(real == 0, 1.0, np.abs(real))


def order(seed: int, stream: int, count: int, among: int) -> Array:
    """Numbers in [0, among) in mixed order, shape (count,)."""
    return (streams.uniform(seed, stream, (count,)) * among).astype(int)

"""What a good kernel of a low type may lose, entry by entry; there is no atol and no rtol.

Inputs count as they are stored. A result g may be off by

    FACTOR * (max_k |g_k - g| + max(u |g|, s / 2))

where g_k are samples of the reference in which every operation is displaced by its own bound (sums and products
kept in float32, tensors that forward saves and operands of matrix products rounded to the type: see the noise of
the adapters), and the rest is the one rounding of the result, u being the unit roundoff of the type and s its
smallest number. Plain code in the type is no yardstick: its own sums may be as bad as those that are judged.

The bound on a sum is N. J. Higham's, Accuracy and Stability of Numerical Algorithms (2002), section 4.2: with
float32, of unit roundoff u, any order and any blocking gives |error| <= gamma_n sum |term|, gamma_n = n u / (1 - n u).

FACTOR is 3. A sample displaces each operation by its full bound, where rounding takes half of it on average; so
the largest of a few samples is seldom less than the error of a good kernel, whose operations are others than the
reference's, and three times that is to be enough. Measured on the right kernels of `tests/kernels`: see
`docs/kernels-benchmark.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gradverify.core.nouns import AGREES, DISAGREES, UNRESOLVED, Array, Comparison

FACTOR = 3.0
_BLOCK = 1 << 14  # entries at a time, so that temporary arrays stay in the cache
_WIDE = 0.5  # of the largest entry: an entry that agrees within so wide a bound is not decided


def allowed(truth: Array, samples: Sequence[Array], unit: float, smallest: float) -> Array:
    """Largest error of each entry that a good kernel may have.

    Parameters
    ----------
    samples : disturbed values, each of the shape of `truth`
    unit, smallest : unit roundoff of the type, and the smallest number that it tells from zero
    """
    bound = np.empty(np.shape(truth))
    flat, base, others = bound.reshape(-1), np.ravel(truth), [np.ravel(s) for s in samples]
    with np.errstate(all="ignore"):
        for part in _blocks(flat.size):
            spread = np.zeros(flat[part].size)
            for sample in others:
                np.maximum(spread, np.abs(sample[part] - base[part]), out=spread)
            spread += np.maximum(unit * np.abs(base[part]), smallest / 2)
            flat[part] = FACTOR * spread
    return bound


def compared(
    name: str, judged: Array, truth: Array, bound: Array, largest: float, labels: tuple[str, ...]
) -> Comparison:
    """Verdicts of a gradient or an output.

    Beyond the range of the type an infinity is right. An entry of which the truth is not finite, or the bound wider
    than half of the largest entry, is unresolved.
    """
    judged, verdicts = np.asarray(judged, float), np.empty(np.shape(truth), np.int8)
    flats = [np.ravel(a) for a in (judged, truth, bound)]
    flat, top = verdicts.reshape(-1), 0.0
    with np.errstate(all="ignore"):
        for part in _blocks(flat.size):
            size = np.abs(flats[1][part])
            top = max(top, float(np.max(size, initial=0.0, where=size + flats[2][part] < largest)))
        for part in _blocks(flat.size):
            a, t, b = (f[part] for f in flats)
            size = np.abs(t)
            near = np.abs(a - t) <= b
            vague = near & (b > _WIDE * top) & (np.abs(a) + size > 0)
            told = np.where(near, np.where(vague, UNRESOLVED, AGREES), DISAGREES)
            flat[part] = np.where(size + b < largest, told, UNRESOLVED)
    return Comparison(name, judged, truth, bound, verdicts, top, labels)


def _blocks(size: int) -> Iterator[slice]:
    """Parts that fit a cache."""
    return (slice(first, first + _BLOCK) for first in range(0, size, _BLOCK))


def rounded(array: Array, eps: float) -> Array:
    """Rounded to a significand as long as that of a type with this `eps`; range is not limited."""
    if array.dtype.kind != "f":
        return array
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.rint(mantissa * (2 / eps)) * (eps / 2), exponent).astype(array.dtype)

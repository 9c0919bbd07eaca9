"""Weights of an object that no naming rule paired with a gradient: found by trying, or said to be unverified.

Whether an array of the object is a weight is tried: it is changed, and if the output changes with it, its
gradient is due. Where the gradient stands is told by a name among what backward wrote or returned; where no
name tells, an array that *is* the derivative at random points is taken. What is neither named nor right stays
without a pair: a guess could hide an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from gradverify.adapters._normal import flat, parted
from gradverify.adapters._objects import names as _names
from gradverify.adapters._objects.pairs import Weight
from gradverify.core.declare.held import Path, arrays_of, fetch, own, store
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure, foreign
from gradverify.core.nouns import Array

if TYPE_CHECKING:
    from gradverify.adapters._objects.stateful import Stateful

_CHANGES = (1e-3, 1.0, -1.0)  # of an array, in units of its largest entry: small, and beyond most thresholds
_STEP = 1e-5  # of the difference that tells a gradient from another array; its error is near 1e-8
_RIGHT = 1e-4  # an array that is off by more is not the derivative; one that is not meant to be it is off by far more
_ORDERS = 720  # ways to hand out gradients that are tried


@dataclass(slots=True)
class Survey:
    """What one look at an object showed.

    Attributes
    ----------
    weights : by path, in the object's order
    state : of these, arrays that follow the inputs from call to call, such as running statistics
    moving : arrays that do so, whether or not the output depends on them with these options
    settings : single numbers that the output depends on
    order : for each value that backward returned, the input it belongs to, or the path of a weight
    """

    weights: dict[Path, Weight] = field(default_factory=dict)
    state: set[Path] = field(default_factory=set)
    moving: set[Path] = field(default_factory=set)
    settings: set[Path] = field(default_factory=set)
    order: tuple[str | Path, ...] | None = None


@dataclass
class Trial:
    """An object at one point: what its outputs, and what backward leaves, depend on.

    Attributes
    ----------
    inner : the convention that builds, sets and runs it
    primals, other : two sets of arrays of the same shapes
    warm : run it once before, so that what comes into being with the first forward is there
    """

    inner: Stateful
    primals: dict[str, Array]
    other: dict[str, Array]
    options: Mapping[str, Any]
    warm: bool = False
    plain: list[Array] | None = None  # outputs with nothing changed

    def made(self, primals: Mapping[str, Array] | None = None) -> tuple[Any, Callable[[], Any]]:
        """A fresh object with its parameters set, and its forward."""
        inner, arrays = self.inner, {n: np.array(a) for n, a in (primals or self.primals).items()}
        instance, built = inner.fresh(arrays, self.options)

        def forward() -> Any:
            given = {n: np.array(a) for n, a in arrays.items()}  # the object may keep what it is given
            with inner.maker.chance.fixed(("look", self.options), note=False):
                return inner.run(instance, given, self.options, built)

        if self.warm:
            forward()
            inner._flush(instance)
        return instance, forward

    def outputs(self, change: Mapping[Path, Any] | None = None) -> list[Array] | None:
        """What comes out where some arrays are given other values; None if that raises."""
        try:
            instance, forward = self.made()
            for path, value in (change or {}).items():
                put(instance, path, value)
            return [np.array(y) for y in flat(forward()[0])]
        except (LayerFailure, DeclarationError):
            return None

    def moves(self, paths: Mapping[Path, Any]) -> bool:
        """Whether the output depends on any of these arrays."""
        self.plain = self.outputs() if self.plain is None else self.plain
        rng = np.random.default_rng(0)
        for share in _CHANGES:
            changed = {p: _shaken(a, share, rng) for p, a in paths.items()}
            out = self.outputs(changed)
            if out is None or not same(out, self.plain):
                return True
        return False

    def reaching(self, paths: Mapping[Path, Any]) -> dict[Path, Any]:
        """Those of some arrays that the output depends on."""
        if not paths or not self.moves(paths):
            return {}
        return {p: a for p, a in paths.items() if self.moves({p: a})}

    def following(self, paths: Mapping[Path, Any]) -> set[Path]:
        """Those that have other values after a forward on other primals."""
        held = []
        for primals in (self.primals, self.other):
            instance, forward = self.made(primals)
            forward()
            held.append({p: np.array(fetch(instance, p)) for p in paths if fetch(instance, p) is not None})
        return {p for p in paths if p in held[0] and p in held[1] and not same([held[0][p]], [held[1][p]])}

    def built_from(self, paths: Mapping[Path, Any]) -> set[Path]:
        """Those that hold something else in an object that is made for other primals: they are functions of these."""
        one, two = (self.made(primals)[0] for primals in (self.primals, self.other))
        pairs = {p: (fetch(one, p), fetch(two, p)) for p in paths}
        return {p for p, (a, b) in pairs.items() if a is None or b is None or not same([a], [b])}

    def pulled(self) -> tuple[list[Array], Any, dict[Path, Array], dict[Path, Array]]:
        """Cotangents, what backward returned for them, and the arrays of the object before and after it."""
        instance, forward = self.made()
        output, ran = forward()
        rng = np.random.default_rng(1)
        cotangents = [rng.normal(size=np.shape(y)).astype(np.result_type(y, np.float32)) for y in flat(output)]
        before = {p: np.array(a) for p, a in arrays_of(instance, every=True).items()}
        with self.inner.maker.chance.anew(self.options):
            given = tuple(np.array(v) for v in cotangents)
            raw = self.inner.pull(ran, given if isinstance(output, tuple) else given[0])
        after = {p: np.array(a) for p, a in arrays_of(instance, every=True).items()}
        if self.inner.implicit(instance):
            cotangents = [np.ones_like(v) for v in cotangents]
        return cotangents, raw, before, after

    def slope(self, path: Path, value: Array, direction: Array, cotangents: list[Array]) -> float | None:
        """Derivative of the contracted outputs along a direction of an array."""
        step = _STEP * max(1.0, float(np.abs(value).max(initial=0.0)))
        ends = [self.outputs({path: value + sign * step * direction}) for sign in (+1, -1)]
        return _contracted(ends, cotangents, step)

    def slope_of_primal(self, name: str, direction: Array, cotangents: list[Array]) -> float | None:
        """The same along a direction of a primal."""
        value, kept = self.primals[name], self.primals
        step = _STEP * max(1.0, float(np.abs(value).max(initial=0.0)))
        ends = []
        for sign in (+1, -1):
            self.primals = {**kept, name: value + sign * step * direction}
            ends.append(self.outputs())
        self.primals = kept
        return _contracted(ends, cotangents, step)


def _contracted(ends: list[list[Array] | None], cotangents: list[Array], step: float) -> float | None:
    up, down = ends
    if up is None or down is None:
        return None
    total = sum(float(np.real(np.vdot(v, a - b))) for v, a, b in zip(cotangents, up, down))
    return total / (2 * step) if np.isfinite(total) else None


def put(instance: Any, path: Path, value: Any) -> None:
    """Put a value where an array stands, in place where that can be, so that other names of it see it too."""
    old = fetch(instance, path)
    if own(instance, path) and isinstance(old, np.ndarray) and old.flags.writeable and old.shape == np.shape(value):
        np.copyto(old, value, casting="unsafe")
        return
    try:
        store(instance, path, value)
    except (AttributeError, TypeError):  # in a tuple, or without a setter: it cannot be tried
        raise DeclarationError(f"{path} cannot be set") from None


def same(one: list[Any] | None, other: list[Any] | None) -> bool:
    """Whether two lists of arrays are equal; NaN equals NaN."""
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(map(foreign.same, one, other))


def _shaken(array: Any, share: float, rng: np.random.Generator) -> Any:
    size = float(np.abs(array).max()) or 1.0
    return array + share * size * (0.5 + rng.random(np.shape(array)))


# -- a look at one point --------------------------------------------------------------------------------


def survey(inner: Stateful, primals: dict[str, Array], other: dict[str, Array], options: Mapping[str, Any]) -> Survey:
    """Weights that no pair covers, and where their gradients stand, at one point and for one choice of options.

    Raises LayerFailure or DeclarationError if the object cannot be run there.
    """
    found = Survey()
    cold = Trial(inner, primals, other, options)
    warm = Trial(inner, primals, other, options, warm=True)
    begun, ran = (arrays_of(trial.made()[0]) for trial in (cold, warm))
    later = {p: a for p, a in _without_views({p: ran[p] for p in (*begun, *ran) if p in ran}).items() if p not in begun}
    for trial, held in ((cold, _without_views(begun)), (warm, later)):
        instance = trial.made()[0]
        left = {p: a for p, a in held.items() if not covered(inner, instance, p)}
        if inner.modes:
            found.moving |= warm.following(left)
        reaching = trial.reaching(left)
        if not reaching:
            continue
        derived = cold.built_from(reaching) if trial is cold else warm.following(reaching)
        moving = warm.following({p: a for p, a in reaching.items() if p not in derived})
        found.state |= moving | (derived if trial is warm else set())
        free = {p: a for p, a in reaching.items() if p not in derived | moving}
        weights = {
            p: Weight(p, np.shape(a), number=not isinstance(a, np.ndarray), dtype=np.asarray(a).dtype)
            for p, a in free.items()
        }
        with suppress(LayerFailure):  # the check will report a backward that fails
            _match(trial, weights, found)
        unpaired = {p for p, w in weights.items() if w.gradient is None and w.returned is None}
        found.settings |= {p for p in unpaired if weights[p].number and not isinstance(p[-1][1], int)}
        found.weights |= {p: w for p, w in weights.items() if p not in found.settings}
    return found


def covered(inner: Stateful, instance: Any, path: Path) -> bool:
    """Whether an array is a parameter that has a pair already, or shares its memory."""
    array = fetch(instance, path)
    pairs = [inner._pair(instance, name, {}) for name in inner.parameters]
    places = [place for pair in (*pairs, *inner.pairs.values()) for place in pair.values]
    if path in places:
        return True
    held = [fetch(instance, place) for place in places]
    return isinstance(array, np.ndarray) and any(isinstance(a, np.ndarray) and np.shares_memory(a, array) for a in held)


def _without_views(arrays: Mapping[Path, Any]) -> dict[Path, Any]:
    """Arrays without those that are views of an earlier one."""
    kept: dict[Path, Any] = {}
    for path, array in arrays.items():
        others = (a for a in kept.values() if isinstance(a, np.ndarray))
        if not isinstance(array, np.ndarray) or not any(np.may_share_memory(array, other) for other in others):
            kept[path] = array
    return kept


def _match(trial: Trial, weights: Mapping[Path, Weight], found: Survey) -> None:
    """Say where the gradients of some weights stand, as far as names and trying tell."""
    cotangents, raw, before, after = trial.pulled()
    for path, weight in weights.items():
        weight.changed = path in before and path in after and not same([before[path]], [after[path]])
    values = {p: before[p] for p in weights}
    rng = np.random.default_rng(2)
    directions = {p: rng.choice((-1.0, 1.0), np.shape(v)) * (0.5 + rng.random(np.shape(v))) for p, v in values.items()}
    slopes: dict[Path, float | None] = {}

    def right(path: Path, gradient: Array) -> bool:
        if path not in slopes:
            slopes[path] = trial.slope(path, values[path], directions[path], cotangents)
        return _is(slopes[path], gradient, directions[path])

    returned, keyed = parted(raw)
    _keyed(weights, keyed, trial.inner.names)
    rest = {p: w for p, w in weights.items() if w.returned is None and not w.number}
    found.order = _order(trial, rest, returned, cotangents, right)
    for place, key in enumerate(found.order or ()):
        if isinstance(key, tuple):
            weights[key].returned = place
    written = {
        p: a
        for p, a in after.items()
        if np.ndim(a) >= 0 and p not in weights and (p not in before or not same([before[p]], [a]) or not a.any())
    }
    left = {p: w for p, w in weights.items() if w.returned is None}
    fits_of = {(p, g): _names.fit(p, g, np.shape(a) == w.shape) for p, w in left.items() for g, a in written.items()}
    taken: set[Path] = set()
    best = {p: max((fits_of[p, g] for g in written), default=(_names.NOT, 0)) for p in left}
    for path in sorted(left, key=lambda p: best[p], reverse=True):
        weight, free = left[path], [g for g in written if g not in taken]
        equal = [g for g in free if np.shape(written[g]) == weight.shape]
        top = max((fits_of[path, g] for g in free), default=(_names.NOT, 0))
        if top[0] == _names.NOT:
            tried = [] if weight.number else [g for g in equal if np.any(written[g])]
            choice = next((g for g in tried if right(path, written[g])), None)
        else:
            named = [g for g in free if fits_of[path, g] == top]
            choice = next((g for g in named if right(path, written[g])), named[0])
        if choice is not None:
            weight.gradient = choice
            taken.add(choice)
        else:
            weight.likely = next(iter(equal), None)


def _keyed(weights: Mapping[Path, Weight], named: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    """Weights whose gradients backward returned in a dict."""
    for path, weight in weights.items():
        fits = {
            key: _names.fit(path, (("item", "grads"), ("item", key)), np.shape(value) == weight.shape)
            for key, value in named.items()
            if isinstance(key, str) and key not in known
        }
        best = max(fits, key=lambda k: fits[k], default=None)
        if best is not None and fits[best][0] >= _names.SHORT:
            weight.returned = best


def _is(slope: float | None, gradient: Any, direction: Array) -> bool:
    """Whether an array is the gradient that has a slope."""
    if slope is None or np.shape(gradient) != np.shape(direction):
        return False
    parts = np.real(np.conj(gradient) * direction)
    return abs(slope - float(parts.sum())) <= _RIGHT * max(abs(slope), float(np.abs(parts).sum()))


def _order(
    trial: Trial, weights: Mapping[Path, Weight], values: list[Any], cotangents: list[Array], right: Callable[..., bool]
) -> tuple[str | Path, ...] | None:
    """Whose gradients backward returned, where it returned more than the inputs': as they fit, and are right."""
    inner = trial.inner
    named = {*inner.wanted, *inner.parameters}
    known = [n for n in inner.names if n in named]
    if inner.gives is not None:
        told = {".".join(str(key) for _, key in path): path for path in weights}
        return tuple(told.get(name, name) for name in inner.gives) if len(values) == len(inner.gives) else None
    if not weights or len(values) in map(len, inner.orders):
        return None
    targets: dict[str | Path, tuple[int, ...]] = {n: np.shape(trial.primals[n]) for n in known}
    targets |= {p: w.shape for p, w in weights.items()}
    if not len(inner.wanted) < len(values) <= len(targets):
        return None
    tried: dict[tuple[int, str | Path], bool] = {}
    rng = np.random.default_rng(3)
    directions = {n: rng.normal(size=np.shape(trial.primals[n])) for n in known}
    slopes = {n: trial.slope_of_primal(n, d, cotangents) for n, d in directions.items()}

    def holds(place: int, key: str | Path) -> bool:
        if (place, key) not in tried:
            value = values[place]
            told = _is(slopes[key], value, directions[key]) if isinstance(key, str) else right(key, value)
            tried[place, key] = told
        return tried[place, key]

    shapes = [np.shape(v) if isinstance(v, (np.ndarray, np.generic, float)) else None for v in values]
    orders = islice(permutations(targets, len(values)), _ORDERS)
    fitting = [o for o in orders if all(targets[key] == shape for key, shape in zip(o, shapes))]
    return max(fitting, key=lambda o: sum(holds(*pair) for pair in enumerate(o)), default=None)

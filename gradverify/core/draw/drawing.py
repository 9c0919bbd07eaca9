"""How a row of bytes becomes a case of a layer: options, sizes, then arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.dims import numbers_in, sizes_in
from gradverify.core.declare.functions import accepted
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.draw import allowed, shapes, values
from gradverify.core.draw.constants import constants as constants_of
from gradverify.core.draw.knobs import Knobs
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Case

Draw = Callable[[st.SearchStrategy[Any]], Any]

_ATTEMPTS = 20  # before a case is given up, so that an author's `assume` may refuse nine of ten
_STEPS = (None, *(float(f"1e-{k}") for k in range(7, 1, -1)), *(float(f"3e-{k}") for k in range(7, 2, -1)))
_VALUE_BYTES = 27  # of a case: manner, seed, step, planted entries
_PRIMAL_BYTES = 6  # of each primal: whether it has a manner of its own, and which
_FEW = 8  # values that an author's strategy draws for an array, which are repeated: it may take a millisecond for each
_TABLES = 8  # assignments of options for which allowed sizes are searched

Tables = dict[str, "allowed.Table | None"]  # of allowed sizes, for each assignment of options


def _drawn(spec: Any) -> bool:
    return isinstance(spec, st.SearchStrategy) or (isinstance(spec, tuple) and any(_drawn(part) for part in spec))


def _no_draw(strategy: st.SearchStrategy[Any]) -> Any:
    raise AssertionError(f"a case of rows alone draws from {strategy!r}")


def _first(strategy: st.SearchStrategy[Any]) -> Any:
    raise DeclarationError(f"values of {strategy!r} are drawn by Hypothesis alone")


class Drawing:
    """Everything about a layer that can be known before the first case."""

    def __init__(
        self,
        layer: Layer,
        regime: Regime,
        dtype: np.dtype[Any],
        eps: float | None,
        target: str | None,
        tables: Tables | None = None,
    ) -> None:
        self.layer, self.regime, self.dtype, self.eps, self.target = layer, regime, dtype, eps, target
        most = max(values.LARGEST, float(np.finfo(dtype).max) ** 0.5)
        self.constants = tuple(c for c in constants_of(layer) if c <= most)
        self.names = shapes.names_of(layer, self.constants)
        self.row = b""  # of the case that was drawn last
        self.beyond: set[str] = set()  # sizes that were asked for and are too large, in words
        self.tried = self.refused = 0  # rows with sizes and values in their domains, and those that `assume` refused
        self.tables: Tables = {} if tables is None else tables
        self._judged = () if layer.assume is None else accepted(layer.assume, layer.primal_names)
        self.lengths = (8 * len(layer.options), self.names.knobs, _VALUE_BYTES + _PRIMAL_BYTES * len(layer.primals))

    def strategy(self) -> st.SearchStrategy[Case]:
        row = st.binary(min_size=sum(self.lengths), max_size=sum(self.lengths))

        @st.composite
        def case(draw: Draw) -> Case:
            for _ in range(_ATTEMPTS):
                self.row = draw(row)
                found = self.decode(self.row, draw)
                if found is not None:
                    return found
            reject()

        return case()

    @property
    def closed(self) -> bool:
        """Whether a row of bytes alone makes a case: no strategy of the author's takes part."""
        drawn = any(_drawn(spec) for spec in self.layer.options.values())
        return not drawn and all(p.domain.strategy is None for p in self.layer.primals)

    def alone(self, row: bytes) -> Case | None:
        """The case of a row, where no strategy of the author's takes part."""
        return self.decode(row, _no_draw)

    def decode(self, row: bytes, draw: Draw) -> Case | None:
        """The case that a row of bytes stands for, or None if the layer does not allow it."""
        first, second = self.lengths[0], self.lengths[0] + self.lengths[1]
        optional, sizing, valuing = Knobs(row[:first]), Knobs(row[first:second]), Knobs(row[second:])
        options = {name: _option(optional, spec, draw) for name, spec in self.layer.options.items()}
        try:
            sizes = shapes.draw_sizes(sizing, self.names, sizes_in(options), self.regime, self.layer.empty)
            sizes = self._allowed_sizes(sizing, options, sizes)
            found = {p.name: shapes.draw_shape(sizing, p.dims, sizes) for p in self.layer.primals}
        except KeyError as error:
            raise DeclarationError(
                f"layer {self.layer.name!r}: {error} is used as a size, but the option is not an integer"
            ) from None
        except DeclarationError:  # an axis such as T-2 would be negative
            return None
        if not self.layer.empty and any(0 in shape for shape in found.values()):
            return None
        seed, step = valuing.word(), valuing.pick(_STEPS)
        primals = self.arrays(valuing, seed, found, {**numbers_in(options), **sizes}, draw)
        if primals is None:
            return None
        self.tried += 1
        if not self.layer.allows(primals, options):
            self.refused += 1
            return None
        return Case(self.layer.name, primals, options, None, step if self.eps is None else self.eps, seed, self.target)

    @property
    def possible(self) -> dict[str, set[int]]:
        """Sizes that `assume` allows, by name, where it forbids many."""
        found: dict[str, set[int]] = {}
        for table in filter(None, self.tables.values()):
            for name, sizes in table.by_size.items():
                found.setdefault(name, set()).update(sizes)
        return found

    def _allowed_sizes(self, knobs: Knobs, options: Mapping[str, Any], sizes: shapes.Sizes) -> shapes.Sizes:
        """In two of three cases, sizes that `assume` is known to allow, where it forbids many."""
        listed = knobs.chance(66)
        picked = Knobs(bytes(knobs.byte() for _ in range(3)))
        if self.layer.assume is None or not self.names.single:
            return sizes
        key = allowed.sample(options)
        if key not in self.tables and len(self.tables) < _TABLES:
            self.tables[key] = allowed.table(
                self.names.single, lambda single: self._allows({**sizes, **single}, options)
            )
        table = self.tables.get(key)
        return sizes if table is None or not listed else {**sizes, **table.draw(picked)}

    def _allows(self, sizes: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """Whether `assume` holds of one case with these sizes and ordinary values; its errors are told later."""
        try:
            found = {p.name: shapes.draw_shape(Knobs(b""), p.dims, sizes) for p in self.layer.primals}
            known = {**numbers_in(options), **sizes}
            primals = self.arrays(Knobs(b""), 0, {n: found[n] for n in self._judged}, known, _first)
            others = {name: np.broadcast_to(0.0, shape) for name, shape in found.items()}  # for their shapes alone
            return primals is not None and self.layer.legal({**others, **primals}, options)
        except DeclarationError:
            return False

    def arrays(
        self, knobs: Knobs, seed: int, found: Mapping[str, shapes.Shape], sizes: Mapping[str, Any], draw: Draw
    ) -> dict[str, Any] | None:
        """The primals that have a shape by name, or None if a domain has no elements at these sizes."""
        special = self.regime.special
        # with two real primals one multiplies the other, and then no float64 can tell what the gradient is
        alone = sum(not p.domain.discrete for p in self.layer.primals) == 1
        far = values.ABSORBING if alone and self.dtype == np.float64 else ()
        manner = values.draw_manner(knobs, self.constants, low=self.regime.dtype is not None)
        # the last place of each axis is a border for layers that look things up at coordinates
        lasts = {float(n - 1) for n in sizes.values() if isinstance(n, int) and n > 2}
        borders = (0.0, 1.0, -1.0, *(s * c for c in (*self.constants, *lasts) for s in (1.0, -1.0)))
        raw: dict[str, Any] = {}
        for k, primal in self._primals(found):
            shape, domain = found[primal.name], primal.domain
            if domain.strategy is not None:
                raw[primal.name] = _elements(draw, domain.strategy, seed, k, shape)
            elif domain.discrete:
                raw[primal.name] = values.uniforms(knobs, seed, k, shape, special)
            elif special:
                raw[primal.name] = values.special_reals(knobs, seed, k, shape, borders, raw.values(), far)
            else:
                raw[primal.name] = values.reals(knobs, seed, k, shape, manner)
        open_to_reals = [p.name for _, p in self._primals(found) if not p.domain.discrete and p.domain.strategy is None]
        values.plant(knobs, {name: raw[name] for name in open_to_reals}, self.constants, special)
        return self._identified(knobs, self._projected(raw, seed, sizes), sizes)

    def _primals(self, wanted: Mapping[str, Any]) -> list[tuple[int, Primal]]:
        """Those of the primals that are wanted, each with its place among all."""
        return [(k, primal) for k, primal in enumerate(self.layer.primals) if primal.name in wanted]

    def _identified(
        self, knobs: Knobs, primals: dict[str, Any] | None, sizes: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """In one case of three, an entry of an integer primal becomes a whole number that the layer mentions."""
        wanted, which, choice, place = knobs.chance(35), knobs.byte(), knobs.byte(), knobs.word()
        whole = [int(c) for c in (1.0, *self.constants) if c == int(c) and c < 2**31]
        open_to = [p for _, p in self._primals(primals or {}) if p.domain.discrete]
        if primals is None or not wanted or not open_to:
            return primals
        primal = open_to[which % len(open_to)]
        array = np.array(primals[primal.name])
        if array.size and array.dtype.kind in "iu":
            array.flat[place % array.size] = whole[choice * len(whole) >> 8]
            if values.fits(primal, array, sizes):
                primals[primal.name] = array
        return primals

    def _projected(self, raw: Mapping[str, Any], seed: int, sizes: Mapping[str, Any]) -> dict[str, Any] | None:
        primals: dict[str, Any] = {}
        for k, primal in self._primals(raw):
            array = _project(primal, raw[primal.name], seed, k, sizes)
            array = values.stored(primal, array, self.dtype)
            if not values.fits(primal, array, sizes):
                # values so large that this type cannot keep them apart, or no element at these sizes
                small = raw[primal.name] / max(1.0, float(np.abs(raw[primal.name]).max(initial=0.0)))
                array = values.stored(primal, _project(primal, small, seed, k, sizes), self.dtype)
                if not values.fits(primal, array, sizes):
                    return None
            primals[primal.name] = array
        return primals


def _project(primal: Primal, raw: Any, seed: int, stream: int, sizes: Mapping[str, Any]) -> Any:
    if primal.domain.strategy is not None:
        return raw
    if primal.domain.kind == "complex":
        raw = raw + 1j * values.imaginary(seed, stream, raw)
    return np.asarray(primal.domain.project(raw, sizes))


def _option(knobs: Knobs, spec: Any, draw: Draw) -> Any:
    """One value of an option: a choice of a list, a tuple of choices, or a draw of the author's strategy."""
    if isinstance(spec, st.SearchStrategy):
        return draw(spec)
    if isinstance(spec, tuple):
        return tuple(_option(knobs, part, draw) for part in spec)
    if isinstance(spec, (list, range)):
        return knobs.pick(spec)
    return spec


def _elements(draw: Draw, strategy: st.SearchStrategy[Any], seed: int, stream: int, shape: shapes.Shape) -> Any:
    """An array of an author's elements: each drawn where there are few, else a few repeated in mixed order."""
    count = int(np.prod(shape))
    drawn = np.array([draw(strategy) for _ in range(min(count, _FEW) or 1)])
    if drawn.ndim != 1 or drawn.dtype.kind not in "fciub":
        raise DeclarationError(
            f"the strategy {strategy!r} must give single numbers, e.g. floats(-1, 1); got {drawn[0]!r}"
        )
    order = np.arange(count) if count <= _FEW else values.order(seed, stream, count, _FEW)
    return drawn[order].reshape(shape)

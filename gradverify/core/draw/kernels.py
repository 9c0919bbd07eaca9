"""Cases as kernels meet them in production: declared sizes, sizes about a block, ids after Zipf, outlier channels.

Two cases in five are small ones, drawn as for any layer. The others have axes next to a number that the code
mentions (a block of `triton.Config`, a `constexpr` default, a module constant; where there is none, next to 16, 32 and
64), some hundred terms to sum, or the sizes that the author declares with `sizes={"T": [4096, 8192], "D": 1024}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from gradverify.core.declare.authored import contents
from gradverify.core.declare.dims import numbers_in, sizes_in
from gradverify.core.declare.layer import Layer
from gradverify.core.draw import drawing, shapes, streams
from gradverify.core.draw.constants import constants
from gradverify.core.draw.knobs import Knobs
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Case

_BYTES = 36
_KINDS = ("small",) * 6 + ("block",) * 8 + ("long",) * 2 + ("declared",) * 4  # as long ones where no sizes are declared
_LONG = (255, 256, 257, 384, 512, 513, 512, 640)
_REPEATED = (512, 1024, 2048, 4096)  # for layers with ids: only then a few of them come up hundreds of times
# What compiles for each shape takes 0.1 s and more for it. Of 100 cases 24 shapes leave four values or so for each; a
# fault that shows in one of ten shapes escapes one time in twelve.
_SHAPES = 24
_OTHERS = (3, 4, 5, 7, 8, 2, 6, 1)
_MOST = 1 << 16  # elements of a case whose sizes nobody declared
_PER_ELEMENT = 96  # bytes: primals, truth, tape and two samples, each of them at least as large and in float64
_SMALLEST, _LARGEST = 4, 1024  # numbers in the code that may be a block
_USUAL = (16, 32, 64)
_AXES, _BESIDE, _SHORT = 6, 30, 130  # axes that may be about a block besides one, in percent, and their longest
_MANNERS = (
    "normal",
    "normal",
    "outliers",
    "constant rows",
    "nearly constant",
    "nearly constant",
    "offset",
    "drawn",
    "one sign",
)
_IDS = ("zipf", "zipf", "equal", "uniform")
_OUTLIER = 100.0
_CONSTANT = 30.0  # of rows that are: where the mean is taken out of squares, little of them is left
_STEP = 2.0**-7  # by which one value of a nearly constant row differs: bfloat16 knows no smaller one


class Production(drawing.Drawing):
    """What `drawing` knows of a layer, and the blocks that its kernels work in."""

    def __init__(self, layer: Layer, *others: Any) -> None:
        super().__init__(layer, *others)
        self.blocks = _weighted(blocks(layer))
        self.repeats = any(p.domain.name in ("labels", "indices") for p in layer.primals)
        parts = (p.domain for p in layer.primals if p.domain.name in _UNEQUAL)
        self.sequences = [d.arguments[0] for d in parts if d.arguments[0] in self.names.single]  # that lengths divide
        first, second, third = self.lengths
        self.lengths = (first, second, third + _BYTES)
        self.sized: dict[int, bytes] = {}  # rows of which others have the sizes

    def decode(self, row: bytes, draw: drawing.Draw) -> Case | None:
        """The case that a row of bytes stands for, or None if the layer does not allow it.

        Code that is compiled for each new shape gets few: the first rows that are allowed lend their sizes to others.
        """
        if self.layer.hooks.uncompiled is None:
            return self._decoded(row, row, draw)
        among = row[-1] % _SHAPES
        case = self._decoded(row, self.sized.get(among, row), draw)
        if case is not None:
            self.sized.setdefault(among, row)
        return case

    def _decoded(self, row: bytes, sized: bytes, draw: drawing.Draw) -> Case | None:
        """As `decode`, with the sizes of another row."""
        knobs = Knobs(sized[-_BYTES:])
        kind = knobs.pick(_KINDS)
        sizes = self.sizes(kind, knobs)
        first, second = self.lengths[0], self.lengths[0] + self.lengths[1]
        small = row[:first] + sized[first:second] + row[second:-_BYTES]
        if sizes is None:
            return super().decode(small, draw)
        if sized is not row:
            knobs = Knobs(row[-_BYTES:])
        optional, valuing = Knobs(row[:first]), Knobs(row[second:-_BYTES])
        options = {name: drawing._option(optional, spec, draw) for name, spec in self.layer.options.items()}
        sizes = {**sizes, **sizes_in(options)}
        try:
            found = {p.name: shapes.draw_shape(Knobs(b""), p.dims, sizes) for p in self.layer.primals}
        except (KeyError, DeclarationError):
            return None
        total = sum(math.prod(shape) for shape in found.values())
        if _PER_ELEMENT * total > _available():
            told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in found.items())
            self.beyond.add(f"{told}: this machine has not the memory to judge it")
        if _PER_ELEMENT * total > _available() or (kind != "declared" and total > _MOST):
            return super().decode(small, draw)
        seed = valuing.word()
        known = {**numbers_in(options), **sizes}
        manner = knobs.pick(_MANNERS)
        primals = self.arrays(valuing, seed, found, known, draw) if manner == "drawn" else None
        if primals is None:
            primals = self._projected(self.raw(knobs, seed, found, manner, known, draw), seed, known)
        if primals is None or not self.layer.allows(primals, options):
            return None
        return Case(self.layer.name, primals, options, None, self.eps, seed, self.target)

    def sizes(self, kind: str, knobs: Knobs) -> dict[str, Any] | None:
        """Sizes of every name; None where the case is to be a small one."""
        names, many = self.names.single, self.names.many
        sizes: dict[str, Any] = {name: knobs.pick(_OTHERS) for name in names}
        sizes |= {name: (knobs.pick(_OTHERS),) for name in many}
        if kind == "declared" and self.layer.sizes:
            for name, declared in self.layer.sizes.items():
                sizes[name] = knobs.pick(declared) if isinstance(declared, (list, tuple)) else declared
            return sizes
        among = [n for n in (*names, *many) if n not in self.layer.options]
        if kind == "small" or not among:
            return None
        chosen = knobs.pick(among)
        if kind == "block":
            chosen = self.sequences[0] if self.sequences and knobs.chance(50) else chosen
            length = self._about(knobs)
            for other in among[:_AXES]:
                beside, most = min(self._about(knobs), _SHORT), length * math.prod(_numbers(sizes))
                if knobs.chance(_BESIDE) and other != chosen and beside * most <= _MOST:
                    sizes = self._set(sizes, other, beside)
        elif self.sequences and knobs.chance(70):
            chosen, length = self.sequences[0], self._about(knobs)
        elif self.repeats and knobs.chance(70):
            ids = [n for p in self.layer.primals if p.domain.kind == "int" for n in p.dims.names if n in among]
            chosen, length = (ids or [chosen])[0], knobs.pick(_REPEATED)
        else:
            length = knobs.pick(_LONG)
        return self._set(sizes, chosen, length)

    def _about(self, knobs: Knobs) -> int:
        block = knobs.pick(self.blocks)
        lengths = (block + 1, block, block - 1, block + block // 2, 2 * block + 3, 2 * block, 3 * block - 1, block + 2)
        return max(1, knobs.pick(lengths))

    @staticmethod
    def _set(sizes: dict[str, Any], name: str, length: int) -> dict[str, Any]:
        return {**sizes, name: (length,) if name.startswith("*") else length}

    def raw(
        self,
        knobs: Knobs,
        seed: int,
        found: Mapping[str, shapes.Shape],
        manner: str,
        known: Mapping[str, Any],
        draw: drawing.Draw,
    ) -> dict[str, Any]:
        """Raw values of every primal, before they are projected into their domains."""
        made: dict[str, Any] = {}
        for k, primal in enumerate(self.layer.primals):
            shape = found[primal.name]
            if primal.domain.strategy is not None:
                made[primal.name] = drawing._elements(draw, primal.domain.strategy, seed, k, shape)
            elif primal.domain.discrete:
                extent = int(primal.domain._numbers(known)[0]) if primal.domain.name in ("lengths", "offsets") else 0
                if extent:
                    around = knobs.pick(self.blocks)
                    made[primal.name] = _UNEQUAL[primal.domain.name](seed, k, shape, extent, around)
                    continue
                made[primal.name] = _identities(knobs.pick(_IDS), primal.domain.name, seed, k, shape)
            else:
                made[primal.name] = _activations(manner, seed, k, shape)
        return made


def _available() -> float:
    """Bytes of memory that are free, or that a container may have; infinite where nobody tells."""
    found = [math.inf]
    for path, line in (("/proc/meminfo", "MemAvailable:"), ("/sys/fs/cgroup/memory.max", "")):
        with suppress(OSError, ValueError, StopIteration):
            text = Path(path).read_text()
            told = next(part for part in text.splitlines() if part.startswith(line)).removeprefix(line).split()
            found.append(float(told[0]) * (1024 if line else 1))
    return min(found)


def _weighted(found: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks to choose from: powers of two oftener, since nearly all are; the usual ones where none is known."""
    powers = tuple(n for n in found if n >= 8 and n & (n - 1) == 0)
    return found + (powers * 3 if powers else _USUAL)


def _numbers(sizes: Mapping[str, Any]) -> Iterator[int]:
    for size in sizes.values():
        yield from (size if isinstance(size, tuple) else (size,))


def _activations(manner: str, seed: int, stream: int, shape: shapes.Shape) -> Any:
    """Normal numbers; of one sign; with an offset; a few channels 100 times larger; some rows constant, or nearly."""
    values = streams.normal(seed, stream, shape)
    if not shape or manner == "normal":
        return values
    if manner == "one sign":
        return np.abs(values)
    if manner == "offset":
        return values + 10.0
    rng = np.random.default_rng([seed, stream, 31])
    if manner == "outliers" and len(shape) > 1:
        values[..., rng.choice(shape[-1], min(2, shape[-1]), replace=False)] *= _OUTLIER
    elif manner in ("constant rows", "nearly constant") and len(shape) > 1 and values.size:
        rows = rng.choice(shape[0], max(1, shape[0] // 4), replace=False)
        first = (slice(0, 1),) * rng.integers(1, len(shape))  # of the last axis, or of all but one: rows of groups
        values[rows] = _CONSTANT * values[rows][(..., *first)]
        if manner == "nearly constant":
            values[rows, ..., rng.integers(shape[-1])] *= 1 + _STEP
    return values


def _identities(manner: str, domain: str, seed: int, stream: int, shape: shapes.Shape) -> Any:
    """Uniforms that become ids by Zipf's law or all equal; of a mask, rows with one key, and with none."""
    uniform = streams.uniform(seed, stream, shape)
    if domain in ("mask", "bool"):
        if manner == "zipf" and shape and shape[-1]:
            rows = uniform.reshape(-1, shape[-1])
            rows[::3] = 1.0 - 1e-9  # no key
            rows[1::3] = 1.0 - 1e-9
            rows[1::3, 0] = 0.0  # one key
            return rows.reshape(shape)
        return uniform
    if manner == "zipf":
        return (4096.0**uniform - 1) / 4096.0
    return np.full(shape, float(streams.uniform(seed, stream + 64, (1,))[0])) if manner == "equal" else uniform


def _unequal(seed: int, stream: int, shape: shapes.Shape, longest: int, block: int) -> Any:
    """Lengths as they come in production: one, all there is, a block, one less, one more, and any."""
    chance, any_length = streams.uniform(seed, stream, shape), streams.uniform(seed, stream + 64, shape)
    pool = np.array([1, longest, block, block - 1, block + 1])
    drawn = np.append(pool, 0)[np.minimum((chance * 6).astype(int), 5)]
    lengths = np.where(drawn == 0, np.floor(1 + any_length * longest), drawn)
    return np.clip(lengths, 1, max(1, longest))


def _lengths(seed: int, stream: int, shape: shapes.Shape, longest: int, block: int) -> Any:
    """Uniforms that become lengths."""
    return (_unequal(seed, stream, shape, longest, block) - 0.5) / longest


def _offsets(seed: int, stream: int, shape: shapes.Shape, total: int, block: int) -> Any:
    """Uniforms that become starts of packed sequences, in rows of the last axis."""
    raw, count = streams.uniform(seed, stream, shape), shape[-1] - 1
    room = total - count
    if room < 0 or count < 2:
        return raw
    beyond = np.cumsum(_unequal(seed, stream, (*shape[:-1], count), total, block) - 1, axis=-1)[..., :-1]
    raw[..., 1:count] = (np.minimum(beyond, room) + 0.5) / (room + 1)
    return raw


_UNEQUAL = {"lengths": _lengths, "offsets": _offsets}


def blocks(layer: Layer) -> tuple[int, ...]:
    """Whole numbers that the code of a kernel works in blocks of, as far as it mentions them."""
    target = getattr(layer.forward, "__wrapped__", layer.forward)
    found = {int(c) for c in constants(layer) if c == int(c)}
    for function in _functions(target, set(), 5):
        found.update(_mentioned(function))
    return tuple(sorted(n for n in found if _SMALLEST <= n <= _LARGEST))


def _mentioned(value: Any) -> Iterator[int]:
    if isinstance(value, FunctionType):
        names = value.__code__.co_names
        held = [value.__globals__.get(n) for n in names]
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        for part in (*value.__code__.co_consts, *defaults, *held):
            number = getattr(part, "value", part)  # of a tl.constexpr
            if isinstance(number, int) and not isinstance(number, bool):
                yield number
    for config in getattr(value, "configs", ()) or ():  # of triton.autotune
        yield from (n for n in getattr(config, "kwargs", {}).values() if isinstance(n, int) and not isinstance(n, bool))


def _functions(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """Functions and kernels that a Function or a function names, and their kernels within decorators."""
    if id(value) in seen or depth == 0 or value is None:
        return
    seen.add(id(value))
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, type):
        for owner in value.__mro__:
            if not owner.__module__.startswith(("torch", "builtins")):
                for part in vars(owner).values():
                    yield from _functions(part, seen, depth)
        return
    module = str(getattr(value, "__module__", "") if isinstance(value, FunctionType) else type(value).__module__)
    if module.startswith("triton"):
        yield value
        yield from _functions(getattr(value, "fn", None), seen, depth)
    elif isinstance(value, FunctionType) and not module.startswith(("torch", "numpy", "jax")):
        yield value
        inner = getattr(value, "__wrapped__", None)
        yield from _functions(inner, seen, depth)
        for cell in value.__closure__ or ():
            yield from _functions(contents(cell), seen, depth - 1)
        for name in value.__code__.co_names:
            yield from _functions(value.__globals__.get(name), seen, depth - 1)

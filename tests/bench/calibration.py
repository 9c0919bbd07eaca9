"""How often the true derivative lies within the bound of an Estimate.

Truth is the layer's backward in extended precision (64 bits of mantissa) at the same stored point, as far as that is
not rounding itself; where the forward takes complex numbers it is confirmed by a complex step in that precision.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.point import Point
from gradverify.core.draw import cases, each
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge import backward_noise
from gradverify.core.nouns import Array, Case
from tests.bench.machine import heading, table

SMOOTH = [
    "dense",
    "linear",
    "matvec",
    "batched_matmul",
    "matmul_broadcast",
    "bilinear",
    "sigmoid",
    "sigmoid_mlp",
    "tanh",
    "softplus",
    "silu",
    "mish",
    "gelu",
    "gelu_tanh",
    "exp",
    "log",
    "sqrt",
    "add",
    "mul",
    "logaddexp",
    "softmax",
    "log_softmax",
    "softmax_cross_entropy",
    "bce_with_logits",
    "focal",
    "mse",
    "kl_divergence",
    "cosine_similarity",
    "layer_norm",
    "rms_norm",
    "batch_norm",
    "batch_norm_2d",
    "group_norm",
    "instance_norm",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "avg_pool2d",
    "upsample_linear",
    "upsample_nearest",
    "rnn_cell",
    "lstm_cell",
    "gru_cell",
    "peephole_lstm_cell",
    "rnn",
    "lstm",
    "gru",
    "scaled_dot_product_attention",
    "multi_head_attention",
    "rotary",
    "cumsum",
    "cumprod",
    "prod",
    "embedding",
    "gather",
    "segment_sum",
    "scatter_add",
]
ENTRIES = 8  # of one point
_LOST = 4.0  # times the largest of eight draws of what truth is rounded by
HARD = ("layer norm 1e3 +- 1e-3", "softmax xent, logits 1e3", "cosine at 1e-8", "cosine at 1e8", "1e4 + sin x")


@dataclass
class Count:
    """Estimates of one layer or family."""

    points: int = 0
    estimates: int = 0
    open: int = 0  # infinite bound: nothing was claimed
    missed: list[tuple[float, Case, str]] = field(default_factory=list)
    widths: list[Array] = field(default_factory=list)


def offset_sine() -> Layer:
    """y = 1e4 + sin x."""
    return Layer(lambda x: (1e4 + np.sin(x), x), lambda dy, x: dy * np.cos(x), name="offset_sine", x="N", returns="N")


def hard(name: str, rng: np.random.Generator) -> tuple[Layer, Case]:
    """A random case of one of the families that are known to be hard."""
    seed = int(rng.integers(1 << 31))
    if name == "1e4 + sin x":
        return offset_sine(), Case(name, {"x": rng.uniform(-10, 10, 8)}, seed=seed)
    if name.startswith("layer norm"):
        primals = {"x": 1e3 + 1e-3 * rng.normal(size=(2, 5)), "gamma": rng.normal(size=5), "beta": rng.normal(size=5)}
        return layers.get("layer_norm"), Case(name, primals, {"eps": 1e-5}, seed=seed)
    if name.startswith("softmax"):
        primals = {
            "x": 10 ** rng.uniform(0, 3) * rng.uniform(-1, 1, (3, 4)),
            "labels": rng.integers(0, 4, 3),
            "weight": rng.uniform(0.5, 2, 4),
        }
        options = {"ignore_index": -1, "smoothing": float(rng.choice([0.0, 0.1])), "reduction": "mean"}
        return layers.get("softmax_cross_entropy"), Case(name, primals, options, seed=seed)
    size = float(name.rsplit(maxsplit=1)[-1])
    layer = layers.get("cosine_similarity")
    primals = {p.name: size * rng.normal(size=(2, 5)) for p in layer.primals}
    return layer, Case(
        name, primals, {**layer.default_options, **({"eps": 0.0} if "eps" in layer.options else {})}, seed=seed
    )


def extended(case: Case) -> Case:
    """The same case in extended precision."""
    cotangents = tuple(np.asarray(v, np.longdouble) for v in case.cotangents or ())
    return case.but(primals=evaluate.cast(case.primals, np.longdouble), cotangents=cotangents)


def truth(layer: Layer, case: Case) -> dict[str, Array] | None:
    """Gradients in extended precision, or None where they are not finite or the code cannot."""
    wide = extended(case)
    try:
        found = evaluate.usable(layer, wide, evaluate.gradients(layer, wide.primals, wide.options, wide.cotangents))[0]
    except LayerFailure:
        return None
    if any(g.dtype != np.longdouble for g in found.values()):
        return None
    return found


_WITHIN = 16.0 ** np.arange(1, 8)  # units in the last place, up to 6e-8: some steps of a ladder are smaller
_SAME = 1e-3  # of the largest entry: a change that small is none
_LEAPS = 64.0  # times the change over a sixteenth of the way: a curve makes 16 of it


def _smooth(layer: Layer, case: Case, exact: dict[str, Array]) -> bool:
    """Whether there is one derivative: where max(|x|, eps) has its border nearer than the smallest step of a ladder,
    the point has one, and all that can be seen of the function has another.
    """
    rng = case.rng(78)
    size = max((float(np.abs(g).max(initial=0)) for g in exact.values()), default=0.0)
    turns = {n: rng.choice([-1, 1], np.shape(a)) for n, a in case.primals.items() if a.dtype.kind == "f"}
    for side in (1, -1):
        before = _SAME * size / _LEAPS
        for units in side * _WITHIN:
            near = {
                n: np.asarray(case.primals[n], np.longdouble) * (1 + units * np.finfo(case.primals[n].dtype).eps * turn)
                for n, turn in turns.items()
            }
            there = truth(layer, case.but(primals={**case.primals, **near}))
            if there is None:
                return False
            change = max(float(np.abs(there[n] - g).max(initial=0)) for n, g in exact.items())
            if not change <= _LEAPS * before:
                return False
            before = max(before, change)
    return True


def complex_truth(point: Point, primals: dict[str, Array], entry: int) -> float | None:
    """Derivative along one entry by a complex step in extended precision, where the forward takes it."""
    slot = next(s for s in point.slots if s.start <= entry < s.stop)
    moved = dict(primals)
    shift = np.zeros(slot.shape, np.clongdouble)
    shift.reshape(-1)[entry - slot.start] = 1e-200j
    moved[slot.name] = primals[slot.name] + shift
    try:
        outputs = evaluate.run(point.layer, moved, point.options).outputs
    except LayerFailure:
        return None
    if not any(y.dtype.kind == "c" for y in outputs):
        return None
    flat = np.concatenate([np.asarray(y, np.clongdouble).imag.ravel() for y in outputs])
    return float(flat @ point.weights / np.longdouble(1e-200))


def measure(dtype: str, count: Count, aware: Count, agreed: list[float], layer: Layer, case: Case) -> None:
    """Count the estimates of one point: without the analytic gradient, and aware of it."""
    case = case.but(primals=evaluate.cast(case.primals, np.dtype(dtype)))
    try:
        case, outputs = evaluate.completed(layer, case)
        exact = truth(layer, case)
        near = evaluate.usable(
            layer, case, evaluate.gradients(layer, case.primals, case.options, case.cotangents or ())
        )[0]
    except LayerFailure:
        return
    if exact is None or not all(np.isfinite(y).all() for y in outputs) or not _smooth(layer, case, exact):
        return
    point = Point(layer, case)
    right, analytic = _flat(point, exact), point.vector(near)
    # keys of 3e4 times what is left of values that are equal to 1e-8: 2e-9 in extended precision, too
    spread = backward_noise.rounding(layer, extended(case))
    lost = _LOST * _flat(point, spread) if spread else np.zeros(point.size)
    if point.size == 0 or not np.isfinite(right).all() or not np.isfinite(analytic).all() or point.dtype != dtype:
        return
    rng = case.rng(77)
    entries = np.sort(rng.choice(point.size, min(ENTRIES, point.size), replace=False))
    direction = point.scale * rng.choice([-1.0, 1.0], point.size) * rng.uniform(1.0, 2.0, point.size)
    norm = float(np.linalg.norm(right.astype(float)))
    for tally, known in ((count, None), (aware, analytic)):
        tally.points += 1
        found = ladder.entrywise(point, entries, None if known is None else known[entries])
        error = np.abs(found.value.astype(np.longdouble) - right[entries]) - lost[entries]
        _tell(tally, error, found.bound, case, entries, norm)
        joint = ladder.directional(point, direction, known)
        along = (right - (0 if known is None else known)) @ direction.astype(np.longdouble)
        error = np.abs(joint.value - along) - lost @ np.abs(direction)
        _tell(tally, error, joint.bound, case, None, norm * float(np.linalg.norm(direction)))
    if rng.random() < 0.05:
        by_step = complex_truth(point, evaluate.cast(case.primals, np.longdouble), int(entries[0]))
        if by_step is not None and norm > 0:
            agreed.append(abs(by_step - float(right[entries[0]])) / norm)


def _flat(point: Point, arrays: dict[str, Array]) -> Array:
    flat = np.full(point.size, np.nan, np.longdouble)
    for slot in point.slots:
        flat[slot.start : slot.stop] = arrays[slot.name].ravel()
    return flat


def _tell(tally: Count, error: Array, bound: Array, case: Case, entries: Array | None, norm: float) -> None:
    claimed = np.isfinite(bound)
    tally.estimates += int(claimed.sum())
    tally.open += int((~claimed).sum())
    missed = claimed & ~(error <= bound)
    for k in np.flatnonzero(missed):
        ratio = float(error[k] / bound[k]) if bound[k] > 0 else float("inf")
        what = "direction" if entries is None else f"entry {entries[k]}"
        tally.missed.append((ratio, case, f"{what}: error {float(error[k]):.2g}, bound {bound[k]:.2g}, |g| {norm:.2g}"))
    if norm > 0:
        tally.widths.append(bound[claimed] / norm)


def every(count: int, seed: int, dtype: str, names: list[str]) -> Iterator[tuple[str, Callable[[Callable], None]]]:
    """Families and how to visit `count` random points of each."""
    for name in names:
        if name in HARD:

            def visit(body: Callable, name: str = name) -> None:
                rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
                for _ in range(2 * count):
                    body(*hard(name, rng))
        else:

            def visit(body: Callable, name: str = name) -> None:
                layer = layers.get(name)
                each(cases(layer, dtype=dtype), count, seed, lambda case: body(layer, case))

        yield name, visit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=120, help="random points of each layer")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of layers or families")
    parser.add_argument("--misses", type=int, default=5, help="misses to print for each layer")
    given = parser.parse_args()
    start = time.perf_counter()
    print(heading())
    rows, agreed = [], []
    totals = Count(), Count()
    for name, visit in every(given.points, given.seed, given.dtype, given.only or [*SMOOTH, *HARD]):
        counts = Count(), Count()
        visit(partial(measure, given.dtype, *counts, agreed))
        rows.append((name, *_cells(counts)))
        for total, count in zip(totals, counts):
            total.points += count.points
            total.estimates += count.estimates
            total.open += count.open
            total.missed += count.missed
            total.widths += count.widths
        for kind, count in zip(("blind", "aware"), counts):
            for ratio, case, text in sorted(count.missed, key=lambda m: -m[0])[: given.misses]:
                print(f"missed, {name}, {kind}: {ratio:.3g} bounds; {text}; seed {case.seed} {_shown(case)}")
        sys.stdout.flush()
    rows.append(("all", *_cells(totals)))
    columns = (
        "layer",
        "points",
        "estimates",
        "open",
        "missed",
        "within",
        "median bound/|g|",
        "aware: missed",
        "within",
        "median",
    )
    print(table(columns, rows))
    close = sum(difference <= 1e-12 for difference in agreed)
    print(
        f"\ntruth confirmed to 1e-12 of |g| by a complex step in extended precision, where the forward is analytic: "
        f"{close} of {len(agreed)} entries tried; {time.perf_counter() - start:.0f} s"
    )
    return 0


def _cells(counts: tuple[Count, Count]) -> tuple[str, ...]:
    blind, aware = counts
    return (
        str(blind.points),
        str(blind.estimates + aware.estimates),
        str(blind.open + aware.open),
        *(
            cell
            for c in counts
            for cell in (
                str(len(c.missed)),
                f"{100 * (1 - len(c.missed) / max(1, c.estimates)):.4f} %",
                f"{np.median(np.concatenate(c.widths)):.1e}" if c.widths else "-",
            )
        ),
    )


def _shown(case: Case) -> str:
    arrays = {
        n: np.array2string(np.asarray(a), precision=5, threshold=8, separator=",").replace("\n", "")
        for n, a in case.primals.items()
    }
    return f"{arrays} {dict(case.options)}"


if __name__ == "__main__":
    raise SystemExit(main())

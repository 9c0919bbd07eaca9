"""False alarms on right layers: the catalogue and a shelf of awkward ones, in every dtype, with kinks, ties and tails.

Cases are drawn as a check draws them, special points among them; any finding of the properties
`gradient`, `special` and `precision` (or others, `--properties`) is a false alarm: every layer here is right.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from tests.bench.machine import heading, table

PROPERTIES = ("gradient", "special", "precision")
DTYPES = ("float64", "float32", "float16")


def shelf() -> list[Layer]:
    """Right layers that the usual check fails, or passes only by accident."""

    def each(name, forward, backward, **declaration):
        return Layer(forward, backward, name=name, x="N D", returns="N D", **declaration)

    def split_max(x):
        top = x == x.max(-1, keepdims=True)
        return x.max(-1), top / top.sum(-1, keepdims=True)

    def norm_sum(x):
        c = x - x.mean(-1, keepdims=True)
        s = 1 / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)
        return (c * s).sum((-2, -1)), x

    def median(x):
        order = np.argsort(x, -1)[..., x.shape[-1] // 2]  # not stable: any of the tied entries
        return np.take_along_axis(x, order[..., None], -1)[..., 0], (order, x.shape)

    def median_back(dy, saved):
        order, shape = saved
        g = np.zeros(shape, dy.dtype)
        np.put_along_axis(g, order[..., None], dy[..., None], -1)
        return g

    def pool(x):
        windows = np.lib.stride_tricks.sliding_window_view(x, 3, -1)
        return windows.max(-1), (windows.argmax(-1), x.shape)

    def pool_back(dy, saved):
        chosen, shape = saved
        g = np.zeros(shape, dy.dtype)
        np.add.at(g, (np.arange(shape[0])[:, None], np.arange(dy.shape[1]) + chosen), dy)
        return g

    def mixture(x, m):
        z = x[:, None] - m
        top = (-0.5 * z * z).max(-1, keepdims=True)
        p = np.exp(-0.5 * z * z - top)
        total = p.sum(-1, keepdims=True)
        return (top + np.log(total))[:, 0], (z, p / total)

    def mixture_back(dy, saved):
        z, p = saved
        g = dy[:, None] * p * z
        return -g.sum(-1), g.sum(0)

    return [
        Layer(median, median_back, name="median", x="N D", returns="N"),
        Layer(pool, pool_back, name="overlapping windows", x="N K+2", returns="N K"),
        Layer(mixture, mixture_back, name="mixture of Gaussians", x="N", m="K", returns="N"),
        each("log(1 + x^2)", lambda x: (np.log(1 + x * x), x), lambda dy, x: 2 * x * dy / (1 + x * x)),
        each("relu, slope 0", lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0)),
        each("relu, slope 1", lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x >= 0)),
        Layer(
            split_max,
            lambda dy, w: np.expand_dims(dy, -1) * w,
            name="max splits ties",
            x="N D",
            returns="N",
            assume=lambda x: x.size > 0,
        ),
        each("clip", lambda x: (np.clip(x, -1, 1), x), lambda dy, x: dy * ((x >= -1) & (x <= 1))),
        Layer(norm_sum, lambda dy, x: np.zeros_like(x), name="LayerNorm(x).sum()", x="N D", returns=""),
        each("linear at 1e12", lambda x: (1e12 * x, None), lambda dy, _: 1e12 * dy),
        each("linear at 1e-12", lambda x: (1e-12 * x, None), lambda dy, _: 1e-12 * dy),
        each("cube", lambda x: (x * x * x, x), lambda dy, x: dy * 3 * x * x),
        each("1e4 + sin x", lambda x: (1e4 + np.sin(x), x), lambda dy, x: dy * np.cos(x)),
        each(
            "float32 only",
            lambda x: (np.tanh(x.astype(np.float32)), x),
            lambda dy, x: (dy * (1 - np.tanh(x.astype(np.float32)) ** 2)).astype(x.dtype),
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=float, default=1e6, help="compared gradient entries to reach")
    parser.add_argument("--examples", type=int, default=20, help="cases of one property, layer and dtype in one round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    parser.add_argument("--properties", nargs="*", default=list(PROPERTIES))
    parser.add_argument("--only", nargs="*", help="names of layers")
    given = parser.parse_args()
    print(heading())
    start, compared, seed = time.perf_counter(), 0, given.seed
    sums: dict[str, dict[str, int]] = {}
    alarms = 0
    chosen = [layers.get(name) for name in layers.names()] + shelf()
    chosen = [layer for layer in chosen if not given.only or layer.name in given.only]
    while compared < given.count:
        for layer in chosen:
            for dtype in given.dtypes:
                settings = Settings(
                    examples=given.examples, seed=seed, dtype=dtype, properties=tuple(given.properties), shrink=False
                )
                report = check_layer(layer, settings)
                for name, tally in report.tallies.items():
                    row = sums.setdefault(f"{dtype} {name}", dict.fromkeys(("cases", "entries", *tally.verdicts), 0))
                    row["cases"] += tally.cases
                    row["entries"] += tally.entries
                    compared += tally.entries
                    for verdict, count in tally.verdicts.items():
                        row[verdict] += count
                for finding in report.findings:
                    alarms += 1
                    print(f"false alarm: {layer.name} {dtype} seed {seed}: {finding.message}")
                    print(f"   {dict(finding.case.options)} case seed {finding.case.seed} step {finding.case.step}")
                    for name, array in finding.case.primals.items():
                        print(
                            f"   {name} {np.array2string(np.asarray(array), threshold=12, precision=9)}".replace(
                                "\n", ""
                            )
                        )
                sys.stdout.flush()
        seed += 1
    columns = ("", "cases", "entries", "agrees", "kink", "unresolved", "disagrees")
    rows = [(name, *(f"{row[c]:,}" for c in columns[1:])) for name, row in sorted(sums.items())]
    print(table(columns, rows))
    print(f"\n{alarms} false alarms in {compared:,} compared gradient entries; {time.perf_counter() - start:.0f} s")
    return min(alarms, 1)


if __name__ == "__main__":
    raise SystemExit(main())

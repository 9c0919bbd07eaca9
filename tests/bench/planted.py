"""Errors planted in right gradients: who finds them, and who cries wolf over right ones.

First the smallest error, relative to the largest entry, that is found in one of 1,000 entries in 99 of
100 random cases; then known wrong backwards, and right ones that checkers tend to refuse.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time

import numpy as np

from gradverify.core.nouns import Array
from tests.bench.machine import heading, table
from tests.bench.peers import PEERS, Accepts, Backward, Forward

SIZE = 1000


def mixed(seed: int) -> tuple[Forward, Backward, Array]:
    """y = tanh(A x) with random A: every entry reaches every output."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(6, SIZE)) / SIZE**0.5
    return lambda x: np.tanh(A @ x), lambda dy, x: A.T @ (dy * (1 - np.tanh(A @ x) ** 2)), rng.normal(size=SIZE)


def planted(backward: Backward, entry: int, share: float) -> Backward:
    """The same backward with one entry wrong by a share of the largest."""

    def wrong(dy: Array, x: Array) -> Array:
        g = np.array(backward(dy, x))
        g[entry] += share * np.abs(g).max()
        return g

    return wrong


def found(accepts: Accepts, share: float, trials: int, first: int = 0) -> int:
    """In how many of some random cases the planted error is found."""
    count = 0
    for seed in range(first, first + trials):
        forward, backward, x = mixed(seed)
        entry = int(np.random.default_rng([seed, 1]).integers(SIZE))
        count += not accepts(forward, planted(backward, entry, share), x, seed)
    return count


def smallest(accepts: Accepts, trials: int) -> str:
    """The smallest power of ten, and its third, found in 99 % of the cases."""
    shares = [s * 10.0**-k for k in range(14) for s in (3.0, 1.0)]
    few = min(3, trials)
    last = 0  # the first of the shares that three cases miss
    while last < len(shares) and found(accepts, shares[last], few) == few:
        last += 1
    for share in reversed(shares[:last]):
        if found(accepts, share, trials) >= 0.99 * trials:
            return f"{share:.0e}"
    return "none up to 3"


def wrong_layers() -> dict[str, tuple[Forward, Backward, Array]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    A = rng.normal(size=(8, 8))
    x100, x1000 = rng.normal(size=100), rng.normal(size=1000)

    def last_zero(dy: Array, x: Array) -> Array:
        g = dy * np.cos(x)
        g[-1] = 0
        return g

    def six_times(dy: Array, x: Array) -> Array:
        g = dy * np.cos(x)
        g[417] *= 6
        return g

    def norm(x: Array) -> Array:
        c = x - x.mean()
        return c / np.sqrt((c * c).mean() + 1e-5)

    def norm_term_lost(dy: Array, x: Array) -> Array:
        c = x - x.mean()
        s = 1 / np.sqrt((c * c).mean() + 1e-5)
        return s * (dy - dy.mean())

    return {
        "wrong sign": (np.tanh, lambda dy, x: -dy * (1 - np.tanh(x) ** 2), x),
        "wrong sign at scale 1e-6": (lambda x: 1e-6 * np.sin(x), lambda dy, x: -1e-6 * dy * np.cos(x), x),
        "wrong sign at scale 1e-12": (lambda x: 1e-12 * x, lambda dy, x: -1e-12 * dy, x),
        "factor 1.001": (np.tanh, lambda dy, x: 1.001 * dy * (1 - np.tanh(x) ** 2), x),
        "transposed": (lambda x: A @ x, lambda dy, x: A @ dy, x[:8]),
        "last of 100 entries zero": (np.sin, last_zero, x100),
        "one of 1,000 six times too big": (np.sin, six_times, x1000),
        "a norm's second term lost": (norm, norm_term_lost, x),
        "relu without its mask": (lambda x: np.maximum(x, 0), lambda dy, x: dy, x),
    }


def right_layers() -> dict[str, tuple[Forward, Backward, Array]]:
    x = np.array([0.0, 1.5, -0.5, 0.0])

    def split_max(dy: Array, x: Array) -> Array:
        top = x == x.max(-1, keepdims=True)
        return np.expand_dims(dy, -1) * top / top.sum(-1, keepdims=True)

    def norm_sum(x: Array) -> Array:
        c = x - x.mean(-1, keepdims=True)
        return np.asarray((c / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)).sum())

    def low(dtype: type) -> tuple[Forward, Backward, Array]:
        return (
            np.tanh,
            lambda dy, x: (dy * (1 - np.tanh(x) ** 2)).astype(x.dtype),
            np.random.default_rng(3).normal(size=6).astype(dtype),
        )

    normal = np.random.default_rng(1).normal(size=(2, 5))
    return {
        "relu at 0, slope 0": (lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 0), x),
        "relu at 0, slope 1": (lambda x: np.maximum(x, 0), lambda dy, x: dy * (x >= 0), x),
        "maximum that splits ties": (lambda x: x.max(-1), split_max, np.array([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]])),
        "clip at its border": (
            lambda x: np.clip(x, -1, 1),
            lambda dy, x: dy * ((x >= -1) & (x <= 1)),
            np.array([-1.0, 0.3, 1.0]),
        ),
        "LayerNorm(x).sum()": (norm_sum, lambda dy, x: np.zeros_like(x), 3 * normal),
        "float32 inside, float64 outside": (
            lambda x: np.tanh(x.astype(np.float32)).astype(x.dtype),
            lambda dy, x: (dy * (1 - np.tanh(x.astype(np.float32)) ** 2)).astype(x.dtype),
            normal[0],
        ),
        "linear at 1e12": (lambda x: 1e12 * x, lambda dy, x: 1e12 * dy, normal[0]),
        "linear at 1e-12": (lambda x: 1e-12 * x, lambda dy, x: 1e-12 * dy, normal[0]),
        "x^3 at 0": (lambda x: x * x * x, lambda dy, x: 3 * x * x * dy, x),
        "1e4 + sin x": (lambda x: 1e4 + np.sin(x), lambda dy, x: dy * np.cos(x), normal[0]),
        "1e4 + sin x in float32": (
            lambda x: (1e4 + np.sin(x)).astype(x.dtype),
            lambda dy, x: (dy * np.cos(x)).astype(x.dtype),
            normal[0].astype(np.float32),
        ),
        "tanh in float32": low(np.float32),
        "tanh in float16": low(np.float16),
    }


def verdicts(peers: dict[str, Accepts], shelf: dict[str, tuple[Forward, Backward, Array]], good: str, bad: str) -> str:
    rows = []
    for name, (forward, backward, x) in shelf.items():
        cells = []
        for accepts in peers.values():
            try:
                cells.append(good if accepts(forward, backward, x, 0) else bad)
            except Exception as error:  # noqa: BLE001  a peer that cannot take the layer
                cells.append(type(error).__name__[:12])
        rows.append((name, *cells))
    return table(("", *peers), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="random cases for gradverify")
    parser.add_argument("--peer-trials", type=int, default=20)
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    print(heading())
    peers = {
        name: accepts
        for name, (package, accepts) in PEERS.items()
        if importlib.util.find_spec(package) and (not given.only or name in given.only)
    }
    print("known errors: found or missed")
    print(verdicts(peers, wrong_layers(), "missed", "found"))
    print("\nright backwards: silent or a false alarm")
    print(verdicts(peers, right_layers(), "silent", "ALARM"))
    sys.stdout.flush()
    rows = []
    for name, accepts in peers.items():
        trials = given.trials if name.startswith("gradverify") else given.peer_trials
        trials = min(trials, 3) if name.startswith(("SciPy j", "numdiff")) else trials
        start = time.perf_counter()
        rows.append((name, smallest(accepts, trials), str(trials), f"{time.perf_counter() - start:.0f} s"))
    print(f"\nsmallest error in one of {SIZE:,} entries, relative to the largest, that is found in 99 % of the cases")
    print(table(("", "smallest", "cases", "time"), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

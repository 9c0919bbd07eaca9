"""Time of the full element-wise check of a sigmoid MLP under a mean squared error, one thread.

Against the bare loop of the tutorial (2P forwards, nothing else) and torch's `gradcheck` in slow mode.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.nouns import Array, Case, Outcome, Verdict
from gradverify.core.properties import gradient
from tests.bench.machine import heading, table

# (N, I, H, K): parameters are W1, b1, W2, b2
SIZES = {77: (8, 6, 6, 5), 1162: (8, 25, 32, 10), 5834: (8, 80, 64, 10)}


def network() -> Layer:
    """The tutorial's network and loss as one layer of the four parameters: input and target are constants."""
    mlp = layers.get("sigmoid_mlp")

    def forward(W1: Array, b1: Array, W2: Array, b2: Array, i: Array, t: Array) -> tuple[Array, Any]:
        x, saved = mlp.forward(i, W1, b1, W2, b2)
        d = t - x
        return np.sum(d * d, axis=(-2, -1)) / x.shape[-2], (saved, d)

    def backward(dE: Array, saved: Any) -> tuple[Array, ...]:
        inner, d = saved
        return mlp.backward(-2.0 * dE * d / d.shape[-2], inner)[1:]

    return Layer(
        forward, backward, name="mlp_mse", W1="I H", b1="H", W2="H K", b2="K", i="N I", t="N K", constants=("i", "t")
    )


def drawn(sizes: tuple[int, int, int, int]) -> Case:
    """Normal primals."""
    n, i, h, k = sizes
    rng = np.random.default_rng(0)
    shapes = {"W1": (i, h), "b1": (h,), "W2": (h, k), "b2": (k,), "i": (n, i), "t": (n, k)}
    return Case("mlp_mse", {name: rng.normal(size=shape) for name, shape in shapes.items()})


def ours(layer: Layer, case: Case) -> Outcome:
    """The gradient property: forward and backward once, every entry compared."""
    return gradient.holds(layer, case)


def bare(layer: Layer, case: Case, entries: int | None = None) -> int:
    """The tutorial's loop, 2P forwards of plain NumPy; no comparison."""
    primals = evaluate.copies(case.primals)
    names = [p.name for p in layer.differentiable]
    arguments = list(primals.values())
    count = 0
    for name in names:
        flat = primals[name].reshape(-1)
        numerical = np.empty(flat.size)
        for k in range(flat.size):
            if entries is not None and count >= entries:
                return count
            kept = flat[k]
            flat[k] = kept + 1e-6
            up = layer.forward(*arguments)[0]
            flat[k] = kept - 1e-6
            down = layer.forward(*arguments)[0]
            flat[k] = kept
            numerical[k] = (up - down) / 2e-6
            count += 1
    return count


def torch_slow(layer: Layer, case: Case) -> Callable[[], None]:
    """`gradcheck` of the same hand-written backward as a torch Function, in torch arithmetic."""
    import torch

    torch.set_num_threads(1)

    class Network(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, W1: Any, b1: Any, W2: Any, b2: Any, i: Any, t: Any) -> Any:
            a = torch.sigmoid(i @ W1 + b1)
            x = torch.sigmoid(a @ W2 + b2)
            ctx.save_for_backward(W2, a, x, i, t)
            return ((t - x) ** 2).sum() / x.shape[0]

        @staticmethod
        def backward(ctx: Any, dE: Any) -> Any:
            W2, a, x, i, t = ctx.saved_tensors
            dz2 = dE * 2 * (x - t) / x.shape[0] * x * (1 - x)
            dz1 = (dz2 @ W2.T) * a * (1 - a)
            return i.T @ dz1, dz1.sum(0), a.T @ dz2, dz2.sum(0), None, None

    tensors = [torch.tensor(a, requires_grad=n not in ("i", "t")) for n, a in case.primals.items()]

    def check() -> None:
        assert torch.autograd.gradcheck(Network.apply, tensors)

    return check


def best(action: Callable[[], Any], repeats: int) -> float:
    """Shortest of some runs, in seconds."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    print(heading())
    layer, rows = network(), []
    for count, sizes in SIZES.items():
        case, _ = evaluate.completed(layer, drawn(sizes))
        agree = sum(int((c.verdicts == Verdict.AGREES).sum()) for c in ours(layer, case).compared)
        assert agree == count, "every entry must agree"
        repeats = max(1, given.repeats * 77 // count + 1)
        mine = best(partial(ours, layer, case), max(3, repeats))
        loop = best(partial(bare, layer, case), max(1, repeats // 2))
        torch_time = None if given.no_torch else _once(torch_slow(layer, case), 3 if count < 100 else 1)
        rows.append(
            (
                str(count),
                f"{1e3 * mine:.1f} ms",
                f"{1e3 * loop:.1f} ms",
                f"{loop / mine:.1f}x",
                "-" if torch_time is None else f"{1e3 * torch_time:.0f} ms",
                "-" if torch_time is None else f"{torch_time / mine:.1f}x",
            )
        )
    print(table(("entries", "gradverify", "2P forwards", "ratio", "torch slow", "ratio"), rows))
    return 0


def _once(action: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    raise SystemExit(main())

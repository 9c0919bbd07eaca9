"""Full element-wise check of a torch LSTM cell against `torch.autograd.gradcheck`, in one process.

    python tests/bench/torch_cell.py [size] [device]

The cell has D = H = size and 8 rows: 9,088 entries for 32. Its backward is written by hand, as a
torch.autograd.Function. Times are the best of a few; both check every entry in float64.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from gradverify import Case
from gradverify.adapters import as_layer
from gradverify.core import evaluate, tuning
from gradverify.core.nouns import Verdict
from gradverify.core.properties import gradient

ROWS = 8


class LSTMCell(torch.autograd.Function):
    """Gates packed as input, forget, candidate, output."""

    @staticmethod
    def forward(ctx, x, h, c, W, U, b):
        i, f, g, o = (x @ W + h @ U + b).chunk(4, -1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        after = f * c + i * g
        y = torch.tanh(after)
        ctx.save_for_backward(x, h, c, W, U, i, f, g, o, y)
        return o * y, after

    @staticmethod
    def backward(ctx, dh, dc):
        x, h, c, W, U, i, f, g, o, y = ctx.saved_tensors
        dc = dc + dh * o * (1 - y * y)
        da = torch.cat([dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * y * o * (1 - o)], -1)
        return da @ W.T, da @ U.T, dc * f, x.T @ da, h.T @ da, da.sum(0)


SHAPES = {"x": "N D", "h": "N H", "c": "N H", "W": "D 4*H", "U": "H 4*H", "b": "4*H"}


def point(size):
    rng = np.random.default_rng(0)
    sizes = {"N": ROWS, "D": size, "H": size}
    layer = as_layer(LSTMCell, **SHAPES)
    scale = {"W": size**-0.5, "U": size**-0.5}
    return {p.name: scale.get(p.name, 1.0) * rng.normal(size=p.dims.shape(sizes)) for p in layer.primals}


def best(function, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def checked(layer, case):
    with tuning.using(tuning.Tuning(sweep_limit=sys.maxsize)):
        return gradient.holds(layer, case)


def main(size=32, device="cpu"):
    torch.set_num_threads(1)  # for both; small work is slower in several
    arrays = point(size)
    entries = sum(a.size for a in arrays.values())
    layer = as_layer(LSTMCell, device=device, **SHAPES)
    case, _ = evaluate.completed(layer, Case("LSTMCell", arrays))
    ours, outcome = best(lambda: checked(layer, case))
    verdicts = np.concatenate([c.verdicts.ravel() for c in outcome.compared])
    agree = int((verdicts == Verdict.AGREES).sum())
    assert verdicts.size == entries and not outcome.findings
    tensors = [torch.tensor(a, device=device, requires_grad=True) for a in arrays.values()]
    slow, _ = best(lambda: torch.autograd.gradcheck(LSTMCell.apply, tensors), 2)
    fast, _ = best(lambda: torch.autograd.gradcheck(LSTMCell.apply, tensors, fast_mode=True))
    print(f"LSTM cell, D = H = {size}, {entries:,} entries, float64, {device}, {torch.get_num_threads()} thread(s)")
    print(f"  gradverify, every entry  {ours:8.3f} s   {agree:,} of {entries:,} agree")
    print(f"  gradcheck, slow mode     {slow:8.3f} s   {slow / ours:.1f} times ours")
    print(f"  gradcheck, fast mode     {fast:8.3f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32, sys.argv[2] if len(sys.argv) > 2 else "cpu")

"""The screen of a torch module with many parameters, one entry of one gradient off by half.

    python tests/bench/torch_screen.py [width] [device]

Two linear maps of width x width with a tanh between them, in float64: 10,000 gives 200 million parameters, 7,100
gives 100 million. The backward of the second one is written by hand, and wrong in one entry.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from gradverify import Case
from gradverify.adapters import as_layer
from gradverify.core import evaluate
from gradverify.core.differentiate import screen
from gradverify.core.differentiate.point import Point


class Linear(torch.autograd.Function):
    """x W; the gradient of one entry of W is half too large."""

    place = (0, 0)

    @staticmethod
    def forward(ctx, x, W):
        ctx.save_for_backward(x, W)
        return x @ W

    @staticmethod
    def backward(ctx, g):
        x, W = ctx.saved_tensors
        dW = x.T @ g
        dW[Linear.place] *= 1.5
        return g @ W.T, dW


class Network(torch.nn.Module):
    def __init__(self, width, device):
        super().__init__()
        generator = torch.Generator(device).manual_seed(0)
        make = {"dtype": torch.float64, "device": device, "generator": generator}
        self.first, self.second = (
            torch.nn.Parameter(torch.randn(width, width, **make) * width**-0.5) for _ in range(2)
        )

    def forward(self, x):
        return Linear.apply(torch.tanh(x @ self.first), self.second)


def main(width=7_100, device="cpu"):
    Linear.place = (width // 3, width // 7)
    network = Network(width, device)
    layer = as_layer(network, x=f"2 {width}")
    arrays = {n: p.detach().cpu().numpy() for n, p in network.named_parameters()}
    case = Case("Network", {"x": np.random.default_rng(0).normal(size=(2, width)), **arrays})
    case, evaluation = evaluate.evaluated(layer, case)
    good, _ = evaluate.usable(layer, case, evaluate.pulled(evaluation, case.cotangents))
    point = Point(layer, case, outputs=evaluation.outputs)
    wrong = point.vector(good)
    del evaluation, good
    second = next(slot for slot in point.slots if slot.name == "second")
    at = second.start + int(np.ravel_multi_index(Linear.place, second.shape))
    right = wrong.copy()
    right[at] /= 1.5
    print(f"{point.size:,} entries, float64, {device}")
    for name, analytic in (("right", right), ("one entry off by half", wrong)):
        start, before = time.perf_counter(), point.forwards
        told = screen.screen(point, analytic, seed=1)
        spent, said = time.perf_counter() - start, "agrees" if told.agrees else "DISAGREES"
        print(f"  {name}: {said}, {point.forwards - before} forwards, {spent:.1f} s")
        print(f"    smallest error that it would notice: {told.power:.1e} of the largest entry")
    start, before = time.perf_counter(), point.forwards
    found = screen.localise(point, wrong, seed=1)
    spent = time.perf_counter() - start
    told = "right" if found.tolist() == [at] else f"WRONG: {found.tolist()}, not {at}"
    print(f"  place: {told}, {point.forwards - before} forwards, {spent:.1f} s")
    print(f"  memory at its highest: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7_100, sys.argv[2] if len(sys.argv) > 2 else "cpu")

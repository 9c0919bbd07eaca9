"""Kernels right and wrong: what is found, beside the checks that kernel authors use.

python -m tests.bench.kernels                 every twin, in bfloat16
python -m tests.bench.kernels --right 1000    right kernels in every type: no finding may come
python -m tests.bench.kernels --times         the figures in seconds of processor time

With `--store FILE` each line is kept as it comes, and a run that was ended goes on where it was; `--budget 1800` ends
it after so many seconds of processor time, and tables what there is: cases drawn, for each kernel and type.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradverify import verify
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.nouns import Case
from tests.bench.machine import heading, table
from tests.kernels import Kernel, catalogue

BY_NAME = {kernel.name: kernel for kernel in catalogue()}
PIECE = 100  # cases
SIZES = {"B": 4, "H": 2, "T": 64, "N": 64, "D": 32, "E": 32, "K": 64, "M": 32, "V": 64, "G": 4}  # one shape, of whole
# blocks, as benchmarks take; and for gradcheck, which takes a minute on that
FEW = {"B": 2, "H": 1, "T": 32, "N": 32, "D": 8, "E": 8, "K": 16, "M": 8, "V": 32, "G": 4}


def inputs(kernel: Kernel, dtype: torch.dtype, sizes: dict[str, int] = SIZES) -> dict[str, torch.Tensor]:
    """Normal values and uniform ids at one shape."""
    rng, layer = np.random.default_rng(0), kernel.layer()
    made = {}
    for primal in layer.primals:
        shape = primal.dims.shape(sizes)
        raw = rng.random(shape) if primal.domain.discrete else rng.standard_normal(shape)
        value = torch.from_numpy(np.asarray(primal.domain.project(raw, sizes)))
        if primal.differentiable and kernel.types[0].startswith("float8"):
            value = value.to(getattr(torch, kernel.types[0]))
        made[primal.name] = value.to(dtype) if value.is_floating_point() or value.itemsize == 1 else value
    return made


def gradients(kernel: Kernel, function: Callable[..., Any], given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Outputs and gradients under ones, as `loss = y.sum()` gives them."""
    leaves = {n: t.clone() for n, t in given.items()}
    floats = [leaves[p.name].requires_grad_() for p in kernel.layer().differentiable]
    y = function(*leaves.values())
    found = torch.autograd.grad(y.sum(), floats, allow_unused=True)
    return [y.detach(), *(torch.zeros(()) if g is None else g for g in found)]


def allclose(kernel: Kernel, fault: str, dtype: torch.dtype, tolerance: float) -> bool:
    """Whether `torch.allclose` against autograd lets a kernel pass at one shape."""
    given = inputs(kernel, dtype)
    got = gradients(kernel, kernel.make(fault).apply, given)
    expected = gradients(kernel, kernel.reference, given)
    return all(torch.allclose(a, b.to(a.dtype), atol=tolerance, rtol=tolerance) for a, b in zip(got, expected))


def gradchecked(kernel: Kernel, fault: str) -> bool | None:
    """What `torch.autograd.gradcheck` says in float64; None if it refuses. Kernels that compute in float32 it fails."""
    given = inputs(kernel, torch.float64, FEW)
    for primal in kernel.layer().differentiable:
        given[primal.name].requires_grad_()
    try:
        return bool(
            torch.autograd.gradcheck(
                kernel.make(fault).apply,
                list(given.values()),
                raise_exception=False,
                fast_mode=True,
            )
        )
    except Exception:  # noqa: BLE001  the code computes in float32 and cannot be differenced in float64
        return None


PEERS: dict[str, Callable[[Kernel, str], bool | None]] = {
    "allclose 1e-2, bf16": lambda k, f: allclose(k, f, torch.bfloat16, 1e-2),
    "allclose 1e-5, bf16": lambda k, f: allclose(k, f, torch.bfloat16, 1e-5),
    "robust-kbench (1e-5, fp32)": lambda k, f: allclose(k, f, torch.float32, 1e-5),
    "gradcheck, fast": gradchecked,
}


@functools.cache
def verdict(name: str, fault: str, peer: str) -> bool | None:
    """What a peer says of one kernel; a kernel that crashes does not pass."""
    inputs(BY_NAME[name], torch.float32)  # that a case cannot be made is no verdict
    try:
        return PEERS[peer](BY_NAME[name], fault)
    except Exception:  # noqa: BLE001  the kernel's own code
        return False


def told(name: str, fault: str, peer: str) -> str:
    """Found or missed by a peer; "alarm" where it fails the right kernel, too, and so tells nothing."""
    if not verdict(name, "", peer):
        return "alarm"
    return "missed" if verdict(name, fault, peer) else "found"


class Store:
    """Rows by key, kept in a file of JSON lines; those that are there are not made again."""

    def __init__(self, path: str | None, seconds: float) -> None:
        self.path, self.seconds = None if path is None else Path(path), seconds
        self.rows: dict[str, list[str]] = {}
        if self.path is not None and self.path.exists():
            self.rows = {found["key"]: found["row"] for found in map(json.loads, self.path.read_text().splitlines())}

    def row(self, key: str, make: Callable[[], list[str]]) -> list[str] | None:
        """The row of a key; None where the time is over."""
        if key not in self.rows:
            if time.process_time() > self.seconds:
                return None
            self.rows[key] = make()
            print(*self.rows[key], sep=", ", flush=True)
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps({"key": key, "row": self.rows[key]}) + "\n")
        return self.rows[key]


def wrong(kernels: list[Kernel], examples: int, store: Store) -> None:
    """Every twin: found or missed, by gradverify and by its peers."""
    rows = []
    for kernel in kernels:
        for fault in kernel.faults:

            def judged(kernel: Kernel = kernel, fault: str = fault) -> list[str]:
                start = time.process_time()
                report = check_layer(kernel.layer(fault), Settings(examples=examples, shrink=False))
                seconds = f"{time.process_time() - start:.1f}"
                mine = "found" if report.findings else "missed"
                return [kernel.name, fault, seconds, mine, *(told(kernel.name, fault, peer) for peer in PEERS)]

            rows.append(store.row(f"{kernel.name} {fault} {examples}", judged))
    done = [tuple(row) for row in rows if row is not None]
    print(table(("kernel", "fault", "s", "gradverify", *PEERS), done))
    for k, name in enumerate(("gradverify", *PEERS), 3):
        told_of = [row[k] for row in done]
        print(f"{name}: found {told_of.count('found')} of {len(done)}, no use for {told_of.count('alarm')}")
    print(f"not run: {len(rows) - len(done)}")


def right(kernels: list[Kernel], examples: int, store: Store) -> None:
    """Right kernels: findings over many cases, which must be none. In pieces of a hundred, each with its own seed."""
    total: dict[tuple[str, str], list[float]] = {}
    missing = 0
    for piece in range(-(-examples // PIECE)):  # all kernels first, so that a run that is ended has seen every one
        for kernel in kernels:
            for kind in kernel.types:

                def judged(kernel: Kernel = kernel, kind: str = kind, seed: int = piece) -> list[str]:
                    start = time.process_time()
                    chosen = ("complete", "reference")
                    settings = Settings(examples=PIECE, seed=seed, properties=chosen, shrink=False)
                    report = check_layer(kernel.layer(kernel=kind), settings)
                    for finding in report.findings:
                        print(f"  {finding.property}, {finding.kind}: {finding.message}", flush=True)
                    tally, seconds = report.tallies["reference"], f"{time.process_time() - start:.1f}"
                    numbers = [str(tally.cases), str(len(report.findings)), f"{tally.worst_ratio:.2f}", seconds]
                    return [kernel.name, kind, str(seed), *numbers]

                row = store.row(f"right {kernel.name} {kind} {piece}", judged)
                if row is None:
                    missing += 1
                    continue
                known = total.setdefault((kernel.name, kind), [0.0, 0.0, 0.0, 0.0])
                cases, found, ratio, seconds = map(float, row[3:])
                known[:] = known[0] + cases, known[1] + found, max(known[2], ratio), known[3] + seconds
    rows = [(*key, f"{a:.0f}", f"{b:.0f}", f"{c:.2f}", f"{d:.0f}") for key, (a, b, c, d) in total.items()]
    print(table(("kernel", "type", "cases", "findings", "worst error / bound", "s"), rows))
    print(f"{sum(t[0] for t in total.values()):.0f} cases, {sum(t[1] for t in total.values()):.0f} findings")
    print(f"pieces not run: {missing}")


def times() -> None:
    """The figures of single checks, in seconds of processor time."""
    rng = np.random.default_rng(0)
    for rows, columns in ((512, 8), (4096, 4096)):
        layer = BY_NAME["layer_norm"].layer()
        shapes = {"x": (rows, columns), "w": (columns,), "b": (columns,)}
        case = Case("layer_norm", {n: rng.standard_normal(s) for n, s in shapes.items()}, seed=1)
        start = time.process_time()
        report = verify(layer, case, "reference")
        print(
            f"layer norm {rows} x {columns}, a case: {time.process_time() - start:.1f} s, right: {report.ok}",
            flush=True,
        )
    for fault in ("", "summed in the low type"):
        start = time.process_time()
        report = check_layer(BY_NAME["embedding"].layer(fault), Settings())
        name = fault or "right"
        print(f"embedding, {name}, defaults: {time.process_time() - start:.1f} s, right: {report.ok}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of kernels")
    parser.add_argument("--right", type=int, metavar="CASES")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--store", metavar="FILE", help="JSON lines, read and added to")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="of processor time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(heading())
    chosen = [kernel for kernel in BY_NAME.values() if not arguments.only or kernel.name in arguments.only]
    kept = Store(arguments.store, arguments.budget)
    if arguments.times:
        times()
    elif arguments.right:
        right(chosen, arguments.right, kept)
    else:
        wrong(chosen, arguments.examples, kept)

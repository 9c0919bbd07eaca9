"""Kernels right and wrong: what is found, beside the checks that kernel authors use.

python -m tests.bench.kernels                 every twin, in bfloat16
python -m tests.bench.kernels --right 1000    right kernels in every type: no finding may come
python -m tests.bench.kernels --times         the figures in seconds of processor time
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gradverify.core.nouns.case import Case

from gradverify import verify
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from tests.bench.machine import heading, table
from tests.kernels import Kernel, catalogue

SIZES = {"H": 2, "T": 64, "N": 64, "D": 32, "E": 32, "V": 64, "G": 4}  # one shape, of whole blocks, as benchmarks take


def inputs(kernel: Kernel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Normal values and uniform ids at the one shape."""
    rng, layer = np.random.default_rng(0), kernel.layer()
    made = {}
    for primal in layer.primals:
        shape = primal.dims.shape(SIZES)
        raw = rng.random(shape) if primal.domain.discrete else rng.standard_normal(shape)
        value = torch.from_numpy(np.asarray(primal.domain.project(raw, SIZES)))
        made[primal.name] = value.to(dtype) if value.is_floating_point() else value
    return made


def gradients(function: Callable[..., Any], given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Outputs and gradients under ones, as `loss = y.sum()` gives them."""
    leaves = {n: t.clone() for n, t in given.items()}
    floats = [t.requires_grad_() for t in leaves.values() if t.is_floating_point()]
    y = function(*leaves.values())
    found = torch.autograd.grad(y.sum(), floats, allow_unused=True)
    return [y.detach(), *(torch.zeros(()) if g is None else g for g in found)]


def allclose(kernel: Kernel, fault: str, dtype: torch.dtype, tolerance: float) -> bool:
    """Whether `torch.allclose` against autograd lets a kernel pass at one shape."""
    given = inputs(kernel, dtype)
    got = gradients(kernel.make(fault).apply, given)
    expected = gradients(kernel.reference, given)
    return all(torch.allclose(a, b.to(a.dtype), atol=tolerance, rtol=tolerance) for a, b in zip(got, expected))


def gradchecked(kernel: Kernel, fault: str) -> bool | None:
    """What `torch.autograd.gradcheck` says in float64; None if it refuses. Kernels that compute in float32 it fails."""
    given = inputs(kernel, torch.float64)
    try:
        return bool(
            torch.autograd.gradcheck(
                kernel.make(fault).apply,
                [t.requires_grad_() if t.is_floating_point() else t for t in given.values()],
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


def told(kernel: Kernel, fault: str, name: str) -> str:
    """Found or missed by a peer; "alarm" where it fails the right kernel, too, and so tells nothing."""
    try:
        passes, right = PEERS[name](kernel, fault), PEERS[name](kernel, "")
    except Exception:  # noqa: BLE001  a twin that crashes is found
        return "found"
    if not right:
        return "alarm"
    return "missed" if passes else "found"


def wrong(only: list[str], examples: int) -> None:
    """Every twin: found or missed, by gradverify and by its peers."""
    rows: list[tuple[str, ...]] = []
    found, total = dict.fromkeys(("gradverify", *PEERS), 0), 0
    for kernel in catalogue():
        for fault in kernel.faults if not only or kernel.name in only else ():
            report = check_layer(kernel.layer(fault), Settings(examples=examples, shrink=False))
            verdicts = ["found" if report.findings else "missed", *(told(kernel, fault, name) for name in PEERS)]
            rows.append((kernel.name, fault, *verdicts))
            total += 1
            for name, verdict in zip(found, verdicts):
                found[name] += verdict == "found"
            print(*rows[-1], sep=", ", flush=True)
    print(table(("kernel", "fault", *found), rows))
    print(f"found of {total}:", ", ".join(f"{name} {count}" for name, count in found.items()))


def right(only: list[str], examples: int) -> None:
    """Right kernels: findings over many cases, which must be none."""
    rows = []
    for kernel in catalogue():
        for kind in kernel.types if not only or kernel.name in only else ():
            start = time.process_time()
            settings = Settings(examples=examples, properties=("complete", "reference"), shrink=False)
            report = check_layer(kernel.layer(kernel=kind), settings)
            tally = report.tallies["reference"]
            seconds = f"{time.process_time() - start:.0f}"
            count = str(len(report.findings))
            rows.append((kernel.name, kind, str(tally.cases), count, f"{tally.worst_ratio:.2f}", seconds))
            print(*rows[-1], sep=", ", flush=True)
    print(table(("kernel", "type", "cases", "findings", "worst error / bound", "s"), rows))


def times() -> None:
    """The figures of single checks, in seconds of processor time."""
    by_name, rng = {k.name: k for k in catalogue()}, np.random.default_rng(0)
    for rows, columns in ((512, 8), (4096, 4096)):
        layer = by_name["layer_norm"].layer()
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
        report = check_layer(by_name["embedding"].layer(fault), Settings())
        name = fault or "right"
        print(f"embedding, {name}, defaults: {time.process_time() - start:.1f} s, right: {report.ok}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of kernels")
    parser.add_argument("--right", type=int, metavar="CASES")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--times", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(heading())
    if arguments.times:
        times()
    elif arguments.right:
        right(arguments.only, arguments.right)
    else:
        wrong(arguments.only, arguments.examples)

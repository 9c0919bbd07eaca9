"""Cases per second of a campaign: against a loop written by hand, with more workers, and against a bare loop.

python -m tests.bench.campaign [--seconds 20] [--workers 2] [--dask] [--rare SEEDS]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradverify.campaign import Campaign, Plan, Store
from gradverify.campaign.explore import Explorer
from gradverify.campaign.journal import Journal
from gradverify.campaign.unit import Delta, Unit
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.declare.registry import layers
from gradverify.core.draw import decoding
from gradverify.core.properties import properties
from gradverify.core.verify import examine
from tests.bench.machine import heading, table

DRAWN = layers.get("sigmoid_mlp")
SIZES = {"small_mlp": (8, 4, 8, 4), "larger_mlp": (8, 25, 32, 10)}  # batch, input, hidden, output


def fixed(name: str) -> Layer:
    """The network at one size: 76 or 1,162 parameters, and its input."""
    n, i, h, k = SIZES[name]
    dims = {"i": f"{n} {i}", "W1": f"{i} {h}", "b1": f"{h}", "W2": f"{h} {k}", "b2": f"{k}"}
    return Layer(DRAWN.forward, DRAWN.backward, name=name, **dims)


GRADIENT = Plan(properties=("gradient",))
FRESH = dataclasses.replace(GRADIENT, learn=False)
ROOT = Path(__file__).parents[2]
RARE = ROOT / "tests" / "rare.py"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def by_hand(layer: Layer, seconds: float) -> tuple[float, float]:
    """What one writes: hnp.arrays, central differences in a loop, np.allclose; (cases, entries) a second."""
    counted = [0, 0]
    deadline = time.perf_counter() + seconds
    started = time.process_time()

    class Over(KeyboardInterrupt):
        pass

    @st.composite
    def network(draw: Callable[..., Any]) -> list[np.ndarray]:
        n, i, h, k = SIZES.get(layer.name) or (draw(st.integers(1, 5)) for _ in range(4))
        elements = st.floats(-3, 3)
        return [draw(hnp.arrays(float, shape, elements=elements)) for shape in ((n, i), (i, h), (h,), (h, k), (k,))]

    @settings(
        max_examples=10**9, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=HealthCheck
    )
    @given(network())
    def run(primals: list[np.ndarray]) -> None:
        if time.perf_counter() > deadline:
            raise Over
        outputs, saved = layer.forward(*primals)
        cotangent = np.ones_like(outputs)
        for array, gradient in zip(primals, layer.backward(cotangent, saved)):
            numerical = np.zeros_like(array)
            for index in np.ndindex(array.shape):
                kept = array[index]
                array[index] = kept + 1e-6
                up = (layer.forward(*primals)[0] * cotangent).sum()
                array[index] = kept - 1e-6
                down = (layer.forward(*primals)[0] * cotangent).sum()
                array[index] = kept
                numerical[index] = (up - down) / 2e-6
            assert np.allclose(gradient, numerical, atol=1e-5)
            counted[1] += array.size
        counted[0] += 1

    with suppress(Over):
        run()
    spent = time.process_time() - started
    return counted[0] / spent, counted[1] / spent


def bare(layer: Layer, cases: int) -> tuple[float, float]:
    """The same draws and comparisons as a unit's, and nothing else; (cases, entries) a second."""
    prop = properties.get("gradient")
    decoded = decoding(layer, Regime())
    assert decoded is not None
    lengths, decode = decoded
    rng = random.Random(1)
    rng.randrange(100)  # as a unit does, so that both try the same cases
    done = entries = 0
    started = time.process_time()
    while done < cases:
        case = decode(rng.randbytes(sum(lengths)))
        if case is not None:
            entries += examine(layer, case, prop).entries
            done += 1
    spent = time.process_time() - started
    return done / spent, entries / spent


def unit(layer: Layer, cases: int) -> tuple[float, float]:
    """One unit without mutation, so that its cases are drawn as those of `bare`; (cases, entries) a second."""
    deltas: list[Delta] = []
    work = Unit(1, layer.name, layer.name, 1, 600.0, Plan(properties=("gradient",), learn=False), cases=cases)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal")
        started = time.process_time()
        nothing = lambda: None  # noqa: E731
        worker = SimpleNamespace(journal=journal, tell=deltas.append, stopped=lambda: False, tidy=nothing)
        Explorer(work, layer, worker).run()
        spent = time.process_time() - started
    return sum(d.cases for d in deltas) / spent, sum(d.entries for d in deltas) / spent


def campaign(seconds: float, workers: int, executor: Any = None, plan: Plan = GRADIENT) -> float:
    """Cases a second of a whole campaign, from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        summary = Campaign(["sigmoid_mlp"], store, seconds=seconds, workers=workers, plan=plan, executor=executor).run()
        store.close()
    return summary.cases / summary.seconds


def loops(seconds: float, count: int) -> float:
    """Cases a second of bare loops at once, each in a process of its own, start included: what there is to have."""
    code = f"from tests.bench.campaign import DRAWN, loop; print(loop(DRAWN, {time.time() + seconds}))"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=ONE_THREAD) for _ in range(count)]
    return sum(int(process.communicate()[0]) for process in running) / seconds


def loop(layer: Layer, until: float) -> int:
    """Cases of a bare loop until a point in time."""
    prop, decoded = properties.get("gradient"), decoding(layer, Regime())
    assert decoded is not None
    lengths, decode = decoded
    rng, done = random.Random(os.getpid()), 0
    while time.time() < until:
        case = decode(rng.randbytes(sum(lengths)))
        if case is not None:
            examine(layer, case, prop)
            done += 1
    return done


@contextmanager
def dask(workers: int) -> Any:
    """An executor on Dask workers on the loopback interface."""
    from distributed import Client, LocalCluster

    from gradverify.campaign.dask import executor_of

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as made,
        Client(made, set_as_default=False) as client,
    ):
        yield executor_of(client)


def on_dask(seconds: float, count: int) -> float:
    """Cases a second of a campaign on so many Dask workers."""
    with dask(count) as executor:
        return campaign(seconds, count, executor)


def rare(seeds: int, seconds: float) -> str:
    """Time until each rare mutant is found by one worker that looks at nothing else: median, 90th percentile."""
    from gradverify.targets import load

    rows = []
    for layer in load(str(RARE)):
        times = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                store = Store(folder)
                target = f"{RARE}:{layer.name}"
                given_ = dict(seconds=seconds, workers=1, seed=seed, max_findings=1, longest=5.0)
                summary = Campaign([target], store, **given_).run()  # type: ignore[arg-type]
                times.append(summary.seconds if summary.findings else np.inf)
                store.close()
        told = [f"{np.quantile(times, q, method='higher'):.1f} s" for q in (0.5, 0.9)]
        rows.append((layer.name, *told, f"{np.isfinite(times).sum()}/{seeds}"))
    return table(("mutant", "median", "90 %", "found"), rows)


def one_process(layer: Layer, seconds: float) -> list[tuple[str, ...]]:
    """By hand, the bare loop and a unit of a campaign; the last two in turns, as the machine's speed varies."""
    hand = by_hand(layer, seconds)
    cases = max(1, int(hand[0] * seconds / 3))
    measured = [(bare(layer, cases), unit(layer, cases)) for _ in range(3)]
    loop, work = (max(pair[k] for pair in measured) for k in (0, 1))
    overhead = f" (overhead {loop[0] / work[0] - 1:.0%})"
    named = (("by hand", hand), ("bare loop", loop), (f"unit of a campaign{overhead}", work))
    _, i, h, k = SIZES.get(layer.name, (0, 0, 0, 0))
    parameters = i * h + h + h * k + k
    size = f"{parameters:,} parameters" if parameters else "small, sizes drawn"
    return [(f"{size}: {name}", f"{c:.1f}", f"{e:.0f}", f"{c / hand[0]:.2f}") for name, (c, e) in named]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dask", action="store_true")
    parser.add_argument("--rare", type=int, default=0, metavar="SEEDS")
    options = parser.parse_args()
    print(heading())
    rows = [row for layer in (DRAWN, *map(fixed, SIZES)) for row in one_process(layer, options.seconds)]
    print(table(("every entry of a sigmoid MLP compared", "cases/s", "entries/s", "cases, by hand = 1"), rows))
    rows = []
    counts = sorted({1, options.workers})
    ways = {
        "bare loops": lambda count: loops(options.seconds, count),
        "campaign, no mutants of cases": lambda count: campaign(options.seconds, count, plan=FRESH),
        "campaign": lambda count: campaign(options.seconds, count),
    }
    if options.dask:
        ways["campaign on Dask workers"] = lambda count: on_dask(options.seconds, count)
    first: dict[str, float] = {}
    for name, measure in ways.items():
        rates = [measure(count) for count in counts]
        first[name] = rates[0]
        rows += [(f"{name}: {n}", f"{r:.1f}", f"{r / rates[0]:.2f}") for n, r in zip(counts, rates)]
    print(f"\n{table(('processes at work', 'cases/s', 'one = 1'), rows)}")
    overhead = first["bare loops"] / first["campaign, no mutants of cases"] - 1
    print(f"\noverhead of a campaign on the same cases in a bare loop: {overhead:.1%}")
    if options.rare:
        print(f"\n{rare(options.rare, options.seconds)}")


if __name__ == "__main__":
    main()

"""The pytest plugin: two workers against one process on the catalogue, and what it costs where it is not used.

The first compares wall-clock times of the same run, in pairs, and says what a better split could win: the longest
test, and the share that the processes spend on anything but tests. The second compares the CPU time of
`pytest --collect-only` in a project that knows nothing of gradverify, with the plugin and with `-p no:gradverify`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.machine import heading, table

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("CI", "PYTHONDONTWRITEBYTECODE") and k[:7] != "PYTEST_"},
    "PYTHONPATH": str(ROOT),
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


def run(folder: Path, *arguments: str) -> tuple[float, float]:
    """Wall-clock and CPU seconds of pytest and its workers; findings are fine, errors are not."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = ENVIRONMENT | {"PYTHONPYCACHEPREFIX": str(folder / ".compiled")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def parallel(folder: Path, layers: str, examples: int, pairs: int, dist: str) -> list[tuple[str, ...]]:
    """A row for each pair of runs."""
    told = f'layers = ["{layers}"]\nseed = 0\nexamples = {examples}\n'
    (folder / "pyproject.toml").write_text(f"[tool.gradverify]\n{told}")
    run(folder, "--gradverify-examples=1")  # writes the compiled files
    rows = []
    for _ in range(pairs):
        one, cpu = run(folder, "-p", "no:xdist", "--gradverify-json=one.json")
        two, spent = run(folder, "-n2", f"--dist={dist}", "--gradverify-json=two.json")
        first, second = (json.loads((folder / name).read_text())["checks"] for name in ("one.json", "two.json"))
        assert [(c["layer"], c["property"], c["cases"]) for c in first] == [
            (c["layer"], c["property"], c["cases"]) for c in second
        ]
        seconds = [c["seconds"] for c in first]
        rows.append(
            (
                str(len(seconds)),
                f"{one:.1f} s",
                f"{two:.1f} s",
                f"{one / two:.2f}",
                f"{max(seconds):.1f} s",
                f"{sum(seconds):.1f} s",
                f"{cpu:.1f} s",
                f"{spent:.1f} s",
            )
        )
    return rows


def unused(folder: Path, pairs: int) -> list[float]:
    """Milliseconds of CPU that the plugin adds to `--collect-only`, pair by pair, the order changing."""
    (folder / "pyproject.toml").unlink(missing_ok=True)
    (folder / "test_plain.py").write_text("def test_plain(): pass\n")
    quiet = ("--collect-only", "-p", "no:xdist", "-p", "no:hypothesispytest")
    run(folder, *quiet)  # writes the compiled files
    found = []
    for k in range(pairs):
        spent = {}
        for plugin in ("gradverify", "no:gradverify") if k % 2 else ("no:gradverify", "gradverify"):
            without = ("-p", plugin) if plugin.startswith("no:") else ()
            spent[plugin] = run(folder, *quiet, *without)[1]
        found.append(1e3 * (spent["gradverify"] - spent["no:gradverify"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", default="*", help="pattern of names")
    parser.add_argument("--examples", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=1, help="pairs of runs of the catalogue")
    parser.add_argument("--dist", default="worksteal")
    parser.add_argument("--collect-pairs", type=int, default=20)
    given = parser.parse_args()
    print(heading())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.collect_pairs:
            added = unused(folder, given.collect_pairs)
            quarters = statistics.quantiles(added, n=4) if len(added) > 1 else added * 3
            print(
                f"--collect-only, {len(added)} pairs: the plugin adds {statistics.median(added):.1f} ms of CPU, "
                f"half of the pairs between {quarters[0]:.1f} and {quarters[2]:.1f}\n"
            )
        if given.pairs:
            columns = ("checks", "one", "two workers", "ratio", "longest", "all checks", "CPU one", "CPU two")
            print(table(columns, parallel(folder, given.layers, given.examples, given.pairs, given.dist)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

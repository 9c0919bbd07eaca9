"""The field test: layers that nobody here wrote, in an environment built from PyPI names.

python tests/wild/run.py                 build what is missing, check all, write docs/field-test.md
python tests/wild/run.py --only npdl     those whose name contains npdl; the page keeps what it says of the others
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "field-test.md"
BASE = ("numpy", "hypothesis", "scipy", "setuptools", "wheel", "cython")


@dataclass(frozen=True)
class Package:
    """A package as PyPI names it, the module here that declares its layers, and what else it needs."""

    requirement: str
    module: str
    needs: tuple[str, ...] = ()
    isolated: bool = True  # False where setup.py imports what it does not declare


PACKAGES = (
    Package("scikit-learn==1.9.1", "scikit_learn", ("joblib", "threadpoolctl", "narwhals", "cloudpickle")),
    Package("npdl==0.4.0.1", "npdl_", isolated=False),
    Package("numpy-ml==0.1.2", "numpy_ml_", isolated=False),
    Package("smallpebble==3.0.5", "smallpebble_"),
    Package("mpneuralnetwork==1.1.1", "mpneuralnetwork_"),
    Package("autograd==1.9.1", "autograd_"),
    Package("neuralnetlib==4.4.0", "neuralnetlib_"),
    Package("neuralnetlib==5.0.0", "neuralnetlib_"),
    Package(
        "torch==2.13.0",
        "torch_",
        ("sympy", "mpmath", "networkx", "jinja2", "MarkupSafe", "fsspec", "filelock", "typing_extensions"),
    ),
)


def python(env: Path) -> Path:
    return env / "base" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def build(env: Path, packages: list[Package]) -> None:
    """One environment for all, and a folder for each package, so that two versions can stand side by side."""
    if not python(env).exists():
        venv.create(env / "base", with_pip=True)
        pip(env, "--quiet", *BASE)
    for package in packages:
        place = env / package.requirement
        if not (place / ".done").exists():
            extra = () if package.isolated else ("--no-build-isolation",)
            pip(env, "--quiet", "--no-deps", "--upgrade", "--target", str(place), *extra, package.requirement)
            if package.needs:
                pip(env, "--quiet", "--no-deps", "--upgrade", "--target", str(place), *package.needs)
            (place / ".done").touch()


def pip(env: Path, *arguments: str) -> None:
    subprocess.run([str(python(env)), "-m", "pip", "install", "--disable-pip-version-check", *arguments], check=True)


def check(env: Path, package: Package) -> list[dict]:
    """Rows of one package, from a process of its own."""
    path = os.pathsep.join([str(ROOT), str(HERE), str(env / package.requirement)])
    settings = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    rows: list[dict] = []
    while True:  # a layer that ends the process costs its own row
        command = [str(python(env)), str(HERE / "one.py"), package.module, str(len(rows))]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        found = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("ROW ")]
        rows += found
        if not done.returncode:
            return rows
        last = (done.stderr.strip().splitlines() or [f"the process ended with status {done.returncode}"])[-1]
        name = next((line[3:] for line in reversed(done.stdout.splitlines()) if line.startswith("AT ")), "(all)")
        rows.append({"name": name, "verdict": "not run", "findings": [], "message": last, "judgement": "", "note": ""})
        if name == "(all)":
            return rows


Cells = tuple[str, str, str, str]  # layer, verdict, what was found, judgement


def cells(row: dict) -> Cells:
    """A row as the page shows it."""
    return row["name"], row["verdict"], told(row), judged(row)


def table(results: dict[str, list[Cells]]) -> str:
    """The page: what was found first, then a folded table for each package."""
    total = sum(verdict != "not run" for rows in results.values() for _, verdict, *_ in rows)
    found = [(name, *row) for name, rows in results.items() for row in rows if row[1] == "found"]
    bugs = [row for row in found if row[4].startswith("bug")]
    lines = [
        "# Field test",
        "",
        f"{total} layers of public packages, which nobody here wrote, were checked by `python tests/wild/run.py`.",
        f"{len(found)} have findings, of which {len(bugs)} are bugs. *Judgement* is ours, from the code: right,",
        "bug, convention (on purpose, could be declared) or precision; an empty one means that nobody has read it.",
        "",
        "| package | checked | with findings | bugs |",
        "|---|--:|--:|--:|",
    ]
    for name, rows in results.items():
        ran = sum(verdict != "not run" for _, verdict, *_ in rows)
        ours = [row for row in found if row[0] == name]
        lines.append(f"| {name} | {ran} | {len(ours)} | {sum(row in bugs for row in ours)} |")
    for title, shown in (("Bugs", bugs), ("Other findings", [row for row in found if row not in bugs])):
        lines += ["", f"## {title}", "", "| package | layer | judgement |", "|---|---|---|"]
        lines += [f"| {name} | {layer} | {said.removeprefix('bug: ')} |" for name, layer, _, _, said in shown]
    lines += ["", "## Every layer", "", "One table for each package, with what was said."]
    for name, rows in results.items():
        lines += ["", '<details markdown="1">', f"<summary>{name}</summary>", ""]
        lines += ["| layer | verdict | what was found | judgement |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def kept(page: str) -> dict[str, list[Cells]]:
    """What a page that `table` wrote says of every layer."""
    results: dict[str, list[Cells]] = {}
    for part in page.split("<summary>")[1:]:
        name, _, rest = part.partition("</summary>")
        rows = [line[2:-2].split(" | ") for line in rest.splitlines() if line.startswith("| ")]
        results[name] = [(layer, verdict, what, said) for layer, verdict, what, said in rows[1:]]
    return results


def told(row: dict) -> str:
    """Message and diagnosis of the first findings."""
    first = [_line(f) for f in row["findings"][:2]] or [row.get("message", "")]
    more = f" (and {len(row['findings']) - 2} more)" if len(row["findings"]) > 2 else ""
    return "; ".join(first).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") + more


def _line(finding: dict) -> str:
    diagnosis = finding["diagnosis"]
    return finding["message"][:300] + (f" (*looks like: {diagnosis[:200]}*)" if diagnosis else "")


def judged(row: dict) -> str:
    return ": ".join(part for part in (row["judgement"], row["note"]) if part)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, default=HERE / ".env", help="where the environment is built and kept")
    parser.add_argument("--only", default="", help="packages whose name contains this; the page keeps the others")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    packages = [p for p in PACKAGES if options.only in p.requirement]
    build(options.env, packages)
    results = {}
    for package in packages:
        rows = results[package.requirement] = check(options.env, package)
        found = sum(row["verdict"] == "found" for row in rows)
        print(f"{package.requirement}: {len(rows)} layers, {found} with findings", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    shown = kept(PAGE.read_text(encoding="utf-8")) if options.only else {}
    shown |= {name: [cells(row) for row in rows] for name, rows in results.items()}
    order = [package.requirement for package in PACKAGES if package.requirement in shown]
    PAGE.write_text(table({name: shown[name] for name in order}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

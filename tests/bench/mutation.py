"""Mutation testing: how many small changes of a module its tests notice, and which they do not.

    python -m tests.bench.mutation gradverify/core/nouns/comparison.py tests/test_comparison.py --most 60

Other arguments (`-k linear`) go to pytest, which runs without plugins (`-p gradverify.pytest_plugin` is one).

Each mutant changes one operator, comparison, number or condition, and is tried in a process of its own until the first
test fails. A survivor is equivalent, or shows what no test asks.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.util
import io
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
TURNED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
NAMES = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max", "any": "all", "all": "any"}


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """Line, what was changed to what, and the tree of each mutant."""
    tree = ast.parse(source)
    for index, node in enumerate(_placed(tree)):
        for change in range(len(_changes(node))):
            other = copy.deepcopy(tree)
            changed = _placed(other)[index]
            before = ast.unparse(changed)
            _changes(changed)[change]()
            yield node.lineno, f"{before}  ->  {ast.unparse(changed)}", ast.fix_missing_locations(other)


def _placed(tree: ast.Module) -> list[ast.AST]:
    """Nodes with a line, but for those of annotations."""
    told = [
        note for n in ast.walk(tree) for note in (getattr(n, "annotation", None), getattr(n, "returns", None)) if note
    ]
    skipped = {id(inner) for note in told if note is not None for inner in ast.walk(note)}
    return [node for node in ast.walk(tree) if hasattr(node, "lineno") and id(node) not in skipped]


def _changes(node: ast.AST) -> list:
    """What can be done to a node, in place."""

    def put(name, value):
        return lambda: setattr(node, name, value)

    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPPED:
        return [put("op", SWAPPED[type(node.op)]())]
    if isinstance(node, ast.Compare):
        kinds = [table[type(node.ops[0])] for table in (SWAPPED, TURNED) if type(node.ops[0]) in table]
        return [put("ops", [kind(), *node.ops[1:]]) for kind in kinds]
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        return [put("test", ast.UnaryOp(ast.Not(), node.test))]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Invert, ast.Not, ast.USub)):
        return [put("op", ast.UAdd())] if not isinstance(node.op, ast.Not) else [lambda: _dropped(node)]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return [put("value", node.value + 1 if isinstance(node.value, int) else node.value * 16 or 1.0)]
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        return [put("attr", NAMES[node.attr])]
    if isinstance(node, ast.Name) and node.id in NAMES:
        return [put("id", NAMES[node.id])]
    return []


def _dropped(node: ast.UnaryOp) -> None:
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


class Planted:
    """Gives one module the code of a mutant when it is imported."""

    def __init__(self, file: Path, name: str, tree: ast.Module) -> None:
        self.file, self.name, self.tree = file, name, tree

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.file, loader=self) if name == self.name else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.tree, str(self.file), "exec"), module.__dict__)


def killed(file: Path, tree: ast.Module, tests: list[str], seconds: int) -> bool:
    """Whether a test fails, or has not come to its end after so many seconds of computing, with this mutant."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        sys.meta_path.insert(0, Planted(file.resolve(), name, tree))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import pytest

            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", *tests])
        os._exit(0 if status == 0 else 1)
    return os.waitpid(child, 0)[1] != 0


def main() -> int:
    """Try mutants of one module, at most so many, drawn at random; survivors are listed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--most", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=60, help="of computing, for one mutant")
    told, more = parser.parse_known_args()
    told.tests += more
    os.environ["CI"] = "1"  # the same examples for each
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to load than most tests to run
    import hypothesis  # noqa: F401  imported once, before forking
    import numpy  # noqa: F401
    import pytest  # noqa: F401

    source = told.module.read_text(encoding="utf-8")
    if killed(told.module, ast.parse(source), told.tests, told.seconds):
        print("the tests fail without a mutant")
        return 2
    made = list(mutants(source))
    chosen = random.Random(told.seed).sample(made, min(told.most, len(made)))
    begun, alive = time.perf_counter(), []
    for line, change, tree in sorted(chosen, key=lambda mutant: mutant[0]):
        if not killed(told.module, tree, told.tests, told.seconds):
            alive.append((line, change))
            print(f"survived, line {line}: {' '.join(change.split())[:150]}", flush=True)
    count = len(chosen) - len(alive)
    print(f"killed {count} of {len(chosen)} ({100 * count / len(chosen):.0f} %), {time.perf_counter() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

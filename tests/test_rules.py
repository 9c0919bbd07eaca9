"""The rules of the house, as docs/architecture.md states them."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradverify

PACKAGE = Path(gradverify.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400

# Packages that a room may import at module level; NumPy and the standard library are free to all but the doors.
EDGES = {
    "hypothesis": ("gradverify.core.draw",),
    "pytest": ("gradverify.pytest_plugin",),
    "_pytest": (),
    "click": ("gradverify.cli",),
    "rich": ("gradverify.report.terminal", "gradverify.cli"),
    "torch": (),
    "jax": (),
    "dask": (),
    "distributed": (),
}
FACES = ("gradverify.cli", "gradverify.pytest_plugin", "gradverify.campaign", "gradverify.report")
# Rooms that are an edge; all others must be importable where NumPy is the only package.
NOT_CORE = ("gradverify.cli", "gradverify.pytest_plugin", "gradverify.campaign", "gradverify.core.draw")


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def is_in(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def imports_of(module: str) -> set[str]:
    """Full names of what a module imports when it is imported itself: not in functions, not for type checkers."""
    found: set[str] = set()
    for node in _executed(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write imports in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _executed(child)


def loaded_after(statements: str) -> set[str]:
    """Top-level packages in memory after some statements, in a process of its own."""
    report = "\nimport sys; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", statements + report], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_gradverify_loads_no_other_package():
    heavy = {"numpy", "hypothesis", "pytest", "click", "rich", "torch", "jax", "dask"}
    assert not loaded_after("import gradverify; dir(gradverify)") & heavy


def test_the_pytest_plugin_loads_neither_numpy_nor_hypothesis():
    loaded = loaded_after("import gradverify.pytest_plugin")
    assert "pytest" in loaded
    assert not loaded & {"numpy", "hypothesis", "click", "rich", "torch", "jax"}


def test_the_core_knows_numpy_only():
    core = [module for module in MODULES if not is_in(module, NOT_CORE)]
    assert {"gradverify.core.nouns.types", "gradverify.core.declare.layer", "gradverify.core.evaluate"} <= set(core)
    loaded = loaded_after("\n".join(f"import {module}" for module in core))
    assert "numpy" in loaded
    assert not loaded & set(EDGES)


def test_using_a_declared_layer_loads_numpy_only():
    use = "import gradverify as gv; gv.Layer(lambda x: (x, None), lambda dy, _: dy, x='N'); gv.Case; gv.Report"
    assert not loaded_after(use) & set(EDGES)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_a_heavy_package_only_at_its_edge(module):
    for package in {name.partition(".")[0] for name in imports_of(module)} & set(EDGES):
        assert is_in(module, EDGES[package]), f"{module} imports {package} at module level"


@pytest.mark.parametrize("module", [m for m in MODULES if not is_in(m, FACES)])
def test_no_room_imports_a_face(module):
    assert not [name for name in imports_of(module) if is_in(name, FACES)]


def test_imports_go_one_way():
    graph = {module: sorted(imports_of(module) & set(MODULES)) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join((*path[path.index(module) :], module))
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_imported_and_says_what_it_is(module):
    if module.endswith("__main__"):
        assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        return
    assert (importlib.import_module(module).__doc__ or "").strip()


@pytest.mark.parametrize("module", MODULES)
def test_a_file_can_be_read_in_a_sitting(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_architecture_page_names_every_room_and_no_other():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## The rooms")[2].partition("\n## ")[0]
    lines = re.findall(r"^- ([^:]*):", section, re.MULTILINE)
    named = {room for line in lines for room in re.findall(r"`(\w+)/?`", line)}
    assert named == {module.split(".")[1] for module in MODULES if "." in module and not module.endswith("__main__")}


@pytest.mark.parametrize("name", gradverify.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(gradverify, name) is not None
    assert name in dir(gradverify)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        _ = gradverify.chekc


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()

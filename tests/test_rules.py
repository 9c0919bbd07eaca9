"""The rules of the house, as docs/architecture.md states them."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gradverify
from gradverify.core.nouns import Stream

PACKAGE = Path(gradverify.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400

# Packages that a room may import at module level; NumPy and the standard library are free to all but the doors.
EDGES = {
    "hypothesis": ("gradverify.core.draw",),
    "pytest": ("gradverify.pytest_plugin",),
    "_pytest": (),
    "click": ("gradverify.cli",),
    "rich": (),
    "torch": (),
    "jax": (),
    "dask": (),
    "distributed": (),
}
FACES = ("gradverify.api", "gradverify.cli", "gradverify.pytest_plugin", "gradverify.campaign", "gradverify.report")
# Rooms that are an edge; all others must be importable where NumPy is the only package.
AT_THE_EDGE = ("gradverify.cli", "gradverify.pytest_plugin", "gradverify.campaign", "gradverify.core.draw")
LAZY = {("gradverify.core.check.search", "gradverify.core.draw")}  # inside a function, so that Hypothesis waits


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def is_in(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@cache
def imports_of(module: str, inside: bool = False) -> set[str]:
    """Full names of what a module imports when it is imported; with `inside` also in functions, and for types."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if inside else _executed(tree):
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


CORE = [module for module in MODULES if is_in(module, ("gradverify.core",))]


def room_of(module: str) -> str:
    return module.removeprefix("gradverify.").removeprefix("core.").partition(".")[0]


def rooms_listed() -> list[str]:
    """The rooms in the order in which the architecture page lists them."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## The rooms")[2].partition("\n## ")[0]
    lines = re.findall(r"^- ([^:]*):", section, re.MULTILINE)
    return [room for line in lines for room in re.findall(r"`(\w+)/?`", line)]


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


def test_all_but_the_edge_knows_numpy_only():
    core = [module for module in MODULES if not is_in(module, AT_THE_EDGE)]
    assert {"gradverify.core.nouns.case", "gradverify.core.declare.layer", "gradverify.core.evaluate"} <= set(core)
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


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_nothing_of_a_wing(module):
    ours = {name for name in imports_of(module, inside=True) if is_in(name, ("gradverify",))}
    allowed = {"gradverify"} if module == "gradverify.core.nouns.forms" else set()  # asks it for names of functions
    assert not [name for name in ours - allowed if not is_in(name, ("gradverify.core",))]


def test_the_core_imports_by_name_only_what_others_registered():
    named = {module for module in CORE if "import_module(" in MODULES[module].read_text(encoding="utf-8")}
    assert named == {"gradverify.core.declare.registry", "gradverify.core.nouns.forms"}


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_inside_functions_only_what_must_wait(module):
    later = imports_of(module, inside=True) - imports_of(module)
    assert {(module, name) for name in later & set(MODULES)} <= LAZY


@pytest.mark.parametrize("module", CORE)
def test_a_room_of_the_core_imports_only_from_rooms_above_it(module):
    order = rooms_listed()
    if module == "gradverify.core":
        return
    for name in imports_of(module, inside=True) & set(CORE) - {"gradverify.core"}:
        assert order.index(room_of(name)) <= order.index(room_of(module)), f"{module} imports {name}"


@pytest.mark.parametrize("inside", [False, True])
def test_imports_go_one_way(inside):
    known = set(MODULES) - ({"gradverify"} if inside else set())  # which hands out names on first use
    graph = {module: sorted(imports_of(module, inside) & known) for module in known}
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


def test_the_architecture_page_names_every_room_once_and_no_other():
    named = rooms_listed()
    assert sorted(named) == sorted({room_of(module) for module in MODULES} - {"gradverify", "core"})


def test_the_glossary_is_short():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    words = page.partition("## Words")[2].partition("\n## ")[0]
    assert 10 < len(re.findall(r"^\| (?!word)\w+ \|", words, re.MULTILINE)) <= 25


@pytest.mark.parametrize("name", gradverify.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(gradverify, name) is not None
    assert name in dir(gradverify)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        _ = gradverify.chekc


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()


def test_each_stream_of_random_numbers_is_used_in_one_place():
    uses: dict[str, set[str]] = {name: set() for name in Stream.__members__}
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Stream":
                uses[node.attr].add(module)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "rng":
                assert not isinstance(node.args[0], ast.Constant), f"{module}, line {node.lineno}: name the stream"
    assert {name: len(modules) for name, modules in uses.items()} == dict.fromkeys(uses, 1)


@pytest.mark.slow
def test_every_module_can_be_the_first_that_is_imported():
    """A circle of imports shows from one of its ends only."""
    forking = """
import os, sys
modules = sys.argv[1:]
for module in modules:
    __import__(module)
for module in [name for name in sys.modules if name.partition(".")[0] == "gradverify"]:
    del sys.modules[module]  # packages of others stay: they are imported once

def first(module):
    if module in sys.modules:
        return  # its package, which Python imports before it, has imported it
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        __import__(module)
    except BaseException as error:
        print(module, type(error).__name__, error, flush=True)
    for inner in modules:
        if inner.rpartition(".")[0] == module:
            first(inner)
    os._exit(0)

first("gradverify")
"""
    modules = [module for module in MODULES if not module.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", forking, *modules], capture_output=True, text=True, check=True)
    assert not done.stdout

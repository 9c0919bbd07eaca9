"""What a user names is loaded, loads again from its origin, and says what to do where it does not."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import gradverify.layers  # noqa: F401  the catalogue, whether or not the package is installed
from gradverify import targets
from gradverify.core.declare.registry import layers
from gradverify.core.errors import TargetError
from gradverify.core.nouns import Case

REGISTERED = """
    import gradverify

    def forward(x, W):
        return x @ W, (x, W)

    def backward(dy, saved):
        x, W = saved
        return dy @ W.T, x.T @ dy

    gradverify.register(gradverify.Layer(forward, backward, name="{name}", x="N D", W="D H", returns="N H"))
"""
LOOSE = """
    import gradverify

    def forward(x):
        return 2 * x, None

    def backward(dy, saved):
        return 2 * dy

    twice = gradverify.Layer(forward, backward, name="double", x="N")

    class shift:
        x = "N"
        def forward(x): return x + 1, None
        def backward(dy, saved): return dy

    number = 3
"""

Write = Callable[..., str]


def registering(name: str) -> str:
    return REGISTERED.replace("{name}", name)


@pytest.fixture(autouse=True)
def unchanged_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    layers.load()
    for attribute in ("_items", "_origins"):
        monkeypatch.setattr(layers, attribute, dict(getattr(layers, attribute)))
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith("gradverify"):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return name

    return write


def refusal(target: str) -> str:
    with pytest.raises(TargetError) as caught:
        targets.load(target)
    return str(caught.value)


def test_no_target_means_every_registered_layer() -> None:
    assert [layer.name for layer in targets.load(None)] == list(layers.names())
    assert all(layer.origin == layer.name for layer in targets.load(None))


def test_a_registered_name_is_its_own_origin() -> None:
    (layer,) = targets.load("dense")
    assert (layer.name, layer.origin) == ("dense", "dense")


def test_a_file_gives_what_it_registers_and_each_origin_loads_again(write: Write) -> None:
    (layer,) = targets.load(write(registering("matmul_here")))
    assert layer.origin == "mine.py:matmul_here"
    (again,) = targets.load(layer.origin)
    assert (again.name, again.origin) == ("matmul_here", "mine.py:matmul_here")
    assert layers.origin("matmul_here") == "mine.py"


def test_a_file_that_changed_is_run_again_and_its_former_layers_are_forgotten(write: Write) -> None:
    targets.load(write(registering("first_name")))
    (layer,) = targets.load(write(registering("other_name")))
    assert layer.name == "other_name"
    assert "first_name" not in layers


def test_an_absolute_path_is_kept_as_given(write: Write, tmp_path: Path) -> None:
    write(LOOSE)
    (layer,) = targets.load(f"{tmp_path / 'mine.py'}:twice")
    assert layer.origin == f"{tmp_path / 'mine.py'}:twice"


def test_without_registration_the_layers_at_top_level_are_taken(write: Write) -> None:
    (layer,) = targets.load(write(LOOSE))
    assert (layer.name, layer.origin) == ("double", "mine.py:twice")
    assert targets.load(layer.origin)[0].name == "double"


def test_an_object_may_be_anything_that_an_adapter_recognises(write: Write) -> None:
    (layer,) = targets.load(f"{write(LOOSE)}:shift")
    assert (layer.primal_names, layer.origin) == (("x",), "mine.py:shift")


def test_a_registered_class_keeps_what_it_was_registered_with(write: Write) -> None:
    text = """
        import gradverify
        @gradverify.register(name="leaning", kinks="left")
        class leaky:
            x = "N"
            def forward(x): return x, None
            def backward(dy, saved): return dy
    """
    (layer,) = targets.load(f"{write(text)}:leaky")
    assert (layer.name, layer.declared.kinks, layer.origin) == ("leaning", "left", "mine.py:leaky")


def test_a_file_may_import_its_neighbours_even_late(write: Write) -> None:
    write("FACTOR = 2.0", "neighbour_of_mine.py")
    write("OFFSET = 1.0", "late_neighbour_of_mine.py")
    text = """
        import gradverify
        from neighbour_of_mine import FACTOR
        def forward(x):
            from late_neighbour_of_mine import OFFSET
            return FACTOR * x + OFFSET, None
        layer = gradverify.Layer(forward, lambda dy, saved: FACTOR * dy, x="N")
    """
    (layer,) = targets.load(write(text))
    assert layer.forward(np.ones(1))[0] == 3.0


def test_a_module_is_named_with_dots_and_found_in_the_working_folder(write: Write) -> None:
    write("", "package_of_mine/__init__.py")
    write(registering("in_a_package"), "package_of_mine/parts.py")
    (layer,) = targets.load("package_of_mine.parts")
    assert layer.origin == "package_of_mine.parts:in_a_package"
    (again,) = targets.load(layer.origin)  # imported already, so nothing registers a second time
    assert again.name == "in_a_package"


def test_the_catalogue_can_be_named_as_a_module() -> None:
    assert "dense" in {layer.name for layer in targets.load("gradverify.layers")}
    assert targets.load("gradverify.layers:dense")[0].name == "dense"


def test_a_target_may_be_put_under_a_loss(write: Write) -> None:
    (layer,) = targets.load(f"{write(registering('matmul_here'))}:matmul_here+mse")
    assert (layer.name, layer.origin) == ("matmul_here+mse", "mine.py:matmul_here+mse")
    assert targets.load("dense+mse")[0].primal_names[:3] == ("x", "W", "b")


def test_a_case_finds_its_layer_by_its_target(write: Write) -> None:
    targets_file = write(registering("matmul_here"))
    case = Case("matmul_here", {"x": np.ones((1, 1)), "W": np.ones((1, 1))}, target=f"{targets_file}:matmul_here")
    assert targets.find(case).name == "matmul_here"
    assert targets.find(case, "mine.py").name == "matmul_here"


def test_a_case_of_a_layer_with_other_primals_is_refused() -> None:
    case = Case("dense", {"x": np.ones((1, 1)), "weights": np.ones((1, 1))})
    with pytest.raises(TargetError, match=r"'x', 'weights'.*'x', 'W', 'b'"):
        targets.find(case)


def test_a_case_whose_file_is_gone_points_to_the_option(write: Write) -> None:
    with pytest.raises(TargetError, match=r"no file 'gone\.py'.*\n.*--target"):
        targets.find(Case("matmul_here", {}, target="gone.py:matmul_here"))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("densee", "'densee' is neither a registered layer nor a module.*did you mean dense"),
        ("no_such_package.part", "neither a registered layer nor a module"),
        ("minne.py", "there is no file 'minne.py'; did you mean mine.py"),
        ("nowhere/mine.py", "there is no folder"),
        ("mine.py:twicee", "'mine.py' has no 'twicee'; did you mean twice"),
        ("mine.py:number", "'mine.py:number' cannot be made a layer"),
        ("json", "'json' holds no layer: it registers none"),
        ("", "is no target"),
        ("a b", "neither a registered layer nor a module"),
        ("./", "is a folder"),
        ("mine.txt/x", "no file"),
    ],
)
def test_a_target_that_names_nothing_is_refused_with_advice(write: Write, target: str, says: str) -> None:
    write(LOOSE)
    with pytest.raises(TargetError, match=f"(?s){says}"):
        targets.load(target)


def test_advice_for_an_object_that_an_adapter_takes_registers_that_object(write: Write) -> None:
    write("class Twice:\n    def forward(self, x):\n        return 2 * x\n\n    backward = forward")
    with pytest.raises(TargetError, match=re.escape('gradverify.register(Twice, x="N D")')):
        targets.load("mine.py:Twice")


def test_advice_for_a_file_without_layers_is_code_that_registers_one(write: Write) -> None:
    message = refusal(write("x = 1"))
    assert "gradverify.register(" in message
    assert "mine.py:OBJECT" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n    pass", ["SyntaxError", "mine.py, line 1", "def f(:"]),
        ("a = 1\nb = a / 0", ["mine.py, line 2: b = a / 0", "ZeroDivisionError: division by zero"]),
        ("import sys\nsys.exit(3)", ["mine.py, line 2", "SystemExit: 3"]),
        ("import no_such_thing_here", ["mine.py, line 1", "No module named 'no_such_thing_here'"]),
        ("from . import x", ["a file inside a package is named as a module: mine"]),
        ("import gradverify\ngradverify.Layer(len, len)", ["mine.py, line 2", "declares no primals"]),
        ("x = '\0'", ["mine.py", "null bytes"]),
    ],
)
def test_a_file_that_fails_while_imported_is_told_by_file_line_and_text(
    write: Write, text: str, says: list[str]
) -> None:
    message = refusal(write(text))
    assert all(part in message for part in says), message
    assert "Traceback" not in message


def test_a_module_that_lacks_a_dependency_is_not_called_unknown(write: Write) -> None:
    write("import no_such_thing_here", "module_with_a_gap.py")
    assert "No module named 'no_such_thing_here'" in refusal("module_with_a_gap")


def test_what_a_failing_file_had_registered_is_forgotten(write: Write) -> None:
    refusal(write(registering("half_way") + "\n    1 / 0"))
    assert "half_way" not in layers


def test_a_name_that_is_taken_is_told_at_the_line_that_takes_it(write: Write) -> None:
    message = refusal(write(registering("dense")))
    assert "'dense' is registered twice" in message
    assert "mine.py, line 11" in message

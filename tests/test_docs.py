"""Every Python block of the README and the documentation runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gradverify.core.check.settings import EXAMPLES
from gradverify.extend import adapters, layers, properties, rules, signatures

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
OUTPUT = 'text title="output"'
NOT_RUN = {"text", "console"}
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    info: str
    body: str
    line: int  # of the first line of the body, counted from 0


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m["info"].strip(), m["body"], text.count("\n", 0, m.start("body"))) for m in FENCE.finditer(text)]


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def registry_as_before() -> Iterator[None]:
    """Forget what a page registers."""
    registries = (layers, properties, signatures, rules, adapters)
    with ExitStack() as stack:
        for registry in registries:
            stack.enter_context(registry.source("documentation"))
        yield
    for registry in registries:
        with registry.source("documentation"):
            pass


HEAVY = ("conventions.md", "torch.md", "jax.md", "mutants.md", "fuzz.md")  # long, or needs an extra


FEW = 20  # cases a property in the default run: what a page says does not hang on how many were drawn


def with_python():
    """Pages with Python blocks, each with few cases and as it stands; those that need an extra, as they stand only."""
    for page in PAGES:
        if any(block.info == "python" for block in blocks_of(page)):
            if page.name not in HEAVY:
                yield pytest.param(page, FEW, id=relative(page))
            yield pytest.param(page, EXAMPLES, id=f"{relative(page)}-as it stands", marks=pytest.mark.slow)


@pytest.mark.parametrize(("page", "examples"), list(with_python()))
def test_the_python_blocks_of_a_page_run_in_order(page, examples, registry_as_before, tmp_path, monkeypatch):
    monkeypatch.setattr("gradverify.api.EXAMPLES", examples)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    printed = io.StringIO()
    for block in blocks_of(page):
        if block.info == "python":
            printed = io.StringIO()
            # The page is the file and the lines are its lines, so that a traceback points into the page.
            code = compile("\n" * block.line + block.body, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
        elif block.info == OUTPUT:
            shown = [line.rstrip() for line in printed.getvalue().splitlines()]
            assert shown == block.body.rstrip("\n").splitlines(), f"{relative(page)}:{block.line} shows other output"
    for name, test in list(namespace.items()):
        if name.startswith("test_") and callable(test):
            test()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_no_block_escapes_by_an_unknown_language(page):
    for block in blocks_of(page):
        word = block.info.split()[0] if block.info else ""
        assert word in {"python", "toml"} | NOT_RUN, f"{relative(page)}:{block.line}: ```{block.info}"
        assert word != "python" or block.info == "python", "a Python block is run as it stands, without settings"
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks_of(page)), "a fence is not closed"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_toml_blocks_can_be_read(page):
    tomllib = pytest.importorskip("tomllib")
    for block in blocks_of(page):
        if block.info == "toml":
            assert tomllib.loads(block.body)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_to_other_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{relative(page)} links to {target}"


def test_the_readme_and_the_architecture_stay_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 125
    assert len((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_property_has_a_page_of_three_parts_and_there_is_no_other():
    pages = {page.stem: page for page in (ROOT / "docs" / "properties").glob("*.md") if page.stem != "index"}
    assert set(pages) == {name for name in properties.names() if properties.origin(name) is None}
    for name, page in pages.items():
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n\n<!-- facts -->\n")
        assert re.findall("^## (.*)$", text, re.MULTILINE)[::2] == ["What it asks", "The bug behind it"]
        assert text.count("```python") == 1
        assert f"```{OUTPUT}\n{name}\n```" in text, "this property, and no other one, finds the layer"


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\nmarkdown_ext")[0]
    named = re.findall(r"[\w/-]+\.md", text)
    assert len(named) == len(set(named))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert set(named) == {page for page in pages if not page.startswith("properties/")}
    assert "[properties/]" in text

"""What mkdocs builds from the code: the pages of properties in the navigation, their facts, and pictures.

A page asks by a comment: `<!-- facts -->`, `<!-- properties -->`, `<!-- figure: NAME -->`, `<!-- benchmarks -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent
sys.path.insert(0, str(HERE))

from benchmarks import history  # noqa: E402  beside this file
from figures import FIGURES  # noqa: E402

from gradverify.core.properties import Property, properties  # noqa: E402

FOLDER = "properties/"


def on_config(config: Any) -> Any:
    """The folder of properties in the navigation becomes its pages."""
    config["nav"] = [_expanded(entry) for entry in config["nav"]]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Parts that a page asks for."""
    name = Path(page.file.src_uri).stem
    markdown = markdown.replace("<!-- facts -->", _facts(name) if name in properties else "")
    markdown = markdown.replace("<!-- properties -->", _table())
    markdown = markdown.replace("<!-- benchmarks -->", history())
    return re.sub(r"<!-- figure: (\w+) -->", lambda match: FIGURES[match[1]](), markdown)


def _expanded(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(part) for title, part in entry.items()}
    if isinstance(entry, list):
        return [part for item in entry for part in (_pages() if item == FOLDER else [_expanded(item)])]
    return entry


def _pages() -> list[Any]:
    return [f"{FOLDER}index.md", *(f"{FOLDER}{name}.md" for name in properties.names())]


def _facts(name: str) -> str:
    prop = properties.get(name)
    rows = [("holds where", prop.says), ("tried", _tried(prop)), ("drawn", _drawn(prop))]
    if prop.implied_by:
        rows.append(("not told again where", f"{' or '.join(prop.implied_by)} finds the same primal wrong"))
    first, *others = [f"| {left} | {right} |" for left, right in rows]
    return "\n".join([first, "|---|---|", *others])


def _tried(prop: Property) -> str:
    share = "on every case" if prop.share == 1 else f"on {prop.share:.0%} of the cases"
    return f"{share}, where it applies" if prop.default else f"where it is named: `--property {prop.name}`"


def _drawn(prop: Property) -> str:
    regime = prop.regime
    special = "special points: zeros, ties, borders, saturation, equal rows, axes of size 0 and 1"
    said = [special if regime.special else "general cases", f"in {regime.dtype}" if regime.dtype else ""]
    said += ["with axes of 3 at most" if regime.small else "", "at large sizes too" if regime.production else ""]
    return ", ".join(part for part in said if part)


def _table() -> str:
    rows = [f"| [{name}]({name}.md) | {properties.get(name).says} |" for name in properties.names()]
    return "\n".join(["| property | holds where |", "|---|---|", *rows])

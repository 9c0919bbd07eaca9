"""A griffe extension: docstrings here say `name : what it is`, and types stand in signatures. The tables get both.

Written as `name : description`, the description would land in the column of types; as `name` with the text below,
the type is taken from the signature.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(Parameters|Attributes)\n-+\n(?P<body>.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^(?P<names>[*\w][\w*, ]*?) : (?P<said>.*)$", re.MULTILINE)


class PlainTypes(griffe.Extension):
    """Moves descriptions below their names, before anything reads them."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(_moved, obj.docstring.value)


def _moved(section: re.Match[str]) -> str:
    body = section["body"]
    lines = []
    for line in body.splitlines():
        item = _ITEM.match(line)
        lines += [item["names"], f"    {item['said']}"] if item else [line]
    head = section[0][: len(section[0]) - len(body)]
    return head + "\n".join(lines) + ("\n" if body.endswith("\n") else "")

"""What `[tool.gradverify]` says where a command was given no flag: targets, and how much is done."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from gradverify import project
from gradverify.cli._output import note


class Defaults(NamedTuple):
    """What a project says; None or empty where it says nothing."""

    targets: tuple[str, ...] = ()  # what is checked where no target is named
    examples: int | None = None
    seed: int | None = None
    properties: tuple[str, ...] = ()
    jobs: int | None = None
    least: float | None = None


def defaults(profile: str | None = None) -> Defaults:
    """Of the project that the working folder is in, or of a profile that was named.

    Raises UsageError, naming the key that cannot be used.
    """
    root = project.root(Path.cwd())
    given = project.Given({} if root is None else project.table(root / "pyproject.toml"))
    name = profile or given.get("profile")
    if profile is not None:
        given.where["profile"] = "--profile"
    chosen = None if name is None else given.profile(name)
    jobs = given.whole("jobs", 0, 0)
    modules = [_beside(word, root or Path.cwd()) for word in given.words("modules")]
    return Defaults(
        targets=(*modules, *(name for pattern in given.words("layers") for name in _registered(pattern))),
        examples=given.whole("examples", 0, 1) or (chosen.examples if chosen else None),
        seed=_seed(given),
        properties=given.words("properties"),
        jobs=jobs or None,
        least=given.share("fail_under_coverage") or None,
    )


def told(what: Sequence[str]) -> None:
    """Say on stderr which targets a project names, as none was given."""
    note(f"gradverify: checking what [tool.{project.NAME}] names: {', '.join(what)} ")


def _beside(word: str, root: Path) -> str:
    """A file is named from the folder of pyproject.toml, wherever the command runs."""
    place, colon, wanted = word.partition(".py:") if ".py:" in word else (word, "", "")
    full = f"{place}.py" if colon else place
    if not full.endswith(".py"):
        return word
    return os.path.relpath(root / full) + (f":{wanted}" if colon else "")


def _registered(pattern: str) -> list[str]:
    from gradverify.core.declare.registry import layers

    if not any(sign in pattern for sign in "*?["):
        return [pattern]  # a name that there is not is told with those that are near
    return [name for name in layers.names() if fnmatchcase(name, pattern)]


def _seed(given: project.Given) -> int | None:
    value: Any = given.get("seed")
    if value is None:
        return None
    return random.SystemRandom().randrange(2**31) if value == "random" else given.whole("seed", 0, 0)

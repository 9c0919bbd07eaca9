"""What a project says in `[tool.gradverify]` of its pyproject.toml: one reader for the command line and for pytest.

Imports the standard library only: the pytest plugin reads it before anything else is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn  # a dataclass takes a millisecond of every run to build

from gradverify.core.errors import UsageError

NAME = "gradverify"
LISTS = {
    "modules": "modules whose layers are checked: package.module, package.module:object or file.py",
    "layers": "registered layers that are checked: names, or patterns such as conv*",
    "properties": "properties to try; the default is all of them",
    "shards": "a number of shards for every layer, or lines 'PATTERN = NUMBER'",
}
WORDS = {
    "profile": "quick, thorough or ci; the default is quick, and ci where the variable CI is set",
    "examples": "cases drawn for each property, instead of the profile's number",
    "seed": "a whole number, or 'random'",
    "corpus": "folder of failing cases, relative to the root folder (default .gradverify/corpus)",
    "prune": "whether a case that fails no more is removed from the corpus (default: not in the profile ci)",
    "fail_under_coverage": "percent of the lines and branches of each layer's code that must run (default: any share)",
    "jobs": "layers at once, each in a process of its own (default: one for each core); 0 runs them in that of pytest",
    "junit": "true: results are properties in JUnit XML; false: they are not in it (default: as its schema allows)",
}


class Profile(NamedTuple):
    """How much a run does, before flags and keys."""

    examples: int  # cases for each property
    shards: int = 1  # parts into which a property with many cases is split
    seed: int | None = None  # None draws a new one for each run
    prune: bool = True  # whether fixed cases are removed from the corpus


PROFILES = {
    "quick": Profile(examples=25),
    "thorough": Profile(examples=400, shards=4),
    "ci": Profile(examples=50, seed=0, prune=False),
}


class Given:
    """Values as a project wrote them; subclasses know of other places that win over the table.

    Attributes
    ----------
    table : `[tool.gradverify]`
    where : for each key that was asked for, where its value stands
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table, self.where = table, dict[str, str]()
        for key in table:
            if key not in LISTS and key not in WORDS:
                from gradverify.core.texts import meant  # only where it is needed: every pytest run reads this file

                known = ", ".join([*LISTS, *WORDS])
                self.where[key] = f"[tool.{NAME}] {key}"
                self.refuse(key, f"there is no such key; there are {known}{meant(key, (*LISTS, *WORDS), 1)}")

    def get(self, key: str) -> Any:
        """The value of a key as it was written, None where it was not."""
        self.where[key] = f"[tool.{NAME}] {key}"
        return self.table.get(key)

    def refuse(self, key: str, text: str) -> NoReturn:
        """Say that a value cannot be used, and where it stands."""
        raise UsageError(f"{self.where.get(key, f'[tool.{NAME}] {key}')}: {text}")

    def profile(self, name: Any) -> Profile:
        """A profile by its name."""
        if str(name) not in PROFILES:
            from gradverify.core.texts import meant

            near = meant(name, PROFILES, 1)
            self.refuse("profile", f"there is no profile {str(name)!r}; there are {', '.join(PROFILES)}{near}")
        return PROFILES[str(name)]

    def words(self, key: str) -> tuple[str, ...]:
        """A list of words, however it is written."""
        value = self.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(word for line in values for word in str(line).replace(",", " ").split())

    def whole(self, key: str, default: int, least: int) -> int:
        """A whole number."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not str(value).isdecimal() or int(value) < least:
            self.refuse(key, f"{value!r} is not a whole number of at least {least}")
        return int(value)

    def share(self, key: str) -> float:
        """Percent; 0 where none is given."""
        value = self.get(key)
        try:
            share = float(0 if value is None else value)
        except (TypeError, ValueError):
            share = -1.0
        if not 0 <= share <= 100:
            self.refuse(key, f"{value!r} is not a number from 0 to 100")
        return share

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        if str(value).lower() not in ("true", "false", "1", "0", "yes", "no"):
            self.refuse(key, f"{value!r} is neither true nor false")
        return str(value).lower() in ("true", "1", "yes")


def root(start: Path) -> Path | None:
    """The nearest folder, from one upward, whose pyproject.toml mentions gradverify."""
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            return folder if table(path) else None
    return None


def table(path: Path) -> dict[str, Any]:
    """`[tool.gradverify]` of a pyproject.toml, which is read only where it mentions the word.

    Raises UsageError if the file is no TOML, or that key is no table.
    """
    try:
        if NAME.encode() not in path.read_bytes():
            return {}
    except OSError:
        return {}
    found = toml(path).get("tool", {}).get(NAME, {})
    if not isinstance(found, dict):
        raise UsageError(f"{path}: tool.{NAME} is not a table")
    return found


def toml(path: Path) -> dict[str, Any]:
    """A TOML file; raises UsageError if it is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # pytest needs this package there as well
        import tomli as tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None

"""What a run was told: flags, ini keys, `[tool.gradverify]` and profiles become one `Settings`.

A flag wins over the ini file of pytest, which wins over `[tool.gradverify]` in pyproject.toml,
which wins over the profile. Imports the standard library and pytest only.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, NoReturn  # a dataclass takes a millisecond of every run to build

import pytest

from gradverify import project
from gradverify.core.errors import UsageError
from gradverify.project import LISTS, WORDS, Profile

PREFIX = project.NAME


class Settings(NamedTuple):
    """What holds for one run; the same in every process of it.

    `jobs` is None for one for each core; `junit` says where results go in JUnit XML: "properties", "system-out"
    or "nowhere".
    """

    profile: str
    examples: int
    seed: int
    modules: tuple[str, ...]
    layers: tuple[str, ...]
    properties: tuple[str, ...] | None
    shards: tuple[tuple[str, int], ...]
    corpus: Path
    prune: bool
    jobs: int | None
    junit: str
    json: Path | None
    html: Path | None
    pages: Path | None  # where the processes of a run leave their reports for the page
    least: float
    where: Mapping[str, str]  # key -> where it was set, for error messages

    @property
    def heading(self) -> str:
        """What draws the same cases again."""
        again = f"--{PREFIX}-seed={self.seed} draws the same cases"
        return f"{PREFIX}: profile {self.profile}, seed {self.seed} ({again})"

    @property
    def collects(self) -> bool:
        """Whether the project names layers that become tests."""
        return bool(self.modules or self.layers)

    def shards_of(self, layer: str) -> int:
        """Into how many parts the properties of a layer are split at most; the last pattern that fits wins."""
        return [count for pattern, count in self.shards if fnmatchcase(layer, pattern)][-1]

    def seed_of(self, *part: object) -> int:
        """A seed of its own for each part of the run, the same on every machine."""
        text = "\0".join(map(str, (self.seed, *part)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def add_options(parser: pytest.Parser) -> None:
    """Flags and ini keys."""
    group = parser.getgroup(PREFIX, "gradverify: gradients by hand, checked")
    for key in ("profile", "examples", "seed", "corpus", "fail_under_coverage", "jobs"):
        group.addoption(
            f"--{PREFIX}-{key.replace('_', '-')}", dest=f"{PREFIX}_{key}", metavar=key[0].upper(), help=WORDS[key]
        )
    group.addoption(
        f"--{PREFIX}-property", dest=f"{PREFIX}_properties", metavar="P", action="append", help="try this property only"
    )
    group.addoption(f"--{PREFIX}-json", dest=f"{PREFIX}_json", metavar="FILE", help="write the results as JSON")
    group.addoption(f"--{PREFIX}-html", dest=f"{PREFIX}_html", metavar="FILE", help="write the reports as one page")
    for key, text in LISTS.items():
        parser.addini(f"{PREFIX}_{key}", text, type="linelist", default=None)
    for key, text in WORDS.items():
        parser.addini(f"{PREFIX}_{key}", text, default=None)


def mentioned(config: pytest.Config) -> bool:
    """Whether the command line or a file of the project says anything about gradverify; no more is read."""
    said = any(PREFIX in str(arg) for arg in config.invocation_params.args)
    return said or bool(_table(config)) or any(_is_set(config, f"{PREFIX}_{key}") for key in (*LISTS, *WORDS))


def _is_set(config: pytest.Config, name: str) -> bool:
    try:
        return bool(config.getini(name))
    except TypeError:  # of a type of its own, as in pytest.toml
        return True


def resolve(config: pytest.Config) -> Settings:
    """The settings of a run; raises pytest.UsageError, naming the flag or key whose value cannot be used."""
    given = _Given(config)
    chosen = given.get("profile")
    name = str(chosen or ("ci" if os.environ.get("CI") else "quick"))
    profile = given.profile(name) if chosen else _as_hypothesis(config, given.profile(name))
    examples = given.whole("examples", profile.examples, 1)
    return Settings(
        profile=name,
        examples=examples,
        seed=_seed(config, given, profile),
        modules=given.words("modules"),
        layers=given.words("layers"),
        properties=given.words("properties") or None,
        shards=(("*", profile.shards), *_shards(given)),
        corpus=config.rootpath / str(given.get("corpus") or Path(".gradverify") / "corpus"),
        prune=given.truth("prune", profile.prune),
        jobs=None if given.get("jobs") is None else given.whole("jobs", 0, 0),
        junit=_junit(given, config),
        json=_writable(given, config, "json"),
        html=(page := _writable(given, config, "html")),
        pages=None if page is None else _pages(config),
        least=given.share("fail_under_coverage"),
        where=given.where,
    )


def _as_hypothesis(config: pytest.Config, profile: Profile) -> Profile:
    """The profile, with what is asked of Hypothesis by its flag, or by a conftest that has loaded a profile."""
    name = config.getoption("hypothesis_profile", None)
    if name is None and "hypothesis" not in sys.modules:
        return profile
    from hypothesis import errors, settings

    try:
        told = settings() if name is None else settings.get_profile(name)
    except errors.InvalidArgument:  # Hypothesis says so itself
        return profile
    if name is not None:
        profile = profile._replace(examples=told.max_examples)
    return profile._replace(seed=0) if told.derandomize else profile


def _junit(given: _Given, config: pytest.Config) -> str:
    """The schema xunit2 has no properties of a test, but it has its output."""
    if given.get("junit") is not None:
        return "properties" if given.truth("junit", True) else "nowhere"
    written = config.getoption("xmlpath", None) is not None
    return "system-out" if written and config.getini("junit_family") == "xunit2" else "properties"


def _seed(config: pytest.Config, given: _Given, profile: Profile) -> int:
    told = getattr(config, "workerinput", {}).get("gradverify_seed")
    if told is not None:
        return int(told)
    value = given.get("seed")
    if value is None:
        of_hypothesis = str(config.getoption("hypothesis_seed", None))
        value = int(of_hypothesis) if of_hypothesis.isdecimal() else profile.seed
    if value is None or value == "random":
        return random.SystemRandom().randrange(2**31)  # the global generator belongs to the tests
    return given.whole("seed", 0, 0) if given.get("seed") is not None else int(value)


def _shards(given: _Given) -> list[tuple[str, int]]:
    value = given.get("shards")
    if value is None:
        return []
    if isinstance(value, Mapping):
        pairs = [(str(pattern), str(count)) for pattern, count in value.items()]
    else:
        lines = [str(v) for v in (value if isinstance(value, list) else [value])]
        pairs = [("*", line) if "=" not in line else tuple(map(str.strip, line.split("=", 1))) for line in lines]  # type: ignore[misc]
    for pattern, count in pairs:
        if not count.isdecimal() or int(count) < 1:
            given.refuse("shards", f"{pattern} = {count}: a number of at least 1 is wanted")
    return [(pattern, int(count)) for pattern, count in pairs]


def _pages(config: pytest.Config) -> Path:
    told = getattr(config, "workerinput", {}).get("gradverify_pages")
    return Path(told or tempfile.mkdtemp(prefix=f"{PREFIX}-pages-"))


def _writable(given: _Given, config: pytest.Config, key: str) -> Path | None:
    value = given.get(key)
    if value is None:
        return None
    path = config.invocation_params.dir / str(value)
    if path.is_dir():
        given.refuse(key, f"{str(value)!r} is a folder")
    if not path.parent.is_dir():
        given.refuse(key, f"cannot write {str(value)!r}: there is no folder {str(path.parent)!r}")
    return path


class _Given(project.Given):
    """Values as they were written in flags, in pytest's own configuration or in the table, in this order."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        super().__init__(_table(config))

    def get(self, key: str) -> Any:
        flag = self.config.getoption(f"{PREFIX}_{key}", None)
        if flag is not None:
            self.where[key] = f"--{PREFIX}-{'property' if key == 'properties' else key}"
            return flag
        ini = self._ini(f"{PREFIX}_{key}") if key in LISTS or key in WORDS else None
        if ini is not None and ini != []:
            self.where[key] = f"{PREFIX}_{key}"
            return ini
        return super().get(key) if key in self.table else None

    def _ini(self, name: str) -> Any:
        try:
            return self.config.getini(name)
        except (TypeError, pytest.UsageError):  # `[tool.pytest]` and pytest.toml have types, and these keys several
            path = self.config.inipath
            data = project.toml(path) if path is not None else {}
            return (data.get("tool", {}).get("pytest") or data.get("pytest") or {}).get(name)

    def refuse(self, key: str, text: str) -> NoReturn:
        raise pytest.UsageError(f"{self.where.get(key, f'{PREFIX}_{key}')}: {text}")


def _table(config: pytest.Config) -> dict[str, Any]:
    """`[tool.gradverify]`, read only where a pyproject.toml mentions it."""
    ini = config.inipath
    path = ini if ini is not None and ini.name == "pyproject.toml" else config.rootpath / "pyproject.toml"
    try:
        return project.table(path)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None

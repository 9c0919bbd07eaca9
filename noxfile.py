"""One command for each habit: `nox -s tests`, `lint`, `types`, `docs`, `bench`, `changes`, `oldest`, `install`."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "types", "docs"]
nox.options.reuse_existing_virtualenvs = True

OLDEST = ("numpy==1.26.0", "hypothesis==6.100.0", "pytest==8.0.0", "click==8.1.0", "rich==13.0.0")
PYTHONS = ("3.10", "3.13")  # the oldest and the newest that are supported


@nox.session
def tests(session: nox.Session) -> None:
    """The default suite, on all cores; arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *(session.posargs or ["-n", "auto"]))


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The suite with the oldest versions that are supported."""
    session.install(".[test]", *OLDEST)
    session.run("python", "-m", "pytest", *(session.posargs or ["-n", "auto"]))


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in build/site."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", "build/site", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Add a line to the benchmark history."""
    session.install("-e", ".[test]")
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    session.run("python", "-m", "tests.bench.history", *session.posargs, env=one)


@nox.session
def changes(session: nox.Session) -> None:
    """What the fragments of the changelog will read like."""
    session.install("towncrier>=23.11")
    session.run("towncrier", "build", "--draft", "--version", "unreleased")


@nox.session(python=PYTHONS)
def install(session: nox.Session) -> None:
    """The wheel and the source archive, each alone in a fresh environment, away from the sources."""
    built = Path(session.create_tmp()) / "dist"
    shutil.rmtree(built, ignore_errors=True)
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", str(built))
    session.run("twine", "check", "--strict", *map(str, built.iterdir()))
    for archive in sorted(built.iterdir()):
        session.run("python", "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", str(archive))
        session.install(str(archive))
        session.chdir(session.create_tmp())
        session.run("gradverify", "--version")
        session.run("gradverify", "check", "dense", "sigmoid_mlp+mse", "--profile", "quick")
        session.chdir(Path(__file__).parent)

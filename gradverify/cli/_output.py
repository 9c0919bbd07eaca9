"""Where text goes: data to stdout, everything else to stderr, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from gradverify.core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
_LEAST = 64 << 20
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def memory(value: str) -> int:
    """The type of an option: bytes, as 500M or 4G."""
    match = re.fullmatch(r"(\d+)([KMG]?)", value, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{value!r} is no number of bytes; write 500M, 4G")
    size = int(match[1]) * _SIZES[match[2].upper()]
    if 0 < size < _LEAST:
        raise click.BadParameter(f"{value!r} is too little for any layer; at least {_LEAST >> 20}M, or 0 for no limit")
    return size


def targets_named(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """What a shell may complete a target to: registered names, and files."""
    from click.shell_completion import CompletionItem

    from gradverify.core.declare.registry import layers

    names = [CompletionItem(name) for name in layers.names() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def color_option(function: F) -> F:
    """`--color/--no-color`; by default colour follows NO_COLOR, FORCE_COLOR and the terminal."""
    text = "Colour, or none; the default asks the terminal."
    return click.option("--color/--no-color", default=None, help=text)(function)


def colored(stream: TextIO, wanted: bool | None) -> bool:
    """Whether to write ANSI colour to a stream."""
    if wanted is not None:
        return wanted
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


@contextmanager
def live(color: bool | None) -> Iterator[tuple[Any, Any]]:
    """A console on stderr, and what is rewritten at its end; two None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None, None
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, no_color=not colored(sys.stderr, color), highlight=False)
    with Live(console=console, transient=True, auto_refresh=False) as shown:
        yield console, shown


@contextmanager
def data_stream() -> Iterator[TextIO]:
    """Gives the real stdout; whatever a layer prints inside goes to stderr."""
    data = sys.stdout
    with redirect_stdout(sys.stderr):
        yield data


def write(text: str, stream: TextIO) -> None:
    """A line or more; signs that the stream cannot encode are replaced.

    A reader that has left (`| head`) changes nothing else: what follows is lost, files and exit status are not. Raises
    UsageError if the stream cannot be written, e.g. because the disk is full.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace("±", "+-").replace("…", "...").encode(encoding, "replace").decode(encoding)
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # Python's exit must not flush into it again
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise UsageError(f"cannot write the output: {error.strerror or error}") from None


def note(text: str) -> None:
    """A line on stderr."""
    write(text, sys.stderr)


def writable(path: str | None) -> None:
    """Refuse a file that cannot be written before an hour of work, not after.

    Raises UsageError if the folder does not exist or cannot be written, or the path is a folder.
    """
    if path is None or path == "-":
        return
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"cannot write {path!r}: there is no folder {str(folder)!r}")
    if Path(path).is_dir():
        raise UsageError(f"cannot write {path!r}: it is a folder")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise UsageError(f"cannot write {path!r}: permission denied")


def write_json(content: Any, path: str, data: TextIO) -> None:
    """JSON to a file, or to stdout for "-"; see `write_text`."""
    write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", path, data)


def write_text(text: str, path: str, data: TextIO) -> None:
    """Whole lines to a file, or to stdout for "-"; raises UsageError if the file cannot be written."""
    if path == "-":
        write(text.removesuffix("\n"), data)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path!r}: {error.strerror or error}") from None

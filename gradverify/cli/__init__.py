"""The command line: one file for each command, found by listing this package.

A module `gradverify.cli.<name>` whose name has no leading underscore holds one click command,
called `command`. Its heavy imports stand inside the function, so that `--help` and `--version`
stay fast.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import click

from gradverify import __version__
from gradverify.core.errors import GradverifyError
from gradverify.core.texts import meant
from gradverify.ending import kept_alive

USAGE, INTERRUPTED, INTERNAL = 2, 130, 70


class Commands(click.Group):
    """Commands by the names of the modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{__name__}.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As usual, but a name that is not known gets those that are near, or the command that takes targets."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = meant(args[0], self.list_commands(ctx), 1) or f"; to check it: gradverify check {args[0]}"
            raise click.UsageError(f"there is no command {args[0]!r}{near}", ctx) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="gradverify %(version)s")
def commands() -> None:
    """The test that every backward pass must pass.

    Exit status: 0 nothing wrong, 1 a finding, 2 wrong usage or a target that cannot be loaded,
    3 nothing could be verified, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; always leaves by SystemExit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status.

    An error of the user's is one line on stderr and status 2. Only an error of gradverify's own
    shows a traceback; its status is 70, so that nobody takes it for a finding.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  until exit
    try:
        with kept_alive():
            result = commands.main(args=arguments, prog_name="gradverify", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return USAGE
    except GradverifyError as error:
        click.echo(f"gradverify: error: {error}", err=True)
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("gradverify: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has left; Python's exit must not flush into it
        return 0
    except Exception:  # noqa: BLE001  told with its traceback, under a status of its own
        traceback.print_exc()
        click.echo("gradverify: internal error; please report it with the lines above", err=True)
        return INTERNAL

"""`gradverify list`: everything that is registered, and where each came from."""

from __future__ import annotations

from typing import Any

import click

from gradverify.cli._output import data_stream, write, write_json
from gradverify.core.texts import short

WIDTH = 100  # of a line of text; a kind that is asked for, and JSON, have it all
KINDS = ("layers", "losses", "properties", "adapters")


@click.command("list")
@click.argument("kinds", metavar="[KIND]...", nargs=-1, type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(kinds: tuple[str, ...], as_json: bool) -> int:
    """List layers, losses, properties and adapters, with where each came from.

    KIND is one of these four words: what it names is listed alone, and in full.
    """
    with data_stream() as data:
        found = {kind: rows for kind, rows in inventory().items() if kind in (kinds or KINDS)}
        if as_json:
            write_json({"schema": "gradverify-list", "version": 1, **found}, "-", data)
        else:
            write("\n\n".join(_section(kind, rows, bool(kinds)) for kind, rows in found.items()), data)
    return 0


def inventory() -> dict[str, list[dict[str, Any]]]:
    """For each kind, its items: `name`, `says` (one line), `from` (entry point, module or file)."""
    from gradverify.adapters import adapters
    from gradverify.core.declare.layer import Loss
    from gradverify.core.declare.registry import layers
    from gradverify.core.properties import properties

    kinds: dict[str, list[dict[str, Any]]] = {"layers": [], "losses": [], "properties": [], "adapters": []}
    for name in layers.names():
        layer = layers.get(name)
        kind = "losses" if isinstance(layer, Loss) else "layers"
        kinds[kind].append(_row(name, layer.doc, layers.origin(name), primals=list(layer.primal_names)))
    kinds["properties"] = [_row(n, properties.get(n).says, properties.origin(n)) for n in properties.names()]
    kinds["adapters"] = [
        _row(n, adapters.get(n).hint, adapters.origin(n), declared=adapters.get(n).hint) for n in adapters.names()
    ]
    return kinds


def _row(name: str, says: str, origin: str | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "says": (says.strip().splitlines() or [""])[0], "from": origin or "gradverify", **more}


def _section(kind: str, rows: list[dict[str, Any]], whole: bool) -> str:
    width = max((len(row["name"]) for row in rows), default=0)
    if whole:
        indent = "\n" + " " * (width + 4)
        said = [indent.join(part.strip() for part in row.get("declared", row["says"]).splitlines()) for row in rows]
    else:
        said = [row["says"] for row in rows]
    lines = [f"  {row['name']:<{width}}  {_source(row['from'])}{text}" for row, text in zip(rows, said)]
    return "\n".join([f"{kind} ({len(rows)})", *(line if whole else short(line, WIDTH) for line in lines)])


def _source(origin: str) -> str:
    """Where something came from, unless it came with gradverify."""
    return "" if origin.partition(".")[0] == "gradverify" else f"[{origin}] "

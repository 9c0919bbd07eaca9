"""`gradverify list`: everything that is registered, and where each came from."""

from __future__ import annotations

from typing import Any

import click

from gradverify.cli._output import data_stream, write, write_json

WIDTH = 100  # of a line of text; JSON has it all


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(as_json: bool) -> int:
    """List layers, losses, properties and adapters, with where each came from."""
    with data_stream() as data:
        kinds = inventory()
        if as_json:
            write_json({"schema": "gradverify-list", "version": 1, **kinds}, "-", data)
        else:
            write("\n\n".join(_section(kind, rows) for kind, rows in kinds.items()), data)
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
    kinds["adapters"] = [_row(n, adapters.get(n).hint, adapters.origin(n)) for n in adapters.names()]
    return kinds


def _row(name: str, says: str, origin: str | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "says": (says.strip().splitlines() or [""])[0], "from": origin or "gradverify", **more}


def _section(kind: str, rows: list[dict[str, Any]]) -> str:
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [f"  {row['name']:<{width}}  {_source(row['from'])}{row['says']}" for row in rows]
    return "\n".join([f"{kind} ({len(rows)})", *(_cut(line) for line in lines)])


def _source(origin: str) -> str:
    """Where something came from, unless it came with gradverify."""
    return "" if origin.partition(".")[0] == "gradverify" else f"[{origin}] "


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 2].rstrip()} …"

"""A module from its class: built once, with numbers for the sizes that it is built with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gradverify.adapters._instance import SIZE, leaves, resolved
from gradverify.adapters._normal import required
from gradverify.core.errors import DeclarationError

_SIZES = (4, 3, 5, 2, 7, 6, 8)
_NAME = re.compile(r"[A-Za-z_]\w*")


def built(label: str, cls: Any, init: Any, declared: Mapping[str, Any]) -> tuple[Any, dict[str, Any], str]:
    """A module, the declaration with the sizes that it was built with, and a line that says them.

    Parameters
    ----------
    cls : the class, or a function that builds a module
    init : a tuple or a dict of values, among them names of sizes; None matches what must be given by name

    Raises
    ------
    DeclarationError
        If it cannot be built.
    """
    needs = required(cls) or []
    given = {n: n for n in needs} if init is None else init if isinstance(init, (Mapping, tuple)) else (init,)
    used = [n for n in leaves(given) if _NAME.fullmatch(n) and (n in names_in(declared) or SIZE.fullmatch(n))]
    sizes = dict(zip(dict.fromkeys(used), _SIZES))
    arguments = resolved(given, sizes)
    unknown = [n for n in needs if init is None and n not in sizes]
    if unknown:
        raise DeclarationError(_refused(label, cls, f"it needs {', '.join(unknown)}", needs))
    try:
        made = cls(**arguments) if isinstance(arguments, Mapping) else cls(*arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DeclarationError(_refused(label, cls, f"with init={init!r}: {error}", needs)) from None
    told = ", ".join(f"{name}={size}" for name, size in sizes.items())
    fixed = {name: _fixed(spec, sizes) for name, spec in declared.items()}
    return made, fixed, f"the module is built with {told}" if told else ""


def _refused(label: str, cls: Any, why: str, needs: list[str]) -> str:
    names = ", ".join(f'"{n}": "D"' for n in needs) or '"width": "D"'
    return (
        f"layer {label!r}: the module cannot be built: {why}; pass an instance, gradverify.check({cls.__name__}(...), "
        f"...), or say what it is built with, numbers or sizes by name: init=(3, 4), init={{{names}}}"
    )


def names_in(declared: Mapping[str, Any]) -> set[str]:
    """Names in the dimension strings."""
    return {name for spec in declared.values() for name in _NAME.findall(_text(spec).partition(":")[0])}


def _text(spec: Any) -> str:
    return spec if isinstance(spec, str) else spec[0] if isinstance(spec, tuple) and spec else ""


def _fixed(spec: Any, sizes: Mapping[str, int]) -> Any:
    """A dimension string with numbers for some names."""

    def number(match: re.Match[str]) -> str:
        return str(sizes.get(match[0], match[0]))

    if isinstance(spec, str):
        return _NAME.sub(number, spec)
    return (_NAME.sub(number, spec[0]), *spec[1:]) if isinstance(spec, tuple) and isinstance(spec[0], str) else spec

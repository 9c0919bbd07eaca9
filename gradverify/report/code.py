"""A Case as Python code that can be pasted and gives back the same bits."""

from __future__ import annotations

import keyword
import math
import re
import textwrap
from typing import Any

import numpy as np

from gradverify.core.nouns import Array, Case, Comparison

_TAKEN = {"np", "ml_dtypes", "options", "cotangents", "primals"}
_WIDTH = 76  # of a line of code; arrays wrap, nothing else does


def python(case: Case) -> str:
    """Statements that build the primals, the options and the cotangents of a Case.

    Primals become variables of their own names, or entries of a dict `primals` where a name is no
    Python identifier.
    """
    arrays = [*case.primals.values(), *(case.cotangents or ())]
    lines = ["import numpy as np"]
    if any(np.asarray(a).dtype.kind == "V" or not _native(np.asarray(a)) for a in arrays):
        lines.append("import ml_dtypes")
    if all(n.isidentifier() and not keyword.iskeyword(n) and n not in _TAKEN for n in case.primals):
        lines += [_assign(f"{name} = ", array) for name, array in case.primals.items()]
    else:
        lines += ["primals = {}", *(_assign(f"primals[{n!r}] = ", array) for n, array in case.primals.items())]
    if case.options:
        lines.append(f"options = {{{', '.join(f'{k!r}: {_option(v)}' for k, v in case.options.items())}}}")
    if case.cotangents is not None:
        one = f"cotangents = ({', '.join(map(array, case.cotangents))},)"
        several = "".join(textwrap.indent(f"{_assign('', v)},\n", "    ") for v in case.cotangents)
        lines.append(one if len(one) <= _WIDTH else f"cotangents = (\n{several})")
    return "\n".join(lines)


def calls(comparison: Comparison | None) -> list[str]:
    """Statements that hold what two calls gave, by which is which; none where a numerical derivative is compared."""
    if comparison is None or not comparison.two_calls:
        return []
    sides = zip(comparison.sides, (comparison.analytic, comparison.numerical))
    return [_assign(f"{re.sub(r'[^a-z]+', '_', side)} = ", value) for side, value in sides]


def array(value: Array) -> str:
    """An expression that builds one array with the same dtype, shape and bits (NaN payloads apart)."""
    value = np.asarray(value)
    dtype = _dtype(value)
    if value.size == 0:
        return f"np.zeros({value.shape}{dtype})"
    return f"np.array({_nested(value)}{dtype})"


def scalar(value: Any) -> str:
    """One element as an expression: the shortest digits that give back the same value."""
    if isinstance(value, np.generic) and value.dtype.kind in "fV" and value.dtype.itemsize < 8:
        exact = float(value)
        text = str(value)
        # short digits pass through a double on their way back, which can round twice
        return text if math.isfinite(exact) and type(value)(float(text)) == value else scalar(exact)
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, complex):
        return f"complex({scalar(plain.real)}, {scalar(plain.imag)})"
    if isinstance(plain, float) and not math.isfinite(plain):
        return "np.nan" if math.isnan(plain) else "np.inf" if plain > 0 else "-np.inf"
    if isinstance(plain, np.longdouble):
        return f"np.longdouble({str(plain)!r})"
    return repr(plain)


def _native(value: Array) -> bool:
    return value.dtype.name in np.sctypeDict


def _dtype(value: Array) -> str:
    name = value.dtype.name
    if name == "float64" or (value.size and name in ("bool", "complex128", "int64")):
        return ""  # what np.array and np.zeros choose by themselves
    name = "bool_" if name == "bool" else name
    return f", dtype=np.{name}" if _native(value) else f", dtype=ml_dtypes.{name}"


def _nested(value: Array) -> str:
    if value.ndim == 0:
        return scalar(value[()])
    return f"[{', '.join(_nested(row) for row in value)}]"


def _option(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_option, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_option, value))}]"
    return scalar(value)


def _assign(left: str, value: Array) -> str:
    """One line if it fits, else one row of the array to a line."""
    value = np.asarray(value)
    text = left + array(value)
    if len(text) <= _WIDTH or value.ndim == 0 or value.size == 0:
        return text
    rows = [f"{_nested(row)}," for row in value] if value.ndim > 1 else [", ".join(map(scalar, value))]
    wrapped = [line for row in rows for line in textwrap.wrap(row, _WIDTH - 4, break_on_hyphens=False)]
    return "\n".join([f"{left}np.array([", *(f"    {line}" for line in wrapped), f"]{_dtype(value)})"])

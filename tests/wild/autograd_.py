"""autograd: its table of pullbacks, each called as `defvjp` stores it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import autograd.numpy as anp
import autograd.scipy.special as special
import numpy as np
from autograd.core import primitive_vjps
from entry import Entry

from gradverify import adapt


def table(function, count, **declaration):
    """The makers of a primitive, from the table."""

    def maker(k, answer, *arguments, **keywords):
        pull = primitive_vjps[function]((k,), answer, arguments, keywords)
        return lambda g: pull(g)[0]

    name = declaration.pop("name", getattr(function, "__name__", "primitive"))
    makers = [partial(maker, k) for k in range(count)]
    return adapt.vjp_maker(function, *makers, name=name, **declaration)


UNARY = {
    "real": [
        "negative",
        "exp",
        "exp2",
        "expm1",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "tanh",
        "arctan",
        "arcsinh",
        "square",
        "sinc",
        "absolute",
        "fabs",
        "logaddexp_",
    ],
    "positive": ["log", "log2", "log10", "log1p", "sqrt", "reciprocal"],
    "between -0.9 0.9": ["arcsin", "arccos", "arctanh"],
}
BINARY = {
    "real": ["add", "subtract", "multiply", "maximum", "minimum", "logaddexp", "logaddexp2", "arctan2", "hypot"],
    "nonzero": ["divide", "true_divide"],
}
SHAPED = {
    "sum, axis 0": (partial(anp.sum), {"x": "N D"}, {"axis": 0}),
    "mean": (anp.mean, {"x": "N D"}, {"axis": 1}),
    "prod": (anp.prod, {"x": "N D: nonzero"}, {"axis": 1}),
    "var": (anp.var, {"x": "N D"}, {"axis": 0}),
    "std": (anp.std, {"x": "3 D: distinct"}, {"axis": 0}),
    "cumsum": (anp.cumsum, {"x": "N D"}, {"axis": 1}),
    "sort": (anp.sort, {"x": "N: distinct"}, {}),
    "transpose": (anp.transpose, {"x": "N D"}, {}),
    "trace": (anp.trace, {"x": "N N"}, {}),
    "diff": (anp.diff, {"x": "N 4"}, {}),
    "tile": (anp.tile, {"x": "N D"}, {"reps": 2}),
    "roll": (anp.roll, {"x": "N D"}, {"shift": 1, "axis": 1}),
}


def regular(a, **_):
    """Whether a square matrix is far from singular."""
    return abs(np.linalg.det(a)) > 0.1


LINEAR = {
    "dot": (anp.dot, {"a": "N D", "b": "D H"}),
    "matmul": (anp.matmul, {"a": "N D", "b": "D H"}),
    "inner": (anp.inner, {"a": "N D", "b": "M D"}),
    "outer": (anp.outer, {"a": "N", "b": "M"}),
    "linalg.det": (anp.linalg.det, {"a": "3 3"}),
    "linalg.solve": (anp.linalg.solve, {"a": "2 2", "b": "2 K", "assume": regular}),
}


def reduced(function, arrays, keywords):
    function = getattr(function, "func", function)
    layer = table(function, len(arrays), options={k: [v] for k, v in keywords.items()}, **arrays)
    return layer


JUDGED = {
    "sinc": ("bug", "0/0 at 0, where the slope is 0"),
    "arctan2": ("convention", "0/0 at (0, 0), where there is no derivative"),
    "hypot": ("bug", "0/0 at (0, 0), a kink, where any slope between -1 and 1 would do"),
    "tile": ("bug", "fewer repetitions than axes belong to the last axes; the pullback takes the first"),
    "linalg.det": ("bug", "inverts the matrix, and raises for singular ones, where the determinant is smooth"),
}


ENTRIES = [
    *(
        Entry(name, partial(table, getattr(anp, name), 1, x=f"N: {domain}"))
        for domain, names in UNARY.items()
        for name in names
        if getattr(anp, name, None) in primitive_vjps
    ),
    *(
        Entry(name, partial(table, getattr(anp, name), 2, x="N D", y=f"N D: {domain}"))
        for domain, names in BINARY.items()
        for name in names
        if getattr(anp, name, None) in primitive_vjps
    ),
    *(
        Entry(name, partial(reduced, *spec))
        for name, spec in SHAPED.items()
        if getattr(spec[0], "func", spec[0]) in primitive_vjps
    ),
    *(
        Entry(name, partial(table, f, len([a for a in arrays if a != "assume"]), **arrays))
        for name, (f, arrays) in LINEAR.items()
        if f in primitive_vjps
    ),
    *(
        Entry(f"special.{name}", partial(table, getattr(special, name), 1, x="N: between 0.5 4"))
        for name in ("gammaln", "psi", "erf", "erfc", "j0", "j1", "y0", "i0", "i1", "expit")
        if getattr(special, name, None) in primitive_vjps
    ),
]
ENTRIES = [replace(e, judgement=JUDGED[e.name][0], note=JUDGED[e.name][1]) if e.name in JUDGED else e for e in ENTRIES]

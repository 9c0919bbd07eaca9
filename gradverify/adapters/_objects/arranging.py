"""How the methods of an object hand on outputs, what was saved and upstream gradients, where it is not as usual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradverify.adapters._arranged import Way, ways
from gradverify.adapters._normal import examples, flat, parted
from gradverify.adapters._objects.stateful import Stateful
from gradverify.core.declare.held import arrays_of
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import SLOW
from gradverify.core.nouns import Array


def arrange(inner: Stateful, layer: Layer) -> str:
    """Tell how the object is called, where the usual way gives no gradients and another one does; returns the line.

    Each way is tried on a new object, as for a pair of functions.
    """
    if not all(inner.methods):
        return ""
    options = layer.default_options
    for arrays, sizes in examples(layer, inner.maker.sizes()):
        if _fits(inner, None, arrays, sizes, options):
            return ""
        inner.assumed = sizes
        try:
            made, _ = inner.fresh({n: np.array(a) for n, a in arrays.items()}, options)
            given = [np.array(arrays[n]) for n in inner.inputs]
            with inner.maker.chance.fixed(options, note=False):
                raw = inner.forwarded(made, given, options)
        except (LayerFailure, DeclarationError):
            continue
        finally:
            inner.assumed = {}
        known = {**dict(zip(inner.inputs, given)), **options, **inner.extra}
        candidates = ways(raw, getattr(made, inner.methods[1]), known, (*options, *inner.extra))
        inner.way = next((way for way in candidates if _fits(inner, way, arrays, sizes, options)), None)
        return str(inner.way) if inner.way is not None else ""
    return ""


def _fits(
    inner: Stateful, way: Way | None, arrays: Mapping[str, Array], sizes: Mapping[str, Any], options: Mapping[str, Any]
) -> bool:
    """Whether forward gives arrays, and backward nothing but arrays of shapes that the object or its inputs have."""
    inner.way, inner.assumed = way, sizes
    try:
        made, _ = inner.fresh({n: np.array(a) for n, a in arrays.items()}, options)
        shapes = {np.shape(a) for a in (*arrays.values(), *arrays_of(made).values())}
        with inner.maker.chance.fixed(options, note=False):
            output, ran = inner.call(made, [np.array(arrays[n]) for n in inner.inputs], options)
            if not all(isinstance(y, (np.ndarray, np.generic, float, int)) for y in flat(output)):
                return False
            ones = tuple(np.ones(np.shape(y)) for y in flat(output))
            values, _ = parted(inner.pull(ran, ones if isinstance(output, tuple) else ones[0]))
        return all(v is None or np.shape(v) in shapes for v in values)
    except LayerFailure as failure:
        if failure.kind in ("timeout", SLOW):
            raise
        return False
    except (DeclarationError, ValueError, TypeError):  # what it returned is no array
        return False
    finally:
        inner.assumed = {}

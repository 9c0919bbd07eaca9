"""What torch and JAX share: a Layer on NumPy arrays whose forward and backward an engine runs in its own library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gradverify.adapters._engines.lossy import FORMATS, InNumPy
from gradverify.adapters._engines.references import refers_to
from gradverify.adapters._normal import split
from gradverify.core.declare.layer import Layer, Loss
from gradverify.core.errors import DeclarationError


def parted(declaration: dict[str, Any], own: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A declaration as what is the adapter's own, what any Layer takes, and the primals."""
    mine = {key: declaration[key] for key in own if key in declaration}
    told, settings = split({k: v for k, v in declaration.items() if k not in mine})
    return mine, settings, told


def probed(label: str, target: Any, declared: Mapping[str, Any], settings: Mapping[str, Any]) -> Layer:
    """A Layer that computes nothing, and knows what is declared; it holds the target, which may name constants."""
    constants = settings.get("constants", ())
    return Layer(lambda *_, **__: target, lambda *_: None, name=label, primals=declared, constants=constants)


def kernel_type(label: str, own: Mapping[str, Any], types: tuple[str, ...], operands: str) -> str | None:
    """The type that a kernel is written for; it comes with a reference, and a reference with it."""
    kind = own.get("kernel")
    if kind is None:
        if "reference" in own:
            raise DeclarationError(
                f'layer {label!r}: reference=... is for code that takes one type only; say which: kernel="bfloat16"'
            )
        return None
    if kind not in types:
        raise DeclarationError(f"layer {label!r}, kernel: {kind!r} is not one of {', '.join(types)}")
    if "reference" not in own:
        raise DeclarationError(
            f"layer {label!r}: code fixed to {kind} needs reference=..., the same function in plain operations; "
            "differences in that type alone resolve nothing"
        )
    if not callable(own["reference"]):
        given = type(own["reference"]).__name__
        raise DeclarationError(f"layer {label!r}: reference is a {given}; it takes a function of {operands}")
    return str(kind)


def in_numpy(label: str, plain: Any, library: str, kind: str, call: Callable[..., Any]) -> InNumPy | None:
    """A reference that is written in NumPy, which is screened; None where it is the library's, and differentiated.

    Parameters
    ----------
    call : the reference on arrays in the order of the primals
    """
    if refers_to(plain, library) or not refers_to(plain, "numpy"):
        return None
    if kind not in FORMATS:
        raise DeclarationError(
            f"layer {label!r}: a reference in NumPy is for kernels in {', '.join(FORMATS)}; {kind} takes one in "
            f"{library} operations"
        )
    return InNumPy(call, kind)


def layer_on(
    engine: Any,
    target: Any,
    declared: Mapping[str, Any],
    settings: Mapping[str, Any],
    own: Mapping[str, Any],
    hooks: Mapping[str, Any],
    on_arrays: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Layer:
    """The Layer whose calls an engine runs.

    Parameters
    ----------
    hooks : further ways into the layer, beside those that every engine has
    on_arrays : turns a surrogate, which the author writes in the library, into one of arrays
    """

    def forward(*arrays: Any, **options: Any) -> Any:
        return engine.forward(*arrays, **options)

    def backward(cotangents: Any, saved: Any) -> Any:
        return engine.backward(cotangents, saved)

    told = {"doc": inspect.getdoc(target) or "", "wants": engine.wants, "batched": engine.batched, **hooks, **settings}
    if own.get("second", True) is not False and own.get("kernel") is None:
        told.setdefault("second", engine.second)
    if (surrogate := settings.get("surrogate")) is not None:
        told["surrogate"] = functools.wraps(surrogate)(on_arrays(surrogate))
    setattr(forward, "__wrapped__", target)  # noqa: B010  its constants are worth drawing
    build = Loss if own.get("loss") else Layer
    return build(forward, backward, name=engine.name, primals=declared, **told)

"""JAX: custom_vjp, custom_jvp, compiled and plain functions, each turned into a Layer on NumPy arrays.

    gradverify.check(softclip, x="N D")                                  # a jax.custom_vjp
    gradverify.check(model, params={"W": "D H", "b": "H"}, x="N D")      # pytrees of inputs

jax is recognised by what is imported already, and imported only when a target needs it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gradverify.adapters import convention
from gradverify.adapters._engines import in_numpy, kernel_type, layer_on, parted, probed
from gradverify.adapters._engines.references import refers_to
from gradverify.adapters._jax.engine import Engine, import_jax
from gradverify.adapters._jax.reference import in_type, reference_of
from gradverify.adapters._nested import flattened
from gradverify.adapters._normal import nameable
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.validation import parameters, takes

OWN = ("second", "forward_mode", "loss", "kernel", "reference")
_KERNELS = ("bfloat16", "float16", "float32")


def _recognises(target: Any) -> bool:
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "custom_jvp") or inspect.isclass(target) or not callable(target):
        return False
    if _is(target, "custom_vjp") or _is(target, "custom_jvp"):
        return True
    return refers_to(target, "jax") or refers_to(target, "jaxlib")


@convention(
    'gradverify.check(f, x="N D", W="D H")  # a jax.custom_vjp, jax.custom_jvp, compiled or plain function\n'
    '    gradverify.check(gradverify.adapters.jax_.jax_layer(f, x="N D"))  # a function that never names jax',
    _recognises,
    name="jax",
    priority=94,
)
def jax_layer(target: Any, /, *, name: str | None = None, **declaration: Any) -> Layer:
    """A Layer on NumPy arrays from a function of JAX arrays.

    float64 primals are computed in 64 bits, whatever the user's setting, and others as it says.

    Parameters
    ----------
    target : a jax.custom_vjp, a jax.custom_jvp, a function compiled by jax.jit, or a plain function
    name : defaults to the target's own
    **declaration : primals by dimension strings, or by dicts, tuples and lists of them, which become primals
        called by their path (params_W, params_b); everything else that `Layer` takes; `second=False`
        or `forward_mode=False` where that derivative is not meant to exist; and for a kernel that is written
        for one type, `kernel="bfloat16"` with `reference`, the same function in plain operations

    Raises
    ------
    DeclarationError
        If jax is not installed, or two primals get the same name.
    """
    import_jax()
    label = name or getattr(target, "__name__", None) or type(target).__name__
    own, settings, told = parted(declaration, OWN)
    nested = _ordered(target, told)
    declared, rebuild = flattened(label, nested)
    takes(label, parameters(target, True), nested, settings.get("options") or (), by_name=True)
    by_name = set(nested) <= set(nameable(target))

    def call(arrays: dict[str, Any], options: dict[str, Any]) -> Any:
        built = rebuild(arrays)
        return target(**built, **options) if by_name and not _positional(target) else target(*built.values(), **options)

    probe = probed(label, target, declared, settings)
    if any(p.domain.kind == "complex" for p in probe.primals):
        settings = {"conjugate": False, **settings}  # JAX gives dL/dRe - i dL/dIm
    engine = Engine(label, call, tuple(declared), tuple(p.name for p in probe.differentiable))
    kind = kernel_type(label, own, _KERNELS, "arrays")
    hooks: dict[str, Any] = {"uncompiled": import_jax().disable_jit}
    if kind is not None:
        hooks["reference"] = _reference(engine, own["reference"], rebuild, kind)
        engine = in_type(engine, kind)
    elif own.get("forward_mode", True) is not False and not _is(target, "custom_vjp"):
        hooks["jvp"] = engine.jvp
    return layer_on(engine, target, declared, settings, own, hooks, partial(_on_arrays, engine))


def _reference(engine: Engine, plain: Any, rebuild: Callable[[dict[str, Any]], dict[str, Any]], kind: str) -> Any:
    """The reference in JAX, which is differentiated, or in NumPy, which is screened."""

    by_name = set(rebuild(dict.fromkeys(engine.names))) <= set(nameable(plain)) and not _positional(plain)

    def call(arrays: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        built = rebuild(dict(arrays))
        return plain(**built, **options) if by_name else plain(*built.values(), **options)

    screened = in_numpy(engine.name, plain, "jax", kind, lambda *arrays, **o: call(dict(zip(engine.names, arrays)), o))
    return screened or reference_of(engine, call, kind)


def _on_arrays(engine: Engine, function: Callable[..., Any]) -> Callable[..., Any]:
    """A surrogate in the precision of the layer; it takes the primals one by one."""
    inner = Engine(engine.name, lambda arrays, options: function(*arrays.values(), **options), engine.names, ())

    def surrogate(*arrays: Any, **options: Any) -> Any:
        at = {} if "at" not in options else {"at": options.pop("at")}
        whole = inner if not at else replace(inner, call=lambda given, o: function(*given.values(), **o, **at))
        return whole.forward(*arrays, **options)[0]

    return surrogate


def _positional(target: Callable[..., Any]) -> bool:
    """custom_vjp and custom_jvp resolve keywords themselves, but positional-only arguments cannot be named."""
    return any(p.kind is p.POSITIONAL_ONLY for p in arguments(target) or ())


def _ordered(target: Callable[..., Any], nested: dict[str, Any]) -> dict[str, Any]:
    names = nameable(target)
    return {n: nested[n] for n in names if n in nested} if set(nested) <= set(names) else nested


def _is(target: Any, kind: str) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(target, getattr(jax, kind))

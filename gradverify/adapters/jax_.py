"""JAX: custom_vjp, custom_jvp, compiled and plain functions, each turned into a Layer on NumPy arrays.

    gradverify.check(softclip, x="N D")                                  # a jax.custom_vjp
    gradverify.check(model, params={"W": "D H", "b": "H"}, x="N D")      # pytrees of inputs

jax is recognised by what is imported already, and imported only when a target needs it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gradverify.adapters import convention
from gradverify.adapters._jax_engine import Engine, import_jax
from gradverify.adapters._jax_reference import in_type, reference_of
from gradverify.adapters._lossy import InNumPy
from gradverify.adapters._references import refers_to
from gradverify.core.declare.layer import KEYWORDS, Layer, Loss
from gradverify.core.declare.validation import parameters, takes
from gradverify.core.errors import DeclarationError

_OWN = ("second", "forward_mode", "loss", "kernel", "reference")
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
    own = {key: declaration.pop(key) for key in _OWN if key in declaration}
    label = name or getattr(target, "__name__", None) or type(target).__name__
    settings = {k: v for k, v in declaration.items() if k in KEYWORDS and k != "primals"}
    told = {k: v for k, v in declaration.items() if k not in KEYWORDS}
    nested = _ordered(target, {**told, **(declaration.get("primals") or {})})
    declared, rebuild = _flat(label, nested)
    takes(label, parameters(target, True), nested, settings.get("options") or (), by_name=True)
    by_name = set(nested) <= set(_parameters(target))

    def call(arrays: dict[str, Any], options: dict[str, Any]) -> Any:
        built = rebuild(arrays)
        return target(**built, **options) if by_name and not _positional(target) else target(*built.values(), **options)

    probe = Layer(
        lambda *_, **__: target, lambda *_: None, name=label, primals=declared, constants=settings.get("constants", ())
    )
    engine = Engine(label, call, tuple(declared), tuple(p.name for p in probe.differentiable))
    kind = _kernel(label, own)
    if kind is not None:
        plain = own["reference"]
        if not callable(plain):
            raise DeclarationError(
                f"layer {label!r}: reference is a {type(plain).__name__}; it takes a function of arrays"
            )
        own["reference"] = _reference(engine, plain, rebuild, kind)
        engine = in_type(engine, kind)
    return _layer(engine, target, probe, declared, settings, own)


def _reference(engine: Engine, plain: Any, rebuild: Callable[[dict[str, Any]], dict[str, Any]], kind: str) -> Any:
    """The reference in JAX, which is differentiated, or in NumPy, which is screened."""
    if refers_to(plain, "jax") or not refers_to(plain, "numpy"):
        return reference_of(engine, lambda arrays, options: plain(**rebuild(arrays), **options), kind)
    return InNumPy(lambda *arrays, **options: plain(**rebuild(dict(zip(engine.names, arrays))), **options), kind)


def _kernel(label: str, own: Mapping[str, Any]) -> str | None:
    """The type that a kernel is written for; it comes with a reference, and a reference with it."""
    kind = own.get("kernel")
    if kind is None and "reference" not in own:
        return None
    if kind not in _KERNELS:
        raise DeclarationError(f"layer {label!r}, kernel: {kind!r} is not one of {', '.join(_KERNELS)}")
    if not callable(own.get("reference")):
        raise DeclarationError(f"layer {label!r}: kernel={kind!r} needs reference=..., the same in plain operations")
    return str(kind)


def _layer(
    engine: Engine,
    target: Any,
    probe: Layer,
    declared: dict[str, Any],
    settings: dict[str, Any],
    own: Mapping[str, Any],
) -> Layer:
    def forward(*arrays: Any, **options: Any) -> Any:
        return engine.forward(*arrays, **options)

    def backward(cotangents: Any, saved: Any) -> Any:
        return engine.backward(cotangents, saved)

    hooks: dict[str, Any] = {"wants": engine.wants, "batched": engine.batched, "uncompiled": import_jax().disable_jit}
    fixed = own.get("kernel") is not None
    if own.get("second", True) is not False and not fixed:
        hooks["second"] = engine.second
    if fixed:
        hooks["reference"] = own["reference"]
    elif own.get("forward_mode", True) is not False and not _is(target, "custom_vjp"):
        hooks["jvp"] = engine.jvp
    if any(p.domain.kind == "complex" for p in probe.primals):
        settings = {"conjugate": False, **settings}  # JAX gives dL/dRe - i dL/dIm
    if settings.get("surrogate") is not None:
        settings = {**settings, "surrogate": _on_arrays(engine, settings["surrogate"])}
    told = {"doc": inspect.getdoc(target) or "", **hooks, **settings}
    setattr(forward, "__wrapped__", target)  # noqa: B010  its constants are worth drawing
    build = Loss if own.get("loss") else Layer
    return build(forward, backward, name=engine.name, primals=declared, **told)


def _on_arrays(engine: Engine, function: Callable[..., Any]) -> Callable[..., Any]:
    """A surrogate in the precision of the layer; it takes the primals one by one."""
    inner = Engine(engine.name, lambda arrays, options: function(*arrays.values(), **options), engine.names, ())

    @functools.wraps(function)
    def surrogate(*arrays: Any, **options: Any) -> Any:
        at = {} if "at" not in options else {"at": options.pop("at")}
        whole = inner if not at else replace(inner, call=lambda given, o: function(*given.values(), **o, **at))
        return whole.forward(*arrays, **options)[0]

    return surrogate


def _flat(label: str, nested: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Primals by path, and the function that puts arrays back into the declared nesting."""
    found: dict[str, Any] = {}

    def name_parts(path: str, spec: Any) -> Any:
        if isinstance(spec, Mapping):
            return {key: name_parts(f"{path}_{key}", part) for key, part in spec.items()}
        if isinstance(spec, list) or (isinstance(spec, tuple) and not _is_pair(spec)):
            return type(spec)([name_parts(f"{path}_{k}", part) for k, part in enumerate(spec)])
        if path in found:
            raise DeclarationError(f"layer {label!r}: two primals would be called {path!r}")
        found[path] = spec
        return path

    names = {key: name_parts(key, spec) for key, spec in nested.items()}

    def rebuild(arrays: dict[str, Any]) -> dict[str, Any]:
        return {key: _filled(part, arrays) for key, part in names.items()}

    return found, rebuild


def _filled(names: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(names, dict):
        return {key: _filled(part, arrays) for key, part in names.items()}
    if isinstance(names, (list, tuple)):
        return type(names)([_filled(part, arrays) for part in names])
    return arrays[names]


def _is_pair(spec: tuple[Any, ...]) -> bool:
    """A dimension string with its domain: ("N", strategy) or ("N", "positive"), not two dimension strings."""
    from gradverify.core.declare.domains import words

    if len(spec) != 2 or not isinstance(spec[0], str):
        return False
    second = spec[1]
    return hasattr(second, "example") or (
        isinstance(second, str) and second.split()[:1] != [] and second.split()[0] in words()
    )


def _parameters(target: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _positional(target: Callable[..., Any]) -> bool:
    """custom_vjp and custom_jvp resolve keywords themselves, but positional-only arguments cannot be named."""
    return any(p.kind is p.POSITIONAL_ONLY for p in inspect.signature(target).parameters.values())


def _ordered(target: Callable[..., Any], nested: dict[str, Any]) -> dict[str, Any]:
    names = _parameters(target)
    return {n: nested[n] for n in names if n in nested} if set(nested) <= set(names) else nested


def _is(target: Any, kind: str) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(target, getattr(jax, kind))

"""Which package a kernel and its reference are written with, and the layer that holds one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any

from gradverify.adapters._engines.lossy import FORMATS, InNumPy
from gradverify.adapters._engines.references import refers_to
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError

_OF_NUMPY = ("float32", "float16")
PACKAGES = ("torch", "jax", "numpy")  # in the order in which code is asked whether it names them


def package_of(target: Any) -> str | None:
    """The package that code names; None of code that takes arrays of any."""
    pair = target if isinstance(target, tuple) else (target,)
    return next((name for name in PACKAGES for part in pair if refers_to(part, name)), None)


def judge_of(plain: Any, package: str, kernel: str, kind: str, declaration: Mapping[str, Any]) -> Layer:
    """The layer of a reference in one package, by which a kernel of another or the same is judged.

    Raises DeclarationError if the type is none of the package's, or the declaration cannot be used.
    """
    if package == "numpy":
        types = _OF_NUMPY if kernel == "numpy" else tuple(FORMATS)
        if kind not in types:
            where = "NumPy" if kernel == "numpy" else "a kernel with a reference in NumPy"
            raise DeclarationError(f"{kind!r} is no type of {where}: choose {' or '.join(types)} with --type")
        if kernel != "torch":
            declaration = _without_device(declaration, kernel)
        declared = {k: v for k, v in declaration.items() if k != "device"}
        return Layer(plain, lambda *_: None, reference=InNumPy(plain, kind), **declared)
    return _in_type(plain, plain, package, kind, declaration)


def kernel_of(target: Any, package: str, kind: str, declaration: Mapping[str, Any]) -> Layer:
    """The layer of a kernel, which gets arrays in its type; in NumPy it is what `gradverify.check` takes, or a pair."""
    if package != "numpy":
        return _in_type(target, _unused, package, kind, declaration)
    from gradverify.adapters import as_layer

    layer = as_layer(target, **_without_device(declaration, package))

    @wraps(layer.forward)
    def forward(*arrays: Any, **options: Any) -> Any:
        return layer.forward(*(a.astype(kind) if a.dtype.kind == "f" else a for a in arrays), **options)

    return layer.derive(forward=forward)


def _in_type(target: Any, plain: Any, package: str, kind: str, declaration: Mapping[str, Any]) -> Layer:
    if package == "torch":
        from gradverify.adapters.torch_ import torch_layer

        return torch_layer(target, kernel=kind, reference=plain, **declaration)
    from gradverify.adapters.jax_ import jax_layer

    return jax_layer(target, kernel=kind, reference=plain, **_without_device(declaration, package))


def _without_device(declaration: Mapping[str, Any], package: str) -> dict[str, Any]:
    if "device" in declaration:
        raise DeclarationError(f"--device is for kernels in torch; this one is in {package}")
    return dict(declaration)


def _unused(*arrays: Any, **options: Any) -> Any:
    raise AssertionError("the reference is with the judge")

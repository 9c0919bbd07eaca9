"""PyTorch: autograd Functions, modules and plain functions of tensors, each turned into a Layer on NumPy arrays.

    gradverify.check(MyFunction, x="N D", W="D H")       # torch.autograd.Function, called by apply
    gradverify.check(nn.Linear(3, 4), x="N 3")           # parameters and buffers become primals
    gradverify.check(lambda x, W: torch.tanh(x @ W), x="N D", W="D H")

torch is recognised by what is imported already, and imported only when a target needs it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gradverify.adapters import convention
from gradverify.adapters._instance import made_by
from gradverify.adapters._lossy import FORMATS, InNumPy
from gradverify.adapters._normal import annotated, split
from gradverify.adapters._references import refers_to
from gradverify.adapters._torch_arrays import import_torch, tensor
from gradverify.adapters._torch_device import OnDevice
from gradverify.adapters._torch_engine import Engine
from gradverify.adapters._torch_module import module_parts
from gradverify.adapters._torch_reference import reference_of
from gradverify.adapters._torch_sizes import built, names_in
from gradverify.core.declare.layer import KEYWORDS, Layer, Loss
from gradverify.core.declare.validation import parameters, takes
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns.ledger import NotVerified

_OWN = ("device", "kernel", "second", "keep", "reference", "loss")
_EIGHT = ("float8_e4m3fn", "float8_e5m2")  # of stored primals; the rest is in bfloat16
_KERNELS = ("bfloat16", "float16", "float32", "tf32", *_EIGHT)
_ROUGH = {"tf32": "float32"}  # types of products alone, by the type that tensors have


def _recognises(target: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "autograd") or not hasattr(torch, "nn"):
        return False
    if inspect.isclass(target):
        return issubclass(target, (torch.autograd.Function, torch.nn.Module))
    return isinstance(target, torch.nn.Module) or (callable(target) and refers_to(target, "torch"))


@convention(
    'gradverify.check(MyFunction, x="N D", W="D H")  # an autograd.Function, nn.Module or function of tensors\n'
    '    gradverify.check(gradverify.adapters.torch_.torch_layer(f, x="N D"))  # a function that never names torch',
    _recognises,
    name="torch",
    priority=95,
)
def torch_layer(target: Any, /, *, name: str | None = None, **declaration: Any) -> Layer:
    """A Layer on NumPy arrays from torch code, which computes on tensors.

    Parameters
    ----------
    target : a torch.autograd.Function, an nn.Module, or a function of tensors
    name : defaults to the target's own
    **declaration : primals by dimension strings and everything else that `Layer` takes, and

        device : where the tensors live; default the CPU, or where the module's parameters are
        kernel : "bfloat16", "float16" or "float32", for code that is written for that type, or "tf32" for float32
            whose matrix products round their operands to TF32; "float8_e4m3fn" or "float8_e5m2" for primals of
            values that such a type has, in tensors of bfloat16, as are constants (scales) and outputs. It needs
            `reference`
        reference : the same function in plain torch operations, of tensors in any type; it is run and
            differentiated in float64. Or in NumPy, of arrays: then it is screened along directions
        second : False where no second backward is meant to exist
        init : what a module is built with, where its class is given: a tuple or a dict of numbers, values, or names
            of sizes, which get numbers
        keep : parameters and buffers of a module that stay as they are, by name

    Raises
    ------
    DeclarationError
        If torch is not installed, there is no such device, the target cannot be called with what is
        declared, or a module's parameters lie on several devices.
    """
    torch = import_torch()
    target = _whole(target, torch.autograd.Function)
    own = {key: declaration.pop(key) for key in _OWN if key in declaration}
    label = name or getattr(target, "__name__", None) or type(target).__name__
    line, primals = "", {n: spec for n, spec in split(declaration)[0].items() if n != "init"}
    is_module = inspect.isclass(target) and issubclass(target, torch.nn.Module)
    if is_module or (inspect.isfunction(target) and made_by(target, primals, names_in(primals))):
        target, primals, line = built(label, target, declaration.get("init"), primals)
        declaration = {k: v for k, v in declaration.items() if k in KEYWORDS and k != "primals"} | {"primals": primals}
    is_function = inspect.isclass(target) and issubclass(target, torch.autograd.Function)
    declared = _primals(target if is_function else None, declaration)
    settings = {k: v for k, v in declaration.items() if k in KEYWORDS and k != "primals"}
    device = _device(label, own.get("device"))
    updated: tuple[str, ...] = ()
    kept: tuple[NotVerified, ...] = ()
    if isinstance(target, torch.nn.Module):
        parts = module_parts(label, target, declared, settings, device, own.get("keep", ()))
        call, declared, settings, device = parts.call, parts.primals, parts.settings, parts.device
        updated, kept = parts.updated, parts.kept
    elif is_function:
        call, declared = _apply(label, target, declared, settings)
    else:
        takes(label, parameters(target, True), declared, settings.get("options") or (), by_name=True)
        call, declared = caller(target, declared)
    probe = Layer(
        lambda *_, **__: target, lambda *_: None, name=label, primals=declared, constants=settings.get("constants", ())
    )
    engine = Engine(
        label,
        call,
        tuple(declared),
        tuple(p.name for p in probe.differentiable),
        device or torch.device("cpu"),
        _kernel(label, own),
        getattr(torch, own["kernel"]) if own.get("kernel") in _EIGHT else None,
        updated,
        strict=is_function,
    )
    return annotated(_layer(engine, target, declared, settings, own).derive(unverified=kept), line)


def _whole(target: Any, functions: type) -> Any:
    """The autograd Function that a bound `apply` belongs to; any other target as it is."""
    owner = getattr(target, "__self__", None)
    bound = inspect.isclass(owner) and issubclass(owner, functions) and target.__name__ == "apply"
    return owner if bound else target


def _device(label: str, told: Any) -> Any:
    """The device that was asked for; None where none was."""
    torch = import_torch()
    if told is None:
        return None
    try:
        device = torch.device(told)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises for a device that it lacks
        raise DeclarationError(f"layer {label!r}: device={told!r} cannot be used: {error}") from None
    return device


def _layer(
    engine: Engine, target: Any, declared: dict[str, Any], settings: dict[str, Any], own: Mapping[str, Any]
) -> Layer:
    def forward(*arrays: Any, **options: Any) -> Any:
        return engine.forward(*arrays, **options)

    def backward(cotangents: Any, saved: Any) -> Any:
        return engine.backward(cotangents, saved)

    hooks: dict[str, Any] = {"wants": engine.wants, "batched": engine.batched}
    if not _parametrized(target):
        hooks["broadcast"] = engine.broadcast
    hooks |= {"native": functools.partial(OnDevice, engine), "looped": engine.looped}
    if own.get("second", True) is not False and engine.kernel is None:
        hooks["second"] = engine.second
    if engine.kernel is None and (not engine.strict or target.jvp is not import_torch().autograd.Function.jvp):
        hooks["jvp"] = engine.jvp
    if "reference" in own:
        hooks["reference"] = _reference(engine, own["reference"], own["kernel"], declared)
    if settings.get("surrogate") is not None:
        settings = {**settings, "surrogate": _on_arrays(engine, settings["surrogate"], declared)}
    told = {"doc": inspect.getdoc(target) or "", **hooks, **settings}
    setattr(forward, "__wrapped__", target)  # noqa: B010  its constants are worth drawing
    build = Loss if own.get("loss") else Layer
    return build(forward, backward, name=engine.name, primals=declared, **told)


def _parametrized(target: Any) -> bool:
    """Whether weights of a module are computed, as by weight norm: its kernel (torch 2.13) takes more axes than it
    expects, and writes beyond its memory.
    """
    torch = import_torch()
    among = target.modules() if isinstance(target, torch.nn.Module) else ()
    return any(torch.nn.utils.parametrize.is_parametrized(module) for module in among)


def _reference(engine: Engine, target: Any, kind: str, declared: dict[str, Any]) -> Any:
    """The reference in torch, which is differentiated, or in NumPy, which is screened."""
    if not refers_to(target, "numpy") or refers_to(target, "torch"):
        return reference_of(engine, target, declared, kind if kind in _ROUGH else None)
    if kind not in FORMATS:
        raise DeclarationError(
            f"layer {engine.name!r}: a reference in NumPy is for kernels in {', '.join(FORMATS)}; {kind} takes one in "
            "torch operations"
        )
    call, _ = caller(target, declared)
    return InNumPy(lambda *arrays, **options: call(dict(zip(declared, arrays)), options), kind)


def _on_arrays(engine: Engine, function: Callable[..., Any], declared: dict[str, Any]) -> Callable[..., Any]:
    """A surrogate, which the author writes on tensors, on arrays; `at` becomes tensors as well."""
    inner = engine.but(call=caller(function, declared)[0], strict=False)

    @functools.wraps(function)
    def surrogate(*arrays: Any, **options: Any) -> Any:
        if "at" in options:
            options["at"] = {n: tensor(a, engine.device) for n, a in options["at"].items()}
        return inner.forward(*arrays, **options)[0]

    return surrogate


def _primals(function: Any, declaration: Mapping[str, Any]) -> dict[str, Any]:
    """Declared primals; a Function may hold their dimension strings as class attributes."""
    told = {k: v for k, v in declaration.items() if k not in KEYWORDS and k not in _OWN}
    found = {**told, **(declaration.get("primals") or {})}
    if function is not None and not found:
        names = _parameters(function.forward)
        found = {n: getattr(function, n) for n in names if isinstance(getattr(function, n, None), (str, tuple))}
    return found


def _kernel(label: str, own: Mapping[str, Any]) -> Any:
    kernel = own.get("kernel")
    if kernel is None:
        if "reference" in own:
            raise DeclarationError(
                f'layer {label!r}: reference=... is for code that takes one type only; say which: kernel="bfloat16"'
            )
        return None
    if kernel not in _KERNELS:
        raise DeclarationError(f"layer {label!r}, kernel: {kernel!r} is not one of {', '.join(_KERNELS)}")
    if "reference" not in own:
        raise DeclarationError(
            f"layer {label!r}: code fixed to {kernel} needs reference=..., the same function in plain torch "
            "operations; differences in that type alone resolve nothing"
        )
    return getattr(import_torch(), "bfloat16" if kernel in _EIGHT else _ROUGH.get(kernel, kernel))


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Names of positional parameters; empty where there is no telling."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _apply(
    label: str, function: Any, declared: dict[str, Any], settings: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Call by `apply`, which takes primals and options in the order of forward's own arguments."""
    torch = import_torch()
    names = _parameters(function.forward)
    if function.setup_context is torch.autograd.Function.setup_context:
        names = names[1:]  # ctx
    options = set(settings.get("options") or ())
    if not set(declared) <= set(names):
        return (lambda tensors, chosen: function.apply(*tensors.values(), *chosen.values())), declared
    defaults = {
        n: p.default for n, p in inspect.signature(function.forward).parameters.items() if p.default is not p.empty
    }
    missing = [n for n in names if n not in declared and n not in options and n not in defaults]
    if missing:
        raise DeclarationError(
            f"layer {label!r}: forward takes ({', '.join(names)}), but {missing[0]!r} is declared neither as a primal "
            "nor as an option"
        )

    def call(tensors: dict[str, Any], chosen: dict[str, Any]) -> Any:
        return function.apply(*({**defaults, **chosen, **tensors}[n] for n in names))

    return call, {n: declared[n] for n in names if n in declared}


def caller(target: Callable[..., Any], declared: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Call by name where the target's signature has the names, else in the order of declaration."""
    names = _parameters(target.forward if isinstance(target, import_torch().nn.Module) else target)
    if set(declared) <= set(names):
        return (lambda tensors, options: target(**tensors, **options)), {n: declared[n] for n in names if n in declared}
    return (lambda tensors, options: target(*tensors.values(), **options)), declared

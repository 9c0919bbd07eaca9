"""PyTorch: autograd Functions, modules and plain functions of tensors, each turned into a Layer on NumPy arrays.

    gradverify.check(MyFunction, x="N D", W="D H")       # torch.autograd.Function, called by apply
    gradverify.check(nn.Linear(3, 4), x="N 3")           # parameters and buffers become primals
    gradverify.check(lambda x, W: torch.tanh(x @ W), x="N D", W="D H")

torch is recognised by what is imported already, and imported only when a target needs it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gradverify.adapters import convention
from gradverify.adapters._engines import in_numpy, kernel_type, layer_on, parted, probed
from gradverify.adapters._engines.references import refers_to
from gradverify.adapters._normal import annotated, positional
from gradverify.adapters._objects.instance import made_by
from gradverify.adapters._pair import ungiven
from gradverify.adapters._torch.arrays import import_torch, tensor
from gradverify.adapters._torch.by_hand import by_hand, own_backward
from gradverify.adapters._torch.device import OnDevice
from gradverify.adapters._torch.engine import Engine
from gradverify.adapters._torch.module import built, caller, module_parts, names_in
from gradverify.adapters._torch.reference import reference_of
from gradverify.adapters.declared import dimension_strings
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.validation import parameters, takes
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns.ledger import NotVerified

OWN = ("device", "kernel", "second", "keep", "reference", "loss")
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
    label = name or getattr(target, "__name__", None) or type(target).__name__
    own, settings, declared = parted(declaration, OWN)
    line, primals = "", {n: spec for n, spec in declared.items() if n != "init"}
    is_module = inspect.isclass(target) and issubclass(target, torch.nn.Module)
    if is_module or (inspect.isfunction(target) and made_by(target, primals, names_in(primals))):
        target, declared, line = built(label, target, declaration.get("init"), primals)
    is_function = inspect.isclass(target) and issubclass(target, torch.autograd.Function)
    if is_function:
        declared = declared or dimension_strings(target)
    device = _device(label, own.get("device"))
    strict = is_function
    call: Callable[..., Any]
    updated: tuple[str, ...] = ()
    kept: tuple[NotVerified, ...] = ()
    if isinstance(target, torch.nn.Module):
        parts = module_parts(label, target, declared, settings, device, own.get("keep", ()))
        own_way = own_backward(target)
        strict = own_way is True
        call = by_hand(parts.call) if strict else parts.call
        declared, settings, device = parts.primals, parts.settings, parts.device
        updated, kept = parts.updated, parts.kept
        if strict:
            line = "backward: the module's own method, and not autograd"
            own.setdefault("second", False)
        elif own_way is None:
            line = "backward: autograd; the module's own method takes no upstream gradient, and is not looked at"
    elif is_function:
        call, declared = _apply(label, target, declared, settings)
    else:
        takes(label, parameters(target, True), declared, settings.get("options") or (), by_name=True)
        call, declared = caller(target, declared)
    engine = Engine(
        label,
        call if isinstance(target, torch.nn.Module) else _on_copies(call),
        tuple(declared),
        tuple(p.name for p in probed(label, target, declared, settings).differentiable),
        device or torch.device("cpu"),
        _kernel(label, own),
        getattr(torch, own["kernel"]) if own.get("kernel") in _EIGHT else None,
        updated,
        strict=strict,
    )
    hooks = _hooks(engine, target, own, declared)
    layer = layer_on(engine, target, declared, settings, own, hooks, partial(_on_arrays, engine, declared))
    layer = annotated(layer.derive(unverified=kept), line)
    targets = ungiven(layer) if strict and not is_function and "constants" not in declaration else []
    return torch_layer(target, name=name, **{**declaration, "constants": targets}) if targets else layer


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


def _hooks(engine: Engine, target: Any, own: Mapping[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    hooks: dict[str, Any] = {} if _parametrized(target) else {"broadcast": engine.broadcast}
    hooks |= {"native": partial(OnDevice, engine), "looped": engine.looped}
    rule = getattr(target, "jvp", None)
    if engine.kernel is None and (not engine.strict or rule not in (None, import_torch().autograd.Function.jvp)):
        hooks["jvp"] = engine.jvp
    if "reference" in own:
        hooks["reference"] = _reference(engine, own["reference"], own["kernel"], declared)
    return hooks


def _parametrized(target: Any) -> bool:
    """Whether weights of a module are computed, as by weight norm: its kernel (torch 2.13) takes more axes than it
    expects, and writes beyond its memory.
    """
    torch = import_torch()
    among = target.modules() if isinstance(target, torch.nn.Module) else ()
    return any(torch.nn.utils.parametrize.is_parametrized(module) for module in among)


def _reference(engine: Engine, target: Any, kind: str, declared: dict[str, Any]) -> Any:
    """The reference in torch, which is differentiated, or in NumPy, which is screened."""
    call, _ = caller(target, declared)
    screened = in_numpy(engine.name, target, "torch", kind, lambda *arrays, **o: call(dict(zip(declared, arrays)), o))
    return screened or reference_of(engine, target, declared, kind if kind in _ROUGH else None)


def _on_arrays(engine: Engine, declared: dict[str, Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """A surrogate, which the author writes on tensors, on arrays; `at` becomes tensors as well."""
    inner = engine.but(call=caller(function, declared)[0], strict=False)

    def surrogate(*arrays: Any, **options: Any) -> Any:
        if "at" in options:
            options["at"] = {n: tensor(a, engine.device) for n, a in options["at"].items()}
        return inner.forward(*arrays, **options)[0]

    return surrogate


def _kernel(label: str, own: Mapping[str, Any]) -> Any:
    """The type of the tensors of a kernel; None for code that takes any."""
    kind = kernel_type(label, own, _KERNELS, "tensors")
    return kind and getattr(import_torch(), "bfloat16" if kind in _EIGHT else _ROUGH.get(kind, kind))


def _apply(
    label: str, function: Any, declared: dict[str, Any], settings: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Call by `apply`, which takes primals and options in the order of forward's own arguments."""
    torch = import_torch()
    names = [p.name for p in positional(function.forward) or ()]
    if function.setup_context is torch.autograd.Function.setup_context:
        names = names[1:]  # ctx
    options = set(settings.get("options") or ())
    if not set(declared) <= set(names):
        return (lambda tensors, chosen: function.apply(*tensors.values(), *chosen.values())), declared
    defaults = {p.name: p.default for p in arguments(function.forward) or () if p.default is not p.empty}
    missing = [n for n in names if n not in declared and n not in options and n not in defaults]
    if missing:
        raise DeclarationError(
            f"layer {label!r}: forward takes ({', '.join(names)}), but {missing[0]!r} is declared neither as a primal "
            "nor as an option"
        )

    def call(tensors: dict[str, Any], chosen: dict[str, Any]) -> Any:
        return function.apply(*({**defaults, **chosen, **tensors}[n] for n in names))

    return call, {n: declared[n] for n in names if n in declared}


def _on_copies(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call on copies of the tensors, where it writes into one that a gradient is asked of: that torch refuses."""
    copied = False

    def on_copies(tensors: dict[str, Any], chosen: dict[str, Any]) -> Any:
        nonlocal copied
        if not copied:
            try:
                return call(tensors, chosen)
            except RuntimeError as error:
                if "leaf Variable" not in str(error):
                    raise
                copied = True
        return call({n: t.clone() for n, t in tensors.items()}, chosen)

    return on_copies

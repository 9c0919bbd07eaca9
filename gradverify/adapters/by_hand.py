"""Two functions on tensors of torch, or arrays of JAX, of which the second is the backward of the first.

gradverify.check(forward, backward, x="N D", W="D H")    # forward -> (y, saved), backward(dy, saved)
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import numpy as np

from gradverify.adapters import _engines, convention
from gradverify.adapters._engines.references import refers_to
from gradverify.adapters._nested import is_nested, nesting
from gradverify.adapters._normal import annotated, constants, examples, flat, parted, sketch, split
from gradverify.adapters._objects.guesses import methods_of
from gradverify.adapters._pair import in_order, normal, ungiven
from gradverify.adapters._trial import limited
from gradverify.adapters.declared import from_pair
from gradverify.core.declare.functions import arguments, taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure, handed
from gradverify.core.nouns.ledger import NotVerified


def _package(target: Any) -> str | None:
    """The package whose tensors a pair of functions takes, as far as their names tell."""
    if not (isinstance(target, tuple) and len(target) == 2 and all(map(callable, target))):
        return None
    loaded = (name for name in ("torch", "jax") if name in sys.modules)
    return next((name for name in loaded if any(refers_to(part, name) for part in target)), None)


@convention(
    'gradverify.check(forward, backward, x="N D", W="D H")  # on tensors of torch or arrays of JAX',
    lambda target: _package(target) is not None,
    name="by_hand",
    priority=92,
)
def by_hand(target: tuple[Any, Any], /, **declaration: Any) -> Layer:
    """A Layer of such a pair; of code that takes and gives arrays of NumPy, whatever it uses inside, the plain one.

    Parameters
    ----------
    target : ``forward(*tensors, **options) -> (outputs, saved)`` and ``backward(dy, saved) -> gradients``
    **declaration : as for an autograd Function or a jax.custom_vjp: primals, `kernel`, `reference`, settings

    Raises
    ------
    DeclarationError
        If a declaration cannot be used.
    """
    if "kernel" not in declaration and _in_numpy(*target, declaration):
        return from_pair(target, **declaration)
    layer = _on_tensors(target, **declaration)
    targets = ungiven(layer)
    names = constants(declaration, *targets)
    return _on_tensors(target, **{**declaration, "constants": names}) if targets else layer


def _on_tensors(target: tuple[Any, Any], /, **declaration: Any) -> Layer:
    from gradverify.adapters import jax_, torch_

    torch = _package(target) == "torch"
    own, settings, primals = _engines.parted(declaration, (torch_ if torch else jax_).OWN)
    label = str(settings.get("name") or target[0].__name__)
    held = nesting(label, target[0], primals)
    planned = sketch(held.primals, settings, name=label)
    convert, ones = _tensors() if torch else _arrays()
    forward, backward, line = normal(target, planned, rebuild=held.rebuild, read=held.read, convert=convert, ones=ones)
    if any(map(is_nested, primals.values())):
        forward, backward = held.flat(forward, backward)
    given = {**own, **settings, **held.primals}
    if torch:
        from gradverify.adapters._torch.by_hand import function_of

        layer = torch_.torch_layer(function_of(forward, backward), **{"second": False, **given})
    else:
        layer = jax_.jax_layer(_custom(forward, backward, held.primals), **{"forward_mode": False, **given})
    return annotated(layer, line)


def _tensors() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """From arrays to tensors, and to upstream gradients."""
    from gradverify.adapters._torch.arrays import import_torch, tensor

    return tensor, import_torch().ones_like


def _arrays() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from gradverify.adapters._jax.engine import import_jax

    numbers = import_jax().numpy
    return numbers.asarray, numbers.ones_like


def _holds(target: Any) -> bool:
    """An object, or its class, with forward and backward on tensors of torch."""
    torch: Any = sys.modules.get("torch")
    cls = target if inspect.isclass(target) else type(target)
    if not hasattr(torch, "nn") or inspect.isroutine(target) or cls.__module__.partition(".")[0] == "torch":
        return False
    found = None if issubclass(cls, torch.nn.Module) else methods_of(cls)
    own = (f for c in cls.__mro__ for f in vars(c).values() if inspect.isfunction(f))
    return found is not None and all(found) and any(refers_to(f, "torch") for f in own)


@convention(
    'gradverify.check(Linear(3, 2), x="N 3")  # an object with forward and backward on tensors of torch',
    _holds,
    name="held_tensors",
    priority=60,
)
def held_tensors(target: Any, /, *, name: str | None = None, **declaration: Any) -> Layer:
    """A Layer of an object that holds tensors; of one that takes and gives arrays of NumPy, the plain one.

    Parameters
    ----------
    target : the object, or its class, which `init` says how to build, as for an nn.Module
    **declaration : as for an nn.Module

    Raises
    ------
    DeclarationError
        If it cannot be built, or its forward takes no tensors.
    """
    from gradverify.adapters._torch.by_hand import module_of
    from gradverify.adapters._torch.module import built
    from gradverify.adapters.stateful import stateful
    from gradverify.adapters.torch_ import torch_layer

    methods: Any = declaration.pop("methods", None) or methods_of(target if inspect.isclass(target) else type(target))
    primals, settings = split({n: v for n, v in declaration.items() if n != "init"})
    label, line = str(name or getattr(target, "__name__", type(target).__name__)), ""
    instance = target
    if inspect.isclass(target):
        with limited():
            instance, primals, line = built(label, target, declaration.get("init"), primals)
    planned = sketch(primals, settings, name=label)
    if _in_numpy(getattr(copy.deepcopy(instance), methods[0]), None, {**primals, **settings}):
        return stateful(target, name=name, methods=methods, **declaration)
    arrays = next((list(arrays.values()) for arrays, _ in examples(planned)), [])
    try:
        with limited():
            module, open_ = module_of(instance, methods, arrays, dict(planned.default_options))
    except LayerFailure:  # it does not return
        raise
    except Exception as error:
        raise DeclarationError(f"{label} does not run on tensors: {type(error).__name__}: {error}") from error
    layer = torch_layer(module, name=label, **primals, **settings)
    missing = [NotVerified(path, "no gradient was found of this tensor", blocks=True) for path in open_]
    return annotated(layer.derive(unverified=(*layer.unverified, *missing)), line)


def _in_numpy(forward: Callable[..., Any], backward: Callable[..., Any] | None, declaration: dict[str, Any]) -> bool:
    """Whether both take arrays of NumPy and give such: then they convert them themselves, if they do.

    A backward that raises is not asked further where forward converts, which its code tells.
    """
    primals, settings = split(declaration)
    if any(map(is_nested, primals.values())):
        return False
    planned = sketch(primals, settings, name=forward.__name__)
    for arrays, _ in examples(planned):
        try:
            with limited():
                made = forward(*arrays.values(), **planned.default_options)
        except Exception:  # noqa: BLE001  whatever tensors' code says of arrays
            return False
        pair = isinstance(made, tuple) and len(made) == 2
        outputs = flat(made[0] if pair else made)
        found: list[Any] = []
        if pair and backward is not None:
            try:
                with limited("backward"):
                    found = parted(backward(*map(np.ones_like, outputs), made[1]))[0]
            except Exception:  # noqa: BLE001  called in another way, or wrong
                if not _package((forward, forward)):
                    return False
        foreign = any(type(part).__module__.partition(".")[0] in ("torch", "jax", "jaxlib") for part in found)
        return not foreign and all(isinstance(y, (np.ndarray, np.generic, float)) for y in outputs)
    return True


def _custom(forward: Callable[..., Any], backward: Callable[..., Any], primals: Iterable[str]) -> Callable[..., Any]:
    """The pair as a function whose rule is the author's backward; `primals` are the arguments that move."""
    import jax

    names = [p.name for p in arguments(forward) or ()]

    @wraps(forward)
    def run(*arrays: Any, **named: Any) -> Any:
        known = {**dict(zip(names, arrays)), **named}
        moving = {n: known.pop(n) for n in names if n in primals}
        options = known
        floating = [n for n, v in moving.items() if _floating(v)]
        still: list[Any] = []  # what forward saved that is no array: shapes, options

        def forwards(*given: Any) -> Any:
            output, saved = forward(**dict(zip(moving, given)), **options)
            leaves, tree = jax.tree.flatten(saved)
            numbers = [hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves]
            still[:] = [tree, numbers, [leaf for leaf, is_array in zip(leaves, numbers) if not is_array]]
            return output, [leaf for leaf, is_array in zip(leaves, numbers) if is_array]

        def backwards(arrays: Any, dy: Any) -> Any:
            tree, numbers, rest = still
            parts, others = iter(arrays), iter(rest)
            saved = jax.tree.unflatten(tree, [next(parts if is_array else others) for is_array in numbers])
            taken = handed(backward, dy if isinstance(dy, tuple) else (dy,), saved)
            raw = backward(*taken, **taken_by(backward, options, len(taken)))
            return tuple(in_order(raw, moving, floating))

        function = jax.custom_vjp(lambda *given: forwards(*given)[0])
        function.defvjp(forwards, backwards)
        return function(*moving.values())

    return run


def _floating(value: Any) -> bool:
    """Whether a primal, or one of those in a nesting, has a derivative."""
    import jax

    return any(jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.inexact) for leaf in jax.tree.leaves(value))

"""A module, also one that is built from its class, as a function of its inputs, parameters and buffers.

The module is left as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gradverify.adapters._normal import positional, required
from gradverify.adapters._objects.instance import SIZE, leaves, resolved
from gradverify.adapters._torch.arrays import Tensor, import_torch, tensor
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.layer import as_names
from gradverify.core.declare.validation import parameters, takes
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns.ledger import NotVerified

MODE = "training"
KEPT = "declared to stay as it is (keep=)"
INFINITE = "not all of it is finite, so it stays as it is"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a Layer needs to know of a module."""

    call: Called
    primals: dict[str, Any]
    settings: dict[str, Any]
    device: Any
    updated: tuple[str, ...]  # primals that are buffers
    kept: tuple[NotVerified, ...]  # floating parameters and buffers that are no primals


def module_parts(
    label: str, module: Any, inputs: dict[str, Any], settings: dict[str, Any], device: Any, keep: Any
) -> Parts:
    """Parameters and floating buffers become primals named by their path with dots replaced.

    Buffers, and parameters that require no gradient, are constants: they are drawn, but have no gradient. Buffers that
    hold only positive values stay positive; those with infinite values, integers and what `keep` names stay as they
    are. An option `training` is added where the module has a mode. Raises DeclarationError if parameters lie on several
    devices, are not initialised, or share a name with an input.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    _usable(label, state, device)
    alias = {path: path.replace(".", "_") for path in state}
    keep = set(as_names(keep))
    drawn = [p for p, t in state.items() if _drawn(t) and not {p, alias[p]} & keep]
    own = {alias[p]: inputs.pop(alias[p], None) for p in drawn}
    if len(own) < len(drawn):
        raise DeclarationError(f"layer {label!r}: two of {', '.join(drawn)} get the same name with their dots replaced")
    constants = tuple(alias[p] for p in drawn if not state[p].requires_grad)
    primals = {**inputs, **{alias[p]: _spec(state[p], own[alias[p]]) for p in drawn}}
    settings = {**settings, "constants": (*as_names(settings.get("constants", ())), *constants)}
    if _has_mode(module) and MODE not in (settings.get("options") or {}):
        settings["options"] = {**(settings.get("options") or {}), MODE: [False, True]}
    options = [name for name in settings.get("options") or () if name != MODE or _takes(module, (MODE,))]
    takes(label, parameters(module.forward, True), inputs, options, by_name=True)
    called = Called(
        module, tuple(inputs), {alias[p]: p for p in drawn}, _takes(module, inputs), _takes(module, (MODE,))
    )
    home = device or next((t.device for t in state.values()), None)
    normalising = import_torch().nn.modules.batchnorm._NormBase
    if any(isinstance(part, normalising) for part in module.modules()) and settings.get("assume") is None:
        settings["assume"] = _more_than_one_value(called, tuple(primals), home)
    buffers = dict(module.named_buffers())
    floating = [p for p, t in state.items() if p not in drawn and (t.is_floating_point() or t.is_complex())]
    kept = tuple(
        NotVerified(f"{type(module).__name__}.{p}", KEPT if {p, alias[p]} & keep else INFINITE) for p in floating
    )
    return Parts(called, primals, settings, home, tuple(alias[p] for p in drawn if p in buffers), kept)


def _usable(label: str, state: Mapping[str, Tensor], device: Any) -> None:
    homes: dict[str, str] = {}
    for path, t in state.items():
        if not hasattr(t, "shape") or type(t).__name__.startswith("Uninitialized"):
            raise DeclarationError(f"layer {label!r}: {path} is not initialised; call the module once first")
        homes.setdefault(str(t.device), path)
    if "meta" in homes:
        raise DeclarationError(f"layer {label!r}: {homes['meta']} lies on the meta device, and holds no numbers")
    if len(homes) > 1 and device is None:
        places = ", ".join(f"{path} on {home}" for home, path in homes.items())
        raise DeclarationError(
            f"layer {label!r} has parameters on several devices ({places}); move it to one, or say device=..."
        )


def _drawn(value: Tensor) -> bool:
    torch = import_torch()
    floating = value.is_floating_point() or value.is_complex()
    return floating and bool(torch.isfinite(value.detach().float() if value.is_floating_point() else value).all())


def _spec(value: Tensor, told: Any) -> Any:
    """The shape as fixed axes, with the domain that the author told or the values suggest."""
    shape = " ".join(str(n) for n in value.shape)
    if isinstance(told, tuple):
        return (shape, told[1])
    word = told.partition(":")[2] if isinstance(told, str) else ""
    if not word and value.is_complex():
        word = "complex"
    if not word and not value.requires_grad and value.numel() and bool((value > 0).all()):
        word = "positive"
    return f"{shape}: {word}" if word else shape


def _takes(module: Any, names: Iterable[str]) -> bool:
    """Whether forward has arguments of these names."""
    taken = arguments(module.forward)
    return taken is not None and set(names) <= {p.name for p in taken}


def _has_mode(module: Any) -> bool:
    """Whether train and eval differ: a layer that drops out or keeps statistics, or code that asks."""
    torch = import_torch()
    kinds = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._NormBase)
    for part in module.modules():
        if isinstance(part, kinds) or bool(getattr(part, "dropout", False)):
            return True
        code = getattr(type(part).forward, "__code__", None)
        ours = type(part).__module__.partition(".")[0] != "torch"
        if ours and code is not None and MODE in code.co_names:
            return True
    return False


def _more_than_one_value(called: Called, names: tuple[str, ...], device: Any) -> Callable[..., bool]:
    """Whether a module that normalises over the batch accepts a case: in training it refuses single values."""

    def more_than_one_value(**given: Any) -> bool:
        options = {**{k: v for k, v in given.items() if k not in names}, MODE: True}
        torch = import_torch()
        try:
            with torch.no_grad():
                called({n: tensor(given[n], device) for n in names}, options)
        except ValueError as error:
            return "more than 1" not in str(error)
        except Exception:  # noqa: BLE001  found again, and reported, when the case is verified
            return True
        return True

    return more_than_one_value


@dataclass(frozen=True)
class Called:
    """The module under `functional_call`: state comes from the primals, modes and buffers are as before after it."""

    module: Any
    inputs: tuple[str, ...]
    paths: Mapping[str, str]  # of parameters and buffers, by primal name
    by_name: bool
    takes_mode: bool  # as an argument of its forward

    def __call__(self, tensors: dict[str, Tensor], options: dict[str, Any]) -> Any:
        chosen = dict(options)
        mode = None if self.takes_mode else chosen.pop(MODE, None)
        positional = () if self.by_name else tuple(tensors[n] for n in self.inputs)
        named = {n: tensors[n] for n in self.inputs} if self.by_name else {}
        with _mode(self.module, mode):
            return import_torch().func.functional_call(
                self.module, self._state(tensors), positional, {**named, **chosen}
            )

    def within(self, tensors: dict[str, Tensor], options: dict[str, Any], run: Callable[[], Any]) -> Any:
        """What `run` gives while the module has this state: a backward may run parts of the module again."""
        torch = import_torch()

        class Holder(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self, module: Any) -> None:
                super().__init__()
                self.module = module

            def forward(self) -> Any:
                return run()

        state = {f"module.{path}": t for path, t in self._state(tensors).items()}
        holder = Holder(self.module)
        holder.training = self.module.training
        with _mode(self.module, None if self.takes_mode else options.get(MODE)):
            return torch.func.functional_call(holder, state, ())

    def _state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameters and buffers by path: those that are primals, and the module's own in their type."""
        dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), None)
        buffers = {path: b.detach() for path, b in self.module.named_buffers()}
        kept = {**{path: p.detach() for path, p in self.module.named_parameters()}, **buffers}
        kept = {path: t.to(dtype) if t.is_floating_point() else t for path, t in kept.items()}
        state = {**kept, **{path: tensors[name] for name, path in self.paths.items()}}
        # Statistics are updated in place, on a copy. A module owns its state, and always stores it in rows.
        return {path: t.clone() if path in buffers else t.contiguous() for path, t in state.items()}


@contextmanager
def _mode(module: Any, training: bool | None) -> Iterator[None]:
    if training is None:
        yield
        return
    before = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, value in before.items():
            part.training = value


_SIZES = (4, 3, 5, 2, 7, 6, 8)
_NAME = re.compile(r"[A-Za-z_]\w*")


def built(label: str, cls: Any, init: Any, declared: Mapping[str, Any]) -> tuple[Any, dict[str, Any], str]:
    """A module, the declaration with the sizes that it was built with, and a line that says them.

    Raises DeclarationError if it cannot be built.

    Parameters
    ----------
    cls : the class, or a function that builds a module
    init : a tuple or a dict of values, among them names of sizes; None matches what must be given by name
    """
    needs = required(cls) or []
    given = {n: n for n in needs} if init is None else init if isinstance(init, (Mapping, tuple)) else (init,)
    used = [n for n in leaves(given) if _NAME.fullmatch(n) and (n in names_in(declared) or SIZE.fullmatch(n))]
    sizes = dict(zip(dict.fromkeys(used), _SIZES))
    arguments = resolved(given, sizes)
    unknown = [n for n in needs if init is None and n not in sizes]
    if unknown:
        raise DeclarationError(_refused(label, cls, f"it needs {', '.join(unknown)}", needs))
    try:
        made = cls(**arguments) if isinstance(arguments, Mapping) else cls(*arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DeclarationError(_refused(label, cls, f"with init={init!r}: {error}", needs)) from None
    told = ", ".join(f"{name}={size}" for name, size in sizes.items())
    fixed = {name: _fixed(spec, sizes) for name, spec in declared.items()}
    return made, fixed, f"the module is built with {told}" if told else ""


def _refused(label: str, cls: Any, why: str, needs: list[str]) -> str:
    names = ", ".join(f'"{n}": "D"' for n in needs) or '"width": "D"'
    return (
        f"layer {label!r}: the module cannot be built: {why}; pass an instance, gradverify.check({cls.__name__}(...), "
        f"...), or say what it is built with, numbers or sizes by name: init=(3, 4), init={{{names}}}"
    )


def names_in(declared: Mapping[str, Any]) -> set[str]:
    """Names in the dimension strings."""
    return {name for spec in declared.values() for name in _NAME.findall(_text(spec).partition(":")[0])}


def _text(spec: Any) -> str:
    return spec if isinstance(spec, str) else spec[0] if isinstance(spec, tuple) and spec else ""


def _fixed(spec: Any, sizes: Mapping[str, int]) -> Any:
    """A dimension string with numbers for some names."""

    def number(match: re.Match[str]) -> str:
        return str(sizes.get(match[0], match[0]))

    if isinstance(spec, str):
        return _NAME.sub(number, spec)
    return (_NAME.sub(number, spec[0]), *spec[1:]) if isinstance(spec, tuple) and isinstance(spec[0], str) else spec


def caller(target: Callable[..., Any], declared: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Call by name where the target's signature has the names and lets them be named, else in order."""
    own = positional(target.forward if isinstance(target, import_torch().nn.Module) else target) or ()
    names = [p.name for p in own]
    if set(declared) <= set(names):
        first = [p.name for p in own if p.kind is p.POSITIONAL_ONLY and p.name in declared]
        ordered = {n: declared[n] for n in names if n in declared}

        def named(tensors: dict[str, Any], options: dict[str, Any]) -> Any:
            rest = {n: t for n, t in tensors.items() if n not in first}
            return target(*(tensors[n] for n in first), **rest, **options)

        return named, ordered
    return (lambda tensors, options: target(*tensors.values(), **options)), declared

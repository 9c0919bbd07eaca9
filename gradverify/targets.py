"""Targets: what a user names on a command line, turned into layers.

A target is a registered name, ``package.module``, ``package.module:object`` or ``file.py[:object]``;
with ``+name`` behind it, what it names is put under that registered loss. Whatever it was, every
layer that comes back carries an `origin` that finds it again.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, util
from types import ModuleType, TracebackType
from typing import Any

from gradverify.core import texts
from gradverify.core.declare.layer import Layer, Loss
from gradverify.core.declare.registry import layers
from gradverify.core.declare.registry import loss as find_loss
from gradverify.core.declare.validation import example
from gradverify.core.errors import DeclarationError, TargetError
from gradverify.core.evaluate.failures import from_outside, named, text_of
from gradverify.core.nouns import Case

_LONGEST = 4000  # characters of a message that are shown
_PATTERN = re.compile(r"(?P<place>.+?)(?::(?P<object>[^:/\\]+))?")
_EXAMPLE = """\
    import gradverify
    mine = gradverify.register(gradverify.Layer(forward, backward, x="N D", W="D H"))"""


def load(target: str | None = None) -> list[Layer]:
    """Every layer that a target names, each with an `origin` that loads it again.

    Raises TargetError if it names nothing, holds no layer, or fails while it is imported; the message gives file, line
    and text, and what to do.

    Parameters
    ----------
    target : a registered name, "package.module", "package.module:object" or "file.py[:object]", any
        of them with "+loss"; None takes every registered layer. A file is run again at each call,
        and what it registered before is forgotten first.
    """
    if target is None:
        return [_registered(name) for name in layers.names()]
    base, _, loss = target.rpartition("+")
    if base and target not in layers and loss in layers:
        return [under(layer, loss) for layer in load(base)]
    if base in layers and loss.isidentifier() and target not in layers:
        find_loss(loss)  # says that there is none
    match = _PATTERN.fullmatch(target.strip())
    if match is None:
        raise TargetError(f"{target!r} is no target; give a registered name, package.module or file.py[:object]")
    place, wanted = match["place"], match["object"]
    if wanted is None and place in layers:
        return [_registered(place)]
    layers.load()  # so that a name which is taken already is reported at the user's own line
    module, names = _import_file(place) if _is_file(place) else _import_module(place, target)
    if wanted is not None:
        return [_object(module, names, place, wanted)]
    return _all(module, names, place)


def chosen(targets: Sequence[str], loss: str | None = None) -> tuple[list[Layer], list[str]]:
    """Every layer that the targets name, once, in their order, under the loss if there is one; and who is left out.

    One layer must fit the loss; of several that a target names, those that do not are left out, in words. Raises
    TargetError or DeclarationError if a target cannot be loaded, there is no such loss, or a layer that was named alone
    does not fit it.
    """
    if loss is not None:
        find_loss(loss)  # an unknown loss is told before anything is imported
    left_out: list[str] = []
    found = [layer for target in targets or (None,) for layer in _fitting(load(target), loss, left_out)]
    return list({(layer.name, layer.origin): layer for layer in found}.values()), left_out


def _fitting(group: list[Layer], loss: str | None, left_out: list[str]) -> Iterator[Layer]:
    for layer in group:
        try:
            if loss is None:
                yield layer
            elif len(group) == 1 or not isinstance(layer, Loss):
                yield under(layer, loss)
        except DeclarationError as error:
            if len(group) == 1:
                raise
            left_out.append(str(error))


def under(layer: Layer, loss: str) -> Layer:
    """A loaded layer under a registered loss; its origin says so, and loads again.

    Raises TargetError if there is no such loss, and DeclarationError if the layer's output does not fit the loss.
    """
    from gradverify.compose import under_loss

    return under_loss(layer, loss).derive(origin=f"{layer.origin}+{loss}")


def find(case: Case, target: str | None = None) -> Layer:
    """The layer that a Case was drawn for, loaded from `target`, else from where the Case says.

    Raises TargetError if it cannot be loaded, is one of several, or has other primals than the Case.
    """
    source = target or case.target or case.layer
    try:
        found = load(source)
    except TargetError as error:
        hint = "" if target else "\n(the case file names this target; --target names another)"
        raise TargetError(f"{error}{hint}") from None
    named = found if len(found) == 1 else [layer for layer in found if layer.name == case.layer]
    if not named:
        raise TargetError(
            f"{source!r} holds {_listed(layer.name for layer in found)}, but no {case.layer!r}, "
            f"for which the case was drawn; write --target {source}:NAME"
        )
    layer = named[0]
    if set(layer.primal_names) != set(case.primals):
        raise TargetError(
            f"the case holds the primals {_listed(case.primals)}, "
            f"but layer {layer.name!r} of {source!r} declares {_listed(layer.primal_names)}"
        )
    return layer


def _registered(name: str) -> Layer:
    return layers.get(name).derive(origin=name)


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place or "/" in place or os.path.isfile(place)


def _import_file(path: str) -> tuple[ModuleType, list[str]]:
    """Run a file as a module of its own; gives the module and the names that it registered."""
    full = os.path.abspath(path)
    if os.path.isdir(full):
        raise TargetError(_unknown(path))
    if not os.path.exists(full):
        raise TargetError(f"there is no file {path!r}{_nearest_file(full)}")
    stem = re.sub(r"\W", "_", os.path.basename(full).removesuffix(".py"))
    name = f"_gradverify_target_{stem}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"

    def execute() -> ModuleType:
        spec = util.spec_from_file_location(name, full)
        if spec is None or spec.loader is None:
            raise TargetError(f"{path!r} is no Python file (its name must end in .py)")
        module = util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look a module up by its name
        # compiled here and not by the loader, whose cached bytecode may be older than a quick edit
        code = spec.loader.source_to_code(spec.loader.get_data(full), full)  # type: ignore[attr-defined]
        exec(code, module.__dict__)
        return module

    with _on_path(os.path.dirname(full)):
        return _recorded(execute, path, full)


def _import_module(name: str, target: str) -> tuple[ModuleType, list[str]]:
    """Import a module by its dotted name; gives the module and the names that it registered."""
    with _on_path(os.getcwd()):
        if name in sys.modules:  # importing again would register nothing, so nothing may be forgotten
            module = sys.modules[name]
            return module, [n for n in layers.names() if layers.origin(n) == name or _written_in(n, name)]
        if any(not part.isidentifier() for part in name.split(".")):
            raise TargetError(_unknown(target))
        try:
            return _recorded(lambda: import_module(name), name, None)
        except _Absent as absent:
            missing = absent.name or name
            if name == missing or name.startswith(f"{missing}."):
                raise TargetError(_unknown(target)) from None
            raise TargetError(str(absent)) from None


class _Absent(TargetError):
    """A module that is not there, by its name: the target itself, or something that it needs."""

    def __init__(self, message: str, name: str | None) -> None:
        super().__init__(message)
        self.name = name


def _recorded(execute: Callable[[], ModuleType], origin: str, file: str | None) -> tuple[ModuleType, list[str]]:
    """Import, and attribute what is registered meanwhile to `origin`; errors name file, line and text."""
    try:
        with layers.source(origin) as names:
            module = execute()
        return module, names
    except BaseException as error:  # what is meant for pytest, as pytest.skip, must not end us
        if from_outside(error):
            raise
        with layers.source(origin):
            pass  # forget what was registered before the error
        if isinstance(error, TargetError):
            raise
        message = f"cannot import {origin!r}: {_described(error, file)}{_relative_hint(error, file)}"
        if isinstance(error, ModuleNotFoundError):
            raise _Absent(message, error.name) from None
        raise TargetError(message) from None


@contextmanager
def _on_path(folder: str) -> Iterator[None]:
    """Put a folder first on the import path, and afterwards last.

    Last and not away, so that a forward which imports its neighbour late does not crash.
    """
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path and "" not in sys.path:
            sys.path.append(folder)


def _described(error: BaseException, file: str | None) -> str:
    """An error in one line, with the author's line of code where it is known."""
    if isinstance(error, SyntaxError) and error.filename:
        text = f": {error.text.strip()}" if error.text else ""
        return f"{type(error).__name__} in {os.path.basename(error.filename)}, line {error.lineno}{text} ({error.msg})"
    text = texts.block(text_of(error), _LONGEST)
    what = f"{named(error)}: {text}" if text else named(error)
    frame = _authors_frame(error.__traceback__, file)
    if frame is None:
        return what
    return f"{os.path.basename(frame.filename)}, line {frame.lineno}: {frame.line}\n    {what}"


def _authors_frame(trace: TracebackType | None, file: str | None) -> traceback.FrameSummary | None:
    here = os.path.dirname(os.path.abspath(__file__)) + os.sep
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith((here, "<frozen")) and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]
    own = [frame for frame in frames if file is not None and os.path.abspath(frame.filename) == file]
    return own[-1] if own else frames[-1] if frames else None


def _relative_hint(error: BaseException, file: str | None) -> str:
    if file is None or not isinstance(error, ImportError) or "relative import" not in text_of(error):
        return ""
    parts, folder = [os.path.basename(file).removesuffix(".py")], os.path.dirname(file)
    while os.path.exists(os.path.join(folder, "__init__.py")):
        parts.insert(0, os.path.basename(folder))
        folder = os.path.dirname(folder)
    return f"\na file inside a package is named as a module: {'.'.join(parts)} (in the folder {folder})"


def _written_in(name: str, module: str) -> bool:
    home = getattr(layers.get(name).forward, "__module__", None) or ""
    return home == module or home.startswith(f"{module}.")


def _all(module: ModuleType, names: list[str], place: str) -> list[Layer]:
    """What the module registered, else the Layer objects at its top level."""
    if names:
        return [layers.get(name).derive(origin=f"{place}:{name}") for name in sorted(names)]
    found = {attr: value for attr, value in vars(module).items() if isinstance(value, Layer)}
    if not found:
        raise TargetError(
            f"{place!r} holds no layer: it registers none, and has no gradverify.Layer at its top level. "
            f"Register one there:\n{_EXAMPLE}\nor name an object: {place}:OBJECT"
        )
    return [layer.derive(origin=f"{place}:{attr}") for attr, layer in found.items()]


def _object(module: ModuleType, names: list[str], place: str, wanted: str) -> Layer:
    """A registered name or an object of the module, as a Layer."""
    origin = f"{place}:{wanted}"
    if wanted in names:
        return layers.get(wanted).derive(origin=origin)
    return _adapted(_within(module, names, place, wanted), names, origin).derive(origin=origin)


def _within(module: ModuleType, names: list[str], place: str, wanted: str) -> Any:
    value: Any = module
    for part in wanted.split("."):
        if not hasattr(value, part):
            raise TargetError(_no_object(module, names, place, wanted))
        value = getattr(value, part)
    return value


def raw_object(target: str) -> Any:
    """The object that "file.py:object" or "package.module:object" names, whatever it is.

    Raises TargetError if there is none, or the file fails while it is imported.
    """
    match = _PATTERN.fullmatch(target.strip())
    place, wanted = (match["place"], match["object"]) if match else (target, None)
    if wanted is None:
        raise TargetError(f"{target!r} names no object: write {target}:NAME")
    module, names = _import_file(place) if _is_file(place) else _import_module(place, target)
    return _within(module, names, place, wanted)


def _adapted(value: Any, names: list[str], origin: str) -> Layer:
    from gradverify.adapters import as_layer, recognised

    try:
        layer = as_layer(value)
    except DeclarationError as error:
        known = f"\nregistered there under other names: {_listed(names)}" if names else ""
        lines = _EXAMPLE
        if recognised(value):
            shapes = example(getattr(value, "forward", value))
            lines = f"    import gradverify\n    gradverify.register({origin.rpartition(':')[2]}, {shapes})"
        raise TargetError(f"{origin!r} cannot be made a layer: {error}{known}\nor register it:\n{lines}") from None
    # a class that was registered with a declaration of its own keeps that declaration
    same = [layers.get(n) for n in names if layers.get(n).forward is layer.forward]
    return same[0] if same else layer


def _no_object(module: ModuleType, names: list[str], place: str, wanted: str) -> str:
    own = (n for n, value in vars(module).items() if not n.startswith("_") and not isinstance(value, ModuleType))
    public = [*names, *own]
    told = texts.meant(wanted, public)
    return f"{place!r} has no {wanted!r}{told or (f'; it registered {_listed(names)}' if names else '')}"


def _unknown(target: str) -> str:
    if os.path.isdir(target):
        return f"{target!r} is a folder; name one file in it (file.py), or a package (package.module)"
    if target.endswith(":"):
        return f"{target!r} names no object behind the colon"
    told = texts.meant(target, layers.names()) or "; `gradverify list` shows what is registered."
    return (
        f"{target!r} is neither a registered layer nor a module that can be imported{told}\n"
        "A target is a registered name, package.module[:object] or file.py[:object]."
    )


def _nearest_file(path: str) -> str:
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        return f" (there is no folder {folder!r})"
    return texts.meant(name, [n for n in os.listdir(folder) if n.endswith(".py")])


def _listed(names: Any) -> str:
    return ", ".join(repr(str(name)) for name in names) or "nothing"

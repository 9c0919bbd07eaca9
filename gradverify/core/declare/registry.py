"""Names to layers, losses, properties and adapters; entry points; where each came from.

Built-in things come in by the same door as those of other packages: an entry point in the group
names a module, and importing it registers what the module holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pkgutil import iter_modules
from types import ModuleType
from typing import Generic, TypeVar

from gradverify.core.declare.layer import Layer, Loss
from gradverify.core.errors import DeclarationError, TargetError
from gradverify.core.texts import meant

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to items of one kind, filled by registration and, on first look-up, by entry points."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._items: dict[str, T] = {}
        self._origins: dict[str, str | None] = {}
        self._source: list[str] = []
        self._loaded = False

    def add(self, name: str, item: T) -> T:
        """Register under a name; raises DeclarationError if the name is taken by another item."""
        origin = self.source_now
        if name in self._items and self._items[name] is not item:
            raise DeclarationError(
                f"{self.kind} {name!r} is registered twice: first from {self._origins[name] or 'this process'}, "
                f"now from {origin or 'this process'}; give one of them another name"
            )
        self._items[name] = item
        self._origins[name] = origin
        return item

    def get(self, name: str) -> T:
        """The item of that name; raises TargetError with the nearest names if there is none."""
        self.load()
        try:
            return self._items[name]
        except KeyError:
            raise TargetError(f"there is no {self.kind} {name!r}{_suggest(name, self._items)}") from None

    def origin(self, name: str) -> str | None:
        """The entry point, module or file that registered a name."""
        return self._origins.get(name)

    @property
    def source_now(self) -> str | None:
        """What the items that are registered now come from; None where nobody said."""
        return self._source[-1] if self._source else None

    def __contains__(self, name: str) -> bool:
        self.load()
        return name in self._items

    def names(self) -> tuple[str, ...]:
        """Every name, sorted, so that all processes see the same order."""
        self.load()
        return tuple(sorted(self._items))

    def load(self) -> None:
        """Import every entry point of the group, once; a broken one warns and is skipped."""
        if self._loaded:
            return
        self._loaded = True
        for point in sorted(metadata.entry_points(group=self.group), key=lambda p: p.name):
            try:
                with self.source(point.value):
                    item = point.load()
                if not isinstance(item, ModuleType):
                    self.add(getattr(item, "name", point.name), item)
            except DeclarationError:
                raise
            except Exception as error:  # noqa: BLE001  somebody else's package must not stop ours
                warnings.warn(
                    f"the entry point {point.name!r} ({point.value}) of group {self.group!r} is broken and "
                    f"was skipped: {type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )

    @contextmanager
    def source(self, origin: str) -> Iterator[list[str]]:
        """Attribute what is registered inside to `origin`; gives the list of new names.

        What the same origin had registered before is forgotten first, so that a file can be loaded again.
        """
        for name in [n for n, o in self._origins.items() if o == origin]:
            del self._items[name], self._origins[name]
        before = set(self._items)
        added: list[str] = []
        self._source.append(origin)
        try:
            yield added
        finally:
            self._source.pop()
            added.extend(n for n in self._items if n not in before)


def _suggest(name: str, items: Iterable[str]) -> str:
    return meant(name, items) or "; `gradverify list` shows what is registered"


layers: Registry[Layer] = Registry("layer", "gradverify.layers")


def loss(name: str) -> Loss:
    """A registered loss by name; raises TargetError if there is none."""
    known = {n: item for n in layers.names() if isinstance(item := layers.get(n), Loss)}
    if name in known:
        return known[name]
    if name in layers:
        raise TargetError(f"{name!r} is a layer, not a loss; losses are {', '.join(known)}")
    raise TargetError(f"there is no loss {name!r}{_suggest(name, known)}")


def import_submodules(package: str, path: list[str]) -> None:
    """Import every module of a package: adding a file there is all it takes to register what it holds."""
    for module in sorted(iter_modules(path), key=lambda m: m.name):
        if not module.name.startswith("_"):
            import_module(f"{package}.{module.name}")

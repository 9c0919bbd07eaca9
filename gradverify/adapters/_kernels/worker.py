"""The process of a kernel that is to be scored: it runs forward and backward on arrays, and decides nothing.

The judge never imports the kernel's file, and this process never sees the reference: what it does to torch, to
NumPy or to itself changes nothing but the arrays that it sends back. It is watched for three things besides: whether
code of the reference runs here, whether its own code starts a process, and whether functions of torch, or those of this
module, are replaced.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from gradverify.adapters._engines.lossy import Held
from gradverify.adapters._kernels.wire import packed, unpacked
from gradverify.core.evaluate import LayerFailure, by_name
from gradverify.core.evaluate.outside import Outside
from gradverify.core.nouns import Case
from gradverify.core.properties.fresh import poisoned

_HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "torch.nn.functional", "torch.autograd", "torch.linalg", "torch.testing"),
    "jax": ("jax", "jax.numpy", "jax.nn", "jax.lax"),
    "numpy": ("numpy", "numpy.linalg"),
}
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}  # audited events
_STANDARD = str(Path(os.__file__).parent)
_PACKAGES = ("site-packages", "dist-packages")
_LEAST = 24  # bytes of code below which two functions may be alike by chance


def main(descriptor: int) -> None:
    """Answer the judge's questions until it leaves."""
    connection = Connection(descriptor)
    head, _ = unpacked(connection.recv_bytes())
    watch = Watch(frozenset(head["codes"]))
    try:
        replaced = Replaced(head["package"] or "torch")
        layer, package = _loaded(head)
    except BaseException as error:  # noqa: BLE001  whatever the author's file raises
        connection.send_bytes(packed({"failed": f"{type(error).__name__}: {error}"}, {}))
        return
    connection.send_bytes(packed({"loaded": layer.name, "package": package}, {}))
    outside = Outside(layer)
    while True:
        try:
            question, arrays = unpacked(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(_answered(layer, question, arrays, watch, replaced, outside))


def _answered(
    layer: Any,
    question: Any,
    arrays: Any,
    watch: Watch,
    replaced: Replaced,
    outside: Outside,
) -> bytes:
    options = {n: tuple(v) if isinstance(v, list) else v for n, v in question["options"].items()}
    try:
        reference = layer.hooks.reference
        watching = nullcontext() if reference is None else reference.watching()
        with watch, nullcontext() if question["fresh"] is None else poisoned(float(question["fresh"])), watching:
            code = reference.exact if question["wide"] and reference is not None else layer
            raw, tape = code.forward(*(arrays[p.name] for p in layer.primals), **options)
            outputs = raw if isinstance(raw, tuple) else (raw,)
            found: dict[str, Any] = {f"y {k}": np.array(y) for k, y in enumerate(outputs)}
            v: tuple[Any, ...] = ()
            if question["pull"]:
                v = tuple(arrays[f"v {k}"] for k in range(len(outputs)))
                v = tuple(a.astype(y.dtype) if y.dtype.kind == "f" else a for a, y in zip(v, map(np.asarray, outputs)))
                grads = by_name(layer, code.backward(v if len(v) > 1 else v[0], tape))
                for unusable in (g for g in grads.values() if isinstance(g, LayerFailure)):
                    raise unusable
                found = {f"g {n}": np.array(g) for n, g in grads.items() if g is not None}
        held = Held() if reference is None or question["wide"] else reference.kept(tape, watching, v)
        kinds = ("k", held.values), ("p", held.products), ("o", held.outputs), ("h", held.handed)
        for what, values in kinds:
            found |= {f"{what} {k}": np.asarray(v, np.float32) for k, v in enumerate(values)}
    except LayerFailure as failure:
        return packed({"failure": [failure.kind, failure.stage, str(failure), failure.primal]}, {})
    except (Exception, SystemExit) as error:  # noqa: BLE001  the author's code
        stage = "backward" if question["pull"] else "forward"
        return packed({"failure": ["crash", stage, f"{stage} raised {type(error).__name__}: {error}", None]}, {})
    if question["pull"] and question["fresh"] is None:
        case = Case(layer.name, {p.name: arrays[p.name] for p in layer.primals}, options)
        if outside.due(case):
            outside.look(case)
    missing = [[item.name, item.reason] for item in outside.missing() if item.blocks]
    return packed(
        {
            "kept": [held.least, sorted(held.lost), sorted(held.transforms)],
            "called": watch.called,
            "replaced": replaced.names()[:8],
            "outside": missing,
        },
        found,
    )


def _loaded(head: dict[str, Any]) -> tuple[Any, str]:
    """The kernel's layer, and the package that it is written with: its own, the reference's, or the likely one."""
    from gradverify.adapters._kernels.judge import kernel_of, package_of
    from gradverify.targets import raw_object

    target = raw_object(head["target"])
    package = package_of(target) or head["package"] or ("numpy" if isinstance(target, tuple) else "torch")
    return kernel_of(target, package, head["type"], head["declaration"]), package


class Watch:
    """Hears of every Python function that runs inside, in any thread, and of whoever stops it from hearing."""

    def __init__(self, known: frozenset[str]) -> None:
        self.called, self._inside = "", False
        seen: dict[CodeType, bool] = {}

        def hear(frame: FrameType, event: str, argument: Any, of: Any = digest) -> None:
            code = frame.f_code
            if event == "call" and not self.called:
                if code not in seen:
                    seen[code] = of(code) in known
                self.called = f"calls {code.co_name!r}, which is the reference's own code" if seen[code] else ""

        def audit(event: str, arguments: Any) -> None:
            if event == "sys.setprofile" and self._inside and sys._getframe(1).f_code.co_filename != threading.__file__:
                self.called = self.called or "stops the watch on what it calls"
            if event in _STARTS and not _of_package(sys._getframe(1)):
                self.called = self.called or "starts a process, and nobody sees what runs in that"

        self._hear = hear
        sys.addaudithook(audit)  # which nobody can take away

    def __enter__(self) -> None:
        sys.setprofile(self._hear)
        threading.setprofile(self._hear)
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False
        sys.setprofile(None)
        threading.setprofile(None)


def _of_package(frame: FrameType | None) -> bool:
    """Whether a package asks for it, as a compiler of kernels does: the first caller outside the standard library."""
    while frame is not None:
        path = frame.f_code.co_filename
        packaged = any(part in path for part in _PACKAGES)
        if packaged or not (path.startswith((_STANDARD, "<frozen")) or path == __file__):
            return packaged
        frame = frame.f_back
    return False


def digest(code: CodeType) -> str | None:
    """Of what a function does, whatever file it stands in; None for the shortest."""
    if len(code.co_code) < _LEAST:
        return None
    return hashlib.sha256(code.co_code + repr((code.co_names, code.co_varnames)).encode()).hexdigest()


class Replaced:
    """What a package's own names, and those of this module, stood for, and which stand for something else now.

    A package may replace its own, as torch does when its compiler is first used.
    """

    def __init__(self, package: str) -> None:
        found = find_spec(package)
        places = _HOMES[package] if found is not None else ()
        self.homes: dict[str, Any] = {name: import_module(name) for name in (*places, __name__)}
        if package == "torch" and found is not None:
            self.homes["torch.Tensor"] = self.homes["torch"].Tensor
        self.root = str(Path(found.origin or "").parent) if found is not None else ""
        self.before = {name: id(value) for name, value in self._functions()}

    def _functions(self) -> Iterator[tuple[str, Any]]:
        for place, home in self.homes.items():
            for name, value in list(vars(home).items()):
                if callable(value) and (place == __name__ or not name.startswith("_")):
                    yield f"{place}.{name}", value

    def names(self) -> list[str]:
        """Names that stand for something of another's, sorted."""
        now = dict(self._functions())
        return sorted(n for n, was in self.before.items() if id(now.get(n)) != was and not self._own(now.get(n)))

    def _own(self, value: Any) -> bool:
        code = getattr(value, "__code__", None)
        if code is not None:
            return bool(self.root) and str(code.co_filename).startswith(self.root)
        return str(getattr(value, "__module__", "")).partition(".")[0] == Path(self.root).name


def start(descriptor: int) -> None:
    """The entry point; what the kernel prints is nobody's."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(silent, number)
    main(descriptor)

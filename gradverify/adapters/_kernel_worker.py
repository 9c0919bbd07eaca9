"""The process of a kernel that is to be scored: it runs forward and backward on arrays, and decides nothing.

The judge never imports the kernel's file, and this process never sees the reference: what it does to torch, to
NumPy or to itself changes nothing but the arrays that it sends back. It is watched for two things besides: whether
code of the reference runs here, and whether functions of torch are replaced.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from types import CodeType, FrameType
from typing import Any

import numpy as np

from gradverify.adapters._kernel_wire import packed, unpacked
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.outside import Outside
from gradverify.core.nouns import Case
from gradverify.core.properties.fresh import poisoned

_HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "torch.nn.functional", "torch.autograd", "torch.linalg", "torch.testing"),
    "jax": ("jax", "jax.numpy", "jax.nn", "jax.lax"),
    "numpy": ("numpy", "numpy.linalg"),
}
_LEAST = 24  # bytes of code below which two functions may be alike by chance


def main(descriptor: int) -> None:
    """Answer the judge's questions until it leaves."""
    connection = Connection(descriptor)
    head, _ = unpacked(connection.recv_bytes())
    try:
        homes = _homes(head["package"] or "torch")
        before = _functions(homes)
        layer, package = _loaded(head)
    except BaseException as error:  # noqa: BLE001  whatever the author's file raises
        connection.send_bytes(packed({"failed": f"{type(error).__name__}: {error}"}, {}))
        return
    connection.send_bytes(packed({"loaded": layer.name, "package": package}, {}))
    known, outside = frozenset(head["codes"]), Outside(layer)
    while True:
        try:
            question, arrays = unpacked(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(_answered(layer, question, arrays, known, homes, before, outside))


def _answered(
    layer: Any,
    question: Any,
    arrays: Any,
    known: frozenset[str],
    homes: dict[str, Any],
    before: dict[str, int],
    outside: Outside,
) -> bytes:
    watch = Watch(known)
    options = {n: tuple(v) if isinstance(v, list) else v for n, v in question["options"].items()}
    try:
        with watch, nullcontext() if question["fresh"] is None else poisoned(float(question["fresh"])):
            raw, tape = layer.forward(*(arrays[p.name] for p in layer.primals), **options)
            outputs = raw if isinstance(raw, tuple) else (raw,)
            found: dict[str, Any] = {f"y {k}": np.array(y) for k, y in enumerate(outputs)}
            kept = None if layer.hooks.reference is None else layer.hooks.reference.kept(tape)
            if question["pull"]:
                v = tuple(arrays[f"v {k}"] for k in range(len(outputs)))
                v = tuple(a.astype(y.dtype) if y.dtype.kind == "f" else a for a, y in zip(v, map(np.asarray, outputs)))
                grads = layer.backward(v if len(v) > 1 else v[0], tape)
                found = {f"g {n}": np.array(g) for n, g in _by_name(layer, grads).items() if g is not None}
    except LayerFailure as failure:
        return packed({"failure": [failure.kind, failure.stage, str(failure), failure.primal]}, {})
    except (Exception, SystemExit) as error:  # noqa: BLE001  the author's code
        stage = "backward" if question["pull"] else "forward"
        return packed({"failure": ["crash", stage, f"{stage} raised {type(error).__name__}: {error}", None]}, {})
    after = _functions(homes)
    replaced = sorted(name for name in before if after.get(name) != before[name])
    if question["pull"] and question["fresh"] is None:
        case = Case(layer.name, {p.name: arrays[p.name] for p in layer.primals}, options)
        if outside.due(case):
            outside.look(case)
    missing = [[item.name, item.reason] for item in outside.missing() if item.blocks]
    return packed({"kept": kept, "called": watch.called, "replaced": replaced[:8], "outside": missing}, found)


def _loaded(head: dict[str, Any]) -> tuple[Any, str]:
    """The kernel's layer, and the package that it is written with: its own, the reference's, or the likely one."""
    from gradverify.adapters._kernel_judge import kernel_of, package_of
    from gradverify.targets import raw_object

    target = raw_object(head["target"])
    package = package_of(target) or head["package"] or ("numpy" if isinstance(target, tuple) else "torch")
    return kernel_of(target, package, head["type"], head["declaration"]), package


def _by_name(layer: Any, gradients: Any) -> dict[str, Any]:
    """Gradients by primal, of a backward that gives them in order."""
    if isinstance(gradients, dict):
        return gradients
    given = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
    names = [p.name for p in layer.primals]
    return dict(zip(names if len(given) == len(names) else [p.name for p in layer.differentiable], given))


class Watch:
    """Hears of every Python function that runs inside."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known, self.called = known, ""
        self._seen: dict[CodeType, bool] = {}

    def __enter__(self) -> None:
        sys.setprofile(self._hear)

    def __exit__(self, *_: object) -> None:
        if sys.getprofile() != self._hear:
            self.called = self.called or "a function that removed the watch on what is called"
        sys.setprofile(None)

    def _hear(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or self.called:
            return
        if code not in self._seen:
            self._seen[code] = digest(code) in self.known
        if self._seen[code]:
            self.called = code.co_name


def digest(code: CodeType) -> str | None:
    """Of what a function does, whatever file it stands in; None for the shortest."""
    if len(code.co_code) < _LEAST:
        return None
    return hashlib.sha256(code.co_code + repr((code.co_names, code.co_varnames)).encode()).hexdigest()


def _homes(package: str) -> dict[str, Any]:
    """Where a package keeps the functions that a kernel may call."""
    if find_spec(package) is None:
        return {}
    homes = {name: import_module(name) for name in _HOMES[package]}
    return homes | ({"torch.Tensor": homes["torch"].Tensor} if package == "torch" else {})


def _functions(homes: dict[str, Any]) -> dict[str, int]:
    """What a package's own names stand for."""
    return {
        f"{place}.{name}": id(value)
        for place, home in homes.items()
        for name, value in list(vars(home).items())
        if callable(value) and not name.startswith("_")
    }


def start(descriptor: int) -> None:
    """The entry point; what the kernel prints is nobody's."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(silent, number)
    main(descriptor)

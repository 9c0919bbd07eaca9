"""The process of a kernel that is to be scored: it runs forward and backward on arrays, and decides nothing.

The judge never imports the kernel's file, and this process never sees the reference: what it does to torch, to
NumPy or to itself changes nothing but the arrays that it sends back. It is watched for two things besides: whether
code of the reference runs here, and whether functions of torch are replaced.
"""

from __future__ import annotations

import hashlib
import os
import sys
from multiprocessing.connection import Connection
from types import CodeType, FrameType
from typing import Any

import numpy as np

from gradverify.adapters._kernel_wire import packed, unpacked
from gradverify.core.evaluate import LayerFailure

_LEAST = 24  # bytes of code below which two functions may be alike by chance


def main(descriptor: int) -> None:
    """Answer the judge's questions until it leaves."""
    connection = Connection(descriptor)
    head, _ = unpacked(connection.recv_bytes())
    try:
        before = _functions()
        layer = _loaded(head)
    except BaseException as error:  # noqa: BLE001  whatever the author's file raises
        connection.send_bytes(packed({"failed": f"{type(error).__name__}: {error}"}, {}))
        return
    connection.send_bytes(packed({"loaded": layer.name}, {}))
    known = frozenset(head["codes"])
    while True:
        try:
            question, arrays = unpacked(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(_answered(layer, question, arrays, known, before))


def _answered(layer: Any, question: Any, arrays: Any, known: frozenset[str], before: dict[str, int]) -> bytes:
    watch = Watch(known)
    options = {n: tuple(v) if isinstance(v, list) else v for n, v in question["options"].items()}
    try:
        with watch:
            raw, tape = layer.forward(*(arrays[p.name] for p in layer.primals), **options)
            outputs = raw if isinstance(raw, tuple) else (raw,)
            found: dict[str, Any] = {f"y {k}": np.array(y) for k, y in enumerate(outputs)}
            kept = layer.hooks.reference.kept(tape)
            if question["pull"]:
                v = tuple(arrays[f"v {k}"] for k in range(len(outputs)))
                grads = layer.backward(v if len(v) > 1 else v[0], tape)
                found = {f"g {n}": np.array(g) for n, g in grads.items() if g is not None}
    except LayerFailure as failure:
        return packed({"failure": [failure.kind, failure.stage, str(failure), failure.primal]}, {})
    except (Exception, SystemExit) as error:  # noqa: BLE001  the author's code
        stage = "backward" if question["pull"] else "forward"
        return packed({"failure": ["crash", stage, f"{stage} raised {type(error).__name__}: {error}", None]}, {})
    after = _functions()
    replaced = sorted(name for name in before if after.get(name) != before[name])
    return packed({"kept": kept, "called": watch.called, "replaced": replaced[:8]}, found)


def _loaded(head: dict[str, Any]) -> Any:
    from gradverify.adapters.torch_ import torch_layer
    from gradverify.targets import raw_object

    target = raw_object(head["target"])
    declaration = {**head["declaration"], "kernel": head["type"], "reference": _unused}
    return torch_layer(target, **declaration)


def _unused(*arrays: Any, **options: Any) -> Any:
    raise AssertionError("the reference is with the judge")


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


def _functions() -> dict[str, int]:
    """What torch's own names stand for."""
    import torch

    homes = {"torch": torch, "torch.nn.functional": torch.nn.functional, "torch.Tensor": torch.Tensor}
    homes |= {"torch.autograd": torch.autograd, "torch.linalg": torch.linalg, "torch.testing": torch.testing}
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

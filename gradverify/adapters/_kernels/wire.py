"""Arrays and plain values between a judge and the process of a kernel; nothing that comes is ever unpickled."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray


def packed(head: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """One message: a head of plain values, and arrays by name."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {f"array {name}": np.ascontiguousarray(a) for name, a in arrays.items()}
    text = np.frombuffer(json.dumps(dict(head)).encode(), np.uint8)
    np.savez(buffer, head=text, **named)
    return buffer.getvalue()


def unpacked(message: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The head and the arrays of a message; raises ValueError if it is none."""
    with np.load(io.BytesIO(message), allow_pickle=False) as parts:
        head = json.loads(bytes(parts["head"]))
        return head, {name.removeprefix("array "): parts[name] for name in parts.files if name != "head"}
